"""Hard Concrete: random gates that are exactly 0 or 1 most of the time (Louizos et al., ICLR 2018; for
neurons that hold a text Chang et al., NAACL 2024).

    s = sigmoid((log u - log(1 - u) + theta) / beta), u uniform;  mask = clip(1.2 s - 0.1, 0, 1)
    P(mask > 0) = sigmoid(theta - beta log(0.1 / 1.1)), which is penalised and is the score; beta = 0.33

Objective and training: `masks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.masks import PRICE, Question, learn

_BETA = 0.33
_OPEN = _BETA * math.log(0.1 / 1.1)
# theta at the start, for either question: that of a drop rate of one half (Louizos et al.). The mean mask
# is 1/2, and P(mask > 0) = sigmoid(-_OPEN) = .69. Gates that start shut stay shut: in the steps in which
# a gate is not open, only its price moves it.
_START = 0.0


@renamed(intervention="kind")
@takes_turns
def hard_concrete(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    question: Question = "flip",
    price: float = PRICE,
    steps: int = 400,
    rate: float = 3e-2,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = None,
) -> Scores:
    """The probability that a neuron's gate is open; all gates start half open (mean mask 1/2).

    Only the end of the ranking that `donor` names is meaningful.

    Args:
        price: cost of one open gate in nats.
        seed: for the gates' noise.

    Example::

        nt.hard_concrete(model, pairs, steps=50).top(8)
    """
    info = inspect_model(model)
    generator = torch.Generator().manual_seed(seed)

    def gates(theta: Tensor) -> Tensor:
        u = torch.rand(theta.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
        return (1.2 * torch.sigmoid((torch.logit(u) + theta) / _BETA) - 0.1).clamp(0, 1)

    return learn(
        "hard_concrete",
        model,
        pairs,
        torch.full((info.n_layers, info.d_mlp), _START),
        gates,
        lambda theta: torch.sigmoid(theta - _OPEN),
        lambda theta: None,
        seed=seed,
        donor=donor,
        kind=kind,
        reference=reference,
        question=question,
        price=price,
        steps=steps,
        rate=rate,
        batch_size=batch_size,
        progress=progress,
    )
