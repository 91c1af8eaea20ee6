"""Do two rankings name the same neurons? Of memory and of reasoning, of one family and of another.

Jaccard's index of both tops, |A and B| / |A or B|, beside what chance gives to two random sets that lie
in the layers as these do, and with an interval from ranking again on resampled groups of pairs. A
resample's top is noisier than that of all pairs, so the interval may lie below the estimate: then the
tops agree less well than they seem to.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from neurotrace.core.errors import InputError
from neurotrace.core.sides import Direction
from neurotrace.studies.significance import GroupScores

if TYPE_CHECKING:
    import pandas as pd

_DRAWS = 2000  # of random sets


def overlap(
    grouped: Mapping[str, GroupScores], *, k: int, resamples: int = 400, seed: int = 0
) -> pd.DataFrame:
    """A row for each two of the rankings: `first, second, k, shared, jaccard, low, high, chance, p`.

    Each ranking's top k is taken in the direction that its donor names. `chance` is the mean index of
    random sets with as many neurons in each layer, `p` how often they reach the index that was found.

    Args:
        grouped: name -> what `nt.group_scores` returned, all of one model.
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
        random = _by_chance(whole[a], whole[b], width, seed)
        rows.append(
            {
                "first": a, "second": b, "k": k, "shared": len(whole[a] & whole[b]),
                "jaccard": found, "low": low, "high": high, "chance": float(random.mean()),
                "p": float((1 + (random >= found - 1e-12).sum()) / (1 + _DRAWS)),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def jaccard(a: set[int], b: set[int]) -> float:
    """|a and b| / |a or b|."""
    return len(a & b) / len(a | b)


def _by_chance(a: set[int], b: set[int], width: int, seed: int) -> np.ndarray:
    """Jaccard's index of random sets with as many neurons in each layer as `a` and `b` have."""
    rng = np.random.default_rng(seed)
    shared = np.zeros(_DRAWS)
    for layer in {place // width for place in a} & {place // width for place in b}:
        own, other = (sum(place // width == layer for place in places) for places in (a, b))
        shared += rng.hypergeometric(own, width - own, other, size=_DRAWS)
    return shared / (len(a) + len(b) - shared)
