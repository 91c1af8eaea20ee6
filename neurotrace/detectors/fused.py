"""Several views of one row, each with its own expert, weighted by Bayesian inference.

Each view (neurons, residual stream, a single number …) is a range of columns. `weights.py` computes a
posterior of the weights from each expert's logits on rows that it was not trained on. So many weak
views do not dominate a strong one, and a copy is not counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from neurotrace.core.display import Bar, Cell
from neurotrace.core.errors import InputError
from neurotrace.detectors.base import Array, Detector, clip_logit
from neurotrace.detectors.linear import LinearDetector, folds_of
from neurotrace.detectors.weights import DRAWS, Kind, fuse, posterior

if TYPE_CHECKING:
    import pandas as pd

Columns = tuple[int, int]


class FusedDetector(Detector):
    """Experts on views, as a product of experts or as a mixture.

    Args:
        views: name -> (first column, column after the last); None: all columns are one view.
        kind: "product" or "mixture".
        expert: detector cloned for each view; None: `LinearDetector()`.
        folds, seed: for the folds in which experts are evaluated; `groups` given to `fit` stay whole.
        draws: from the posterior of the weights; up to four times as many if these have not converged.

    After `fit`: `experts_` by view, `draws_` of the posterior (`weights()` sums them up), and `r_hat_`
    and `ess_` of each view's weight: split R-hat and effective sample size.
    """

    FITTED = (
        "classes_",
        "n_features_in_",
        "names_",
        "columns_",
        "experts_",
        "calibration_",
        "draws_",
        "intercepts_",
        "r_hat_",
        "ess_",
    )

    def __init__(
        self,
        views: Mapping[str, Columns] | None = None,
        kind: Kind = "product",
        expert: Detector | None = None,
        folds: int = 5,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> None:
        self.views = views
        self.kind = kind
        self.expert = expert
        self.folds = folds
        self.seed = seed
        self.draws = draws

    def fit(self, X: Any, y: Any, groups: Any = None) -> FusedDetector:
        """Fit the experts and the posterior of their weights.

        Raises:
            InputError: too few rows of a class for folds, a view outside the columns, or a posterior that
                has not converged: R-hat above 1.05 or fewer than 400 effective draws.
        """
        X, y = self._read(X, y)
        if self.kind not in ("product", "mixture"):
            raise InputError(f"kind={self.kind!r}: expected 'product' or 'mixture'")
        views = {"all": (0, X.shape[1])} if self.views is None else dict(self.views)
        self.names_ = list(views)
        self.columns_ = np.array([_columns(name, ends, X.shape[1]) for name, ends in views.items()])
        parts = folds_of(y, groups, self.folds, self.seed)
        if not parts:
            raise InputError(
                f"{int(min(y.sum(), (1 - y).sum()))} rows of the rarer class are too few to weigh "
                "views: expected at least 2, in different groups"
            )
        expert = LinearDetector(seed=self.seed) if self.expert is None else self.expert
        self.experts_ = [_fit(clone(expert), X[:, a:b], y, groups) for a, b in self.columns_]
        unseen = np.full((len(y), len(views)), np.nan)
        for train, test in parts:
            inner = None if groups is None else np.asarray(groups)[train]
            for place, (a, b) in enumerate(self.columns_):
                one = _fit(_like(self.experts_[place]), X[train, a:b], y[train], inner)
                unseen[test, place] = one.decision_function(X[test, a:b])
        seen = ~np.isnan(unseen).any(axis=1)
        self.calibration_ = np.array(
            [_calibration(unseen[seen, m], y[seen], self.kind) for m in range(len(views))]
        )
        calibrated = self._calibrated(unseen[seen])
        found = posterior(self.kind, calibrated, y[seen], draws=self.draws, seed=self.seed)
        self.draws_, self.intercepts_ = found.weights, found.intercept
        self.r_hat_, self.ess_ = found.r_hat, found.ess
        return self

    def predict_proba(self, X: Any) -> Float[Array, "row 2"]:
        p = fuse(self._logits(X), self.draws_, self.intercepts_, self.kind)
        return np.column_stack([1 - p, p])

    def decision_function(self, X: Any) -> Float[Array, " row"]:
        """Logit of P(class 1)."""
        return clip_logit(self.predict_proba(X)[:, 1])

    def weights(self) -> dict[str, tuple[float, float]]:
        """View -> (posterior mean, sd) of its share of all weight."""
        share = self.draws_ / self.draws_.sum(axis=1, keepdims=True)
        pairs = zip(share.mean(axis=0), share.std(axis=0), strict=True)
        return {name: (float(m), float(sd)) for name, (m, sd) in zip(self.names_, pairs, strict=True)}

    def to_frame(self) -> pd.DataFrame:
        """Rows (view, first, last, weight, sd, r_hat, ess).

        A view's columns, its share of all weight, and the diagnostics of its weight's draws.
        """
        import pandas as pd

        check_is_fitted(self)
        first, last = self.columns_[:, 0], self.columns_[:, 1] - 1
        weight, sd = zip(*self.weights().values(), strict=True)
        return pd.DataFrame(
            {
                "view": self.names_,
                "first": first,
                "last": last,
                "weight": weight,
                "sd": sd,
                "r_hat": self.r_hat_,
                "ess": self.ess_,
            }
        )

    def _learnt(self) -> tuple[str, tuple[str, ...], list[tuple[Cell, ...]]]:
        rows: list[tuple[Cell, ...]] = [
            (row.view, row.last - row.first + 1, Bar(row.weight, 1.0, f"{row.weight:.2f} ± {row.sd:.2f}"))
            for row in self.to_frame().sort_values("weight", ascending=False).itertuples()
        ]
        columns = ("view", "features", "share of all weight ± posterior sd")
        what = (
            f"A {self.kind} of {len(rows)} experts. Draws of their weights: {len(self.draws_):,}, at least "
            f"{self.ess_.min():,.0f} of them effective, R-hat at most {self.r_hat_.max():.3f}."
        )
        return what, columns, rows

    def weights_of(self, X: Any) -> Float[Array, "row view"]:
        """The share of each view in the decision on each row; rows sum to one.

        Product: |w_m ℓ_m|, the view's contribution to the logit. Mixture: π_m p_m(ŷ), its
            responsibility for the predicted answer ŷ.
        """
        logits = self._logits(X)
        mean = self.draws_.mean(axis=0)
        if self.kind == "product":
            share = np.abs(mean * logits) + 1e-12
        else:
            sign = np.where(self.decision_function(X) > 0, 1, -1)[:, None]
            share = mean / (1 + np.exp(-sign * logits))
        return share / share.sum(axis=1, keepdims=True)

    def _logits(self, X: Any) -> Float[Array, "row view"]:
        X = self._check(X)
        found = [
            expert.decision_function(X[:, a:b])
            for expert, (a, b) in zip(self.experts_, self.columns_, strict=True)
        ]
        return self._calibrated(np.column_stack(found))

    def _calibrated(self, logits: Float[Array, "row view"]) -> Float[Array, "row view"]:
        return logits * self.calibration_[:, 0] + self.calibration_[:, 1]


def _fit(expert: Detector, X: Array, y: Array, groups: Any) -> Detector:
    if isinstance(expert, (LinearDetector, FusedDetector)):
        return expert.fit(X, y, groups=groups)
    return expert.fit(X, y)


def _like(expert: Detector) -> Detector:
    """An unfitted expert with the same penalty, because the penalty sets the scale of the logits."""
    again = clone(expert)
    return again.set_params(C=expert.C_) if isinstance(expert, LinearDetector) else again


def _calibration(logit: Array, y: Array, kind: Kind) -> tuple[float, float]:
    """(slope, shift) that make an expert's logits comparable with the others'.

    Product: mean 0, sd 1, so that a weight is a contribution. Mixture: Platt's calibration, so that an
    over-confident expert does not lose weight to an uncertain one.
    """
    if kind == "product":
        sd = logit.std()
        return (1 / sd, -logit.mean() / sd) if sd > 1e-9 else (0.0, 0.0)
    fitted = LogisticRegression(C=1.0).fit(logit[:, None], y)
    return max(float(fitted.coef_[0, 0]), 0.0), float(fitted.intercept_[0])


def _columns(name: str, ends: Sequence[int], width: int) -> Columns:
    first, last = ends
    if not 0 <= first < last <= width:
        raise InputError(
            f"view {name!r} is columns {first} to {last} of {width}: expected 0 <= first < last <= {width}"
        )
    return int(first), int(last)
