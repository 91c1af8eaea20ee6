"""Calibrated probabilities from the parts of a causal margin; no model here.

Two logistic regressions on the margin's parts (memory fall, reasoning fall) give P(from memory) and, if
changed versions of the prompts were asked, P(the answer stays right after a change). A row is *outside*
the calibration if its Mahalanobis distance is larger than that of all but one in a hundred calibration
prompts, or if its margin is nearer zero than theirs: then neither kind of neuron affects the answer,
and the sign of the margin has no meaning. `Familiar` tells prompts of another kind (another task, another
language, code) by the residual stream at their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from neurotrace.core.errors import InputError

Array = np.ndarray
FEATURES = ("memory_fall", "reasoning_fall")  # nats; the order of the columns everywhere
_INSIDE = 0.99  # share of the calibration prompts that count as seen
_FAMILIAR, _AXES, _FOLDS = 0.97, 32, 4


@dataclass(frozen=True)
class Familiar:
    """How far a prompt's residual stream is from the calibration's, at one block and the final position."""

    block: int
    center: Float[Array, " d_model"]
    axes: Float[Array, "axis d_model"]  # principal axes of those prompts, each divided by its spread
    rest: float  # mean squared length of what the axes leave
    limit: float  # of the distance

    def distance(self, streams: Float[Array, "row d_model"]) -> Float[Array, " row"]:
        """Mean squared place on the axes, in spreads, and what they leave of the stream; 2 is usual."""
        off = streams - self.center
        along = off @ self.axes.T
        basis = self.axes / np.linalg.norm(self.axes, axis=1, keepdims=True)
        left = off - (off @ basis.T) @ basis
        return (along**2).mean(axis=1) + (left**2).sum(axis=1) / self.rest

    def strange(self, streams: Float[Array, "row d_model"]) -> Bool[Array, " row"]:
        """Whether a prompt is farther than all but three in a hundred of kinds that were left out."""
        return self.distance(streams) > self.limit


def fit_familiar(
    streams: Float[Array, "row d_model"], kinds: Sequence[Any] | Array, block: int
) -> Familiar | None:
    """The limit is chosen on kinds that the axes were not fitted on. None with fewer than four kinds.

    From fewer one can't tell how far a prompt in another template is.
    """
    streams = np.asarray(streams, dtype=float)
    names = sorted(set(np.asarray(kinds).tolist()))
    if len(names) < _FOLDS:
        return None
    np.random.default_rng(0).shuffle(names)
    fold = np.array([names.index(each) % _FOLDS for each in np.asarray(kinds).tolist()])
    away = np.zeros(len(streams))
    for place in range(_FOLDS):
        away[fold == place] = _axes(streams[fold != place], block).distance(streams[fold == place])
    return replace(_axes(streams, block), limit=float(np.quantile(away, _FAMILIAR)))


def _axes(streams: Array, block: int) -> Familiar:
    center = streams.mean(axis=0)
    _, size, axes = np.linalg.svd(streams - center, full_matrices=False)
    count = max(1, min(_AXES, len(streams) // 4))
    spread = size[:count] / np.sqrt(len(streams)) + 1e-9
    rest = float((size[count:] ** 2).sum() / len(streams)) + 1e-9
    return Familiar(block, center, axes[:count] / spread[:, None], rest, np.inf)


@dataclass(frozen=True)
class Calibration:
    """Made by `fit_calibration`; small enough for a file's header."""

    memory: Float[Array, " 1+feature"]  # intercept, then a weight for each of FEATURES
    survival: Float[Array, " 1+feature"] | None
    center: Float[Array, " feature"]
    precision: Float[Array, "feature feature"]
    limit: float  # squared distance from the center of all but one in a hundred calibration prompts
    count: int  # prompts
    least: float = 0.0  # nats; margins smaller than that were not seen
    familiar: Familiar | None = None  # not in `to_json`: see `arrays`
    features: tuple[str, ...] = FEATURES  # the margin's parts, or the name of one other signal

    def p_memory(self, parts: Float[Array, "row feature"]) -> Float[Array, " row"]:
        """P(the answer is the memorized one), given that it is either of the two."""
        return expit(self.memory[0] + parts @ self.memory[1:])

    def p_survives(self, parts: Float[Array, "row feature"]) -> Float[Array, " row"]:
        """P(the answer stays right after a change of the question); NaN if calibration saw no change."""
        if self.survival is None:
            return np.full(len(parts), np.nan)
        return expit(self.survival[0] + parts @ self.survival[1:])

    def outside(
        self, parts: Float[Array, "row feature"], streams: Float[Array, "row d_model"] | None = None
    ) -> Bool[Array, " row"]:
        """Whether a row is outside the calibration; `streams`: at `familiar.block`.

        Another signal than the margin has no value at which it says nothing: only what is far is outside.
        """
        far = _distance(parts, self.center, self.precision) > self.limit
        if self.familiar is not None and streams is not None:
            far = far | self.familiar.strange(streams)
        return far | (np.abs(_margin(parts)) < self.least) if self.features == FEATURES else far

    def arrays(self) -> dict[str, Array]:
        """What is too large for a header."""
        own = self.familiar
        if own is None:
            return {}
        numbers = np.array([own.block, own.rest, own.limit])
        return {
            "familiar_center": own.center,
            "familiar_axes": np.ascontiguousarray(own.axes),
            "familiar_numbers": numbers,
        }

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("memory", "survival", "center", "precision")}
        lists = {name: None if v is None else v.tolist() for name, v in found.items()}
        numbers = {name: getattr(self, name) for name in ("limit", "count", "least")}
        return lists | {"features": list(self.features)} | numbers

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
    ) -> Calibration:
        features = tuple(content["features"])
        if features != FEATURES and len(features) != 1:
            raise InputError(
                f"calibrated on {content['features']}, this version reads {list(FEATURES)}: "
                "calibrate again with nt.calibrate(model, prompts, circuit)"
            )
        memory, center, precision = (
            np.asarray(content[name], dtype=float) for name in ("memory", "center", "precision")
        )
        survival = content["survival"]
        survival = None if survival is None else np.asarray(survival, dtype=float)
        shapes = [
            each.shape for each in (memory, memory if survival is None else survival, center, precision)
        ]
        wide = len(features)
        if shapes != [(1 + wide,), (1 + wide,), (wide,), (wide, wide)]:
            raise InputError(f"a damaged calibration: numbers of shapes {shapes}")
        return cls(
            memory,
            survival,
            center,
            precision,
            float(content["limit"]),
            int(content["count"]),
            float(content.get("least", 0.0)),
            _familiar_of(arrays or {}),
            features,
        )


