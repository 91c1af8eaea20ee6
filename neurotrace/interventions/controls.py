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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
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
_SCREENED = 12  # candidates whose loudest control is drawn in one call, after the first
_TOGETHER = 4  # candidates whose other controls are
_FEWEST = 3  # draws of each random control in one call: 0 flips of 96 put the interval below `QUIET`
_DRAWS = 6  # maximum number of draws


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
        distance = (norms[neuron.layer] - norms[neuron.layer, neuron.index]).abs()
        among = places_like(neuron, norms.shape[1], experts)
        order = (distance[among.start : among.stop].argsort() + among.start)[: 10 + len(taken)].tolist()
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

    def and_also(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.count + other.count)


Drawn = tuple[Any, str, range]  # a candidate, the role of its control, seeds


class QuietSearch:
    """Find a candidate whose controls flip at most `QUIET` of the training answers.

    Controls are drawn until the 95 % interval of their rate excludes `QUIET`, at most `_DRAWS` times. A
    candidate is left as soon as one of its controls is known to flip more, and only controls in doubt are
    drawn again. The control that was too loud most often comes first.

    Args:
        flips: for each (candidate, role, seeds) how many answers are flipped, over all seeds.
    """

    def __init__(self, flips: Callable[[Sequence[Drawn]], Sequence[Tally]]) -> None:
        self.flips = flips
        self.heard: dict[Any, dict[str, Tally]] = {}
        self.drawn: Counter[tuple[Any, str]] = Counter()
        self.blamed: dict[Any, str] = {}  # candidate -> the control that was too loud

    def first_quiet(self, order: Sequence[Any]) -> Any | None:
        """The first of the candidates whose controls are quiet, if there is one."""
        for start, end in pairwise([0, *range(1, len(order), _SCREENED), len(order)]):
            times = 1 if start else _FEWEST
            wave = list(order[start:end])
            self._draw(wave, self._loudest_first()[:1], times)
            while wave := [each for each in wave if not self._too_loud(each)]:
                group, wave = wave[:_TOGETHER], wave[_TOGETHER:]
                self._draw(group, CONTROLS, times)
                for each in group:
                    while doubtful := self._doubtful(each):
                        most = max(self.drawn[each, role] for role in doubtful)
                        self._draw([each], doubtful, min(_FEWEST, _DRAWS - most), again=True)
                    if self.loudest(each) <= QUIET:
                        return each
        return None

    def least_loud(self, rates: Mapping[Any, float]) -> Any:
        """Where none is quiet: the one whose rate is furthest beyond that of its loudest control."""
        while True:
            best = max(self.heard, key=lambda each: rates[each] - self.loudest(each))
            if all(self.drawn[best, role] for role in CONTROLS):
                return best
            self._draw([best], CONTROLS, 1)

    def loudest(self, candidate: Any) -> float:
        """The largest flip rate of its controls, over all draws."""
        return max(tally.rate for tally in self.heard[candidate].values())

    def _loudest_first(self) -> list[str]:
        often = Counter(self.blamed.values())
        return sorted(CONTROLS, key=lambda role: -often[role])

    def _too_loud(self, candidate: Any) -> bool:
        """Whether a control's interval is above `QUIET`, or its rate whatever further draws flip."""
        for role, tally in self.heard.get(candidate, {}).items():
            after_all = tally.count * _DRAWS / self.drawn[candidate, role]
            if share_interval(tally.hits, tally.count)[0] > QUIET or tally.hits > QUIET * after_all:
                self.blamed[candidate] = role
                return True
        return False

    def _doubtful(self, candidate: Any) -> list[str]:
        """The controls whose intervals hold `QUIET`, if none is known to be above."""
        if self._too_loud(candidate):
            return []
        return [
            role
            for role, tally in self.heard[candidate].items()
            if self.drawn[candidate, role] < _DRAWS and share_interval(tally.hits, tally.count)[1] > QUIET
        ]

    def _draw(
        self, candidates: Sequence[Any], roles: Sequence[str], times: int, *, again: bool = False
    ) -> None:
        """Draw these controls of each candidate this number of times, or as often once more."""
        wanted = [
            (each, role, range(self.drawn[each, role], self.drawn[each, role] + times))
            for each in candidates
            for role in roles
            if again or not self.drawn[each, role]
        ]
        for (each, role, _), tally in zip(wanted, self.flips(wanted) if wanted else [], strict=True):
            own = self.heard.setdefault(each, {})
            own[role] = own.get(role, Tally()).and_also(tally)
            self.drawn[each, role] += times
