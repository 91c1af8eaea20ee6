"""Exact effects as a ranker: the effects that other rankers estimate, measured (`ablation`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neurotrace.ablation.neurons import ablate
from neurotrace.core.errors import renamed
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.gradient import from_evidence as gradient_from_evidence
from neurotrace.rankers.training import Training

CANDIDATES = 200  # neurons per direction that a study measures


@renamed(intervention="kind")
@takes_turns
def exact(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    neurons: Sequence[Neuron] | None = None,
    reference: Moments | None = None,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) when the intervention is applied to one neuron; mean over pairs.

    Args:
        neurons: those to measure; None: all of them. The others' scores are NaN.

    Example::

        effects = nt.exact(model, pairs, neurons=scores.top(64))
    """
    scores = ablate(
        model,
        pairs,
        neurons,
        kind=kind,
        donor=donor,
        reference=reference,
        progress=progress,
    )
    return replace(scores, method="exact")


def from_evidence(training: Training) -> Scores:
    """`exact` of the `CANDIDATES` neurons that the gradient ranks first; the others' scores are NaN."""
    screen = gradient_from_evidence(training)
    few = screen.top(min(CANDIDATES, screen.n_neurons), direction=training.direction)
    return exact(
        training.model,
        training.pairs,
        donor=training.direction.donor,
        kind=training.kind,
        neurons=few,
    )
