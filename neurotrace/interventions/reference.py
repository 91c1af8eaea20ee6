"""Statistics of training pairs that interventions need: class means, gradients, norms of writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Experts
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.sides import SIDES
from neurotrace.engine.turns import takes_turns
from neurotrace.models.activations import Activations, Moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.gradients import gradients
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import over_pairs, pair_norms


@dataclass(frozen=True)
class Reference:
    """Statistics of training pairs: class means, and the slope of L along each neuron.

    Slopes are dL/da at the final token position. `spread` is the standard deviation over groups of the
    groups' mean slope. It is small if a neuron pushes L the same way in all groups.
    """

    moments: Moments
    slope: Float[Tensor, "side layer neuron"]  # mean over pairs, nats per activation
    spread: Float[Tensor, "side layer neuron"]
    norms: Float[Tensor, "layer neuron"]  # ||what it writes||, `models/written.py`
    logit_difference: Float[Tensor, " side"]  # mean L, nats
    experts: Experts | None = None  # of a mixture, among whose neurons controls are drawn

    @property
    def gap(self) -> float:
        """Distance of the two sides: mean L on memorization minus mean L on reasoning."""
        return float(self.logit_difference[0] - self.logit_difference[1])


@dataclass(frozen=True)
class Evidence:
    """Activations and slopes of every pair on both sides, from which folds are ranked."""

    activations: Activations
    slopes: Float[Tensor, "side pair layer neuron"]  # dL/da

    norms: Float[Tensor, "pair layer neuron"]  # ||what it writes||; one row: the same in every run
    logit_difference: Float[Tensor, "side pair"]
    experts: Experts | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, kept: each fold asks the same of its pairs for both directions and every kind."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def moments(self, rows: Sequence[int]) -> Moments:
        values = self.activations.values[:, list(rows)]
        return Moments(values.mean(dim=1), values.var(dim=1, unbiased=False), len(rows))

    def reference(self, rows: Sequence[int]) -> Reference:
        """The statistics of the pairs at `rows`."""
        found: Reference = self.once(tuple(rows), lambda: self._reference(rows))
        return found

    def _reference(self, rows: Sequence[int]) -> Reference:
        groups: dict[str, list[int]] = {}
        for row in rows:
            groups.setdefault(self.activations.pairs[row].group, []).append(row)
        means = torch.stack([self.slopes[:, of_one].mean(dim=1) for of_one in groups.values()])
        spread = means.std(dim=0) if len(groups) > 1 else torch.zeros_like(means[0])
        index = list(rows)
        norms = self.norms if len(self.norms) == 1 else self.norms[index]
        return Reference(
            self.moments(rows),
            self.slopes[:, index].mean(dim=1),
            spread,
            over_pairs(norms),
            self.logit_difference[:, index].mean(dim=1),
            self.experts,
        )


def gather(
    model: HookedModel, encoded: EncodedPairs, *, memory_gb: float = 8.0, progress: Progress = None
) -> Evidence:
    """Read activations and slopes once; every fold's ranking is a mean over its own pairs."""
    info = inspect_model(model)
    size = 4 * len(encoded) * info.n_neurons * 4 / 2**30
    if size > memory_gb:
        raise InputError(
            f"activations and gradients of {len(encoded)} pairs take {size:.1f} GiB, the budget is "
            f"{memory_gb:g}: pass fewer pairs (--max-pairs)"
        )
    values = torch.empty(2, len(encoded), info.n_layers, info.d_mlp)
    slopes = torch.empty_like(values)
    for place, side in enumerate(SIDES):
        for rows, a, slope in gradients(model, encoded, side, progress=progress):
            wrong = ~torch.isfinite(slope)
            if wrong.any():
                layer = int(wrong.nonzero()[0][1])
                raise InputError(f"gradients in layer {layer} are not finite: load with dtype=float32")
            values[place, rows] = a
            slopes[place, rows] = slope
    differences = [encoded.behaviour(side).logit_difference for side in SIDES]
    norms = pair_norms(model, encoded, progress=progress)
    return Evidence(
        Activations(values, encoded.pairs), slopes, norms, torch.stack(differences), info.experts
    )


@takes_turns
def reference(
    model: HookedModel, pairs: Sequence[PromptPair] | EncodedPairs, *, progress: Progress = None
) -> Reference:
    """Class means and slopes of (training) pairs, for `nt.steer` and the kinds that use class means.

    Example::

        reference = nt.reference(model, train)
        nt.steer(scores.top(8), reference)
    """
    encoded = encode(model, pairs)
    return gather(model, encoded, progress=progress).reference(range(len(encoded)))
