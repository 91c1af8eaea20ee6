"""Where an intervention would take a neuron: shared by the rankers that predict its effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.activations import Moments, collect, moments
from neurotrace.errors import InputError
from neurotrace.hooks import inspect_model
from neurotrace.interventions import KINDS, Kind
from neurotrace.scores import Direction
from neurotrace.tokens import EncodedPairs, Progress, Side


def direction_of(donor: Side) -> Direction:
    """A reasoning donor makes the memorization prompt reason; the other way, recall."""
    if donor not in ("memorization", "reasoning"):
        raise InputError(f"donor={donor!r}: wanted 'memorization' or 'reasoning'")
    return "to_reasoning" if donor == "reasoning" else "to_memorization"


def recipient_of(donor: Side) -> Side:
    return "memorization" if direction_of(donor) == "to_reasoning" else "reasoning"


class Targets:
    """The value that `intervention` would give each neuron, for each pair.

    For `patch` the donor activations of all pairs are held (Float["pair layer neuron"]); the other
    kinds need class means only.
    """

    def __init__(
        self,
        model: Any,
        encoded: EncodedPairs,
        donor: Side,
        intervention: Kind,
        reference: Moments | None = None,
        strength: float = 1.0,
        progress: Progress = None,
    ):
        if intervention not in KINDS:
            raise InputError(f"intervention={intervention!r}: wanted one of {', '.join(KINDS)}")
        self.kind = intervention
        self.strength = strength
        self.sign = 1.0 if direction_of(donor) == "to_reasoning" else -1.0
        self.donors: Tensor | None = None
        self.mean: Tensor | None = None
        if intervention == "patch":
            self.donors = collect(model, encoded, progress=progress).side(donor)
        elif intervention in ("set", "mean", "shift"):
            found = reference or moments(model, encoded, progress=progress)
            if intervention == "set":
                self.mean = found.mean_of(donor)
            elif intervention == "mean":
                self.mean = found.mean.mean(dim=0)
            else:
                self.mean = found.contrast
        inspect_model(model)

    def changes(
        self, rows: Sequence[int], values: Float[Tensor, "batch layer neuron"]
    ) -> Float[Tensor, "batch layer neuron"]:
        """target - a, for the pairs at `rows` whose recipient activations are `values`."""
        if self.kind == "patch":
            assert self.donors is not None
            return self.strength * (self.donors[list(rows)] - values)
        if self.kind == "zero":
            return -values
        if self.kind == "scale":
            return (self.strength - 1) * values
        assert self.mean is not None
        if self.kind == "shift":
            return (self.sign * self.strength * self.mean).expand_as(values)
        return self.mean - values


def provenance(
    model: Any, encoded: EncodedPairs, donor: Side, intervention: Kind, **more: Any
) -> dict[str, Any]:
    """What a ranking was made from, for its record."""
    families = sorted({pair.family for pair in encoded.pairs})
    return {
        "model": inspect_model(model).name, "pairs": len(encoded), "families": families,
        "donor": donor, "intervention": intervention, "direction": direction_of(donor),
    } | more  # fmt: skip


def finite(scores: Tensor, method: str) -> Tensor:
    """The scores, or an error that names the first layer whose numbers are not finite."""
    bad = ~torch.isfinite(scores).all(dim=-1)
    if bad.any():
        raise InputError(
            f"{method}: scores in layer {int(bad.nonzero()[0][-1])} are not finite (half-precision "
            "gradients overflow): load the model with dtype=float32"
        )
    return scores