def _familiar_of(arrays: Mapping[str, Array]) -> Familiar | None:
    if "familiar_numbers" not in arrays:
        return None
    center, axes, numbers = (arrays[f"familiar_{name}"] for name in ("center", "axes", "numbers"))
    if numbers.shape != (3,) or center.ndim != 1 or axes.ndim != 2 or axes.shape[1:] != center.shape:
        shapes = [center.shape, axes.shape, numbers.shape]
        raise InputError(f"a damaged calibration: streams of shapes {shapes}")
    block, rest, limit = numbers.tolist()
    return Familiar(int(block), center, axes, rest, limit)


def fit_calibration(
    parts: Float[Array, "row feature"],
    from_memory: Sequence[bool] | Array,
    changed: Float[Array, "row feature"] | None = None,
    survived: Sequence[bool] | Array | None = None,
    features: tuple[str, ...] = FEATURES,
) -> Calibration:
    """Fit on prompts that had no part in finding the circuit.

    Args:
        from_memory: whether the answer was the memorized one.
        changed, survived: the parts of the prompts whose changed version was asked, and whether the
            answer stayed right.
        features: the names of the columns.

    Raises:
        InputError: one outcome only, or numbers that are not finite.
    """
    parts = np.asarray(parts, dtype=float)
    from_memory = np.asarray(from_memory, dtype=bool)
    if not np.isfinite(parts).all():
        raise InputError("calibration: the margins hold NaN or infinity; try dtype=float32")
    if len(set(from_memory.tolist())) < 2:
        kind = "nothing" if not len(from_memory) else "memory" if from_memory[0] else "reasoning"
        raise InputError(
            f"calibration on {len(from_memory)} prompts that are all answered from {kind}: it needs "
            "both outcomes; add prompts that the model answers the other way"
        )
    spread = np.atleast_2d(np.cov(parts, rowvar=False)) + 1e-9 * np.eye(parts.shape[1])
    center, precision = parts.mean(axis=0), np.linalg.pinv(spread)
    survival = None
    if changed is not None and survived is not None and len(set(np.asarray(survived).tolist())) > 1:
        survival = logistic(np.asarray(changed, dtype=float), np.asarray(survived, dtype=bool))
    limit = float(np.quantile(_distance(parts, center, precision), _INSIDE))
    least = float(np.quantile(np.abs(_margin(parts)), 1 - _INSIDE)) if features == FEATURES else 0.0
    memory = logistic(parts, from_memory)
    return Calibration(memory, survival, center, precision, limit, len(parts), least, features=features)


def logistic(parts: Array, y: Array) -> Float[Array, " 1+feature"]:
    """Intercept and weights on the parts as they are; the penalty is on standardised ones."""
    from sklearn.linear_model import LogisticRegression

    center, scale = parts.mean(axis=0), parts.std(axis=0) + 1e-9
    fitted = LogisticRegression(C=10.0).fit((parts - center) / scale, y)
    weights = fitted.coef_[0] / scale
    return np.concatenate([fitted.intercept_ - weights @ center, weights])


def _margin(parts: Array) -> Float[Array, " row"]:
    return parts[:, 0] - parts[:, 1]


def _distance(parts: Array, center: Array, precision: Array) -> Float[Array, " row"]:
    off = parts - center
    return np.einsum("rf,fg,rg->r", off, precision, off)
