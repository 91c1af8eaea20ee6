"""Which neurons, which intervention, how many: decided on training pairs alone.

A candidate is (ranker, kind of intervention, k). All are tried on (a sample of) the training pairs;
of those within half a percentage point of the best flip rate the one with the fewest neurons is
taken, in the given order of kinds where that ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace import rankers
from neurotrace.activations import Activations, Moments
from neurotrace.effects import Effects
from neurotrace.errors import InputError
from neurotrace.hooks import inspect_model
from neurotrace.interventions import Intervention, Kind, make
from neurotrace.neurons import Neuron
from neurotrace.rankers.gradient import gradients
from neurotrace.rankers.targets import Targets, provenance
from neurotrace.scores import Direction, Scores
from neurotrace.tokens import SIDES, EncodedPairs, Progress, Side

METHODS = (
    "gradient",
    "two_ended",
    "contrast",
    "pearson",
    "direct",
    "integrated",
    "exact",
    "random",
)
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

    def moments(self, rows: Sequence[int]) -> Moments:
        values = self.activations.values[:, list(rows)]
        return Moments(values.mean(dim=1), values.var(dim=1, unbiased=False), len(rows))


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
            values[place, rows] = a
            slopes[place, rows] = slope
    if not torch.isfinite(slopes).all():
        layer = int((~torch.isfinite(slopes)).nonzero()[0][2])
        raise InputError(f"gradients in layer {layer} are not finite: load with dtype=float32")
    return Evidence(Activations(values, encoded.pairs), slopes)


def rank(
    model: Any,
    encoded: EncodedPairs,
    evidence: Evidence,
    rows: Sequence[int],
    *,
    method: str,
    kind: Kind,
    direction: Direction,
) -> Scores:
    """The ranking of `method` for this intervention, from the pairs at `rows` alone."""
    donor: Side = "reasoning" if direction == "to_reasoning" else "memorization"
    place = SIDES.index("memorization" if donor == "reasoning" else "reasoning")
    record = provenance(model, encoded.at(rows), donor, kind)
    if method in ("gradient", "two_ended"):
        donors = evidence.activations.side(donor)
        targets = Targets(kind, donor, donors, evidence.moments(rows))
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
        found = evidence.moments(rows)
        unit = "activation, reasoning minus memorization"
        return Scores(method, found.contrast, unit, signed=False, provenance=record)
    if method == "pearson":
        found = evidence.moments(rows)
        unit = "correlation with the reasoning side"
        return Scores(method, found.pearson, unit, signed=False, provenance=record)
    part = encoded.at(rows)
    if method == "random":
        return rankers.random_scores(model, part, donor=donor, intervention=kind)
    if method == "direct":
        return rankers.direct(model, part, donor=donor, intervention=kind)
    if method == "integrated":
        return rankers.integrated(model, part, donor=donor, intervention=kind)
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
    reference: Moments,
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


def choose(effects: Effects, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that flips most training answers, by the rule in the module's docstring."""
    table = effects.to_frame().groupby(["label", "intervention", "k"])["answers"].mean()
    rates = {
        each: float(table[each.method, each.kind, each.k])
        for each in candidates
        if (each.method, each.kind, each.k) in table.index
    }
    best = max(rates.values())
    good = [each for each in candidates if each in rates and rates[each] >= best - 0.005]
    return min(good, key=lambda each: each.k)  # min keeps the first of equals: order decides


def default_ks(n_neurons: int) -> tuple[int, ...]:
    """Powers of two, at most 1 % of the neurons and at most 64: small sets are the question."""
    limit = max(1, min(64, n_neurons // 100))
    return tuple(2**power for power in range(7) if 2**power <= limit)
