"""Controls: changes of the same size that an intervention is compared with.

Each control changes other neurons by the same amount, or the same neurons differently by the same
amount. It is measured on the same held-out pairs:

    random       the same kind of intervention on random neurons of the same layers
    norm         neurons of the same layers with the nearest norm of what they write, moved to write as much
    sign         the same neurons, each moved by as much, a random half of them in the opposite direction
    low_rho      neurons of the same layers out of the tenth with the lowest |rho|, moved likewise
    other_donor  the same patch with the values of another pair (other answers, same behaviour)

In a mixture of experts, "of the same layers" reads "of the same experts", which are then used as often.
The first four test whether any change of this size flips answers. The last tests whether this item's
answer is copied or the behaviour is transferred; it is reported separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Experts, Neuron, NeuronSet, places_like
from neurotrace.core.scores import Scores
from neurotrace.core.statistics import share_interval
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import ClassMeans, form_of, values_at
from neurotrace.interventions.reference import Reference

CONTROLS = ("random", "norm", "sign", "low_rho")
QUIET = 0.04  # maximum share of training answers that a chosen candidate's controls may flip
_FIRST = 3  # draws of each control at first: 0 flips of 96 put the interval below `QUIET`
_DRAWS = 6  # draws in all
_TOGETHER = 8  # candidates whose controls are measured together
_PASS = 96  # rows that a pass costs besides its own
_SOONER = (1 / 16, 3 / 16)  # shares of the pairs at which a candidate may be left before all are measured


def controls_for(
    intervention: Intervention,
    *,
    reference: Reference,
    seeds: Sequence[int] = (0, 1, 2),
    roles: Sequence[str] = (*CONTROLS, "other_donor"),
) -> list[Intervention]:
    """The controls of one intervention; random controls are drawn once per seed.

    Args:
        reference: statistics of the training pairs; shifts and correlations are taken from it.
        roles: which; default: all.
    """
    made: list[Intervention] = []
    for seed in seeds:
        of_draw = []
        if "norm" in roles:
            near = norm_matched(intervention, reference.norms, seed=seed, experts=reference.experts)
            of_draw.append(same_shift(intervention, near, reference, role="norm"))
        if "sign" in roles:
            of_draw.append(random_signs(intervention, seed=seed))
        if "low_rho" in roles:
            rho = reference.moments.rho
            low = low_correlation(intervention, rho, seed=seed, experts=reference.experts)
            of_draw.append(same_shift(intervention, low, reference, role="low_rho"))
        if "random" in roles:
            made += random_controls(intervention, reference, seeds=(seed,))
        made += [replace(each, draw=seed) for each in of_draw]
    if intervention.needs_donor and "other_donor" in roles:
        made.append(other_donor(intervention))
    return [replace(control, label=intervention.label) for control in made]


def random_controls(
    intervention: Intervention, reference: Reference, *, seeds: Sequence[int]
) -> list[Intervention]:
    """The same intervention on random neurons of the same layers, once a seed (its `draw`)."""
    record = {} if reference.experts is None else {"experts": reference.experts.blocks}
    blank = Scores("random", torch.zeros_like(reference.norms), provenance=record)
    return [
        replace(
            random_control(intervention, blank.random_like(intervention.neurons, seed=seed), reference),
            label=intervention.label,
            draw=seed,
        )
        for seed in seeds
    ]


def random_control(
    intervention: Intervention, neurons: Sequence[Neuron], reference: Reference
) -> Intervention:
    """The same kind of intervention on other neurons.

    A kind that computes a set's offsets together (`steer`) would close the gap with other neurons, too.
    Its control moves the other neurons to write as much instead.
    """
    if form_of(intervention.kind).together is not None:
        return same_shift(intervention, neurons, reference, role="random")
    return on_others(intervention, neurons, reference, role="random")


def random_signs(intervention: Intervention, *, seed: int) -> Intervention:
    """The same neurons moved by as much, a random half of them in the opposite direction.

    a' = a + s*(target - a) with s = +1 or -1: the map of the intervention where s is +1, its mirror
    image about the neuron's own value where s is -1. The signs are balanced (of an odd number, one more
    is -1), because independent signs would sometimes equal the intervention itself; for one neuron,
    half of the time.

    Example::

        shift = nt.steer(scores.top(8), nt.reference(model, train))
        nt.measure(model, test, [shift, nt.random_signs(shift, seed=0)])
    """
    generator = torch.Generator().manual_seed(seed)
    heads = torch.zeros(len(intervention), dtype=torch.bool)
    heads[torch.randperm(len(intervention), generator=generator)[: len(intervention) // 2]] = True
    return replace(
        intervention,
        keep=torch.where(heads, intervention.keep, 2 - intervention.keep),
        gain=torch.where(heads, intervention.gain, -intervention.gain),
        offset=torch.where(heads, intervention.offset, -intervention.offset),
        role="sign",
    )


def other_donor(intervention: Intervention) -> Intervention:
    """The same patch with values from another pair's donor run (see `measure`)."""
    return replace(intervention, role="other_donor")


