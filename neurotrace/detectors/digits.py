"""Data for the sanity checks: scikit-learn's 8×8 digits, coloured or in views.

Outcome: is the digit 5 or more? Optionally a quarter of the labels are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray
AGREEMENT = {
    "train-1": 0.8,
    "train-2": 0.9,
    "test": 0.1,
}  # share of rows on which colour and label agree
LABEL_NOISE = 0.25


@dataclass(frozen=True)
class Rows:
    """Features, outcomes, and the origin of each row."""

    X: Float[Array, "row feature"]
    y: Int[Array, " row"]
    environment: Array


def coloured_digits(seed: int, *, copies: int = 8) -> tuple[Rows, Rows]:
    """(train, test): in training, colour predicts the label better than shape.

    An image is two channels of 64 pixels, one of them blank. Labels are flipped with probability
    .25, so shape gives at most 75 %; colour agrees with the (flipped) label on 80 % and 90 % of the
    two training environments and on 10 % of the test rows. A third of the images each.
    """
    pixels, digit = _digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digit))
    parts = {}
    learnt, unseen = np.array_split(order, [2 * len(order) // 3])
    for name in AGREEMENT:
        rows = np.tile(unseen if name == "test" else learnt, copies)
        y = (digit[rows] >= 5) ^ (rng.random(len(rows)) < LABEL_NOISE)
        colour = y ^ (rng.random(len(rows)) >= AGREEMENT[name])
        blank = np.zeros_like(pixels[rows])
        X = np.where(
            colour[:, None],
            np.hstack([blank, pixels[rows]]),
            np.hstack([pixels[rows], blank]),
        )
        parts[name] = Rows(X, y.astype(int), np.full(len(rows), name))
    one, two = parts["train-1"], parts["train-2"]
    train = Rows(*(np.concatenate(both) for both in zip(_fields(one), _fields(two), strict=True)))
    return train, parts["test"]


def digit_views(
    seed: int, *, copy: bool = True
) -> tuple[dict[str, slice], tuple[Array, Array], tuple[Array, Array]]:
    """(views, train, test) of rows that show the same digit in views of unequal information.

    strong: the lower five rows of pixels. weak: the top two. noise: 32 random numbers. copy: the strong
    view again.
    """
    pixels, digit = _digits()
    rng = np.random.default_rng(seed)
    parts = {
        "strong": pixels[:, 24:],
        "weak": pixels[:, :16],
        "noise": rng.normal(size=(len(digit), 32)),
    }
    if copy:
        parts["copy"] = parts["strong"]
    ends = np.cumsum([part.shape[1] for part in parts.values()])
    starts = [0, *ends[:-1]]
    views = {name: slice(int(a), int(b)) for name, a, b in zip(parts, starts, ends, strict=True)}
    X = np.hstack(list(parts.values()))
    y = (digit >= 5).astype(int)
    order = rng.permutation(len(y))
    train, test = np.array_split(order, 2)
    return views, (X[train], y[train]), (X[test], y[test])


@cache
def _digits() -> tuple[Float[Array, "image pixel"], Int[Array, " image"]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data / 16, found.target


def _fields(rows: Rows) -> tuple[Array, Array, Array]:
    return rows.X, rows.y, rows.environment
