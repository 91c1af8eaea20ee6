"""Means over pairs and their 95 % intervals, clustered by group, from one pass over the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor

from neurotrace.core.pairs import PromptPair


def grouped(pairs: Sequence[PromptPair]) -> list[int]:
    """Rows sorted so that the pairs of a group are consecutive."""
    first: dict[str, int] = {}
    for row, pair in enumerate(pairs):
        first.setdefault(pair.group, row)
    return sorted(range(len(pairs)), key=lambda row: (first[pairs[row].group], row))


class GroupSums:
    """Sums over groups, from which a mean and its cluster-robust interval follow.

    Only the current group is held, so memory does not grow with the number of groups.
    """

    def __init__(self, columns: int, groups: Sequence[str]) -> None:
        self.sizes = Counter(groups)
        self.total, self.squares, self.sized, self.own = torch.zeros(
            4, columns, dtype=torch.float64
        )  # over groups: S, S^2, n*S (S a group's sum, n its pairs); and S of the present group
        self.group: str | None = None

    def add(self, columns: Tensor, effect: Tensor, group: str) -> None:
        """Add one pair's effects; the pairs of a group must be consecutive."""
        if group != self.group:
            self._fold()
            self.group = group
        self.own[columns] += effect.double()

    def close(self, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, low, high); the bounds are NaN if there is only one group."""
        self._fold()
        self.group = None
        count, pairs = len(self.sizes), sum(self.sizes.values())
        mean = self.total / pairs
        if count < 2:
            return mean, torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
        spread = self.squares - 2 * mean * self.sized
        spread += mean**2 * sum(size**2 for size in self.sizes.values())
        error = (spread.clamp(min=0) * count / (count - 1)).sqrt() / pairs
        half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
        return mean, mean - half, mean + half

    def _fold(self) -> None:
        if self.group is not None:
            self.total += self.own
            self.squares += self.own**2
            self.sized += self.sizes[self.group] * self.own
        self.own.zero_()
