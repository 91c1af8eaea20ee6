"""Which neurons, which intervention, how many: decided on training pairs alone (`choose`).

A candidate is (ranker, kind of intervention, k). The best one flips the most answers among those
whose controls stay quiet: an intervention so strong that a random one of its size flips answers too
proves nothing about its neurons, whatever it flips. Rates within half a percentage point are equal;
the fewest neurons then win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.interventions.controls import CONTROLS, controls_for
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.reference import Reference

QUIET = 0.04  # of training answers, at most, may a chosen candidate's controls flip
_TESTED = 30  # candidates, at most, whose controls are measured
_TOGETHER = 4  # of them in one go
_DRAWS = 3  # of each random control, where the first is quiet


@dataclass(frozen=True)
class Candidate:
    method: str
    kind: Kind
    k: int


def interventions_for(
    scores: Scores,
    *,
    kind: Kind,
    direction: Direction,
    ks: Sequence[int],
    reference: Reference,
) -> list[Intervention]:
    """The intervention on the top k of a ranking, for each k."""
    measured = int((~scores.value.isnan()).sum())
    top: tuple[Neuron, ...] = scores.top(min(max(ks), measured), direction=direction)
    return [
        replace(
            make(kind, top[:k], reference, direction=direction),
            label=scores.method,
        )
        for k in ks
        if k <= len(top)
    ]


def flip_rates(effects: Effects) -> dict[Candidate, float]:
    """Candidate -> share of answers that its intervention flipped."""
    table = effects.to_frame()
    table = table[table["role"] == "selected"]
    means = table.groupby(["label", "intervention", "k"])["answers"].mean()
    return {Candidate(m, kind, int(k)): float(rate) for (m, kind, k), rate in means.items()}


def choose(
    made: Mapping[Candidate, Intervention],
    reference: Reference,
    measured: Callable[[list[Intervention]], Effects],
) -> Candidate:
    """The best of the candidates, by the rule in the module's docstring.

    Args:
        made: each candidate's intervention, kinds in order of preference where they tie.
        measured: performs interventions on training pairs.
    """
    rates = flip_rates(measured(list(made.values())))
    order = sorted(made, key=lambda each: (-round(rates[each] * 200), each.k))[:_TESTED]
    heard: dict[Candidate, list[dict[str, float]]] = {}
    for start in range(0, len(order), _TOGETHER):
        group = order[start : start + _TOGETHER]
        # one draw tells the loud ones, more draws the quiet from the lucky
        for each, rate in _controls_flip(group, made, reference, measured, seed=0).items():
            heard[each] = [rate]
        hopeful = [each for each in group if _noise(heard[each]) <= 2 * QUIET]
        for seed in range(1, _DRAWS) if hopeful else ():
            found = _controls_flip(hopeful, made, reference, measured, seed=seed)
            for each, rate in found.items():
                heard[each].append(rate)
        best = next((each for each in hopeful if _noise(heard[each]) <= QUIET), None)
        if best is not None:
            return best
    noise = {each: _noise(rates_of) for each, rates_of in heard.items()}
    return max(noise, key=lambda each: rates[each] - noise[each])


def _controls_flip(
    candidates: Sequence[Candidate],
    made: Mapping[Candidate, Intervention],
    reference: Reference,
    measured: Callable[[list[Intervention]], Effects],
    *,
    seed: int,
) -> dict[Candidate, dict[str, float]]:
    """Candidate -> the share of answers that each kind of control flips."""
    controls = []
    for place, each in enumerate(candidates):
        for control in controls_for(made[each], reference=reference, seeds=(seed,)):
            if control.role in CONTROLS:
                controls.append(replace(control, label=str(place)))
    table = measured(controls).to_frame()
    rates = table.groupby(["label", "role"])["answers"].mean()
    return {each: rates[str(place)].to_dict() for place, each in enumerate(candidates)}


def _noise(draws: Sequence[Mapping[str, float]]) -> float:
    """Of the kinds of control, the loudest's share, as a mean over its draws."""
    return max(sum(draw[role] for draw in draws) / len(draws) for role in draws[0])
