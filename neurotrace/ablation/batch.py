"""The number of changed rows in one pass of a sweep: the fastest that fits into memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from neurotrace.core.errors import InputError
from neurotrace.models.hooks import ModelInfo
from neurotrace.models.protocol import HookedModel

_BUDGET_GB = 2.0
# tokens a pass; the first is the default if there is too little work to try the others
_ON_CPU = (1536, 512, 1024, 3072)
_ON_GPU = (4096, 16384, 65536)


def usual_tokens(device: torch.device) -> int:
    """Tokens in a pass where the caller names none and there is too little work to find out."""
    return (_ON_GPU if device.type == "cuda" else _ON_CPU)[0]


def batch_for(info: ModelInfo, rows: int | None, memory_gb: float | None) -> Batch:
    """For passes of `rows` neurons (None: found out) within `memory_gb` GiB (None: the default)."""
    cuda = info.device.type == "cuda"
    budget = (memory_gb or _BUDGET_GB) * 2**30
    if memory_gb is None and cuda:
        budget = torch.cuda.mem_get_info(info.device)[0] / 2
    return Batch(rows, budget, _ON_GPU if cuda else _ON_CPU)


def bytes_each(model: HookedModel, info: ModelInfo, length: int) -> float:
    """Approximate bytes of one token of a changed row at the widest place of a pass."""
    heads = int(getattr(model.cfg, "n_heads", 0) or 0)
    return 4.0 * (4 * info.d_mlp + 12 * info.d_model + 2 * heads * length)


@dataclass
class Batch:
    """The number of tokens (rows times recomputed positions) in a pass.

    Given by the caller in rows, or found by trial: the first passes have different sizes, and the
    fastest per row and block is kept. It never exceeds the memory budget or the machine's memory.
    """

    rows: int | None
    budget: float  # bytes
    trials: tuple[int, ...]
    seconds: dict[int, float] = field(default_factory=dict)
    held: int | None = None  # the limit after memory ran out

    def size(self, tokens: int, bytes_each: float, rows: int) -> tuple[int, bool]:
        """Tokens for the next pass, and whether it is a trial; there are `rows` rows of `tokens` each.

        Raises:
            InputError: not even one row fits the budget.
        """
        most = int(self.budget / bytes_each)
        if most < tokens:
            raise InputError(
                f"memory_gb={self.budget / 2**30:.3g}: one row of {tokens} recomputed tokens takes "
                f"about {tokens * bytes_each / 2**30:.3g}; raise memory_gb or pass shorter prompts"
            )
        most = min(most, self.held or most)
        if self.rows is not None:
            return min(self.rows * tokens, most), False
        todo = [s for s in self.trials if s not in self.seconds and s <= min(most, rows * tokens)]
        if todo:
            return todo[0], True
        best = min(self.seconds, key=lambda s: self.seconds[s], default=self.trials[0])
        return min(best, most), False
