"""Cells in a fixed order, cut into parts by arithmetic alone.

A cell is one neuron on one pair: number = pair × neurons + place among the sweep's neurons. A part is a
fixed run of cells: whole pairs if several fit into `part_rows`, else an equal slice of one pair. A pass
never spans two parts, so a part's bits do not depend on the process, on interruptions or on the shard.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurotrace.folders.shards import Shard

PART_ROWS = 2**14


@dataclass(frozen=True)
class Layout:
    """The division of `pairs` × `neurons` cells into parts."""

    pairs: int
    neurons: int
    part_rows: int = PART_ROWS

    @property
    def cells(self) -> int:
        return self.pairs * self.neurons

    @property
    def slices(self) -> int:
        """Number of parts of one pair; 1 if a part holds whole pairs."""
        return -(-self.neurons // self.part_rows)

    @property
    def parts(self) -> int:
        if self.slices > 1:
            return self.pairs * self.slices
        return -(-self.pairs // (self.part_rows // self.neurons))

    def bounds(self, part: int) -> tuple[int, int]:
        """(first cell, one past the last) of this part."""
        if self.slices == 1:
            step = self.part_rows // self.neurons * self.neurons
            return part * step, min((part + 1) * step, self.cells)
        pair, piece = divmod(part, self.slices)
        first, last = (at * self.neurons // self.slices for at in (piece, piece + 1))
        return pair * self.neurons + first, pair * self.neurons + last

    def of_shard(self, shard: Shard) -> list[int]:
        """Parts of one shard. A pair's slices rotate over the shards: early layers cost more."""
        return [
            part
            for part in range(self.parts)
            if (part // self.slices + part % self.slices) % shard.count == shard.index - 1
        ]
