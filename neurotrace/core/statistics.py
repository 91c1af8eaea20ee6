"""Intervals and p-values clustered by group: pairs about the same thing are not independent.

Sign flips: under "no effect" a group's value is as likely to have either sign, so the observed sum over
groups is one of 2^groups equally likely sums. Three routes to its tail, each where it is the cheapest:

    all choices of signs    where they are no more than the flips asked for
    a random sample         where at least `_SEEN` of its sums are as far from 0 as the observed one
    beyond the sample       up to `_EXACT` groups exact: all sums of either half of the groups, sorted,
                            and counted against each other (Horowitz and Sahni 1974); above, the
                            saddlepoint approximation (Robinson 1982; Lugannani and Rice 1980)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

Interval = tuple[float, float]
_SEEN = 100  # sums of the sample in the tail: a standard error of 10 % of p
_EXACT = 24  # groups: 4,096 sums a half
_AT_ONCE = 2**25  # numbers of one product that are held
_LEAST = 1e-30  # p, as float32 must hold it
_SAME = 1e-5  # of a sum: what rounding may take from a sum that equals the observed one


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
    interval with n = number of groups is used (conservative: each group counts as one observation).
    With a single group the interval is (0, 1), because one cluster says nothing about others.
    """
    values = np.asarray(hits, dtype=float)
    if values.size == 0:
        return (math.nan, math.nan)
    rate = float(values.mean())
    count = len(set(groups))
    if count < 2:
        return (0.0, 1.0)
    if rate in (0.0, 1.0):
        return share_interval(round(rate * count), count, level=level)
    return mean_interval(values, groups, level=level, resamples=resamples, seed=seed)


def share_interval(hits: int, count: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share, as if every one of `count` were independent."""
    if not count:
        return (0.0, 1.0)
    z = float(special.ndtri((1 + level) / 2))
    share, spread = hits / count, z**2 / count
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low = (middle - half) / (1 + spread) if hits else 0.0
    high = (middle + half) / (1 + spread) if hits < count else 1.0
    return (low, high)


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
    drawn = _resamples(len(names), resamples, seed)
    means = (drawn @ sums) / (drawn @ sizes)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return (float(low), float(high))


@lru_cache(maxsize=8)
def _resamples(count: int, resamples: int, seed: int) -> Float[np.ndarray, "draw unit"]:
    """How often each of `count` units is drawn, with replacement; a study asks hundreds of times."""
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    flat = (drawn + count * np.arange(resamples)[:, None]).ravel()
    times = np.bincount(flat, minlength=resamples * count).reshape(resamples, count).astype(float)
    times.flags.writeable = False
    return times


def sign_choices(groups: int, draws: int, *, seed: int = 0) -> Float[Tensor, "draw group"]:
    """A sign for each group, the observed ones (all +) first; every choice once where they are few.

    Args:
        draws: random choices beside the observed one.
    """
    if 2**groups <= draws + 1:
        every = torch.arange(2**groups)[:, None] >> torch.arange(groups) & 1
        return 1.0 - 2.0 * every
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2, (draws, groups), generator=generator)
    return torch.cat([torch.ones(1, groups), 1.0 - 2.0 * drawn])


def sign_flip_p(
    values: Float[Tensor, "group test"], signs: Float[Tensor, "draw group"]
) -> tuple[Float[Tensor, " test"], Float[Tensor, " test"]]:
    """Two-sided p of each column's sum, and p adjusted for all columns together (family-wise).

    The second is the step-down of Westfall and Young (1993) on the largest |sum|: the chance that *any*
    of the columns with a sum no larger than this one's would reach it. Columns may depend on each other
    in any way: each choice of signs is applied to all of them at once.

    Args:
        values: what each group adds to a test's sum.
        signs: from `sign_choices`.

    Example::

        p, p_family = sign_flip_p(values, sign_choices(len(values), 9999))
    """
    size = values.sum(dim=0).abs()
    p, p_family = torch.ones(2, len(size), dtype=torch.float64)
    peak = torch.zeros(len(signs))  # for each draw the largest |sum| of the columns so far
    order = size.argsort()
    for places in order.split(max(1, _AT_ONCE // len(signs))):
        sums = (signs @ values[:, places]).abs()
        least = size[places] * (1 - _SAME)
        p[places] = (sums >= least).double().mean(dim=0)
        highest = sums.cummax(dim=1).values.maximum(peak[:, None])
        p_family[places] = (highest >= least).double().mean(dim=0)
        peak = highest[:, -1]
    down = order.flip(0)  # a column is no surer than a larger one
    p_family[down] = p_family[down].cummax(dim=0).values
    if len(signs) < 2 ** len(values):
        rare = (p * len(signs) < _SEEN).nonzero()[:, 0]
        p[rare] = sign_flip_tail(values[:, rare])
    return p, p_family


def sign_flip_tail(values: Float[Tensor, "group test"]) -> Float[Tensor, " test"]:
    """Two-sided p of each column's sum without a sample of flips; see the module's docstring."""
    if len(values) <= _EXACT:
        step = max(1, _AT_ONCE >> (len(values) + 1) // 2 + 2)
        return torch.cat([_counted(part.double()) for part in values.split(step, dim=1)])
    return _saddlepoint(values.double())


def _counted(values: Float[Tensor, "group test"]) -> Float[Tensor, " test"]:
    """Exact: of all sums, which are one of either half's each, those at least as large."""
    least = values.sum(dim=0).abs() * (1 - 1e-9)
    half = len(values) // 2
    first, second = _every_sum(values[:half]), _every_sum(values[half:])
    ordered = second.T.contiguous().sort(dim=1).values
    enough = len(second) - torch.searchsorted(ordered, (least - first).T.contiguous())
    return (enough.sum(dim=1).double() / 2.0 ** (len(values) - 1)).clamp(max=1.0)


def _every_sum(values: Float[Tensor, "group test"]) -> Float[Tensor, "sum test"]:
    """The 2^groups sums of +value or -value."""
    sums = torch.zeros(1, values.shape[1], dtype=values.dtype)
    for row in values:
        sums = torch.cat([sums + row, sums - row])
    return sums


def _saddlepoint(values: Float[Tensor, "group test"]) -> Float[Tensor, " test"]:
    """Lugannani and Rice's formula for sums of +v or -v, K(t) = sum of log cosh(t v).

    No smaller than one choice of signs and its opposite, no larger than Chernoff's bound.
    """
    scaled = values / values.norm(dim=0).clamp(min=1e-300)
    size = scaled.sum(dim=0).abs()
    point = torch.zeros_like(size)
    for _ in range(60):  # K' is concave above 0: Newton's steps from 0 climb and never pass
        tilt = torch.tanh(point * scaled)
        curve = (scaled**2 * (1 - tilt**2)).sum(dim=0).clamp(min=1e-12)
        point = point + (size - (scaled * tilt).sum(dim=0)) / curve
    x = (point * scaled).abs()
    cumulant = (x + torch.log1p(torch.exp(-2 * x)) - math.log(2)).sum(dim=0)
    w = (2 * (point * size - cumulant)).clamp(min=1e-12).sqrt()
    u = point * (scaled**2 / torch.cosh(x.clamp(max=300)) ** 2).sum(dim=0).sqrt()
    density = torch.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
    p = torch.erfc(w / math.sqrt(2)) + 2 * density * (1 / u - 1 / w)
    least = max(2.0 ** (1 - len(values)), _LEAST)
    return p.minimum(2 * torch.exp(-(w**2) / 2)).clamp(min=least, max=1.0)
