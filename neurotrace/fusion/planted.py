"""Rows whose views' informativeness is planted: what the weights must recover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray


@dataclass(frozen=True)
class Planted:
    """Views, outcomes, and on which rows each view was replaced by noise."""

    views: dict[str, Float[Array, "row feature"]]
    y: Int[Array, " row"]
    spoilt: Bool[Array, "row view"]


def planted_views(
    spoil: Sequence[float],
    *,
    rows: int = 600,
    classes: int = 4,
    features: int = 12,
    noise: float = 0.4,
    copy: int | None = None,
    seed: int = 0,
) -> Planted:
    """A view a number in `spoil`, the share of rows on which it is noise that looks like nothing else.

    On the other rows a view shows its class's direction, turned at random and bent, with Gaussian noise.
    On spoilt rows it is Gaussian noise of the same total variance. `copy` adds that view again.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    spoilt = rng.random((rows, len(spoil))) < np.asarray(spoil)
    views = {}
    for place in range(len(spoil)):
        pattern = np.eye(classes)[y] + noise * rng.normal(size=(rows, classes))
        turn = np.linalg.qr(rng.normal(size=(features, classes)))[0]
        clear = np.tanh(2 * pattern @ turn.T)
        clear = (clear - clear.mean(axis=0)) / clear.std(axis=0)
        views[f"view {place}"] = np.where(
            spoilt[:, place, None], rng.normal(size=(rows, features)), clear
        ).astype(np.float32)
    if copy is not None:
        views["copy"] = views[f"view {copy}"].copy()
        spoilt = np.column_stack([spoilt, spoilt[:, copy]])
    return Planted(views, y, spoilt)
