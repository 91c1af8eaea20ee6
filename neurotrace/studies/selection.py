"""The settings of a study, and the choice of neurons, intervention and number.

`StudySettings` holds the candidates. `choose_within` uses training pairs only.

A candidate is (ranker, kind of intervention, k). Its neurons are ranked on one half of the training groups
and measured on the other half, and vice versa: on the pairs that ranked them, flip rates are biased
upwards, most of all those of strong interventions on many neurons. The best candidate flips the most
answers among those whose controls flip few: if a random change of the same size flips answers, too, the
flips are no evidence about the neurons.

Candidates that flip less than half as many as the best on the first half are not measured on the second.
Candidates within two pairs of the best are compared on as many pairs again, if there are any, and come
before those that are not: a rate on few pairs is more often high by luck. Rates within half a percentage
point count as equal, and the smaller number of neurons comes first. The first candidate in this order
whose controls are quiet is chosen (`controls.QuietSearch`); those behind it are not measured.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import unsplittable
from neurotrace.core.process import Progress
from neurotrace.core.sides import Direction
from neurotrace.decoding.tokens import Dropped
from neurotrace.interventions.controls import (
    Drawn,
    QuietSearch,
    Tally,
    controls_for,
)
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import Kind, form_of, parse_kind
from neurotrace.interventions.logits import WithinRun
from neurotrace.interventions.reference import Evidence, Reference
from neurotrace.interventions.whole import Asked, flipped
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import ModelInfo
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import rank, ranker_of
from neurotrace.rankers.training import Training, interventions_for

DEFAULT_METHODS = ("gradient", "two_ended")
DEFAULT_KINDS: tuple[Kind, ...] = (
    "patch",
    "set",
    "zero",
    "mean",
    "shift",
    "scale",
    "steer:0.7",
    "steer:0.85",
    "steer",
    "steer:1.5",
)
_HOPELESS = 0.5  # candidates below this share of the best rate on the first half are dropped
_NEAR = 2  # candidates within this number of pairs of the best are compared on further pairs
_CONTENDERS = 16  # maximum number of these; those with few neurons come first
_TESTED = 30  # maximum number of candidates whose controls are measured


@dataclass(frozen=True)
class StudySettings:
    """The choices of one study; `study` explains each."""

    methods: tuple[str, ...]
    kinds: tuple[Kind, ...]
    ks: tuple[int, ...]
    split: str
    folds: int
    seed: int
    neutral: tuple[str, ...]
    tried_on: int
    positions: WithinRun = "read"

    def check(self, info: ModelInfo) -> None:
        """`InputError` for unknown names, none at all, or more neurons than half of the model's."""
        if not self.methods or not self.kinds:
            raise InputError("expected at least one method and one intervention")
        if self.positions not in ("read", "onward"):
            raise InputError(f"positions={self.positions!r}: expected 'read' or 'onward'")
        for method in self.methods:
            ranker_of(method)
        for kind in self.kinds:
            parse_kind(kind)
        most = info.n_neurons // 2
        for k in self.ks:
            if not 1 <= k <= most:
                raise InputError(f"k={k}: expected 1 to {most}, half of the model's neurons")

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "methods": list(self.methods),
            "interventions": list(self.kinds),
            "ks": list(self.ks),
            "neutral_texts": len(self.neutral),
            "tried_on": self.tried_on,
            "positions": self.positions,
        }


