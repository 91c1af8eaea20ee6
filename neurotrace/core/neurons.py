"""A neuron, and what this project means by the word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

_OF_MIXTURES = (
    " In a mixture of experts L3.E12.N57 is unit 57 of expert 12, L3.S.N57 one of the shared expert; it "
    "writes its activation times the router's weight, and nothing where its expert is not used."
)
_WRITTEN = re.compile(r"L([0-9]{1,9})\.N([0-9]{1,9})")
_OF_EXPERT = re.compile(r"L([0-9]{1,9})\.(S|E[0-9]{1,9})\.N([0-9]{1,9})")


@dataclass(frozen=True, order=True)
class Neuron:
    """Unit `index` of the MLP in block `layer`; prints and parses as ``L3.N771``.

    In a mixture of experts `index` counts along all experts of the block (`Experts`).
    """

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}.N{self.index}"

    __repr__ = __str__  # a list of them is read in a notebook

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """The neuron written as ``L<layer>.N<index>``; `InputError` for anything else."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None and _OF_EXPERT.fullmatch(text.strip()):
            raise InputError(
                f"{text} is a neuron of an expert, whose index only its model knows: pass "
                f"nt.inspect_model(model).experts.neuron({text.strip()!r})"
            )
        if match is None:
            raise InputError(f"{text!r} is not a neuron: write it as L<layer>.N<index>, L3.N771 say")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Experts:
    """How the neurons of a mixture of experts are named: ``L3.E12.N57``, ``L3.S.N57`` of a shared expert.

    A block's neurons lie side by side: expert 0's, expert 1's, …, the shared expert's. So every neuron has
    an index as well, and tables of shape [layer, neuron] stay what they are.

    Attributes:
        blocks: for each (routed experts, neurons of each, neurons of the shared expert). A block without
            experts has 0, 0 and the width of its MLP.
    """

    blocks: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, blocks: Iterable[Sequence[int]] | None) -> Experts | None:
        """From a record (`ModelInfo.naming`); None: its model is no mixture.

        Raises:
            InputError: not three counts for each block.
        """
        if blocks is None:
            return None
        try:
            return cls(tuple((int(a), int(b), int(c)) for a, b, c in blocks))
        except (TypeError, ValueError) as error:
            raise InputError(f"expected three counts for each block of a mixture: {error}") from None

    def name(self, neuron: Neuron) -> str:
        """The neuron's name; ``L0.N57`` in a block without experts.

        Example::

            nt.inspect_model(model).experts.name(nt.Neuron(3, 633))
        """
        experts, width, _ = self.blocks[neuron.layer]
        if not experts:
            return str(neuron)
        expert, unit = divmod(neuron.index, width)
        if expert < experts:
            return f"L{neuron.layer}.E{expert}.N{unit}"
        return f"L{neuron.layer}.S.N{neuron.index - experts * width}"

    def neuron(self, text: str) -> Neuron:
        """The neuron of this name, or of one written with its index.

        Raises:
            InputError: there is none.

        Example::

            nt.inspect_model(model).experts.neuron("L3.E12.N57")
        """
        match = _OF_EXPERT.fullmatch(text.strip())
        if match is None:
            return Neuron.parse(text)
        layer, unit = int(match[1]), int(match[3])
        experts, width, shared = self.blocks[layer] if layer < len(self.blocks) else (0, 0, 0)
        expert = experts if match[2] == "S" else int(match[2][1:])
        most = shared if match[2] == "S" else width
        if not experts or unit >= most or (match[2] != "S" and expert >= experts):
            raise InputError(
                f"{text}: no such neuron: block {layer} of {len(self.blocks)} has {experts} experts of "
                f"{width} neurons, and {shared} in a shared expert"
            )
        return Neuron(layer, expert * width + unit)

    def expert_of(self, neuron: Neuron) -> int:
        """The number of its expert; that of the shared expert is the number of routed ones."""
        experts, width, _ = self.blocks[neuron.layer]
        return min(neuron.index // width, experts) if width else 0

    def peers(self, neuron: Neuron) -> range:
        """The indices of the neurons of its expert, itself included: whence its controls are drawn."""
        experts, width, shared = self.blocks[neuron.layer]
        expert = self.expert_of(neuron)
        end = experts * width
        return (
            range(end, end + shared) if expert == experts else range(expert * width, (expert + 1) * width)
        )

    def exists(self, neuron: Neuron) -> bool:
        """Whether there is such a neuron: blocks with fewer end before the longest."""
        experts, width, shared = self.blocks[neuron.layer]
        return neuron.index < experts * width + shared


class NeuronSet(tuple[Neuron, ...]):
    """A tuple of neurons in order, with the direction that they were picked for.

    `scores.top(8)` returns one, so that `nt.patch(scores.top(8))` knows the direction.
    """

    direction: Direction | None
    experts: Experts | None  # how a mixture's neurons are named

    def __new__(
        cls,
        neurons: Iterable[Neuron] = (),
        direction: Direction | str | None = None,
        experts: Experts | None = None,
    ) -> NeuronSet:
        made = super().__new__(cls, neurons)
        made.direction = None if direction is None else Direction(direction)
        made.experts = experts
        return made

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return NeuronSet(found, self.direction, self.experts) if isinstance(key, slice) else found

    def __getnewargs__(self) -> tuple[tuple[Neuron, ...], Direction | None, Experts | None]:
        return tuple(self), self.direction, self.experts

    @property
    def names(self) -> list[str]:
        """Each neuron's name: ``L3.N771``, or ``L3.E12.N57`` in a mixture of experts."""
        return [name_of(neuron, self.experts) for neuron in self]

    def __repr__(self) -> str:
        named = " ".join(self[:8].names)
        more = f" … ({len(self)} neurons)" if len(self) > 8 else ""
        return f"<{named}{more}{f', {spoken(self.direction)}' if self.direction else ''}>"


def definition(experts: Experts | None) -> str:
    """What the word neuron means in a model, for its tables and pages."""
    return NEURON_DEFINITION if experts is None else NEURON_DEFINITION + _OF_MIXTURES


def name_of(neuron: Neuron, experts: Experts | None) -> str:
    """What tables, figures and pages call a neuron: ``L3.N771``, or ``L3.E12.N57`` in a mixture."""
    return str(neuron) if experts is None else experts.name(neuron)


def places_like(neuron: Neuron, width: int, experts: Experts | None = None) -> range:
    """The indices among which a control of this neuron is drawn: its layer's, or its expert's."""
    return range(width) if experts is None else experts.peers(neuron)


def by_layer(neurons: tuple[Neuron, ...]) -> dict[int, list[int]]:
    """Layer -> positions in `neurons` that lie in that layer, layers ascending."""
    found: dict[int, list[int]] = {}
    for position, neuron in enumerate(neurons):
        found.setdefault(neuron.layer, []).append(position)
    return dict(sorted(found.items()))
