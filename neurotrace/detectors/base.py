"""The base of the detectors: checked input, probabilities from logits, a basis for few rows.

A detector predicts from an array of features, one row per prompt, whether the model will answer from
memory (class 1) or from what the prompt says (class 0). It follows scikit-learn's interface, with two
classes only. After `fit` it is frozen: the score of a row does not depend on the other rows of its
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from neurotrace.core.display import Bar, Cell, Shown, Table, View
from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


class Detector(Shown, ClassifierMixin, BaseEstimator):
    """Base of the detectors. Subclasses give `fit` and `decision_function`, the logit of class 1."""

    classes_: Array
    FITTED: tuple[str, ...] = ()  # the fitted attributes, which `save_detector` writes

    def predict_proba(self, X: Any) -> Float[Array, "row 2"]:
        """P(class 0), P(class 1)."""
        p = expit(self.decision_function(X))
        return np.column_stack([1 - p, p])

    def predict(self, X: Any) -> Array:
        """The likelier class."""
        logit = self.decision_function(X)
        return self.classes_[(logit > 0).astype(int)]

    def decision_function(self, X: Any) -> Float[Array, " row"]:
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The fitted parameters, as a table."""
        raise NotImplementedError

    def _learnt(self) -> tuple[str, tuple[str, ...], list[tuple[Cell, ...]]]:
        """The fitted parameters: a sentence, a table's columns and its rows."""
        raise NotImplementedError

    def _view(self) -> View:
        name = type(self).__name__
        given = ", ".join(f"{key}={value!r}" for key, value in self.get_params(deep=False).items())
        if not hasattr(self, self.FITTED[-1]):
            return View(f"{name}, not fitted: call .fit(X, y). {given}")
        what, columns, rows = self._learnt()
        return View(
            f"{name} on {self.n_features_in_:,} features, P(class {self.classes_[1]}) from "
            f".predict_proba(X). {what}",
            (Table(columns, rows[:10]),),
            f"All of it: .to_frame(); made with {given}.",
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """scikit-learn's representation would override this one."""
        return {"text/html": self._repr_html_()}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _read(self, X: Any, y: Any) -> tuple[Array, Float[Array, " row"]]:
        """Checked features and outcomes as 0.0 and 1.0; sets `classes_`.

        Raises:
            InputError: NaN or infinite values, rows that don't match, one class only, more than two.
        """
        try:
            X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
            check_classification_targets(y)
        except ValueError as error:
            raise InputError(str(error)) from None
        y = column_or_1d(y)
        kind = type_of_target(y)
        classes, places = np.unique(y, return_inverse=True)
        name = type(self).__name__
        if kind != "binary":
            raise InputError(
                f"Only binary classification is supported by {name}. The type of the target is {kind}."
            )
        if len(classes) < 2:
            raise InputError(
                f"{name} can't learn from one class: all {len(y)} outcomes are {classes[0]}; "
                "add prompts with the other outcome"
            )
        self.classes_ = classes
        return X, places.astype(float)

    def _check(self, X: Any) -> Array:
        """Checked features of a fitted detector."""
        check_is_fitted(self)
        try:
            return validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        except ValueError as error:
            raise InputError(str(error)) from None


def weights_frame(weights: Float[Array, " feature"]) -> pd.DataFrame:
    """Rows (feature, weight), the heaviest first."""
    import pandas as pd

    order = np.argsort(-np.abs(weights), kind="stable")
    return pd.DataFrame({"feature": order, "weight": weights[order]})


def weights_rows(frame: pd.DataFrame) -> list[tuple[Cell, ...]]:
    """The first of them, as a table shows them."""
    bound = float(frame["weight"].abs().max())
    return [
        (int(row.feature), Bar(row.weight, bound, f"{row.weight:+.3g}", signed=True))
        for row in frame.head(10).itertuples()
    ]


class Basis:
    """Standardised features, rotated onto at most as many axes as there are rows.

    z = (x - mean) / max(sd, floor · median sd) / sqrt(features): a row's squared length is at most
    about 1 whatever the number of features, so one penalty suits all sites. Without the floor, a neuron
    that fired on one training prompt in a hundred is scaled up so far that it dominates all others
    where it fires often; on the organism this alone made detectors fail on other families. With more
    features than rows z is rotated onto all principal axes of the rows. This loses nothing, because the
    weights of a linear detector with an L2 penalty lie in their span.
    """

    def __init__(self, X: Float[Array, "row feature"], floor: float = 1.0) -> None:
        self.mean = X.mean(axis=0)
        spread = X.std(axis=0)
        live = spread > 1e-7 * np.maximum(1, np.abs(self.mean))  # a dead neuron carries no information
        least = floor * np.median(spread[live]) if live.any() else 1.0
        self.scale = np.where(live, 1 / np.maximum(np.where(live, spread, 1), least), 0)
        self.scale /= np.sqrt(X.shape[1])
        self.axes: Array | None = None
        if X.shape[1] > len(X):
            Z = (X - self.mean) * self.scale
            squares, turned = np.linalg.eigh(Z @ Z.T)  # over the few rows, not the many features
            real = squares > 1e-9 * max(squares[-1], 1e-12)
            self.axes = Z.T @ (turned[:, real] / np.sqrt(squares[real]))

    def turn(self, X: Float[Array, "row feature"]) -> Float[Array, "row axis"]:
        Z = (X - self.mean) * self.scale
        return Z if self.axes is None else Z @ self.axes

    def unfold(
        self, coef: Float[Array, "axis out"], intercept: Float[Array, " out"]
    ) -> tuple[Float[Array, "feature out"], Float[Array, " out"]]:
        """Weights on the rotated features as weights on the original features."""
        raw = (coef if self.axes is None else self.axes @ coef) * self.scale[:, None]
        return raw, intercept - self.mean @ raw


def clip_logit(p: Sequence[float] | Array, limit: float = 1e-6) -> Array:
    """log p/(1-p), with p kept `limit` away from 0 and 1."""
    inside = np.clip(np.asarray(p, dtype=float), limit, 1 - limit)
    return np.log(inside) - np.log1p(-inside)