def default_ks(n_neurons: int) -> tuple[int, ...]:
    """Four sizes up to 1 % of the neurons, at most 64 of them: 64 are 0.14 % of SmolLM2-135M's."""
    limit = max(1, min(64, n_neurons // 100))
    largest = 1 << (limit.bit_length() - 1)
    return tuple(k for k in (largest // 8, largest // 4, largest // 2, largest) if k)


@dataclass(frozen=True)
class Candidate:
    """A ranker, a kind of intervention, and a number of its top neurons."""

    method: str
    kind: Kind
    k: int

    def __str__(self) -> str:
        return f"{self.method} {self.kind} {self.k}"


def flip_rates(effects: Effects) -> dict[Candidate, float]:
    """Candidate -> share of answers that its intervention flipped."""
    table = effects.to_frame()
    table = table[table["role"] == "selected"]
    means = table.groupby(["label", "intervention", "k"])["answers"].mean()
    return {Candidate(m, kind, int(k)): float(rate) for (m, kind, k), rate in means.items()}


Flips = Callable[[Sequence[Asked]], list[Bool[Tensor, "intervention pair"]]]


@dataclass(frozen=True)
class Part:
    """Training pairs on which candidates are measured that were ranked on other training pairs."""

    made: Mapping[Candidate, Intervention]
    reference: Reference  # of the pairs on which they were ranked
    rows: Sequence[int]  # the pairs
    further: Sequence[int] = ()  # as many again


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, and the resolution of the comparison."""

    candidate: Candidate
    rates: Mapping[Candidate, float]  # share of training answers flipped
    loud: frozenset[Candidate]  # whose controls flip more than `QUIET`
    pairs: int  # on which the chosen one was compared
    tied: int  # other candidates with this rate on as many pairs, controls not known to flip more


@dataclass(frozen=True)
class RowFold:
    """A fold as rows of the encoded pairs."""

    number: int
    train: list[int]
    test: list[int]


@dataclass(frozen=True)
class Ground:
    """One family's pairs and one direction, with the other families beside."""

    model: HookedModel
    own: EncodedPairs
    others: EncodedPairs
    evidence: Evidence  # of `own`
    family: str
    direction: Direction
    positions: WithinRun = "read"


@dataclass(frozen=True)
class Chosen:
    """A fold's choice, and every candidate ranked on all of the fold's training pairs."""

    fold: RowFold
    choice: Choice
    made: dict[Candidate, Intervention]
    reference: Reference

    @property
    def candidate(self) -> Candidate:
        return self.choice.candidate


def choose_within(
    ground: Ground, fold: RowFold, settings: StudySettings, progress: Progress = None
) -> Chosen:
    """Rank candidates on one half of the training groups, and choose by their flips on the other half."""
    draw = random.Random(f"{settings.seed}/{fold.number}")
    halves = halves_of(ground, fold, settings.seed)
    count = -(-settings.tried_on // len(halves))
    parts = []
    for ranked, tried in halves:
        some = draw.sample(tried, len(tried))
        first, more = sorted(some[:count]), sorted(some[count : 2 * count])
        reference = ground.evidence.reference(ranked)
        parts.append(
            Part(
                _candidates(ground, ranked, reference, settings),
                reference,
                first,
                more,
            )
        )
    choice = choose(parts, partial(flips_at, ground, progress))
    reference = ground.evidence.reference(fold.train)
    return Chosen(fold, choice, _candidates(ground, fold.train, reference, settings), reference)


def without_small_families(encoded: EncodedPairs, split: str = "group") -> EncodedPairs:
    """The pairs without families that can't be split, which are dropped with a warning.

    If none can, all stay: what splits them then says why.
    """
    small = unsplittable(encoded.pairs, split)
    kept = [row for row, pair in enumerate(encoded.pairs) if pair.family not in small]
    if not small or not kept:
        return encoded
    for family, why in small.items():
        warnings.warn(f"{family} is left out: {why}", stacklevel=2)
    dropped = [
        Dropped(pair, "family too small", small[pair.family])
        for pair in encoded.pairs
        if pair.family in small
    ]
    return replace(encoded.at(kept), dropped=(*encoded.dropped, *dropped))


def halves_of(ground: Ground, fold: RowFold, seed: int) -> list[tuple[list[int], list[int]]]:
    """(rows to rank on, rows to measure on): each half of the training groups in turn.

    A single group cannot be split: its pairs are used for both.
    """
    pairs = ground.own.pairs
    groups = sorted({pairs[row].group for row in fold.train})
    if len(groups) < 2:
        return [(fold.train, fold.train)]
    random.Random(f"{seed}/{fold.number}/halves").shuffle(groups)
    first = set(groups[: len(groups) // 2])
    own = [row for row in fold.train if pairs[row].group in first]
    rest = [row for row in fold.train if pairs[row].group not in first]
    return [(own, rest), (rest, own)]


def _candidates(
    ground: Ground, rows: Sequence[int], reference: Reference, settings: StudySettings
) -> dict[Candidate, Intervention]:
    """Every candidate, its neurons ranked on the pairs at `rows`."""
    made: dict[Candidate, Intervention] = {}
    for method in settings.methods:
        for kind in settings.kinds:
            together = form_of(kind).together is not None
            if together and method == "gradient" and len(settings.methods) > 1:
                continue  # its shift follows the two-ended slope, so its ranking does, too
            training = Training(
                ground.model, ground.own, ground.evidence, rows, kind, ground.direction, reference
            )
            for each in interventions_for(
                rank(training, method),
                kind=kind,
                direction=ground.direction,
                ks=settings.ks,
                reference=reference,
            ):
                made[Candidate(method, kind, len(each))] = each
    return made


def activations_at(ground: Ground, rows: Sequence[int]) -> Activations:
    """Those of the pairs at `rows`."""
    values = ground.evidence.activations.values[:, list(rows)]
    return Activations(values, ground.own.at(rows).pairs)


def flips_at(
    ground: Ground, progress: Progress, asked: Sequence[Asked]
) -> list[Bool[Tensor, "intervention pair"]]:
    """`flipped` on the ground's own pairs."""
    return flipped(
        ground.model,
        ground.own,
        asked,
        activations=ground.evidence.activations,
        positions=ground.positions,
        progress=progress,
    )


def choose(parts: Sequence[Part], flips: Flips) -> Choice:
    """The best of the candidates, by the rule in the module's docstring.

    Args:
        parts: each with the same candidates, kinds in order of preference where they tie.
        flips: whether interventions flip the answers of pairs.
    """
    made = [each for each in parts[0].made if all(each in part.made for part in parts)]
    tallies = {each: Tally() for each in made}
    near = []  # of each pair, how many of the candidates flip its answer
    for part in parts:
        least = _HOPELESS * max(tally.rate for tally in tallies.values())
        hopeful = [each for each in made if tallies[each].rate >= least]
        (found,) = _try(tallies, hopeful, {tuple(part.rows): part}, flips)
        near.append(found.float().mean(dim=0))
    order = _ordered(tallies)
    bar = max(tally.rate - _NEAR / tally.count for tally in tallies.values())
    rivals = [each for each in order if tallies[each].rate >= bar][:_CONTENDERS]
    further = {tuple(part.further): part for part in parts if part.further}
    if len(rivals) > 1 and further:
        _try(tallies, rivals, further, flips)
        order = _ordered(tallies)
    controls = QuietSearch(
        partial(_flips_of_controls, parts, cache(partial(_drawn, parts)), flips), torch.cat(near)
    )
    best = controls.first_quiet(order[:_TESTED])
    if best is None:
        best = controls.least_loud({each: tally.rate for each, tally in tallies.items()})
    loud = frozenset(each for each in controls.heard if controls.too_loud(each))
    place = _place(tallies[best])
    equal = [each for each in made if _place(tallies[each]) == place and each not in loud]
    rates = {each: tally.rate for each, tally in tallies.items()}
    return Choice(best, rates, loud, tallies[best].count, len(set(equal) - {best}))


def _place(tally: Tally) -> tuple[int, int]:
    """Sorts by the number of pairs, then by the rate, both the largest first."""
    return -tally.count, -tally.step


def _ordered(tallies: Mapping[Candidate, Tally]) -> list[Candidate]:
    return sorted(tallies, key=lambda each: (*_place(tallies[each]), each.k))


def _try(
    tallies: dict[Candidate, Tally],
    candidates: Sequence[Candidate],
    parts: Mapping[tuple[int, ...], Part],
    flips: Flips,
) -> list[Bool[Tensor, "candidate pair"]]:
    """Count the flips of the candidates in, on these pairs of each part, and return them."""
    found = flips([(rows, [part.made[each] for each in candidates]) for rows, part in parts.items()])
    for own in found:
        for each, answers in zip(candidates, own, strict=True):
            tallies[each] = tallies[each].plus(answers)
    return found


def _drawn(
    parts: Sequence[Part], place: int, candidate: Candidate, role: str, seeds: range
) -> list[Intervention]:
    """One control of a part's candidate, drawn with each seed."""
    part = parts[place]
    return controls_for(part.made[candidate], reference=part.reference, seeds=seeds, roles=(role,))


def _flips_of_controls(
    parts: Sequence[Part],
    draw: Callable[[int, Candidate, str, range], list[Intervention]],
    flips: Flips,
    wanted: Sequence[Drawn],
) -> list[Bool[Tensor, "draw place"]]:
    """Whether each control flips each of its pairs; the parts' pairs are counted on from part to part."""
    found = [torch.zeros(len(seeds), len(pairs), dtype=torch.bool) for _, _, seeds, pairs in wanted]
    start = 0
    asked: dict[tuple[int, ...], tuple[list[Intervention], list[tuple[int, int, list[int]]]]] = {}
    for place, part in enumerate(parts):
        for number, (each, role, seeds, pairs) in enumerate(wanted):
            columns = [at for at, pair in enumerate(pairs) if start <= pair < start + len(part.rows)]
            rows = tuple(part.rows[pairs[at] - start] for at in columns)
            if rows:
                applied, where = asked.setdefault(rows, ([], []))
                drawn = draw(place, each, role, seeds)
                applied += drawn
                where += [(number, row, columns) for row in range(len(drawn))]
        start += len(part.rows)
    every = flips([(rows, applied) for rows, (applied, _) in asked.items()]) if asked else []
    for own, (_, where) in zip(every, asked.values(), strict=True):
        for answers, (number, row, columns) in zip(own, where, strict=True):
            found[number][row, columns] = answers
    return found
