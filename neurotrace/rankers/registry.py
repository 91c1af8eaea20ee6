"""What a ranking costs in forward and backward passes: a number that no machine changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace import rankers
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.interventions.intervention import Kind, parse_kind
from neurotrace.interventions.reference import Evidence, Reference
from neurotrace.interventions.targets import Targets, provenance
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import ModelInfo
from neurotrace.models.protocol import HookedModel

_STEPS = {"slimming": 200, "hard_concrete": 400}  # their defaults


def passes(name: str, kind: str, info: ModelInfo, pairs: int) -> float:
    """Forward and backward passes a pair for one direction; reading the donor counts one."""
    reads = 0 if kind == "zero" else 1
    counts: dict[str, float] = {
        "random": 0, "magnitude": 0, "contrast": 2, "pearson": 2, "imprint": 2, "gradient": 2 + reads,
        "relp": 2 + reads, "slope": 2 + reads, "two_ended": 4 + reads, "direct": 1 + reads,
        "log_increase": 1 + reads, "integrated": 2 * 5 * info.n_layers + 1 + reads,
        "exact": info.n_neurons + 1 + reads,
    }  # fmt: skip
    if name in _STEPS:
        # a step is a pass each way over a batch of at most 32 pairs
        return round(2 * _STEPS[name] * min(32, pairs) / pairs, 1)
    return counts[name]


METHODS = (
    "gradient",
    "two_ended",
    "contrast",
    "pearson",
    "direct",
    "integrated",
    "relp",
    "log_increase",
    "slimming",
    "hard_concrete",
    "magnitude",
    "exact",
    "random",
)

_EXACT_CANDIDATES = 200  # neurons, per direction, that `exact` measures: the gradient's strongest


def rank(
    model: HookedModel,
    encoded: EncodedPairs,
    evidence: Evidence,
    rows: Sequence[int],
    *,
    method: str,
    kind: Kind,
    direction: Direction,
    reference: Reference | None = None,
) -> Scores:
    """The ranking of `method` for this intervention, from the pairs at `rows` alone.

    `reference` is theirs, if it has been computed already.
    """
    donor: Side = "reasoning" if direction == "to_reasoning" else "memorization"
    place = SIDES.index("memorization" if donor == "reasoning" else "reasoning")
    record = provenance(model, encoded.at(rows), donor, kind)
    if method in ("gradient", "two_ended") and parse_kind(kind)[0] == "steer":
        found = reference or evidence.reference(rows)
        both = method == "two_ended"
        slope = found.slope.mean(dim=0) if both else found.slope[place]
        spread = found.spread.mean(dim=0) if both else found.spread[place]
        # a neuron that pushes the same way in most groups, for little written
        pull = (slope.abs() - spread / 2) / found.norms
        sign = -1.0 if direction == "to_reasoning" else 1.0
        return Scores(method, sign * pull, "nats of L per unit written", provenance=record)
    if method in ("gradient", "two_ended"):
        donors = evidence.activations.side(donor)
        means = reference.moments if reference else evidence.moments(rows)
        targets = Targets(kind, donor, donors, means)
        index = list(rows)
        total = torch.zeros(evidence.slopes.shape[2:])
        for start in range(0, len(index), 64):  # bounds the memory of the products
            some = index[start : start + 64]
            changes = targets.changes(some, evidence.activations.values[place, some])
            slopes = evidence.slopes[place, some]
            if method == "two_ended":
                slopes = (slopes + evidence.slopes[1 - place, some]) / 2
            total += (changes * slopes).sum(dim=0)
        return Scores(method, total / len(index), provenance=record)
    if method == "contrast":
        means = reference.moments if reference else evidence.moments(rows)
        unit = "activation, reasoning minus memorization"
        return Scores(method, means.contrast, unit, signed=False, provenance=record)
    if method == "pearson":
        means = reference.moments if reference else evidence.moments(rows)
        unit = "correlation with the reasoning side"
        return Scores(method, means.pearson, unit, signed=False, provenance=record)
    part = encoded.at(rows)
    if method == "random":
        return rankers.random_scores(model, part, donor=donor, intervention=kind)
    if method in METHODS and method != "exact":
        ranker = getattr(rankers, method)
        return ranker(model, part, donor=donor, intervention=kind)  # type: ignore[no-any-return]
    if method == "exact":
        screen = rank(
            model, encoded, evidence, rows, method="gradient", kind=kind, direction=direction
        )
        count = min(_EXACT_CANDIDATES, screen.n_neurons)
        few = screen.top(count, direction=direction)
        return rankers.exact(model, part, donor=donor, intervention=kind, neurons=few)
    raise InputError(f"method {method!r}: expected one of {', '.join(METHODS)}")
