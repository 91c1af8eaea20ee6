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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.sides import Direction
from neurotrace.interventions.controls import (
    Drawn,
    QuietSearch,
    Tally,
    controls_for,
)
from neurotrace.interventions.effects import Effects, flipped
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import Kind, form_of, parse_kind
from neurotrace.interventions.logits import WithinRun
from neurotrace.interventions.reference import Evidence, Reference
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


# (interventions, places of some of the part's pairs; None: all)
Flipped = Callable[[list[Intervention], Sequence[int] | None], Bool[Tensor, "intervention pair"]]


@dataclass(frozen=True)
class Part:
    """Training pairs on which candidates are measured that were ranked on other training pairs."""

    made: Mapping[Candidate, Intervention]
    reference: Reference  # of the pairs on which they were ranked
    flipped: Flipped
    further: Flipped | None = None  # on as many pairs again


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
                partial(_flipped, ground, first, progress),
                partial(_flipped, ground, more, progress) if more else None,
            )
        )
    choice = choose(parts)
    reference = ground.evidence.reference(fold.train)
    return Chosen(fold, choice, _candidates(ground, fold.train, reference, settings), reference)


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


def _flipped(
    ground: Ground,
    rows: Sequence[int],
    progress: Progress,
    interventions: Sequence[Intervention],
    places: Sequence[int] | None,
) -> Bool[Tensor, "intervention pair"]:
    rows = rows if places is None else [rows[place] for place in places]
    return flipped(
        ground.model,
        ground.own.at(rows),
        interventions,
        activations=activations_at(ground, rows),
        positions=ground.positions,
        progress=progress,
    )


def choose(parts: Sequence[Part]) -> Choice:
    """The best of the candidates, by the rule in the module's docstring.

    Args:
        parts: each with the same candidates, kinds in order of preference where they tie.
    """
    made = [each for each in parts[0].made if all(each in part.made for part in parts)]
    tallies = {each: Tally() for each in made}
    near = []  # of each pair, how many of the candidates flip its answer
    for part in parts:
        least = _HOPELESS * max(tally.rate for tally in tallies.values())
        hopeful = [each for each in made if tallies[each].rate >= least]
        near.append(_try(tallies, hopeful, part, part.flipped).float().mean(dim=0))
    order = _ordered(tallies)
    bar = max(tally.rate - _NEAR / tally.count for tally in tallies.values())
    rivals = [each for each in order if tallies[each].rate >= bar][:_CONTENDERS]
    further = [(part, part.further) for part in parts if part.further]
    if len(rivals) > 1 and further:
        for part, flips in further:
            _try(tallies, rivals, part, flips)
        order = _ordered(tallies)
    controls = QuietSearch(partial(_flips_of_controls, parts, list(map(len, near))), torch.cat(near))
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
    tallies: dict[Candidate, Tally], candidates: Sequence[Candidate], part: Part, flips: Flipped
) -> Bool[Tensor, "candidate pair"]:
    """Count the flips of the candidates in, and return them."""
    found = flips([part.made[each] for each in candidates], None)
    for each, answers in zip(candidates, found, strict=True):
        tallies[each] = tallies[each].plus(answers)
    return found


def _flips_of_controls(
    parts: Sequence[Part], sizes: Sequence[int], wanted: Sequence[Drawn]
) -> list[Bool[Tensor, "draw place"]]:
    """Whether each control flips each of its pairs; the parts' pairs are counted on from part to part."""
    found = [torch.zeros(len(seeds), len(pairs), dtype=torch.bool) for _, _, seeds, pairs in wanted]
    for part, start, end in zip(parts, accumulate(sizes, initial=0), accumulate(sizes), strict=False):
        together: dict[tuple[int, ...], list[tuple[int, int, Intervention]]] = {}
        for number, (each, role, seeds, pairs) in enumerate(wanted):
            if own := tuple(pair - start for pair in pairs if start <= pair < end):
                drawn = controls_for(part.made[each], reference=part.reference, seeds=seeds, roles=(role,))
                together.setdefault(own, []).extend((number, row, each) for row, each in enumerate(drawn))
        for places, asked in together.items():
            for (number, row, _), answers in zip(
                asked, part.flipped([each for _, _, each in asked], places), strict=True
            ):
                columns = [at for at, pair in enumerate(wanted[number][3]) if start <= pair < end]
                found[number][row, columns] = answers
    return found
