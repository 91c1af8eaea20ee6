"""What is done to neurons: every intervention is one affine map.

    a' = keep * a + gain * d + offset

with a the neuron's activation in the run that is changed (the recipient), d its activation in the
run of the pair's other prompt (the donor), and keep, gain, offset constants of each neuron:

    patch   keep 0, gain 1            the donor's own value
    set     keep 0, offset = m        the donor class's mean m over training pairs
    zero    keep 0
    mean    keep 0, offset = m        m over both classes
    shift   keep 1, offset = alpha*sign(rho)*|NMD|    the paper's steering
    scale   keep s
    steer   keep 1, offset = alpha * the smallest shift that is predicted to close the gap in L

`steer` moves along the slope: of all shifts of these neurons that change L by a given amount to first
order, offset_i ~ slope_i / ||w_i||^2 writes the least into the residual stream (w_i = W_out row).

Controls are maps of the same form, so they have the same size and magnitude by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.sides import Direction, Side
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Activations, Moments

KINDS = ("patch", "set", "zero", "mean", "shift", "scale", "steer")
Kind = (
    str  # one of KINDS; patch, shift and scale take a strength: "patch:1.5", "shift:2", "scale:0"
)
_STRENGTHS = ("patch", "shift", "scale", "steer")
ClassMeans = Activations | Moments | Reference


@dataclass(frozen=True)
class Intervention:
    """An affine map on some neurons of the recipient run; see the module's docstring."""

    kind: Kind
    neurons: tuple[Neuron, ...]
    direction: Direction
    keep: Float[Tensor, " neuron"]
    gain: Float[Tensor, " neuron"]
    offset: Float[Tensor, " neuron"]
    role: str = "selected"  # or the control's name
    label: str = ""  # whatever the caller wants to find the rows by, the ranker's name say

    def __post_init__(self) -> None:
        if len(set(self.neurons)) != len(self.neurons) or not self.neurons:
            raise InputError(f"{self.kind}: expected one or more neurons, each once")
        for name in ("keep", "gain", "offset"):
            column = getattr(self, name)
            if column.shape != (len(self.neurons),) or not torch.isfinite(column).all():
                raise InputError(f"{self.kind}: {name} must be one finite number for each neuron")

    @property
    def recipient(self) -> Side:
        """The prompt whose run is changed: recall is flipped to reasoning, and the other way."""
        return "memorization" if self.direction == "to_reasoning" else "reasoning"

    @property
    def donor(self) -> Side:
        return "reasoning" if self.direction == "to_reasoning" else "memorization"

    @property
    def needs_donor(self) -> bool:
        return bool((self.gain != 0).any())

    def __len__(self) -> int:
        return len(self.neurons)

    def __repr__(self) -> str:
        named = " ".join(str(neuron) for neuron in self.neurons[:4])
        more = f" … ({len(self)} in all)" if len(self) > 4 else ""
        return f"{self.kind}({named}{more}, {self.direction}, {self.role})"


def parse_kind(kind: Kind) -> tuple[str, float]:
    """``"shift:2"`` -> ("shift", 2.0). Without a number the strength is 1 (of scale: 2)."""
    name, _, number = str(kind).partition(":")
    try:
        strength = float(number) if number else (2.0 if name == "scale" else 1.0)
    except ValueError:
        strength = math.nan
    if name not in KINDS or not math.isfinite(strength) or (number and name not in _STRENGTHS):
        raise InputError(
            f"intervention {kind!r}: expected one of {', '.join(KINDS)}; "
            f"{', '.join(_STRENGTHS)} may be followed by a strength, shift:2 say"
        )
    return name, strength


def _kind(name: str, strength: float) -> Kind:
    default = 2.0 if name == "scale" else 1.0
    return name if strength == default else f"{name}:{strength:g}"


def patch(
    neurons: Sequence[Neuron], *, donor: Side, role: str = "selected", strength: float = 1.0
) -> Intervention:
    """Give neurons the value that they have in the pair's other run.

    `strength` other than 1 goes part of the way or beyond: a' = a + strength * (d - a).
    """
    direction: Direction = "to_reasoning" if donor == "reasoning" else "to_memorization"
    return _make(
        _kind("patch", strength), neurons, direction, keep=1 - strength, gain=strength, role=role
    )


def set_to_mean(
    neurons: Sequence[Neuron], reference: ClassMeans, *, donor: Side, role: str = "selected"
) -> Intervention:
    """Set neurons to their mean over the donor class, taken from (training) `reference`."""
    direction: Direction = "to_reasoning" if donor == "reasoning" else "to_memorization"
    values = values_at(_moments(reference).mean_of(donor), neurons)
    return _make("set", neurons, direction, offset=values, role=role)


def zero(
    neurons: Sequence[Neuron], *, direction: Direction, role: str = "selected"
) -> Intervention:
    """Set neurons to 0."""
    return _make("zero", neurons, direction, role=role)


