"""Interventions: every one is an affine map of neurons, a' = keep * a + gain * d + offset.

`kinds.py` defines the keep, gain and offset of each kind. Controls are maps of the same form, so they
have the same size and magnitude by construction.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_tensors
from neurotrace.core.neurons import NEURON_DEFINITION, Experts, Neuron, NeuronSet
from neurotrace.core.sides import Direction, Side
from neurotrace.core.writing import save_whole
from neurotrace.interventions.kinds import KINDS, ClassMeans, Kind, parse_kind, values_at, written
from neurotrace.interventions.reference import Reference
from neurotrace.models.hooks import inspect_model
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "neurotrace.intervention/1"
_COLUMNS = ("keep", "gain", "offset")
_BESIDE = ("score", "donor_mean")  # where they are known


@dataclass(frozen=True)
class Intervention:
    """An affine map on some neurons of the recipient run; see the module's docstring.

    Attributes:
        role: ``"selected"``, or the control's name.
        label: free text to find the rows by, e.g. the ranker's name.
        draw: number of the draw, of a control that is drawn at random.
        score: the score of each neuron in the ranking that picked it.
        donor_mean: each neuron's mean over the donor class, for prompts that have no donor run.
        provenance: what `nt.study` notes: model, weights, family, fold, flips on held-out pairs.
    """

    kind: Kind
    neurons: tuple[Neuron, ...]
    direction: Direction
    keep: Float[Tensor, " neuron"]
    gain: Float[Tensor, " neuron"]
    offset: Float[Tensor, " neuron"]
    role: str = "selected"
    label: str = ""
    draw: int = 0
    score: Float[Tensor, " neuron"] | None = None
    donor_mean: Float[Tensor, " neuron"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", Direction(self.direction))
        if len(set(self.neurons)) != len(self.neurons) or not self.neurons:
            raise InputError(f"{self.kind}: expected one or more neurons, each once")
        for name in (*_COLUMNS, *_BESIDE):
            column = getattr(self, name)
            if column is None and name in _BESIDE:
                continue
            if column.shape != (len(self.neurons),) or not torch.isfinite(column).all():
                raise InputError(f"{self.kind}: {name} must be one finite number for each neuron")

    @property
    def experts(self) -> Experts | None:
        """How a mixture's neurons are named, where `neurons` knows it."""
        return getattr(self.neurons, "experts", None)

    @property
    def names(self) -> list[str]:
        """Each neuron's name: ``L3.N771``, or ``L3.E12.N57`` in a mixture of experts."""
        return NeuronSet(self.neurons, experts=self.experts).names

    @property
    def recipient(self) -> Side:
        """The side whose run is changed."""
        return self.direction.recipient

    @property
    def donor(self) -> Side:
        """The side of the intended behaviour."""
        return self.direction.donor

    @property
    def needs_donor(self) -> bool:
        return bool((self.gain != 0).any())

    def apply(
        self, at: Sequence[int], values: Float[Tensor, "*rows chosen"], donor: Tensor | None
    ) -> Float[Tensor, "*rows chosen"]:
        """The new activations of the neurons at places `at` of the list.

        Args:
            values: their activations in the run that is changed.
            donor: those of the donor run, broadcastable to `values`; None where there is no donor.
        """
        keep, gain, offset = (getattr(self, name)[at].to(values) for name in _COLUMNS)
        # where keep is 0 the old value is ignored, even if it is inf or NaN
        new = torch.where(keep == 0, 0, keep * values) + offset
        return new if donor is None else new + gain * donor.to(values)

    def without_donor(self) -> Intervention:
        """The same change for prompts that have no donor run: `donor_mean` stands in for its values.

        Raises:
            InputError: donor values are needed and `donor_mean` is not known.
        """
        if not self.needs_donor:
            return self
        if self.donor_mean is None:
            raise InputError(
                f"{self.kind} takes its values from a donor run and carries no mean of its class: take one "
                "that nt.study made (run.interventions()), or replace(intervention, donor_mean=...)"
            )
        offset = self.offset + self.gain * self.donor_mean
        return replace(self, gain=torch.zeros_like(self.gain), offset=offset)

    def check(self, model: HookedModel) -> None:
        """InputError unless the model has these neurons; a warning for other weights than recorded."""
        info = inspect_model(model)
        for neuron in self.neurons:
            if neuron.layer >= info.n_layers or neuron.index >= info.d_mlp:
                raise InputError(
                    f"{neuron} is not in {info.name} of {info.n_layers} layers × {info.d_mlp} neurons: "
                    f"this intervention is of {self.provenance.get('model', 'another model')}"
                )
        known = self.provenance.get("weights_sha256")
        if known is not None and known != model_identity(model)["weights_sha256"]:
            warnings.warn(
                f"the intervention was made on {self.provenance.get('model')}, and {info.name} has other "
                "weights (or another dtype): what it flipped there says little here",
                stacklevel=2,
            )

    def save(self, path: str | Path) -> None:
        """Write as safetensors; all that isn't a tensor goes into its header as JSON.

        Raises:
            InputError: the file can't be written.
        """
        from safetensors.torch import save_file as save_tensors

        header = {
            "format": _FORMAT,
            "kind": self.kind,
            "neurons": [str(neuron) for neuron in self.neurons],
            "experts": None if self.experts is None else self.experts.blocks,
            "direction": str(self.direction),
            "role": self.role,
            "label": self.label,
            "map": "a' = keep * a + gain * donor + offset",
            "neuron": NEURON_DEFINITION,
            "provenance": dict(self.provenance),
        }
        tensors = {
            name: getattr(self, name).float().clone(memory_format=torch.contiguous_format)
            for name in (*_COLUMNS, *_BESIDE)
            if getattr(self, name) is not None
        }
        note = {"neurotrace": json.dumps(header)}
        save_whole(Path(path), lambda file: save_tensors(tensors, file, metadata=note))

    @classmethod
    def load(cls, path: str | Path) -> Intervention:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, another kind of file, or a damaged one.
        """
        header, tensors = read_tensors(path, "pt")
        if header.get("format") != _FORMAT:
            raise InputError(f"{path}: not written by Intervention.save of this version")
        try:
            experts = Experts.of(header.get("experts"))
            neurons = NeuronSet(map(Neuron.parse, header["neurons"]), experts=experts)
            words = [header[name] for name in ("kind", "direction", "role", "label")]
            if not all(isinstance(word, str) for word in words):
                raise TypeError("kind, direction, role and label are texts")
            kind, direction, role, label = words
            numbers: dict[str, Any] = {name: tensors[name] for name in _COLUMNS}
            numbers |= {name: tensors.get(name) for name in _BESIDE}
            about: dict[str, Any] = {"role": role, "label": label, "provenance": dict(header["provenance"])}
            return cls(kind, neurons, Direction(direction), **about, **numbers)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: a damaged intervention ({error})") from None

    def to_frame(self) -> pd.DataFrame:
        """A row a neuron, in the ranking's order: `rank, layer, neuron, keep, gain, offset`, then `score`
        and `donor_mean` where they are known; of a mixture of experts `name`, too."""
        import pandas as pd

        columns: dict[str, Sequence[Any]] = {
            "rank": range(1, len(self) + 1),
            "layer": [neuron.layer for neuron in self.neurons],
            "neuron": [neuron.index for neuron in self.neurons],
        }
        if self.experts is not None:
            columns["name"] = self.names
        known = [name for name in (*_COLUMNS, *_BESIDE) if getattr(self, name) is not None]
        return pd.DataFrame(columns | {name: getattr(self, name).tolist() for name in known})

    def __len__(self) -> int:
        return len(self.neurons)

    def __repr__(self) -> str:
        named = " ".join(self.names[:4])
        more = f" … ({len(self)} in all)" if len(self) > 4 else ""
        return f"{self.kind}({named}{more}, {self.direction}, {self.role})"


def patch(
    neurons: Sequence[Neuron | str],
    *,
    donor: Side | None = None,
    role: str = "selected",
    strength: float = 1.0,
) -> Intervention:
    """Set neurons to the value that they have in the pair's other run (activation patching).

    Args:
        neurons: each a `Neuron` or its name, ``"L2.N12"``; every kind takes both.
        donor: the side that the values come from; default: that of `scores.top(k)`'s direction.
        strength: a' = a + strength * (d - a); below 1 part of the way, above 1 beyond.

    Example::

        top = nt.gradient(model, train, donor="reasoning").top(8)
        nt.measure(model, test, [nt.patch(top)])
    """
    direction = None if donor is None else Direction.from_donor(donor)
    return make(written("patch", strength), neurons, direction=direction, role=role)


def set_to_mean(
    neurons: Sequence[Neuron | str],
    reference: ClassMeans,
    *,
    donor: Side | None = None,
    role: str = "selected",
) -> Intervention:
    """Set neurons to their mean over the donor side, taken from (training) `reference`.

    Example::

        nt.measure(model, test, [nt.set_to_mean(scores.top(8), nt.reference(model, train))])
    """
    direction = None if donor is None else Direction.from_donor(donor)
    return make("set", neurons, reference, direction=direction, role=role)


def zero(
    neurons: Sequence[Neuron | str], *, direction: Direction | str | None = None, role: str = "selected"
) -> Intervention:
    """Set neurons to 0 (zero ablation).

    Example::

        nt.measure(model, test, [nt.zero(scores.top(8))])
    """
    return make("zero", neurons, direction=direction, role=role)


def mean(
    neurons: Sequence[Neuron | str],
    reference: ClassMeans,
    *,
    direction: Direction | str | None = None,
    role: str = "selected",
) -> Intervention:
    """Set neurons to their mean over both sides (mean ablation).

    Example::

        nt.measure(model, test, [nt.mean(scores.top(8), nt.reference(model, train))])
    """
    return make("mean", neurons, reference, direction=direction, role=role)


def shift(
    neurons: Sequence[Neuron | str],
    reference: ClassMeans,
    *,
    direction: Direction | str | None = None,
    alpha: float = 1.0,
    role: str = "selected",
) -> Intervention:
    """The steering of Huang et al. (EMNLP 2025, arXiv 2412.18497): a + alpha*sign(rho)*|NMD| towards
    reasoning, minus towards memory; rho and NMD (reasoning minus memorization) are of `reference`.

    Example::

        nt.measure(model, test, [nt.shift(scores.top(8), nt.reference(model, train), alpha=2.0)])
    """
    return make(written("shift", alpha), neurons, reference, direction=direction, role=role)


def scale(
    neurons: Sequence[Neuron | str],
    *,
    factor: float,
    direction: Direction | str | None = None,
    role: str = "selected",
) -> Intervention:
    """Multiply neurons by `factor`.

    Example::

        nt.measure(model, test, [nt.scale(scores.top(8), factor=0.5)])
    """
    return make(written("scale", factor), neurons, direction=direction, role=role)


def steer(
    neurons: Sequence[Neuron | str],
    reference: ClassMeans,
    *,
    direction: Direction | str | None = None,
    alpha: float = 1.0,
    role: str = "selected",
) -> Intervention:
    """The least-norm shift of these neurons that is predicted to move L by alpha times the gap
    between the two sides' mean L (formula: `kinds._steer_together`).

    Args:
        reference: from `nt.reference(model, training pairs)`; it holds the slopes that `steer` needs.

    Example::

        change = nt.steer(scores.top(8), nt.reference(model, train), alpha=0.85)
        nt.measure(model, test, [change])
    """
    return make(written("steer", alpha), neurons, reference, direction=direction, role=role)


def make(
    kind: Kind,
    neurons: Sequence[Neuron | str],
    reference: ClassMeans | None = None,
    *,
    direction: Direction | str | None = None,
    role: str = "selected",
) -> Intervention:
    """The intervention of this kind, ``"patch"``, ``"set"``, ``"shift:2"``, ...

    Args:
        reference: what the kind needs of training pairs: class means, or slopes as well.
        direction: default: that of the neurons, if they are a `scores.top(k)`.

    Raises:
        InputError: an unknown kind, no direction, a reference that lacks what the kind needs.
    """
    name, strength = parse_kind(kind)
    form = KINDS[name]
    to = _direction(direction, neurons, name)
    given = form.reference(reference, name)
    rows = form.rows(given, to, strength)
    experts = getattr(neurons, "experts", None) or getattr(reference, "experts", None)
    named = NeuronSet((Neuron.parse(n) if isinstance(n, str) else n for n in neurons), to, experts)
    count = len(named)

    def column(value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return values_at(value, named)
        return torch.full((count,), float(value))

    if form.together is None:
        offset = column(rows.offset)
    else:
        assert isinstance(given, Reference)
        offset = form.together(given, named, to, strength)
    keep, gain = column(rows.keep), column(rows.gain)
    return Intervention(written(name, strength), named, to, keep, gain, offset, role)


def _direction(direction: Direction | str | None, neurons: Sequence[Neuron | str], name: str) -> Direction:
    if direction is not None:
        return Direction(direction)
    if isinstance(neurons, NeuronSet) and neurons.direction is not None:
        return neurons.direction
    raise InputError(
        f"{name}: no direction: pass one ('to_reasoning' or 'to_memorization'; of a patch: donor=), or "
        "neurons that carry theirs, as scores.top(k) returns them"
    )
