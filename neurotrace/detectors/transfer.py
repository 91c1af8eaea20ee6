"""Transfer of detectors: train on one task, test on every other, always on held-out groups.

Groups are dealt into folds. In each fold a detector is trained on one unit (a family, a relation or a
template) without the fold's groups, and tested on the fold's groups of *every* unit. So no group is in
training and test, in the same unit or in another. With `OTHERS` as training unit it is trained on all
units but the tested one; these are the environments of invariant training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from neurotrace.core.errors import InputError
from neurotrace.core.process import over
from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.judging import auroc, judge
from neurotrace.detectors.linear import LinearDetector, folds_of
from neurotrace.detectors.table import named
from neurotrace.detectors.weights import DRAWS

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
OTHERS = "others"
BASELINES = ("length", "occurs", "confidence", "again")  # views that use no model internals; with words
LEAST = 5  # minimum number of rows of the rarer class for training
COLUMNS = (
    "detector",
    "view",
    "train_family",
    "test_family",
    "auroc",
    "auroc_lo",
    "auroc_hi",
    "accuracy",
    "ece",
    "n",
)
_WEIGHTS = ["view", "weight", "sd", "r_hat", "ess"]
# rows of the training set, rows to score -> memory fall and reasoning fall of the latter
Margins = Callable[[Array, Array], Float[Array, "row 2"]]


@dataclass(frozen=True)
class Task:
    """The data of detectors, one entry per prompt."""

    views: Mapping[str, Float[Array, "row feature"]]
    y: Array  # 1: answered from memory
    units: Array  # the unit of training and testing
    environments: Array  # finer than units where possible: templates
    groups: Array
    texts: Sequence[str]
    margins: Margins | None = None  # finds a circuit on training rows only
    fused: tuple[str, ...] = ()  # views that are fused, besides the margin
    draws: int = DRAWS  # from the posterior of their weights

    def split(self, folds: int, seed: int) -> Iterator[tuple[Array, Array]]:
        """(rows for training, rows for testing), fold by fold."""
        strata = np.array([f"{u}/{y}" for u, y in zip(self.units, self.y, strict=True)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a rare stratum may miss a fold and is then left out
            yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
                strata, strata, self.groups
            )


@dataclass(frozen=True)
class Fitted:
    """A fitted detector, and the map from rows to its probabilities."""

    detector: str
    view: str
    model: Any
    p: Callable[[Array], Float[Array, " row"]]


Once = Callable[[str, Callable[[], Any]], Any]  # name, what makes JSON data -> that data, made or kept


def transfer(
    task: Task,
    *,
    folds: int = 3,
    seed: int = 0,
    once: Once = lambda _, make: make(),
    progress: Any = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(COLUMNS of every detector for every pair of units, posterior weights of the fused views)."""
    import pandas as pd

    names = sorted(set(task.units))
    jobs = [
        (fold, train, test, unit, others)
        for fold, (train, test) in enumerate(task.split(folds, seed))
        for others in ((False, True) if len(names) > 1 else (False,))
        for unit in names
    ]
    found: dict[tuple[str, str, str, str], list[tuple[Array, Array]]] = {}
    weights = []
    for fold, train, test, unit, others in over(progress, jobs, "training detectors"):
        own = train[(task.units[train] == unit) != others]
        asked = test[task.units[test] == unit] if others else test
        if min(np.bincount(task.y[own], minlength=2)) < LEAST or not len(asked):
            continue
        source = OTHERS if others else unit
        name = f"fold {fold}, {source} {unit}"
        for each in once(name, partial(_told, task, own, asked, seed)):
            p = np.array(each["p"])
            for target in sorted(set(task.units[asked])):
                here = task.units[asked] == target
                key = (each["detector"], each["view"], source, target)
                found.setdefault(key, []).append((asked[here], p[here]))
            source_of = f"{OTHERS} than {unit}" if others else unit
            weights += [(each["detector"], source_of, fold, *row) for row in each["weights"]]
    rows = [_judged(task, key, parts) for key, parts in found.items()]
    if not rows:
        raise InputError(
            f"no unit has {LEAST} training prompts of either outcome: add prompts that the model "
            "answers the other way"
        )
    return (
        pd.DataFrame(rows, columns=list(COLUMNS)),
        pd.DataFrame(weights, columns=["detector", "train_family", "fold", *_WEIGHTS]),
    )


def _told(task: Task, train: Array, asked: Array, seed: int) -> list[dict[str, Any]]:
    """What every detector says of the prompts, and the fused ones' weights, as JSON data."""
    return [
        {
            "detector": fitted.detector,
            "view": fitted.view,
            "p": fitted.p(asked).astype("float64").tolist(),
            "weights": fitted.model.to_frame()[_WEIGHTS].to_dict("split")["data"]
            if isinstance(fitted.model, FusedDetector)
            else [],
        }
        for fitted in fit_all(task, train, asked, seed)
    ]


