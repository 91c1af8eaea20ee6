"""The value that an intervention would give a neuron, for the rankers that predict its effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.sides import Direction, Side
from neurotrace.interventions.kinds import KINDS, ClassMeans, Kind, form_of, parse_kind
from neurotrace.models.activations import collect, moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import origin_of
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Targets:
    """The value that an intervention on one neuron alone would give it.

    `patch` needs the donor activations of every pair, the others class means or slopes at most.
    """

    kind: Kind
    donor: Side
    donors: Float[Tensor, "pair layer neuron"] | None = None
    reference: ClassMeans | None = None

    def changes(
        self, rows: Sequence[int], values: Float[Tensor, "batch layer neuron"]
    ) -> Float[Tensor, "batch layer neuron"]:
        """target - a, for the pairs at `rows` whose recipient activations are `values`.

        NaN if the intervention is not defined for a neuron.
        """
        donors = None if self.donors is None else self.donors[list(rows)] - values
        return self.joined(donors, values, torch.ones(()))

    def joined(self, patched: Tensor | None, own: Tensor, one: Tensor) -> Tensor:
        """gain·(d - a) + (keep - 1 + gain)·a + offset, so that a plain patch is d - a to the last bit.

        Args:
            patched, own, one: d - a, a and 1 for each pair; or their sums over pairs, times the slopes.
        """
        name, strength = parse_kind(self.kind)
        form = KINDS[name]
        direction = Direction.from_donor(self.donor)
        made = form.rows(form.reference(self.reference, name), direction, strength)
        change = torch.zeros_like(own)
        if form.needs == "donor":
            assert patched is not None
            change = made.gain * patched
        rest = made.keep - 1 + made.gain
        if isinstance(rest, Tensor) or abs(rest) > 1e-9:
            change = change + rest * own
        return change + made.offset * one


def targets_for(
    model: HookedModel,
    encoded: EncodedPairs,
    donor: Side,
    kind: Kind,
    reference: ClassMeans | None = None,
    progress: Progress = None,
) -> Targets:
    """Targets of these pairs, for a ranking; reads what they need from the model."""
    Direction.from_donor(donor)  # raises for other words
    form = form_of(kind)
    if form.together is not None:
        raise InputError(
            f"{kind} moves neurons along the slope that ranks them: rank for it with "
            f"nt.study(..., kinds=[{kind!r}]), or by 'patch'"
        )
    donors = None
    if form.needs == "donor":
        donors = collect(model, encoded, progress=progress).side(donor)
    elif form.needs == "means" and reference is None:
        reference = moments(model, encoded, progress=progress)
    return Targets(kind, donor, donors, reference)


def provenance(
    model: HookedModel, encoded: EncodedPairs, donor: Side, kind: Kind, **more: Any
) -> dict[str, Any]:
    """The record of how a ranking was made."""
    families = sorted({pair.family for pair in encoded.pairs})
    info = inspect_model(model)
    return {
        "model": info.name,
        "pairs": len(encoded),
        "families": families,
        "donor": donor,
        "intervention": kind,
        "direction": Direction.from_donor(donor).value,
        **info.naming,
        **routed(model),
        **more,
    }


def routed(model: HookedModel) -> dict[str, str]:
    """How a mixture routes at the moment, for a record; nothing of a dense model."""
    own = origin_of(model)
    known = inspect_model(model).experts is not None and own is not None
    return {"routing": own.routing} if known and own is not None else {}


def finite(scores: Tensor, method: str) -> Tensor:
    """The scores, or an error that names the first layer whose numbers are not finite."""
    bad = ~torch.isfinite(scores).all(dim=-1)
    if bad.any():
        raise InputError(
            f"{method}: scores in layer {int(bad.nonzero()[0][-1])} are not finite (half-precision "
            "gradients overflow): load the model with dtype=float32"
        )
    return scores
