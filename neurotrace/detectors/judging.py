"""Evaluation of a detector on rows that it was not trained on."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

Array = np.ndarray


@dataclass(frozen=True)
class Judgement:
    """AUROC with its 95 % interval, accuracy at one half, ECE; NaN if not defined."""

    auroc: float
    auroc_lo: float
    auroc_hi: float
    accuracy: float
    ece: float
    n: int


def judge(
    p: Float[Array, " row"],
    y: Array,
    groups: Sequence[Hashable] | Array,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Judgement:
    """Evaluate P(class 1) against outcomes 0/1; the interval resamples whole groups.

    Example::

        groups = [number // 2 for number in range(40)]
        outcomes = np.arange(40) % 4 < 2
        nt.judge(np.linspace(0, 1, 40), outcomes, groups).auroc
    """
    p, y = np.asarray(p, dtype=float), np.asarray(y).astype(int)
    low, high = auroc_interval(p, y, groups, resamples=resamples, seed=seed)
    return Judgement(auroc(p, y), low, high, float(np.mean((p > 0.5) == (y == 1))), ece(p, y), len(y))


def auroc(score: Float[Array, " row"], y: Array) -> float:
    """Probability that a row of class 1 scores above one of class 0 (ties count half)."""
    y = np.asarray(y, dtype=bool)
    hits, misses = int(y.sum()), int((~y).sum())
    if not hits or not misses:
        return float("nan")
    above = rankdata(score)[y].sum() - hits * (hits + 1) / 2
    return float(above / (hits * misses))


def auroc_interval(
    score: Float[Array, " row"],
    y: Array,
    groups: Sequence[Hashable] | Array,
    *,
    strata: Array | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile bootstrap over groups; resamples with one class are left out.

    With `strata`: of the mean of the AUROCs within each. (NaN, NaN) with fewer than two groups or one
    class.
    """
    return _middle(_resampled(score, y, groups, strata, resamples, seed))


def auroc_difference(
    score: Float[Array, " row"],
    other: Float[Array, " row"],
    y: Array,
    groups: Sequence[Hashable] | Array,
    strata: Array,
) -> tuple[float, float]:
    """95 % interval of AUROC(score) - AUROC(other), means within strata; paired, groups resampled."""
    return _middle(_resampled(score, y, groups, strata) - _resampled(other, y, groups, strata))


def _middle(values: Float[Array, " resample"]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _resampled(
    score: Float[Array, " row"],
    y: Array,
    groups: Sequence[Hashable] | Array,
    strata: Array | None,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[Array, " resample"]:
    """The AUROC, or the mean of those within strata, of each resample of groups; one NaN: undefined."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = member.max(initial=-1) + 1
    if count < 2 or len(np.unique(y)) < 2:
        return np.full(1, np.nan)
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, member]
    parts = [slice(None)] if strata is None else [strata == name for name in np.unique(strata)]
    found = np.array([_weighted_aurocs(score[own], y[own], weight[:, own]) for own in parts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample in which no stratum has both classes
        values: Array = np.nanmean(found, axis=0)
    return values


def _weighted_aurocs(score: Array, y: Array, weight: Float[Array, "resample row"]) -> Array:
    """AUROC with each resample's weights; NaN where one class has none."""
    # each score's place among the sorted distinct ones; AUROC from weighted counts at each place
    place = np.unique(score, return_inverse=True)[1]
    hits = np.zeros((len(weight), place.max(initial=-1) + 1))
    misses = np.zeros_like(hits)
    for row, (at, positive) in enumerate(zip(place, y, strict=True)):
        (hits if positive else misses)[:, at] += weight[:, row]
    below = np.cumsum(misses, axis=1) - misses / 2
    total = hits.sum(axis=1) * misses.sum(axis=1)
    return np.where(total > 0, (hits * below).sum(axis=1) / np.maximum(total, 1), np.nan)


def ece(p: Float[Array, " row"], y: Array, *, bins: int = 10) -> float:
    """Expected calibration error: Σ_bins share · |mean P(class 1) - rate of class 1|.

    Bins of equal width over P(class 1), so that both classes' calibration counts.
    """
    bin_of = np.minimum((np.asarray(p) * bins).astype(int), bins - 1)
    gaps = [
        abs(p[bin_of == b].mean() - np.mean(y[bin_of == b])) * np.mean(bin_of == b)
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))
