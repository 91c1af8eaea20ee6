"""Where an intervention would take a neuron: shared by the rankers that predict its effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.sides import Direction, Side, direction_of
from neurotrace.interventions.intervention import Kind, parse_kind
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Moments, collect, moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Targets:
    """The value that an intervention would give each neuron.

    `patch` needs the donor activations of every pair, the others class means at most.
    """

    kind: Kind
    donor: Side
    donors: Float[Tensor, "pair layer neuron"] | None = None
    reference: Moments | None = None

    def changes(
        self, rows: Sequence[int], values: Float[Tensor, "batch layer neuron"]
    ) -> Float[Tensor, "batch layer neuron"]:
        """target - a, for the pairs at `rows` whose recipient activations are `values`."""
        name, strength = parse_kind(self.kind)
        if name == "zero":
            return -values
        if name == "scale":
            return (strength - 1) * values
        if name == "patch":
            assert self.donors is not None
            return strength * (self.donors[list(rows)] - values)
        if name == "steer":
            raise InputError(
                "steer moves neurons along the slope that ranks them: rank for it with "
                "nt.study(..., interventions=['steer']), or by 'patch'"
            )
        assert self.reference is not None
        if name == "set":
            return self.reference.mean_of(self.donor) - values
        if name == "mean":
            return self.reference.mean.mean(dim=0) - values
        sign = 1.0 if direction_of(self.donor) == "to_reasoning" else -1.0
        return (sign * strength * self.reference.contrast).expand_as(values)


def targets_for(
    model: HookedModel,
    encoded: EncodedPairs,
    donor: Side,
    kind: Kind,
    reference: Moments | None = None,
    progress: Progress = None,
) -> Targets:
    """Targets of these pairs, with what they need read off the model."""
    direction_of(donor)  # refuses other words
    name, _ = parse_kind(kind)
    donors = None
    if name == "patch":
        donors = collect(model, encoded, progress=progress).side(donor)
    elif name in ("set", "mean", "shift") and reference is None:
        reference = moments(model, encoded, progress=progress)
    return Targets(kind, donor, donors, reference)


def provenance(
    model: HookedModel, encoded: EncodedPairs, donor: Side, intervention: Kind, **more: Any
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


def steps(reference: Reference, kind: Kind, direction: Direction) -> Float[Tensor, "layer neuron"]:
    """`steer` of one neuron alone: the shift that is predicted to close the gap; NaN at slope 0."""
    slope = reference.slope.mean(dim=0)
    sign = -1.0 if direction == "to_reasoning" else 1.0
    shift = sign * parse_kind(kind)[1] * reference.gap / slope
    return torch.where(slope == 0, torch.nan, shift)
