"""Intervals know that pairs of one group are not independent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neurotrace.core.statistics import mean_interval, rate_interval, share_interval


def test_an_interval_covers_as_often_as_it_says():
    """Groups of ten equal values: an interval over single values would cover a third as often."""
    rng = np.random.default_rng(0)
    covered = {0.95: 0, 0.8: 0}
    for _ in range(200):
        values = np.repeat(rng.normal(size=25), 10)
        groups = np.repeat(np.arange(25), 10).tolist()
        for level in covered:
            low, high = mean_interval(values, groups, level=level, resamples=400)
            covered[level] += low < 0 < high
    assert covered[0.95] == pytest.approx(190, abs=13)
    assert covered[0.8] == pytest.approx(160, abs=20)


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (1, 96), (30, 31), (5, 12)])
def test_the_interval_of_a_share_is_scipys(hits, count):
    found = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert share_interval(hits, count) == (pytest.approx(found.low), pytest.approx(found.high))


def test_a_rate_without_spread_is_bounded_by_its_groups():
    low, high = rate_interval([True] * 40, [n // 4 for n in range(40)])
    assert (low, high) == (pytest.approx(0.722, abs=0.001), 1.0)  # Wilson, n = 10 groups
    assert rate_interval([True] * 8, ["one"] * 8) == (0.0, 1.0)
    assert all(np.isnan(rate_interval([], [])))
