"""How the learned rivals learn from features of prompts; no model here.

Each has two steps, so that what is tuned is tuned once and on training groups: `choose` picks the penalty,
the depth, the weights of the depths or the features on all of the first half, with folds that share no
group; `score` fits on the rows that an evaluation allows and scores every row. For unseen templates and
families the choice has seen prompts of the tested one (in training groups), which favours the rival.

Features are [row, feature], or [row, depth, feature] where the depth is chosen or weighed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from neurotrace.detectors.judging import auroc
from neurotrace.detectors.linear import LinearDetector, folds_of

Array = np.ndarray
# features, outcomes, features to score -> log-odds of memory, or what stands for it
Fit = Callable[[Array, Bool[Array, " row"], Array], Float[Array, " other"]]
_FOLDS, _BEST = 3, 8
_PENALTIES = (0.1, 10.0)


@dataclass(frozen=True)
class Learner:
    """Of features, outcomes and groups a choice; of a choice, features, training rows, outcomes a score."""

    choose: Callable[[Any, Bool[Array, " row"], Array], Any]
    score: Callable[[Any, Any, Bool[Array, " row"], Bool[Array, " row"]], Float[Array, " row"]]


def linear_fit(X: Array, y: Array, C: float = 10.0) -> tuple[Float[Array, " feature"], float]:
    """Weights and constant of a logistic regression; 0 where the features are the same for every row."""
    if not np.ptp(X, axis=0).any():
        return np.zeros(X.shape[1]), 0.0
    fitted = LinearDetector(C=C).fit(X, y)
    return fitted.coef_[0], float(fitted.intercept_[0])


def linear(X: Array, y: Array, other: Array, C: float = 10.0) -> Float[Array, " other"]:
    """Log-odds by `linear_fit`, on standardised features."""
    weights, constant = linear_fit(X, y, C)
    return other @ weights + constant


def between_means(X: Array, y: Array, other: Array) -> Float[Array, " other"]:
    """Place along the direction from one class's mean to the other's."""
    center, way = X.mean(axis=0), X[y].mean(axis=0) - X[~y].mean(axis=0)
    return (other - center) @ way


def _penalty(X: Array, y: Array, groups: Array) -> float:
    found = [_out_of_fold(partial(linear, C=C), X[:, None], y, groups)[:, 0] for C in _PENALTIES]
    return _PENALTIES[int(np.argmax([auroc(each, y) for each in found]))]


def _at_depth(fit: Fit) -> Learner:
    """The depth that is best on groups that it was not fitted on."""

    def choose(X: Array, y: Array, groups: Array) -> int:
        found = _out_of_fold(fit, X, y, groups)
        return int(np.argmax([auroc(own, y) for own in found.T]))

    def score(depth: int, X: Array, train: Array, y: Array) -> Array:
        return fit(X[train, depth], y[train], X[:, depth])

    return Learner(choose, score)


def _weigh(X: Array, y: Array, groups: Array) -> LinearDetector:
    return LinearDetector(C=1.0).fit(_out_of_fold(linear, X, y, groups), y)


def _weighed(weights: LinearDetector, X: Array, train: Array, y: Array) -> Array:
    depths = range(X.shape[1])
    each = [linear(X[train, depth], y[train], X[:, depth]) for depth in depths]
    return weights.decision_function(np.stack(each, axis=1))


def linear_weights(
    weights: LinearDetector, X: Float[Array, "row depth feature"], train: Array, y: Array
) -> tuple[Float[Array, "depth feature"], float]:
    """What `BY_LAYERS` computes, as weights on the features and a constant."""
    fits = [linear_fit(X[train, depth], y[train]) for depth in range(X.shape[1])]
    shares = weights.coef_[0]
    each = np.array([share * own for share, (own, _) in zip(shares, fits, strict=True)])
    constants = sum(share * constant for share, (_, constant) in zip(shares, fits, strict=True))
    return each, float(weights.intercept_[0] + constants)


def _pick(X: Array, y: Array, groups: Array) -> tuple[Array, Array]:
    above = np.array([auroc(own, y) for own in X.T]) - 0.5
    best = np.argsort(-np.abs(above), kind="stable")[:_BEST]
    return best, np.sign(above[best])


def _picked(choice: tuple[Array, Array], X: Array, train: Array, y: Array) -> Array:
    best, sign = choice
    own = X[:, best]
    return ((own - own[train].mean(axis=0)) / (own[train].std(axis=0) + 1e-9)) @ sign


def _words(choice: None, texts: Array, train: Array, y: Array) -> Array:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(binary=True, token_pattern=r"\w+|[^\w\s]").fit(texts[train])
    X = counter.transform(texts)
    return LogisticRegression(max_iter=1000).fit(X[train], y[train]).decision_function(X)


BY_WORDS = Learner(lambda texts, y, groups: None, _words)  # logistic regression on a text's words
BY_FEATURES = Learner(_penalty, lambda C, X, train, y: linear(X[train], y[train], X, C))
BY_DEPTH = _at_depth(linear)
BY_MEANS = _at_depth(between_means)
BY_LAYERS = Learner(_weigh, _weighed)  # a logistic regression a depth, and one over their log-odds
BY_BEST = Learner(_pick, _picked)  # the sum of the eight features that are best alone


def _out_of_fold(fit: Fit, X: Array, y: Array, groups: Array) -> Float[Array, "row depth"]:
    """Each row's score at every depth, fitted on other groups; 0 where a fold can't be fitted."""
    found = np.zeros(X.shape[:2])
    for train, test in folds_of(y, groups, _FOLDS, 0):
        for depth in range(X.shape[1]):
            found[test, depth] = fit(X[train, depth], y[train], X[test, depth])
    return found
