"""Contrast (NMD) and Pearson correlation: how much a neuron differs between the two sides.

NMD_i = mean over pairs of (a_i on the reasoning side - a_i on the memorization side); rho_i =
Pearson(a_i, y), y = 1 on the reasoning side (Huang et al., EMNLP 2025, arXiv 2412.18497). Two forward
passes a pair. Neither shows that the neuron causes anything; they are included because the paper ranks
by them. They are unsigned, because their sign is that of a difference and not of an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import provenance
from neurotrace.models.activations import Moments, moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.training import Training


@renamed(intervention="kind")
@takes_turns
def contrast(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    progress: Progress = None,
) -> Scores:
    """NMD as `value`, ranked by |NMD|. `donor` and `kind` are recorded and change nothing.

    Example::

        nt.contrast(model, pairs).top(8)
    """
    encoded = encode(model, pairs)
    found = moments(model, encoded, progress=progress)
    return _contrast(found, provenance(model, encoded, donor, kind))


def contrast_from_evidence(training: Training) -> Scores:
    """`contrast` from what a study has read."""
    return _contrast(training.means, training.record())


@renamed(intervention="kind")
@takes_turns
def pearson(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    progress: Progress = None,
) -> Scores:
    """rho as `value`, ranked by |rho|; NaN for neurons that are constant over all prompts.

    Example::

        nt.pearson(model, pairs).top(8)
    """
    encoded = encode(model, pairs)
    found = moments(model, encoded, progress=progress)
    return _pearson(found, provenance(model, encoded, donor, kind))


def pearson_from_evidence(training: Training) -> Scores:
    """`pearson` from what a study has read."""
    return _pearson(training.means, training.record())


def _contrast(means: Moments, record: dict[str, Any]) -> Scores:
    return Scores(
        "contrast",
        means.contrast,
        "activation, reasoning minus memorization",
        signed=False,
        columns={"mean_memorization": means.mean[0], "mean_reasoning": means.mean[1]},
        provenance=record,
    )


def _pearson(means: Moments, record: dict[str, Any]) -> Scores:
    unit = "correlation with the reasoning side"
    return Scores("pearson", means.pearson, unit, signed=False, provenance=record)
