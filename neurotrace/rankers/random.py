"""The random ranking, the baseline of all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel


@renamed(intervention="kind")
@takes_turns
def random_scores(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    seed: int = 0,
    progress: Progress = None,
) -> Scores:
    """Independent standard normal numbers; uses only the model's shape.

    Example::

        nt.random_scores(model, seed=0).top(8)
    """
    info = inspect_model(model)
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        "random",
        torch.randn(info.n_layers, info.d_mlp, generator=generator),
        "none",
        provenance={
            "model": info.name,
            "seed": seed,
            "donor": donor,
            "intervention": kind,
            "direction": Direction.from_donor(donor).value,
            **info.naming,
        },
    )
