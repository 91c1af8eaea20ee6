"""Views as a caller gives them: checked, flattened, standardised, missing rows marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from neurotrace.core.errors import InputError

Array = np.ndarray


def outcomes(y: Any) -> tuple[Array, Int[Array, " row"]]:
    """(classes, each row's place among them).

    Raises:
        InputError: fewer than two classes, or labels that are no list.
    """
    given = np.asarray(y)
    if given.ndim != 1:
        raise InputError(f"y has shape {given.shape}: expected one outcome a row")
    classes, places = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"all {len(given)} outcomes are alike: add rows with another one")
    return classes, places


def folds_of(y: Int[Array, " row"], groups: Any, folds: int, seed: int) -> list[tuple[Array, Array]]:
    """(training, held-out) rows of each fold.

    Raises:
        InputError: a training part that lacks a class.
    """
    smallest = int(np.bincount(y).min())
    count = min(folds, smallest, len(y) if groups is None else len(np.unique(groups)))
    if count >= 2:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        parts = list(kind(count, shuffle=True, random_state=seed).split(y, y, groups))
        if all(len(np.unique(y[own])) == len(np.unique(y)) for own, _ in parts):
            return parts
    raise InputError(
        f"{smallest} rows of the rarest class are too few for folds={folds}: expected at least 2, in "
        "different groups"
    )


def read(
    views: Mapping[str, Any],
    names: Sequence[str],
    rows: int | None,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> tuple[list[Array], Bool[Array, "row view"]]:
    """(arrays, which rows have which view); a missing row is zero.

    `rows` is the number expected, None for that of the first view. With `shapes`, of a row of each view, a
    name left out is a view missing for all rows.

    Raises:
        InputError: names that are unknown, shapes or numbers of rows that don't match, infinite values.
    """
    given = {name: np.asarray(array, dtype=np.float32) for name, array in views.items()}
    if not given or (unknown := sorted(set(given) - set(names))):
        raise InputError(
            f"views {', '.join(map(repr, unknown)) if given else 'are missing'}: expected some of "
            f"{', '.join(names)}"
        )
    rows = len(next(iter(given.values()))) if rows is None else rows
    arrays: list[Array] = []
    there: list[Array] = []
    for place, name in enumerate(names):
        if name not in given and shapes is not None:
            arrays.append(np.zeros((rows, *shapes[place]), dtype=np.float32))
            there.append(np.zeros(rows, dtype=bool))
            continue
        array = given[name]
        if array.ndim < 2 or len(array) != rows or 0 in array.shape:
            raise InputError(f"view {name!r} has shape {array.shape}: expected {rows} rows of numbers")
        if shapes is not None and array.shape[1:] != tuple(shapes[place]):
            raise InputError(f"view {name!r} has rows of {array.shape[1:]}: expected {shapes[place]}")
        if np.isinf(array).any():
            raise InputError(f"view {name!r} has infinite values: expected numbers, NaN where missing")
        missing = np.asarray(np.isnan(array).reshape(rows, -1).any(axis=1))
        there.append(~missing)
        arrays.append(np.where(missing.reshape(-1, *[1] * (array.ndim - 1)), 0, array))
    return arrays, np.stack(there, axis=1)


class Scale:
    """Each view's mean and scale over the rows that have it: (x - mean) / max(sd, median sd).

    The floor keeps a feature that hardly ever moves in training from dominating where it does. A view is
    then divided by the root of its features over 16, so that wide views don't start louder.
    """

    def __init__(self, arrays: Sequence[Array], there: Bool[Array, "row view"], rows: Any) -> None:
        self.widths = [int(np.prod(array.shape[1:])) for array in arrays]
        self.means: list[Float[Array, " feature"]] = []
        self.gains: list[Float[Array, " feature"]] = []
        for place, array in enumerate(arrays):
            flat = array[rows].reshape(-1, self.widths[place])[there[rows, place]]
            if not len(flat):
                flat = np.zeros((1, self.widths[place]), dtype=np.float32)
            spread = flat.std(axis=0)
            live = spread > 1e-6
            least = np.median(spread[live]) if live.any() else 1.0
            self.means.append(flat.mean(axis=0))
            gain = np.where(live, 1 / np.maximum(spread, least), 0)
            self.gains.append(gain / max(1.0, np.sqrt(self.widths[place] / 16)))

    def tensors(
        self, arrays: Sequence[Array], there: Bool[Array, "row view"], rows: Any = slice(None)
    ) -> list[torch.Tensor]:
        """Each view [row, feature], 0 where it is missing."""
        found = []
        for place, array in enumerate(arrays):
            flat = array[rows].reshape(-1, self.widths[place])
            flat = (flat - self.means[place]) * self.gains[place] * there[rows, place][:, None]
            found.append(torch.from_numpy(flat.astype(np.float32)))
        return found

    def back(self, z: Float[Array, "row feature"], place: int) -> Float[Array, "row feature"]:
        """What `tensors` made, in the view's own units."""
        gain = self.gains[place]
        return np.where(gain > 0, z / np.where(gain > 0, gain, 1), 0) + self.means[place]