def same_shift(
    intervention: Intervention, neurons: Sequence[Neuron], reference: Reference, *, role: str
) -> Intervention:
    """Move other neurons so that they write as much as the intervention's own, over `reference`.

    Neuron j replaces neuron i at its place in the list: a'_j = a_j + mean(target_i - a_i) * ||w_i|| /
    ||w_j||, with w what a neuron writes (`Reference.norms`). The sizes are equal in the residual stream,
    where neurons act, whatever the scale of their activations.
    """
    moments = reference.moments
    own = values_at(moments.mean_of(intervention.recipient), intervention.neurons)
    donor = values_at(moments.mean_of(intervention.donor), intervention.neurons)
    moved = (intervention.keep - 1) * own + intervention.gain * donor + intervention.offset
    written = moved * values_at(reference.norms, intervention.neurons)
    offset = written / values_at(reference.norms, neurons).clamp(min=1e-6)
    keep, gain = torch.ones(len(neurons)), torch.zeros(len(neurons))
    direction = intervention.direction
    named = NeuronSet(neurons, direction, reference.experts)
    return Intervention("shift", named, direction, keep, gain, offset, role)


def on_others(
    intervention: Intervention, neurons: Sequence[Neuron], reference: ClassMeans, *, role: str
) -> Intervention:
    """The same kind of intervention on other neurons: their own donor values, means or factors."""
    return make(intervention.kind, neurons, reference, direction=intervention.direction, role=role)


def norm_matched(
    intervention: Intervention,
    norms: Float[Tensor, "layer neuron"],
    *,
    seed: int,
    experts: Experts | None = None,
) -> tuple[Neuron, ...]:
    """For each neuron another of its layer with a similar `Reference.norms`, of the ten nearest."""
    generator = torch.Generator().manual_seed(seed)
    taken = set(intervention.neurons)
    drawn: list[Neuron] = []
    for neuron in intervention.neurons:
        among = places_like(neuron, norms.shape[1], experts)
        distance = (norms[neuron.layer, among.start : among.stop] - norms[neuron.layer, neuron.index]).abs()
        nearest = distance.topk(min(10 + len(taken), len(distance)), largest=False).indices
        order = (nearest + among.start).tolist()
        near = (place for place in order if Neuron(neuron.layer, place) not in taken)
        free = list(islice(near, 10))
        if not free:
            raise InputError(f"layer {neuron.layer} has no neuron left to match {neuron}'s norm")
        pick = free[int(torch.randint(len(free), (1,), generator=generator))]
        drawn.append(Neuron(neuron.layer, pick))
        taken.add(drawn[-1])
    return tuple(drawn)


