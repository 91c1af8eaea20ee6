"""Overlap of two rankings: of memory and reasoning, or of two families.

Jaccard's index of both tops, |A and B| / |A or B|, is compared with random sets of the same layer
counts. Its interval comes from ranking again on resampled groups of pairs. A resample's top is noisier
than that of all pairs, so the interval may lie below the estimate; then the true overlap may be smaller
than the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.stats import hypergeom

from neurotrace.core.errors import InputError
from neurotrace.core.sides import Direction
from neurotrace.studies.significance import GroupScores

if TYPE_CHECKING:
    import pandas as pd


def overlap(
    grouped: Mapping[str, GroupScores], *, k: int, resamples: int = 400, seed: int = 0
) -> pd.DataFrame:
    """One row for each pair of rankings: `first, second, k, shared, jaccard, low, high, chance, p`.

    Each ranking's top k is taken in the direction that its donor names. `chance` is the mean index of
    random sets with as many neurons in each layer, `p` the probability that they share as many neurons
    or more. Both are computed from the distribution, not drawn, so `p` is never 0.

    Args:
        grouped: name -> result of `nt.group_scores`, all of one model.

    Example::

        sides = ("memorization", "reasoning")
        grouped = {side: nt.group_scores(nt.gradient, model, pairs, donor=side) for side in sides}
        nt.overlap(grouped, k=8)
    """
    import pandas as pd

    if len(grouped) < 2:
        raise InputError(f"{len(grouped)} rankings: expected two or more to compare")
    shapes = {own.scores.value.shape for own in grouped.values()}
    if len(shapes) != 1:
        raise InputError("rankings of different models have no neurons in common")
    layers, width = shapes.pop()
    if not 1 <= k <= layers * width:
        raise InputError(f"k={k}: expected 1 to {layers * width}, the model's neurons")
    whole, drawn = {}, {}
    for name, own in grouped.items():
        direction = Direction.from_donor(own.scores.provenance["donor"])
        ones = own.sizes.new_ones(1, len(own.sizes))
        (whole[name],) = own.tops(ones, k, direction=direction)
        drawn[name] = own.tops(own.resampled(resamples, seed=seed), k, direction=direction)
    rows = []
    for a, b in combinations(grouped, 2):
        found = jaccard(whole[a], whole[b])
        low, high = np.quantile(
            [jaccard(x, y) for x, y in zip(drawn[a], drawn[b], strict=True)], [0.025, 0.975]
        )
        shared = len(whole[a] & whole[b])
        chance, p = by_chance(whole[a], whole[b], width)
        rows.append(
            {
                "first": a,
                "second": b,
                "k": k,
                "shared": shared,
                "jaccard": found,
                "low": low,
                "high": high,
                "chance": chance,
                "p": p,
            }
        )
    return pd.DataFrame(rows)


def jaccard(a: set[int], b: set[int]) -> float:
    """|a and b| / |a or b|."""
    return len(a & b) / len(a | b)


def by_chance(a: set[int], b: set[int], width: int) -> tuple[float, float]:
    """(mean Jaccard's index of random sets, P(they share as many neurons)); see `shared_by_chance`."""
    chances = shared_by_chance(a, b, width)
    index = np.arange(len(chances)) / (len(a) + len(b) - np.arange(len(chances)))
    return float(chances @ index), min(1.0, float(chances[len(a & b) :][::-1].sum()))


def shared_by_chance(a: set[int], b: set[int], width: int) -> Float[np.ndarray, " shared"]:
    """P(two random sets share 0, 1, ... neurons), with as many in each layer as `a` and `b` have.

    In each layer the number is hypergeometric; over layers the numbers add up.
    """
    chances = np.ones(1)
    for layer in {place // width for place in a} & {place // width for place in b}:
        own, other = (sum(place // width == layer for place in places) for places in (a, b))
        here = hypergeom.pmf(np.arange(min(own, other) + 1), width, own, other)
        chances = np.convolve(chances, here)
    return chances
