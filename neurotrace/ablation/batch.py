"""How many changed rows ride in one pass of a sweep: as many as are fastest, and as fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from neurotrace.core.errors import InputError
from neurotrace.models.hooks import ModelInfo
from neurotrace.models.protocol import HookedModel

_BUDGET_GB = 2.0
# tokens a pass; the first is the default where there is too little work to try the others
_ON_CPU = (1536, 512, 1024, 3072)
_ON_GPU = (4096, 16384, 65536)


def batch_for(info: ModelInfo, rows: int | None, memory_gb: float | None) -> Batch:
    """For passes of `rows` neurons (None: found out) within `memory_gb` GiB (None: the default)."""
    cuda = info.device.type == "cuda"
    budget = (memory_gb or _BUDGET_GB) * 2**30
    if memory_gb is None and cuda:
        budget = torch.cuda.mem_get_info(info.device)[0] / 2
    return Batch(rows, budget, _ON_GPU if cuda else _ON_CPU)


def bytes_each(model: HookedModel, info: ModelInfo, length: int) -> float:
    """Bytes that one token of a changed row takes at the widest place of a pass, about."""
    heads = int(getattr(model.cfg, "n_heads", 0) or 0)
    return 4.0 * (4 * info.d_mlp + 12 * info.d_model + 2 * heads * length)


@dataclass
class Batch:
    """How many tokens (rows times recomputed positions) ride in a pass.

    Given by the caller in rows, or found out: the first passes are made in different sizes, and the
    fastest per row and block is kept. Never above what the memory budget or the machine holds.
    """

    rows: int | None
    budget: float  # bytes
    trials: tuple[int, ...]
    seconds: dict[int, float] = field(default_factory=dict)
    held: int | None = None  # what was left after memory ran out

    def size(self, tokens: int, bytes_each: float, rows: int) -> tuple[int, bool]:
        """Tokens for the next pass, and whether it is a trial, for `rows` rows of `tokens` each.

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
