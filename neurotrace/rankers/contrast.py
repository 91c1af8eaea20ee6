"""Contrast (NMD) and Pearson correlation: how much a neuron differs between the two sides.

NMD_i = mean over pairs of (a_i on the reasoning side - a_i on the memorization side);
rho_i = Pearson(a_i, y), y = 1 on the reasoning side (Huang et al., EMNLP 2025, arXiv 2412.18497).
Two forward passes a pair. Neither says that the neuron causes anything: they are here because the
paper ranks by them, and unsigned, since their sign is that of a difference and not of an effect.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.interventions.intervention import Kind
from neurotrace.interventions.targets import provenance
from neurotrace.models.activations import moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel


def contrast(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    intervention: Kind = "patch",
    progress: Progress = None,
) -> Scores:
    """NMD as `value`, |NMD| ranks. `donor` and `intervention` are recorded and change nothing."""
    encoded = encode(model, pairs)
    found = moments(model, encoded, progress=progress)
    return Scores(
        "contrast", found.contrast, "activation, reasoning minus memorization", signed=False,
        columns={"mean_memorization": found.mean[0], "mean_reasoning": found.mean[1]},
        provenance=provenance(model, encoded, donor, intervention),
    )  # fmt: skip


def pearson(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    intervention: Kind = "patch",
    progress: Progress = None,
) -> Scores:
    """rho as `value`, |rho| ranks; NaN for neurons that are constant over all prompts."""
    encoded = encode(model, pairs)
    found = moments(model, encoded, progress=progress)
    return Scores(
        "pearson", found.pearson, "correlation with the reasoning side", signed=False,
        provenance=provenance(model, encoded, donor, intervention),
    )  # fmt: skip
