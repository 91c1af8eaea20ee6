"""The suffix engine's data: a clean run, and changes of its neurons.

An intervention is affine, a' = scale·a + offset, and is applied inside the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurotrace.engine.attention import Prefix
from neurotrace.engine.experts import Sent

Path = Literal["shared", "frozen", "naive"]
PATHS: tuple[Path, ...] = ("shared", "frozen", "naive")

# the input of one block's projection, [row, q, neuron], which it may change in place
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """A clean run: the blocks' and neurons' values for one batch of equally long prompts.

    Attributes:
        ids: Int[Tensor, "prompt pos"].
        positions: where edits act, ascending, counted from the prompt's start.
        start: the first recomputed position; the prefix is what lies before it.
        path: the engine's method for this run.
        inputs: for each block, Float[Tensor, "prompt position neuron"] at `positions`.
        sent: for each block of a mixture, where its router sends tokens (`experts.Sent`).
        hidden: Float[Tensor, "prompt d_model"], the unembedding's input at the last position;
            "prompt read d_model" at the last `read` positions, if `read` is above 1.
    """

    ids: Tensor
    positions: tuple[int, ...]
    start: int
    path: Path
    inputs: tuple[Tensor, ...] = field(repr=False)
    hidden: Tensor = field(repr=False)
    prefix: Prefix | None = field(default=None, repr=False)
    outputs: tuple[Any, ...] = field(default=(), repr=False)  # each block's own, clean
    calls: tuple[Any, ...] = field(default=(), repr=False)  # each block's (args, kwargs)
    linears: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    places: Tensor | None = field(default=None, repr=False)  # "prompt": of the last token, if they differ
    read: int = 1
    sent: tuple[Sent, ...] = field(default=(), repr=False)
    delta: Any = field(default=None, repr=False)  # a `modules.Delta`, if its rows run in bf16

    def at(self, prompts: Tensor) -> Run:
        """The run of these prompts of it, Int["prompt"], in this order; without clean inputs of modules."""
        outputs = tuple(
            each[prompts] if isinstance(each, Tensor) else (each[0][prompts], *each[1:])
            for each in self.outputs
        )
        return replace(
            self,
            ids=self.ids[prompts],
            inputs=tuple(each[prompts] for each in self.inputs),
            hidden=self.hidden[prompts],
            prefix=None if self.prefix is None else self.prefix.at(prompts),
            outputs=outputs,
            calls=(),
            linears={},
            places=None if self.places is None else self.places[prompts],
            sent=tuple(each.of(prompts) for each in self.sent),
            delta=None,
        )

    @property
    def activations(self) -> Tensor:
        """Float[Tensor, "prompt layer neuron"] at the last of `positions`."""
        return torch.stack([x[:, -1] for x in self.inputs], dim=1)

    @property
    def where(self) -> Tensor:
        """Int[Tensor, "position"], `positions` counted from `start`."""
        return torch.tensor(self.positions, device=self.ids.device) - self.start


@dataclass(frozen=True)
class Edit:
    """One row: each listed neuron becomes scale·a + offset, with a its value in the same pass.

    Zero: scale 0, offset 0. Set or donor: scale 0, offset the value. Shift: scale 1. A neuron above
    another listed one sees what the lower one has changed. Scale 0 sets even where a is not finite.

    Attributes:
        layers, indices: Int[Tensor, "n"]; each (layer, index) once.
        scale: Float[Tensor, "n"].
        offset: Float[Tensor, "n"], or "n position" with a value for each of the run's positions.
    """

    layers: Tensor
    indices: Tensor
    scale: Tensor
    offset: Tensor

    def __post_init__(self) -> None:
        n = len(self.layers)
        if not (len(self.indices) == len(self.scale) == len(self.offset) == n):
            raise ValueError("layers, indices, scale and offset must have one entry a neuron")
        if len(set(zip(self.layers.tolist(), self.indices.tolist(), strict=True))) != n:
            raise ValueError("a neuron is listed twice in one edit: what it becomes is ambiguous")

    @classmethod
    def set(cls, layers: Any, indices: Any, values: Any) -> Edit:
        """Each neuron is set to its value (a number for all, or one a neuron)."""
        layers, indices = torch.as_tensor(layers), torch.as_tensor(indices)
        values = torch.as_tensor(values, dtype=torch.float32)
        values = values.expand(len(layers)) if values.dim() == 0 else values
        return cls(layers, indices, torch.zeros(len(layers)), values)


def affine(rows: Tensor, indices: Tensor, scale: Tensor, offset: Tensor, where: Tensor) -> Map:
    """x[rows[k], where, indices[k]] becomes scale[k] times itself plus offset[k].

    Args:
        rows, indices, scale: "k"; offset: "k position" or "k 1"; where: "position", counted from
            the first recomputed one.
    """
    at = (rows[:, None], where, indices[:, None])
    scale = scale[:, None]

    def edit(x: Tensor) -> Tensor:
        x[at] = torch.where(scale == 0, offset, scale * x[at] + offset).to(x.dtype)
        return x

    return edit


def affine_by_layer(edits: Sequence[Edit], where: Tensor) -> dict[int, Map]:
    """For each touched layer, ascending, the map that performs row r's part of `edits[r]`."""
    device = where.device
    rows = torch.cat([torch.full((len(e.layers),), row) for row, e in enumerate(edits)]).to(device)
    layers, indices, scale = (
        torch.cat([getattr(e, name) for e in edits]).to(device) for name in ("layers", "indices", "scale")
    )
    offsets = [e.offset.reshape(len(e.layers), -1).expand(-1, len(where)) for e in edits]
    offset = torch.cat(offsets).to(device)
    return {
        layer: affine(rows[at], indices[at], scale[at], offset[at], where)
        for layer in sorted(set(layers.tolist()))
        for at in [(layers == layer).nonzero()[:, 0]]
    }


_EXTRA = 24  # rows that a pass costs besides its own


def together(firsts: Sequence[int], depth: int, prompts: int) -> list[list[int]]:
    """Which rows to run together, by the first block that each changes; the blocks below are not run.

    A pass costs (rows + `_EXTRA`) * (depth - its first block). The cheapest division is found.

    Args:
        firsts: for each row; `depth` where nothing is changed.
        prompts: how many times each row is run.
    """
    order = sorted(range(len(firsts)), key=lambda row: firsts[row])
    starts = [at for at, row in enumerate(order) if not at or firsts[order[at - 1]] != firsts[row]]
    ends = [*starts[1:], len(order)]
    best: list[tuple[float, list[list[int]]]] = [(0.0, [])]  # of the rows before each start
    for last, end in enumerate(ends):
        ways = []
        for first in range(last + 1):
            rows = order[starts[first] : end]
            cost = (len(rows) * prompts + _EXTRA) * (depth - firsts[rows[0]])
            ways.append((best[first][0] + cost, [*best[first][1], rows]))
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]
