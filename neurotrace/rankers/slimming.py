"""Slimming: a mask of plain numbers, clipped to [0, 1], with an L1 price (Liu et al., ICCV 2017; for
neurons that hold a text Chang et al., NAACL 2024). Objective and training: `masks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

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


@renamed(intervention="kind")
@takes_turns
def slimming(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    question: Question = "flip",
    price: float = PRICE,
    steps: int = 200,
    rate: float = 1e-2,
    batch_size: int = 32,
    progress: Progress = None,
) -> Scores:
    """The learned mask; it starts empty ("flip") or full ("keep"), so that nothing is changed at first.

    Only the end of the ranking that `donor` names is meaningful; the other neurons are 0.

    Args:
        price: cost of one whole neuron in nats.
        steps, rate: of Adam; a mask can move by `rate` a step.

    Example::

        nt.slimming(model, pairs, steps=50).top(8)
    """
    info = inspect_model(model)
    start = torch.full((info.n_layers, info.d_mlp), 0.0 if question == "flip" else 1.0)
    return learn(
        "slimming",
        model,
        pairs,
        start,
        lambda x: x,
        lambda x: x,
        lambda x: x.clamp_(0, 1),
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