def fit_all(task: Task, train: Array, asked: Array, seed: int) -> Iterator[Fitted]:
    """Every detector and baseline, fitted on the rows `train`."""
    y, groups = task.y[train], task.groups[train]
    views = dict(task.views)
    if task.margins is not None:
        every = np.union1d(train, asked)
        margin = np.full((len(task.y), 2), np.nan)
        margin[every] = task.margins(train, every)
        views["margin"] = margin
        difference = margin[:, :1] - margin[:, 1:]  # memory fall minus reasoning fall
        for name, entry in named("margin").items():
            yield _fitted(name, "margin", entry.make(C=1.0).fit(difference[train], y), difference)
    inside = [name for name in task.views if name not in BASELINES]
    chances = {name: _inner_auroc(views[name][train], y, groups, seed) for name in inside}
    for name, X in views.items():
        for kind, entry in named("baselines" if name in BASELINES else "each view").items():
            yield _fitted(kind, name, entry.make(seed=seed).fit(X[train], y, groups=groups), X)
        if name == _best(chances, "neurons@"):
            for kind, entry in named("best layer").items():
                model = entry.make(seed=seed).fit(X[train], y, groups=groups)
                yield _fitted(kind, "best layer's neurons", model, X)
    best = _best(chances, "")
    for name in dict.fromkeys(("neurons", best)):
        if name in inside:
            asked_for = {"neurons": "neurons", "best view": best}  # a row each, of every fold
            for fitted in _relatives(task, views[name], train, asked, seed):
                for shown, own in asked_for.items():
                    if own == name:
                        yield replace(fitted, view=shown)
    yield words(task, train)
    if task.fused:
        parts = [*task.fused, *(["margin"] if task.margins is not None else [])]
        columns, X = stack({name: views[name] for name in parts})
        for name, entry in named("views").items():
            fused = entry.make(views=columns, seed=seed, draws=task.draws)
            yield _fitted(name, "fused", fused.fit(X[train], y, groups=groups), X)


def stack(
    views: Mapping[str, Float[Array, "row feature"]],
) -> tuple[dict[str, tuple[int, int]], Float[Array, "row feature"]]:
    """Views side by side: (the columns of each, the features), as `FusedDetector` takes them."""
    ends = np.cumsum([0, *(view.shape[1] for view in views.values())])
    columns = {name: (int(a), int(b)) for name, a, b in zip(views, ends, ends[1:], strict=False)}
    return columns, np.hstack(list(views.values()))


def words(task: Task, train: Array) -> Fitted:
    """Logistic regression on the words of the prompt: a baseline without a model."""
    model = make_pipeline(
        CountVectorizer(token_pattern=r"\S+", binary=True), LogisticRegression(max_iter=1000)
    )
    model.fit([task.texts[row] for row in train], task.y[train])

    def p(rows: Array) -> Float[Array, " row"]:
        return model.predict_proba([task.texts[row] for row in rows])[:, 1]

    return Fitted("baseline", "words", model, p)


def _relatives(task: Task, X: Array, train: Array, asked: Array, seed: int) -> Iterator[Fitted]:
    """Variants of a linear detector on the same features: other standardisation, and invariant training
    on generated and, if any, known environments."""
    y, groups, environment = task.y[train], task.groups[train], task.environments[train]
    own = _restandardised(X, task.units, [train, asked])
    for name, entry in named("neurons").items():
        model, features = entry.make(seed=seed), own if entry.restandardised else X
        if not entry.environments:
            yield _fitted(name, "", model.fit(features[train], y, groups=groups), features)
        elif entry.environments == "generated":
            yield _fitted(name, "", model.fit(features[train], y), features)
        elif len(set(environment)) > 1:
            model.fit(features[train], y, environment=environment)
            yield _fitted(name, "", model, features)


def _fitted(name: str, view: str, model: Any, X: Array) -> Fitted:
    return Fitted(name, view, model, lambda rows: model.predict_proba(X[rows])[:, 1])


def _inner_auroc(X: Array, y: Array, groups: Array, seed: int) -> float:
    """AUROC over folds of the training rows."""
    score = np.full(len(y), np.nan)
    for train, test in folds_of(y, groups, 3, seed):
        score[test] = LinearDetector(C=10.0).fit(X[train], y[train]).decision_function(X[test])
    seen = ~np.isnan(score)
    return auroc(score[seen], y[seen])


def _best(chances: Mapping[str, float], prefix: str) -> str:
    own = [name for name in chances if name.startswith(prefix)]
    return max(own, key=lambda name: np.nan_to_num(chances[name]), default="")


def _restandardised(X: Array, units: Array, parts: Sequence[Array]) -> Array:
    """Each unit's rows standardised separately, without labels: training and test rows apart."""
    out = np.full(X.shape, np.nan)
    for rows in parts:
        for unit in set(units[rows]):
            own = rows[units[rows] == unit]
            spread = X[own].std(axis=0)
            out[own] = (X[own] - X[own].mean(axis=0)) / np.where(spread > 1e-7, spread, 1)
    return out


def _judged(
    task: Task, key: tuple[str, str, str, str], parts: Sequence[tuple[Array, Array]]
) -> dict[str, Any]:
    rows = np.concatenate([own for own, _ in parts])
    p = np.concatenate([own for _, own in parts])
    found = asdict(judge(p, task.y[rows], task.groups[rows]))
    return dict(zip(COLUMNS[:4], key, strict=True)) | found
