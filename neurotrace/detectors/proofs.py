"""Sanity checks on data where each idea must work: `python -m neurotrace.detectors` prints both tables.

Invariance: coloured digits, the colour's meaning reversed at test. ERM, known environments and
generated ones. Balance: the same digit in a strong, a weak, a noise and a copied view. Bayesian weights
against plain averaging and a plain product of the same experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit
from sklearn.metrics import log_loss

from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.judging import ece

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
METHODS = ("erm", "irm known", "vrex known", "groupdro known", "irm generated", "vrex generated")


def prove_invariance(seeds: Iterable[int], methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Accuracy on the training environments and on the reversed test set, a row a seed and method.

    "grey" is trained on the same digits without colour: the score of a perfect method.
    """
    import pandas as pd

    rows = []
    for seed in seeds:
        train, test = coloured_digits(seed)
        grey = [part.X[:, :64] + part.X[:, 64:] for part in (train, test)]
        clear = InvariantDetector("none", seed=seed).fit(grey[0], train.y)
        rows.append((seed, "grey", clear.score(grey[0], train.y), clear.score(grey[1], test.y)))
        for method in methods:
            penalty, _, environments = method.partition(" ")
            detector = InvariantDetector("none" if penalty == "erm" else penalty, seed=seed)  # type: ignore[arg-type]
            known = train.environment if environments == "known" else None
            detector.fit(train.X, train.y, environment=known)
            rows.append((seed, method, detector.score(train.X, train.y), detector.score(test.X, test.y)))
    return pd.DataFrame(rows, columns=["seed", "method", "train", "reversed_test"])


def prove_balance(seeds: Iterable[int]) -> pd.DataFrame:
    """Accuracy, log-loss, ECE and the weight of each view on held-out digits, with and without the copy.

    "average" is the mean of the experts' probabilities, "plain product" the sum of their logits.
    """
    import pandas as pd

    rows = []
    for seed in seeds:
        for copy in (False, True):
            views, train, test = digit_views(seed, copy=copy)
            columns = {name: (part.start, part.stop) for name, part in views.items()}
            fitted = {
                kind: FusedDetector(columns, kind, seed=seed).fit(*train)  # type: ignore[arg-type]
                for kind in ("mixture", "product")
            }
            experts = np.column_stack(
                [
                    expert.decision_function(test[0][:, views[name]])
                    for name, expert in zip(views, fitted["product"].experts_, strict=True)
                ]
            )
            judged: dict[str, tuple[np.ndarray, dict[str, float]]] = {
                "average": (expit(experts).mean(axis=1), {}),
                "plain product": (expit(experts.sum(axis=1)), {}),
            } | {
                f"bayesian {kind}": (
                    detector.predict_proba(test[0])[:, 1],
                    {name: mean for name, (mean, _) in detector.weights().items()}
                    | {f"{name} sd": sd for name, (_, sd) in detector.weights().items()},
                )
                for kind, detector in fitted.items()
            }
            for method, (p, weights) in judged.items():
                rows.append(
                    {
                        "seed": seed,
                        "with_copy": copy,
                        "method": method,
                        "accuracy": float(np.mean((p > 0.5) == (test[1] == 1))),
                        "log_loss": log_loss(test[1], p),
                        "ece": ece(p, test[1]),
                    }
                    | weights
                )
    return pd.DataFrame(rows)


# data: scikit-learn's 8×8 digits, coloured or in views; is the digit 5 or more?
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
