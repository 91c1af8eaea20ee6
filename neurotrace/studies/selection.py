"""The settings of a study, and the choice of neurons, intervention and number.

`StudySettings` holds the candidates. `choose` uses training pairs only.

A candidate is (ranker, kind of intervention, k). The best one flips the most answers among those whose
controls flip few: if a random change of the same size flips answers, too, the flips are no evidence
about the neurons. Rates within half a percentage point count as equal; then the smaller number of
neurons is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.interventions.controls import CONTROLS, controls_for
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import Kind, parse_kind, values_at
from neurotrace.interventions.reference import Reference
from neurotrace.models.hooks import ModelInfo
from neurotrace.rankers.registry import ranker_of

DEFAULT_METHODS = ("gradient", "two_ended")
DEFAULT_KINDS: tuple[Kind, ...] = (
    "patch", "set", "zero", "mean", "shift", "scale",
    "steer:0.7", "steer:0.85", "steer", "steer:1.5",
)  # fmt: skip
QUIET = 0.04  # maximum share of training answers that a chosen candidate's controls may flip
_TESTED = 30  # maximum number of candidates whose controls are measured
_TOGETHER = 4  # candidates in one call
_DRAWS = 3  # draws of each random control, if the first flips few answers


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

    def check(self, info: ModelInfo) -> None:
        """`InputError` for unknown names, none at all, or more neurons than half of the model's."""
        if not self.methods or not self.kinds:
            raise InputError("expected at least one method and one intervention")
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
            "methods": list(self.methods), "interventions": list(self.kinds), "ks": list(self.ks),
            "neutral_texts": len(self.neutral), "tried_on": self.tried_on,
        }  # fmt: skip


def default_ks(n_neurons: int) -> tuple[int, ...]:
    """Four sizes up to 1 % of the neurons, at most 64 of them: 64 are 0.14 % of SmolLM2-135M's."""
    limit = max(1, min(64, n_neurons // 100))
    largest = 1 << (limit.bit_length() - 1)
    return tuple(k for k in (largest // 8, largest // 4, largest // 2, largest) if k)


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
            score=values_at(scores.value, top[:k]),
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
        # one draw rejects most candidates; more draws reduce the influence of chance on the others
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
    """Candidate -> share of answers that each kind of control flips."""
    controls = []
    for place, each in enumerate(candidates):
        for control in controls_for(made[each], reference=reference, seeds=(seed,)):
            if control.role in CONTROLS:
                controls.append(replace(control, label=str(place)))
    table = measured(controls).to_frame()
    rates = table.groupby(["label", "role"])["answers"].mean()
    return {each: rates[str(place)].to_dict() for place, each in enumerate(candidates)}


def _noise(draws: Sequence[Mapping[str, float]]) -> float:
    """The largest flip rate of the kinds of control, each a mean over its draws."""
    return max(sum(draw[role] for draw in draws) / len(draws) for role in draws[0])
