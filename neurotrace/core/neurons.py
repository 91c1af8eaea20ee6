"""A neuron, and what this project means by the word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.sides import Direction, spoken

NEURON_DEFINITION = (
    "A neuron is one unit of an MLP's hidden layer after its activation function "
    "(TransformerLens: blocks.{layer}.mlp.hook_post; in a gated MLP act(gate)*up, the input of the "
    "down projection): the row of W_out that writes to the residual stream. "
    "Layers and neurons count from 0."
)

_WRITTEN = re.compile(r"L([0-9]{1,9})\.N([0-9]{1,9})")


@dataclass(frozen=True, order=True)
class Neuron:
    """Unit `index` of the MLP in block `layer`; prints and parses as ``L3.N771``."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}.N{self.index}"

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """The neuron written as ``L<layer>.N<index>``; `InputError` for anything else."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise InputError(f"{text!r} is not a neuron: write it as L<layer>.N<index>, L3.N771 say")
        return cls(int(match[1]), int(match[2]))


class NeuronSet(tuple[Neuron, ...]):
    """A tuple of neurons in order, with the direction that they were picked for.

    `scores.top(8)` returns one, so that `nt.patch(scores.top(8))` knows the direction.
    """

    direction: Direction | None

    def __new__(cls, neurons: Iterable[Neuron] = (), direction: Direction | str | None = None) -> NeuronSet:
        made = super().__new__(cls, neurons)
        made.direction = None if direction is None else Direction(direction)
        return made

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return NeuronSet(found, self.direction) if isinstance(key, slice) else found

    def __getnewargs__(self) -> tuple[tuple[Neuron, ...], Direction | None]:
        return tuple(self), self.direction

    def __repr__(self) -> str:
        named = " ".join(str(neuron) for neuron in tuple(self)[:8])
        more = f" … ({len(self)} neurons)" if len(self) > 8 else ""
        return f"<{named}{more}{f', {spoken(self.direction)}' if self.direction else ''}>"


def by_layer(neurons: tuple[Neuron, ...]) -> dict[int, list[int]]:
    """Layer -> positions in `neurons` that lie in that layer, layers ascending."""
    found: dict[int, list[int]] = {}
    for position, neuron in enumerate(neurons):
        found.setdefault(neuron.layer, []).append(position)
    return dict(sorted(found.items()))