def low_correlation(
    intervention: Intervention,
    rho: Float[Tensor, "layer neuron"],
    *,
    seed: int,
    experts: Experts | None = None,
) -> tuple[Neuron, ...]:
    """As many neurons in each layer (expert), drawn from the tenth with the lowest |rho|."""
    generator = torch.Generator().manual_seed(seed)
    like = [(n.layer, places_like(n, rho.shape[1], experts)) for n in intervention.neurons]
    by: dict[tuple[int, range], list[Neuron]] = {}
    for layer, among in sorted(set(like), key=lambda each: (each[0], each[1].start)):
        own = {n.index for n in intervention.neurons if n.layer == layer and n.index in among}
        places = like.count((layer, among))
        free = len(among) - len(own)
        most = max(places, free // 10)
        # as many more as may be taken
        quiet = rho[layer, among.start : among.stop].abs().argsort() + among.start
        order = quiet[: most + len(own)].tolist()
        pool = [place for place in order if place not in own][:most]
        if len(pool) < places:
            raise InputError(f"layer {layer} has too few neurons besides the selected ones")
        picks = torch.randperm(len(pool), generator=generator)[:places].tolist()
        by[layer, among] = [Neuron(layer, pool[pick]) for pick in picks]
    # in the order of the neurons that they replace
    return tuple(by[each].pop() for each in like)


@dataclass(frozen=True)
class Tally:
    """How many of `count` answers are flipped."""

    hits: int = 0
    count: int = 0

    @property
    def rate(self) -> float:
        return self.hits / self.count if self.count else 0.0

    @property
    def step(self) -> int:
        """In half percentage points: rates in the same step are equal."""
        return round(self.rate * 200)

    def plus(self, answers: Bool[Tensor, " pair"]) -> Tally:
        return Tally(self.hits + int(answers.sum()), self.count + len(answers))


# candidate, role of its control, seeds of the draws, places of the pairs on which they are measured
Drawn = tuple[Any, str, range, list[int]]


class QuietSearch:
    """Find a candidate whose controls flip at most `QUIET` of the training answers.

    A control is drawn `_DRAWS` times: it is quiet if it flips at most `QUIET` over all draws and pairs, or
    if the 95 % interval of its first half of draws is below `QUIET`. A candidate is quiet if its controls
    are.

    No more is measured than this rule needs. Flips by controls concentrate on a few pairs whose answers are
    close to flipping, so these pairs come first, and a candidate is left as soon as it has more flips than
    a quiet one could have, whatever the rest would show. The decisions are those of measuring all.

    Args:
        flips: for each `Drawn` whether the answers are flipped, Bool[Tensor, "draw place"].
        near: Float[Tensor, "pair"], how easily each pair's answer flips; used for the order alone.
    """

    def __init__(
        self, flips: Callable[[Sequence[Drawn]], Sequence[Bool[Tensor, "draw place"]]], near: Tensor
    ) -> None:
        self.flips, self.near = flips, near.double()
        self.heard: dict[Any, _Heard] = {}
        every = _FIRST * len(near)
        few = [hits for hits in range(every + 1) if share_interval(hits, every)[1] <= QUIET]
        self.few = max(few, default=-1)  # flips in the first draws that settle that a control is quiet
        self.most = int(QUIET * _DRAWS * len(near) + 1e-9)  # flips in all draws of a quiet control

    def first_quiet(self, order: Sequence[Any]) -> Any | None:
        """The first of the candidates whose controls are quiet, if there is one."""
        for start, end in pairwise([0, *range(1, len(order), _TOGETHER), len(order)]):
            wave = list(order[start:end])  # the first by itself: where controls are quiet, it is chosen
            *first, last = self._parts(len(wave))
            for pairs in first:
                self._hear(wave, pairs)
                wave = [each for each in wave if not self.too_loud(each)]
            for each in wave:
                self._hear([each], last)
                if not self.too_loud(each):
                    return each
        return None

    def least_loud(self, rates: Mapping[Any, float]) -> Any:
        """Where none is quiet: the one whose rate is furthest beyond that of its loudest control.

        The flips found so far bound this from above. The candidate with the highest bound is measured
        further, until that with the highest has been measured on all pairs.
        """
        parts = self._parts(1)
        while True:
            best = max(self.heard, key=lambda each: rates[each] - self.loudest(each))
            if self.heard[best].seen.all():
                return best
            pairs = next(part for part in parts if not self.heard[best].seen[..., part].all())
            self._draw([(best, role, later, pairs) for role in CONTROLS for later in (0, 1)])

    def too_loud(self, candidate: Any) -> bool:
        """Whether a control flips more than a quiet one, whatever has not been measured yet."""
        hits = self.heard[candidate].hits.sum(-1)
        return bool(((hits[:, 0] > self.few) & (hits.sum(-1) > self.most)).any())

    def loudest(self, candidate: Any) -> float:
        """The largest flip rate of its controls over all draws; of what is not measured, none flips."""
        return float(self.heard[candidate].hits.sum((1, 2)).max()) / (_DRAWS * len(self.near))

    def _parts(self, candidates: int) -> list[list[int]]:
        """The pairs, those that controls flipped most often first, cut at `_SOONER`.

        There is no cut where so many candidates' controls are fewer rows than a pass costs besides them.
        """
        found = sum((heard.hits.sum((0, 1)) for heard in self.heard.values()), torch.zeros(len(self.near)))
        order = sorted(
            range(len(self.near)), key=lambda pair: (-float(found[pair]), -float(self.near[pair]))
        )
        ends = [0]
        for end in (math.ceil(share * len(order)) for share in _SOONER):
            if candidates * len(CONTROLS) * _FIRST * (end - ends[-1]) >= _PASS:
                ends.append(end)
        return [order[start:end] for start, end in pairwise([*ends, len(order)]) if end > start]

    def _hear(self, candidates: Sequence[Any], pairs: list[int]) -> None:
        """Measure the first draws on these pairs, and the others of controls that need all of them."""
        for each in candidates:
            self.heard.setdefault(each, _Heard.nothing(len(self.near)))
        self._draw([(each, role, 0, pairs) for each in candidates for role in CONTROLS])
        again = []
        for each in candidates:
            heard = self.heard[each]
            for place, role in enumerate(CONTROLS):
                if int(heard.hits[place, 0].sum()) > self.few and not self.too_loud(each):
                    again.append((each, role, 1, heard.seen[place, 0].nonzero()[:, 0].tolist()))
        self._draw(again)

    def _draw(self, wanted: Sequence[tuple[Any, str, int, list[int]]]) -> None:
        """Draw controls, the first times (0) or the others (1), on those of the pairs not yet measured."""
        asked = []
        for each, role, later, pairs in wanted:
            seen = self.heard[each].seen[CONTROLS.index(role), later]
            if new := [pair for pair in pairs if not seen[pair]]:
                seen[new] = True
                asked.append((each, role, later, new))
        drawn = [
            (each, role, range(_FIRST, _DRAWS) if later else range(_FIRST), pairs)
            for each, role, later, pairs in asked
        ]
        found = self.flips(drawn) if drawn else []
        for (each, role, later, pairs), flipped in zip(asked, found, strict=True):
            self.heard[each].hits[CONTROLS.index(role), later, pairs] += flipped.sum(0)


@dataclass(frozen=True)
class _Heard:
    """What was measured of a candidate's controls, and how many of the draws flipped each answer."""

    seen: Bool[Tensor, "role half pair"]
    hits: Int[Tensor, "role half pair"]

    @classmethod
    def nothing(cls, pairs: int) -> _Heard:
        shape = len(CONTROLS), 2, pairs
        return cls(torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long))
