"""The kinds of intervention, one row each: every kind is an affine map of a neuron's activation.

    a' = keep * a + gain * d + offset

with a the activation in the run that is changed (the recipient) and d that in the run of the pair's
other prompt (the donor). m is the mean over training pairs of the donor's side, NMD the difference of
the two sides' means (reasoning minus memorization):

    patch   keep 1 - s, gain s             the donor's own value (s = 1), part of the way or beyond
    set     keep 0, offset m               the donor side's mean
    zero    keep 0
    mean    keep 0, offset mean            the mean over both sides
    shift   keep 1, offset s*sign(rho)*|NMD|    the steering of Huang et al. (EMNLP 2025, arXiv 2412.18497)
    scale   keep s
    steer   keep 1, offset along the slope of L: see `_steer_together`

`register_kind` adds a row. Rankers, `nt.study`, `nt.ablate` and the commands then accept its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError, one_of
from neurotrace.core.neurons import Neuron
from neurotrace.core.sides import Direction
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Activations, Moments

Kind = str  # the name of a row, with a strength where the row takes one: "patch", "shift:2"
ClassMeans = Activations | Moments | Reference


@dataclass(frozen=True)
class Affine:
    """keep, gain and offset: one number for all neurons, or one for each (NaN: not defined)."""

    keep: float | Float[Tensor, "layer neuron"] = 0.0
    gain: float | Float[Tensor, "layer neuron"] = 0.0
    offset: float | Float[Tensor, "layer neuron"] = 0.0


@dataclass(frozen=True)
class Form:
    """One kind of intervention.

    Attributes:
        rows: (reference, direction, strength) -> the map of each neuron when it alone is changed.
        needs: what `rows` reads: "nothing", the pair's "donor" run, class "means", or "slopes"
            (a `Reference`).
        strength: the default one; None: the kind takes none.
        together: (reference, neurons, direction, strength) -> offsets of a set, if a set's offsets
            differ from those of its neurons alone. Such a kind ranks no neurons.
    """

    rows: Callable[[ClassMeans | None, Direction, float], Affine]
    needs: Literal["nothing", "donor", "means", "slopes"] = "nothing"
    strength: float | None = None
    together: Callable[[Reference, Sequence[Neuron], Direction, float], Float[Tensor, " neuron"]] | None = (
        None
    )

    def reference(self, given: ClassMeans | None, name: str) -> ClassMeans | None:
        """`given`, if it holds what this kind needs; else `InputError`."""
        if self.needs == "slopes" and not isinstance(given, Reference):
            raise InputError(f"{name} needs slopes: pass reference=nt.reference(model, training_pairs)")
        if self.needs == "means" and given is None:
            raise InputError(f"{name} needs class means: pass reference=nt.moments(model, training_pairs)")
        return given


def moments_of(reference: ClassMeans | None) -> Moments:
    """The class means in a reference of any type."""
    if isinstance(reference, Reference):
        return reference.moments
    if reference is None:
        raise InputError("expected class means, got None: pass nt.moments(model, training_pairs)")
    return reference.moments() if isinstance(reference, Activations) else reference


def values_at(values: Float[Tensor, "layer neuron"], neurons: Sequence[Neuron]) -> Float[Tensor, " neuron"]:
    """The values of these neurons from a table of all neurons; `InputError` if one lies outside."""
    layers = torch.tensor([neuron.layer for neuron in neurons], dtype=torch.long)
    units = torch.tensor([neuron.index for neuron in neurons], dtype=torch.long)
    if len(neurons) and (layers.max() >= values.shape[0] or units.max() >= values.shape[1]):
        raise InputError(f"a neuron lies outside the {tuple(values.shape)} of the reference")
    return values[layers, units].float()


def _steer_alone(reference: ClassMeans | None, direction: Direction, strength: float) -> Affine:
    """The shift of one neuron that is predicted to close the gap; NaN where the slope is 0."""
    assert isinstance(reference, Reference)  # checked by `Form.reference`
    slope = reference.slope.mean(dim=0)
    shift = direction.sign * strength * reference.gap / slope
    return Affine(keep=1.0, offset=torch.where(slope == 0, torch.nan, shift))


def _steer_together(
    reference: Reference, neurons: Sequence[Neuron], direction: Direction, strength: float
) -> Float[Tensor, " neuron"]:
    """The least-norm shift of these neurons that is predicted to move L by `strength` times the gap.

    offset_i = -+ s * gap * (g_i / ||w_i||^2) / sum_j (g_j^2 / ||w_j||^2), minus towards reasoning,
    with g the mean slope dL/da over both runs of the pairs, w_i what the neuron writes and gap the
    distance of the two sides' mean L: the minimiser of sum (offset_i ||w_i||)^2 subject to
    sum g_i offset_i = -+ s * gap.
    """
    slope = values_at(reference.slope.mean(dim=0), neurons)
    norms = values_at(reference.norms, neurons)
    weight = torch.where(norms > 0, slope / norms**2, 0.0)  # 0: of an expert that no prompt was sent to
    total = float((slope * weight).sum())
    if not total > 0:
        raise InputError("steer: none of these neurons has a slope to move along")
    return direction.sign * strength * reference.gap * weight / total


KINDS: dict[str, Form] = {
    "patch": Form(lambda _, __, s: Affine(keep=1 - s, gain=s), needs="donor", strength=1.0),
    "set": Form(lambda means, to, _: Affine(offset=moments_of(means).mean_of(to.donor)), needs="means"),
    "zero": Form(lambda _, __, ___: Affine()),
    "mean": Form(lambda means, _, __: Affine(offset=moments_of(means).mean.mean(dim=0)), needs="means"),
    "shift": Form(
        # rho has the sign of NMD, so sign(rho)*|NMD| is NMD; towards reasoning it is added
        lambda means, to, s: Affine(keep=1.0, offset=-to.sign * s * moments_of(means).contrast),
        needs="means",
        strength=1.0,
    ),
    "scale": Form(lambda _, __, s: Affine(keep=s), strength=2.0),
    "steer": Form(_steer_alone, needs="slopes", strength=1.0, together=_steer_together),
}


def register_kind(name: str, form: Form) -> None:
    """Add a kind, so that `nt.study`, the rankers, `nt.ablate` and `--intervention` know it.

    Example::

        register_kind("halve", Form(lambda reference, direction, strength: Affine(keep=0.5)))

    Raises:
        InputError: the name is taken, or has a colon in it.
    """
    if name in KINDS or ":" in name or not name:
        raise InputError(f"kind {name!r}: expected a new name without a colon")
    KINDS[name] = form


def parse_kind(kind: Kind) -> tuple[str, float]:
    """``"shift:2"`` -> ("shift", 2.0). Without a number: the kind's default, 1.0 where it has none."""
    name, _, number = str(kind).partition(":")
    form = KINDS.get(name)
    default = form.strength if form else None
    try:
        strength = float(number) if number else (1.0 if default is None else default)
    except ValueError:
        strength = math.nan
    if form is None or not math.isfinite(strength) or (number and default is None):
        strong = [name for name, each in KINDS.items() if each.strength is not None]
        raise InputError(
            f"intervention {kind!r}: {one_of(kind, KINDS)}; "
            f"{', '.join(strong)} may be followed by a strength, shift:2 say"
        )
    return name, strength


def form_of(kind: Kind) -> Form:
    """The row of this kind; `InputError` for an unknown one."""
    return KINDS[parse_kind(kind)[0]]


def written(name: str, strength: float) -> Kind:
    """The kind as text: the strength left out where it is the default."""
    default = KINDS[name].strength
    return name if default is None or strength == default else f"{name}:{strength:g}"
