"""What a trust score is read from: of three signals the cheapest that is as good as the best.

    causal margin            neurons off; measured by intervention
    log p without context    of the model's own answer behind the last sentence alone
    first answer token       a linear probe on the residual stream at the first answer token, eight depths

That is the order of their cost for each prompt (SmolLM2, k = 369, in units of the pass that answers: 1.27,
1.49 and 2.27; `tests/benchmarks/trust_cost.py`). A study chooses on held-out prompts. A signal is as good
as the best of the three if the paired 95 % interval of the difference of their AUROCs contains 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from neurotrace.answers.answered import Answered
from neurotrace.answers.calibration import Calibration, fit_calibration
from neurotrace.answers.learners import BY_LAYERS, linear_weights
from neurotrace.answers.rivals import RIVALS, Reading, depths
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import read_sites

Array = np.ndarray
MARGIN, AGAIN, PROBE = CANDIDATES = ("causal margin", "log p without context", "first answer token")


@dataclass(frozen=True)
class Score:
    """Another signal than the margin, calibrated; `Circuit.score` holds it where it is the default."""

    signal: str  # log p without context, or first answer token
    calibration: Calibration  # of the one number that `read` gives
    weights: Float[Array, "depth d_model"] = field(default_factory=lambda: np.empty((0, 0)))  # of a probe
    bias: float = 0.0

    def read(
        self, model: HookedModel, asked: Answered, *, progress: Progress = None
    ) -> Float[Array, "prompt 1"]:
        """The signal of each prompt; of a probe the log-odds of memory."""
        if self.signal == AGAIN:
            reading = Reading(model, asked, np.empty((len(asked), 0)), progress)
            return np.asarray(RIVALS[AGAIN].read(reading))[:, None]
        streams = at_answer(model, asked, progress=progress)
        if streams.shape[1:] != self.weights.shape:
            raise InputError(
                f"this circuit's score reads {self.weights.shape} numbers of the residual stream, the "
                f"model has {streams.shape[1:]}: it is of another model"
            )
        return np.einsum("pdw,dw->p", streams, self.weights)[:, None] + self.bias

    def to_json(self) -> dict[str, Any]:
        return {"signal": self.signal, "bias": self.bias, "calibration": self.calibration.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], weights: Array) -> Score:
        signal, calibration = content["signal"], Calibration.from_json(content["calibration"])
        if signal not in CANDIDATES[1:] or calibration.features != (signal,):
            raise InputError(f"a damaged score: {signal!r}, calibrated on {calibration.features}")
        if weights.ndim != 2 or bool(weights.size) != (signal == PROBE):
            raise InputError(f"a damaged score: {signal!r} with weights of shape {weights.shape}")
        return cls(signal, calibration, weights, float(content["bias"]))


def at_answer(
    model: HookedModel, asked: Answered, *, progress: Progress = None
) -> Float[Array, "prompt depth d_model"]:
    """The residual stream behind eight blocks, at each prompt's own answer, which follows it."""
    points = [("residual", layer) for layer in depths(inspect_model(model).n_layers)]
    ids = [torch.cat([own, top[None]]) for own, top in zip(asked.ids, asked.top, strict=True)]
    found: dict[int, Array] = {}
    for rows, batch in over(progress, list(by_length(ids, 32)), "reading the first answer token"):
        seen = read_sites(model, batch, points)  # type: ignore[arg-type]
        stacked = np.stack([seen[point].numpy() for point in points], axis=1)  # type: ignore[index]
        found |= dict(zip(rows, stacked, strict=True))
    return np.array([found[row] for row in range(len(ids))])


def fit_score(
    signal: str,
    values: Array,
    y: Bool[Array, " row"],
    first: Bool[Array, " row"],
    groups: Sequence[Any] | Array,
    survived: Float[Array, " row"],
) -> Score:
    """A probe is fitted on the first half; the calibration on the second.

    Args:
        values: what the rival of this name reads of each prompt.
        survived: share of its changed versions on which the answer stays right; NaN: none.
    """
    weights, bias, numbers = np.empty((0, 0)), 0.0, values
    if signal == PROBE:
        choice = BY_LAYERS.choose(values[first], y[first], np.asarray(groups)[first])
        weights, bias = linear_weights(choice, values, first, y)
        numbers = np.einsum("pdw,dw->p", values, weights) + bias
    changed = ~first & ~np.isnan(survived)
    parts = numbers[:, None]
    fitted = fit_calibration(parts[~first], y[~first], parts[changed], survived[changed] > 0.5, (signal,))
    return Score(signal, fitted, weights, bias)