def mean(
    neurons: Sequence[Neuron],
    reference: ClassMeans,
    *,
    direction: Direction,
    role: str = "selected",
) -> Intervention:
    """Set neurons to their mean over both classes (mean ablation)."""
    values = values_at(_moments(reference).mean.mean(dim=0), neurons)
    return _make("mean", neurons, direction, offset=values, role=role)


def shift(
    neurons: Sequence[Neuron],
    reference: ClassMeans,
    *,
    direction: Direction,
    alpha: float = 1.0,
    role: str = "selected",
) -> Intervention:
    """The paper's steering: a + alpha*sign(rho)*|NMD| towards reasoning, minus towards recall.

    rho and NMD (reasoning minus memorization) are taken from `reference`; since rho has the sign of
    NMD, the shift is alpha * NMD (Huang et al., EMNLP 2025, arXiv 2412.18497).
    """
    sign = 1.0 if direction == "to_reasoning" else -1.0
    offset = sign * alpha * values_at(_moments(reference).contrast, neurons)
    return _make(_kind("shift", alpha), neurons, direction, keep=1.0, offset=offset, role=role)


def scale(
    neurons: Sequence[Neuron],
    *,
    factor: float,
    direction: Direction,
    role: str = "selected",
) -> Intervention:
    """Multiply neurons by `factor`."""
    return _make(_kind("scale", factor), neurons, direction, keep=factor, role=role)


def steer(
    neurons: Sequence[Neuron],
    reference: ClassMeans,
    *,
    direction: Direction,
    alpha: float = 1.0,
    role: str = "selected",
) -> Intervention:
    """The least-norm shift of these neurons that is predicted to move L by alpha times the gap.

    offset_i = -+ alpha * gap * (g_i / ||w_i||^2) / sum_j (g_j^2 / ||w_j||^2), minus towards reasoning,
    with g the mean slope dL/da over both runs of the pairs, w_i the neuron's W_out row and gap the
    distance of the two sides' mean L: the minimiser of sum (offset_i ||w_i||)^2 subject to
    sum g_i offset_i = -+ alpha * gap.

    Args:
        reference: from `nt.reference(model, training pairs)`: slopes are needed, means don't do.
    """
    if not isinstance(reference, Reference):
        raise InputError("steer needs slopes: pass reference=nt.reference(model, training_pairs)")
    slope = values_at(reference.slope.mean(dim=0), neurons)
    weight = slope / values_at(reference.norms, neurons) ** 2
    total = float((slope * weight).sum())
    if not total > 0:
        raise InputError("steer: none of these neurons has a slope to move along")
    sign = -1.0 if direction == "to_reasoning" else 1.0
    offset = sign * alpha * reference.gap * weight / total
    return _make(_kind("steer", alpha), neurons, direction, keep=1.0, offset=offset, role=role)


def make(
    kind: Kind, neurons: Sequence[Neuron], reference: ClassMeans, *, direction: Direction
) -> Intervention:
    """The intervention of this kind, ``"patch"``, ``"set"``, ``"shift:2"``, ..."""
    name, strength = parse_kind(kind)
    donor: Side = "reasoning" if direction == "to_reasoning" else "memorization"
    if name == "patch":
        return patch(neurons, donor=donor, strength=strength)
    if name == "set":
        return set_to_mean(neurons, reference, donor=donor)
    if name == "zero":
        return zero(neurons, direction=direction)
    if name == "mean":
        return mean(neurons, reference, direction=direction)
    if name == "shift":
        return shift(neurons, reference, direction=direction, alpha=strength)
    if name == "steer":
        return steer(neurons, reference, direction=direction, alpha=strength)
    return scale(neurons, factor=strength, direction=direction)


def _make(
    kind: str,
    neurons: Sequence[Neuron],
    direction: Direction,
    *,
    keep: float = 0.0,
    gain: float = 0.0,
    offset: Tensor | None = None,
    role: str = "selected",
) -> Intervention:
    count = len(neurons)
    return Intervention(
        kind, tuple(neurons), direction, torch.full((count,), float(keep)),
        torch.full((count,), float(gain)), torch.zeros(count) if offset is None else offset, role,
    )  # fmt: skip


def values_at(
    values: Float[Tensor, "layer neuron"], neurons: Sequence[Neuron]
) -> Float[Tensor, " neuron"]:
    """The neurons' own of a number for each neuron; `InputError` where one lies outside."""
    layers = torch.tensor([neuron.layer for neuron in neurons], dtype=torch.long)
    units = torch.tensor([neuron.index for neuron in neurons], dtype=torch.long)
    if len(neurons) and (layers.max() >= values.shape[0] or units.max() >= values.shape[1]):
        raise InputError(f"a neuron lies outside the {tuple(values.shape)} of the reference")
    return values[layers, units].float()


def _moments(reference: ClassMeans) -> Moments:
    if isinstance(reference, Reference):
        return reference.moments
    return reference.moments() if isinstance(reference, Activations) else reference
