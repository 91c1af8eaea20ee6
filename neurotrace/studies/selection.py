"""Which neurons, which intervention, how many: decided on training pairs alone (`choose`).

A candidate is (ranker, kind of intervention, k). The best one flips the most answers among those
whose controls stay quiet: an intervention so strong that a random one of its size flips answers too
proves nothing about its neurons, whatever it flips. Rates within half a percentage point are equal;
the fewest neurons then win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace import rankers
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.scores import Direction, Scores
from neurotrace.interventions.controls import CONTROLS, controls_for, write_norms
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention, Kind, make, parse_kind
from neurotrace.interventions.targets import Targets, provenance
from neurotrace.models.activations import Activations, Moments, Reference
from neurotrace.models.encoding import SIDES, EncodedPairs, Progress, Side, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.rankers.gradient import gradients

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
QUIET = 0.04  # of training answers, at most, may a chosen candidate's controls flip
_TESTED = 30  # candidates, at most, whose controls are measured
_TOGETHER = 4  # of them in one go
_DRAWS = 3  # of each random control, where the first is quiet
_EXACT_CANDIDATES = 200  # neurons, per direction, that `exact` measures: the gradient's strongest


@dataclass(frozen=True)
class Candidate:
    method: str
    kind: Kind
    k: int


@dataclass(frozen=True)
class Evidence:
    """Activations and slopes of every pair on both sides, from which folds are ranked."""

    activations: Activations
    slopes: Float[Tensor, "side pair layer neuron"]  # dL/da

    norms: Float[Tensor, "layer neuron"]  # ||W_out row||
    logit_difference: Float[Tensor, "side pair"]

    def moments(self, rows: Sequence[int]) -> Moments:
        values = self.activations.values[:, list(rows)]
        return Moments(values.mean(dim=1), values.var(dim=1, unbiased=False), len(rows))

    def reference(self, rows: Sequence[int]) -> Reference:
        """What the pairs at `rows` tell."""
        groups: dict[str, list[int]] = {}
        for row in rows:
            groups.setdefault(self.activations.pairs[row].group, []).append(row)
        means = torch.stack([self.slopes[:, of_one].mean(dim=1) for of_one in groups.values()])
        spread = means.std(dim=0) if len(groups) > 1 else torch.zeros_like(means[0])
        index = list(rows)
        return Reference(
            self.moments(rows), self.slopes[:, index].mean(dim=1), spread, self.norms,
            self.logit_difference[:, index].mean(dim=1),
        )  # fmt: skip


def gather(
    model: Any, encoded: EncodedPairs, *, budget_gb: float = 8.0, progress: Progress = None
) -> Evidence:
    """Read activations and slopes once; every fold's ranking is a mean over its own pairs."""
    info = inspect_model(model)
    size = 4 * len(encoded) * info.n_neurons * 4 / 2**30
    if size > budget_gb:
        raise InputError(
            f"activations and gradients of {len(encoded)} pairs take {size:.1f} GiB, the budget is "
            f"{budget_gb:g}: pass fewer pairs (--max-pairs)"
        )
    values = torch.empty(2, len(encoded), info.n_layers, info.d_mlp)
    slopes = torch.empty_like(values)
    for place, side in enumerate(SIDES):
        for rows, a, slope in gradients(model, encoded, side, progress=progress):
            wrong = ~torch.isfinite(slope)
            if wrong.any():
                layer = int(wrong.nonzero()[0][1])
                raise InputError(
                    f"gradients in layer {layer} are not finite: load with dtype=float32"
                )
            values[place, rows] = a
            slopes[place, rows] = slope
    differences = [encoded.behaviour(side).logit_difference for side in SIDES]
    return Evidence(
        Activations(values, encoded.pairs), slopes, write_norms(model), torch.stack(differences)
    )


def reference(
    model: Any, pairs: Sequence[PromptPair] | EncodedPairs, *, progress: Progress = None
) -> Reference:
    """Class means and slopes of (training) pairs, as `nt.steer` and the class means want them."""
    encoded = encode(model, pairs)
    return gather(model, encoded, progress=progress).reference(range(len(encoded)))


def rank(
    model: Any,
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
    raise InputError(f"method {method!r}: wanted one of {', '.join(METHODS)}")


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


def default_ks(n_neurons: int) -> tuple[int, ...]:
    """Four sizes, each twice the last, the largest at most 1 % of the neurons and at most 64.

    Small sets are the question: 64 are 0.14 % of SmolLM2-135M's 46,080.
    """
    limit = max(1, min(64, n_neurons // 100))
    largest = 1 << (limit.bit_length() - 1)
    return tuple(k for k in (largest // 8, largest // 4, largest // 2, largest) if k)


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
