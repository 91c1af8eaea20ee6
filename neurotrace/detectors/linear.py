"""Logistic regression on any number of features, its L2 penalty chosen on folds that share no group.

min_w  Σ_i log(1 + exp(-s_i (w·z_i + b))) + ‖w‖² / 2C,   s_i = ±1,   z: see `Basis`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from neurotrace.core.display import Cell
from neurotrace.detectors.base import Array, Basis, Detector, weights_frame, weights_rows

if TYPE_CHECKING:
    import pandas as pd

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class LinearDetector(Detector):
    """L2 logistic regression.

    Args:
        C: inverse strength of the penalty; None chooses among `PENALTIES` the strongest whose
            log-loss over folds is within a standard error of the best.
        folds: number of those folds; `groups` given to `fit` are never split.
        seed: for the folds.
        floor: lower bound of the scale that standardises features, see `Basis`; 0 for none.
    """

    FITTED = ("classes_", "n_features_in_", "coef_", "intercept_", "C_")

    def __init__(self, C: float | None = None, folds: int = 4, seed: int = 0, floor: float = 1.0) -> None:
        self.C = C
        self.folds = folds
        self.seed = seed
        self.floor = floor

    def fit(self, X: Any, y: Any, groups: Any = None) -> LinearDetector:
        """Fit on rows X with outcomes y; rows with equal `groups` stay in one fold."""
        X, y = self._read(X, y)
        basis = Basis(X, self.floor)
        Z = basis.turn(X)
        self.C_ = self.C if self.C is not None else self._choose(Z, y, groups)
        model = _regression(self.C_).fit(Z, y)
        coef, self.intercept_ = basis.unfold(model.coef_.T, model.intercept_)
        self.coef_ = coef.T
        return self

    def decision_function(self, X: Any) -> Array:
        X = self._check(X)
        return X @ self.coef_[0] + self.intercept_[0]

    def to_frame(self) -> pd.DataFrame:
        """Rows (feature, weight), the largest first; weights on the original features."""
        check_is_fitted(self)
        return weights_frame(self.coef_[0])

    def _learnt(self) -> tuple[str, tuple[str, ...], list[tuple[Cell, ...]]]:
        what = f"Logistic regression, inverse penalty C = {self.C_:g}."
        return what, ("feature", "weight in the log-odds"), weights_rows(self.to_frame())

    def _choose(self, Z: Array, y: Array, groups: Any) -> float:
        parts = folds_of(y, groups, self.folds, self.seed)
        if not parts:
            return 1.0
        losses = np.array([[_loss(C, Z, y, train, test) for train, test in parts] for C in PENALTIES])
        mean = losses.mean(axis=1)
        best = int(mean.argmin())
        margin = losses[best].std(ddof=1) / np.sqrt(len(parts))
        return PENALTIES[int(np.argmax(mean <= mean[best] + margin))]


def folds_of(y: Array, groups: Any, folds: int, seed: int) -> list[tuple[Array, Array]]:
    """(train, test) rows of each fold, both classes in each train part; [] if there are too few."""
    smallest = int(min(np.bincount(y.astype(int), minlength=2)))
    count = min(folds, smallest, len(y) if groups is None else len(np.unique(groups)))
    if count < 2:
        return []
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = kind(count, shuffle=True, random_state=seed).split(y, y, groups)
    return [(train, test) for train, test in parts if len(np.unique(y[train])) == 2]


def _loss(C: float, Z: Array, y: Array, train: Array, test: Array) -> float:
    p = _regression(C).fit(Z[train], y[train]).predict_proba(Z[test])
    return float(log_loss(y[test], p, labels=[0, 1]))


def _regression(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=1000)
