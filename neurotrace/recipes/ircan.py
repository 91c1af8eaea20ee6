"""Context-aware neurons (IRCAN): integrated gradients between the runs without and with the context.

    attribution_i = (c_i - q_i) * mean over t of dP(answer)/da_i at q + t*(c - q)

with c the activation with the context and q that without it. A neuron of a prompt is kept if it passes
0.1 of the prompt's largest; those kept in most prompts are multiplied by beta > 1. Here the run "with the
context" is the donor's, whose answer is intended, and the run without it the recipient's.
"""

from __future__ import annotations

from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS
from neurotrace.rankers.training import Training
from neurotrace.recipes.base import Rank, Recipe, by_neurons
from neurotrace.recipes.knowledge import by_share, drawn
from neurotrace.recipes.paths import MOST, attributions
from neurotrace.studies.selection import Ground, StudySettings

THRESHOLD = 0.1


def _prepare(ground: Ground, settings: StudySettings, progress: Progress) -> Rank:
    some = drawn(ground, settings)
    part, known = ground.own.at(some), ground.evidence.activations
    found = {
        to: attributions(
            ground.model, part, to.donor, start=known.side(to.recipient)[some], progress=progress
        )
        for to in DIRECTIONS
    }

    def rank(training: Training) -> Scores:
        return by_share("ircan", training, found[training.direction], some, THRESHOLD)

    return rank


IRCAN = Recipe(
    "ircan",
    "Context-aware neurons (IRCAN)",
    "Shi et al., NeurIPS 2024, arXiv 2406.18406",
    "Integrated gradients of P(answer) from the run without to the run with the context; the neurons of "
    "most prompts are multiplied by β.",
    (
        "The donor's run takes the place of the run with the context; to memory the roles are exchanged, "
        "which the authors don't do.",
        "4 steps on the path; the threshold is 0.1 of the largest attribution; at most "
        f"{MOST} pairs of a family are attributed.",
        "β multiplies activations at the prompt's last token, not weights; it is chosen on training pairs "
        "out of 2, 5, 10 and 20.",
    ),
    by_neurons("ircan", ("scale", "scale:5", "scale:10", "scale:20"), prepare=_prepare, numbers=(2, 5, 20)),
)
