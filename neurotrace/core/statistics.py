"""Intervals that know that pairs about the same thing are not independent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def rate_interval(
    hits: Sequence[bool] | np.ndarray,
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a rate whose units are clustered by group.

    Percentile bootstrap over groups; where the rate is 0 or 1 a bootstrap has no spread, and Wilson's
    interval with n = number of groups stands in (the conservative end: as if each group were one
    observation). With a single group the answer is (0, 1): one cluster says nothing about others.
    """
    values = np.asarray(hits, dtype=float)
    if values.size == 0:
        return (math.nan, math.nan)
    rate = float(values.mean())
    count = len(set(groups))
    if count < 2:
        return (0.0, 1.0)
    if rate in (0.0, 1.0):
        result = stats.binomtest(round(rate * count), count).proportion_ci(level, method="wilson")
        return (float(result.low), float(result.high))
    return mean_interval(values, groups, level=level, resamples=resamples, seed=seed)


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean, resampling whole groups."""
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        return (math.nan, math.nan)
    names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    member = np.array([names[group] for group in groups])
    sums = np.bincount(member, weights=data)
    sizes = np.bincount(member)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return (float(low), float(high))
