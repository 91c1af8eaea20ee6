"""The settings of a sweep: text and numbers only, so that a manifest can hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from reprlib import repr as short
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_text
from neurotrace.core.neurons import Neuron
from neurotrace.sweeps.layout import PART_ROWS


@dataclass(frozen=True)
class Sweep:
    """The effect of `mode` on every neuron × pair. The fields are those of `nt.ablate` and:

    Args:
        layers: ``"all"``, or numbers and ranges, ``"0-5,8"``.
        neurons: a text file that names neurons, ``L3.N771``, one a line; ``""``: all of them.
        max_pairs: draw this many of the pairs, by `seed`; 0: all of them.
        threads: number of CPU threads; 0: the manifest's, for a new sweep this machine's.
        batch: tokens (rows × recomputed positions) in one pass; 0: the device's default.
        part_rows: rows of one Parquet file, the most that an interruption can lose.
    """

    model: str
    probes: tuple[str, ...]
    mode: str = "zero"
    donor: str = "reasoning"
    positions: str = "read"
    layers: str = "all"
    neurons: str = ""
    max_pairs: int = 0
    seed: int = 0
    precision: str = "exact"
    device: str = ""
    dtype: str = ""
    threads: int = 0
    batch: int = 0
    memory_gb: float = 0.0
    part_rows: int = PART_ROWS

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = _WANTED[str(field.type)]
            if field.name == "probes":
                value = (value,) if isinstance(value, str) else value
                if not isinstance(value, (list, tuple)) or not value:
                    raise InputError(f"probes is {short(value)}: expected one name of pairs or several")
                object.__setattr__(self, "probes", tuple(value))
                value = value[0] if all(isinstance(one, str) for one in value) else None
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise InputError(f"{field.name} is {short(value)}: expected {_NAMED[wanted]}")
            if isinstance(value, (int, float)) and not 0 <= value < 2**53:
                raise InputError(f"{field.name} is {short(value)}: expected a number from 0")
        if not self.model:
            raise InputError("model is empty: name a model")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} is {short(getattr(self, name))}: expected {' or '.join(map(repr, known))}"
                )
        if self.part_rows < 1:
            raise InputError("part_rows is 0: expected at least one row a part")
        self.where()
        if self.layers != "all":
            ranges(self.layers)

    def where(self) -> str | tuple[int, ...]:
        """`positions` as `nt.ablate` takes it."""
        if self.positions in ("read", "all"):
            return self.positions
        try:
            return tuple(int(place) for place in self.positions.split(","))
        except ValueError:
            raise InputError(
                f"positions is {short(self.positions)}: expected read, all, or positions, e.g. -2,-1"
            ) from None

    def chosen(self, n_layers: int, d_mlp: int) -> list[Neuron] | None:
        """The neurons selected by `layers` and `neurons`; None: all."""
        named = read_neurons(self.neurons) if self.neurons else None
        if self.layers == "all":
            return named
        layers = ranges(self.layers)
        if layers[-1] >= n_layers:
            raise InputError(f"layers is {self.layers!r}: the model's layers are 0-{n_layers - 1}")
        if named is None:
            return [Neuron(layer, index) for layer in layers for index in range(d_mlp)]
        kept = [one for one in named if one.layer in set(layers)]
        if not kept:
            raise InputError(f"no neuron of {self.neurons} lies in the layers {self.layers}")
        return kept

    def record(self) -> dict[str, Any]:
        """The record in a manifest."""
        return asdict(self) | {"probes": list(self.probes)}


_WANTED: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "tuple[str, ...]": str,
}
_LONGEST = 1000
_NAMED: dict[Any, str] = {str: "text", int: "a whole number", (int, float): "a number"}
_CHOICES = {"donor": ("reasoning", "memorization"), "precision": ("exact", "fast")}


def asked_of(record: Any, where: str) -> Sweep:
    """The `Sweep` that `record` describes; `InputError` says `where` it is wrong."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected names and values, got {type(record).__name__}")
    known = [field.name for field in fields(Sweep)]
    unknown = sorted(str(name) for name in record if name not in known)
    if unknown:
        raise InputError(f"{where}: {short(unknown[0])} is unknown; expected {', '.join(known)}")
    missing = [name for name in ("model", "probes") if name not in record]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    try:
        return Sweep(**record)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def read_neurons(path: str) -> list[Neuron]:
    """Neurons named in a text file, one a line or separated by spaces."""
    try:
        words = read_text(path).split()
    except InputError as error:
        raise InputError(f"neurons {path!r}: {error}") from None
    if not words:
        raise InputError(f"neurons {path!r}: no neuron in it; expected one a line, e.g. L3.N771")
    try:
        return [Neuron.parse(word) for word in words]
    except InputError as error:
        raise InputError(f"neurons {path!r}: {error}") from None


def ranges(text: str) -> list[int]:
    """``"0-2,7"`` -> [0, 1, 2, 7]."""
    found: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"layers is {short(text)}: expected numbers and ranges, e.g. 0-5,8")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def pairs_of(asked: Sweep) -> Sequence[Any]:
    """The requested pairs, as text."""
    from neurotrace.core.pairs import load_pairs, sample_pairs

    pairs = [pair for name in asked.probes for pair in load_pairs(name)]
    ids = [pair.id for pair in pairs]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InputError(f"the pair id {short(twice)} occurs in more than one of the probes")
    for pair in pairs:
        for name in ("id", "family", "template", "group"):  # which are in every row
            if len(getattr(pair, name)) > _LONGEST:
                raise InputError(
                    f"pair {short(pair.id)}: its {name} has {len(getattr(pair, name))} characters; "
                    f"expected at most {_LONGEST}"
                )
    return sample_pairs(pairs, asked.max_pairs, seed=asked.seed) if asked.max_pairs else pairs
