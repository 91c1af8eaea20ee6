"""Knowledge neurons: integrated gradients of the answer's probability, threshold, shared by prompts.

    attribution_i = a_i * mean over t of dP(answer)/da_i at t*a

A neuron of a prompt is kept if its attribution passes 0.2 of the prompt's largest; neurons are ranked by
the share of prompts that keep them (the refinement by paraphrases). They are set to 0 or doubled.
"""

from __future__ import annotations

import random

from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import SIDES
from neurotrace.interventions.kinds import parse_kind
from neurotrace.rankers.training import Training
from neurotrace.recipes.base import Rank, Recipe, by_neurons
from neurotrace.recipes.paths import MOST, attributions, shared
from neurotrace.studies.selection import Ground, StudySettings

THRESHOLD = 0.2


def drawn(ground: Ground, settings: StudySettings) -> list[int]:
    """Rows of the pairs that are attributed."""
    count = len(ground.own)
    return sorted(random.Random(f"{settings.seed}/paths").sample(range(count), min(MOST, count)))


def places(some: list[int], training: Training) -> list[int]:
    """Of the attributed rows those that may be ranked on; `InputError` if there is none."""
    rows = set(training.rows)
    found = [place for place, row in enumerate(some) if row in rows]
    if not found:
        raise InputError("no attributed pair is in a fold's training half: pass more pairs or fewer folds")
    return found


def by_share(
    name: str,
    training: Training,
    found: Float[Tensor, "pair layer neuron"],
    some: list[int],
    threshold: float,
) -> Scores:
    """A ranking by the share of prompts, from the attributions of the pairs at the rows `some`."""
    value = training.direction.sign * shared(found[places(some, training)], threshold)
    return Scores(name, value, "share of prompts", provenance=training.record())


def _prepare(ground: Ground, settings: StudySettings, progress: Progress) -> Rank:
    some = drawn(ground, settings)
    part = ground.own.at(some)
    found = {side: attributions(ground.model, part, side, progress=progress) for side in SIDES}

    def rank(training: Training) -> Scores:
        name, _ = parse_kind(training.kind)
        to = training.direction
        # suppress what supports the present answer, or amplify what supports the other one
        side = to.recipient if name == "zero" else to.donor
        return by_share("knowledge", training, found[side], some, THRESHOLD)

    return rank


KNOWLEDGE = Recipe(
    "knowledge",
    "Knowledge neurons",
    "Dai et al., ACL 2022, arXiv 2104.08696",
    "Integrated gradients of P(answer), threshold 0.2 of the largest, ranked by the share of prompts; "
    "suppressed (0) or amplified (× 2).",
    (
        "The refinement is over a family's training prompts, not over paraphrases of one fact, since "
        "neurons must hold for unseen facts.",
        f"4 steps on the path, not 20; at most {MOST} pairs of a family are attributed.",
        "Only the prompt's last token is changed. Sizes up to 1 % are tried beside 2, 5 and 20 neurons.",
    ),
    by_neurons("knowledge", ("zero", "scale"), prepare=_prepare, numbers=(2, 5, 20)),
)
