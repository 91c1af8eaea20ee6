"""Exact effects as a ranker: what the others estimate, done and measured (`ablation.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.interventions.intervention import Kind
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel


def exact(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    intervention: Kind = "patch",
    neurons: Sequence[Neuron] | None = None,
    reference: Moments | None = None,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) when the intervention is done to one neuron, meaned over pairs.

    Args:
        neurons: those to measure; None: all of them. The others' scores are NaN.
    """
    from neurotrace.ablation.neurons import ablate  # which imports this package's targets

    scores = ablate(
        model, pairs, neurons, mode=intervention, donor=donor, reference=reference,
        progress=progress,
    )  # fmt: skip
    return replace(scores, method="exact")
