"""From a sweep's rows to a score for each neuron: the mean over pairs, its interval clustered by group.

The same numbers as `nt.ablate`, part by part: a group's pairs lie one after another, so that only the
group at hand is held. Marked cells count nowhere: `n` says how many pairs a neuron's mean rests on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores

if TYPE_CHECKING:
    from neurotrace.sweeps.reading import SweepRun


class _Sums:
    """Over groups: S, S², n·S and n² of each neuron (S a group's sum, n its pairs), pairs and groups."""

    def __init__(self, neurons: int) -> None:
        self.own, self.own_n, self.total, self.squares, self.sized, self.sizes = np.zeros(
            (6, neurons)
        )
        self.pairs, self.groups = np.zeros((2, neurons))
        self.group: str | None = None

    def add(self, group: str, places: np.ndarray, effect: np.ndarray) -> None:
        if group != self.group:
            self.fold()
            self.group = group
        known = np.isfinite(effect)
        np.add.at(self.own, places[known], effect[known])
        np.add.at(self.own_n, places[known], 1)

    def fold(self) -> None:
        self.total += self.own
        self.squares += self.own**2
        self.sized += self.own * self.own_n
        self.sizes += self.own_n**2
        self.pairs += self.own_n
        self.groups += self.own_n > 0
        self.own[:] = self.own_n[:] = 0


def scores(run: SweepRun) -> Scores:
    """Mean change of L (nats); columns `low` and `high` (95 %, Student's t on group sums) and `n`.

    Raises:
        InputError: the sweep is not complete.
    """
    import torch

    if not run.complete:
        raise InputError(
            f"{len(run.missing)} of {run.layout.parts} parts are missing: means over some of the "
            "pairs would differ from neuron to neuron; run the sweep to its end"
        )
    model = run.manifest.content["model"]
    shape = model["layers"], model["neurons_per_layer"]
    sums = _Sums(shape[0] * shape[1])
    for batch in run.batches(["group", "layer", "neuron", "effect"]):
        frame = batch.to_pandas()
        places = (frame["layer"] * shape[1] + frame["neuron"]).to_numpy()
        effect = frame["effect"].to_numpy(dtype="float64", na_value=np.nan)
        names = frame["group"].to_numpy()
        cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
        for part in np.split(np.arange(len(names)), cuts):
            if len(part):
                sums.add(names[part[0]], places[part], effect[part])
    sums.fold()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.total / sums.pairs
        spread = sums.squares - 2 * mean * sums.sized + mean**2 * sums.sizes
        free = np.where(sums.groups > 1, sums.groups - 1, np.nan)
        error = np.sqrt(spread.clip(min=0) * sums.groups / free) / sums.pairs
    half = stats.t.ppf(0.975, free) * error
    value, low, high, n = (
        torch.from_numpy(column).float().view(shape)
        for column in (mean, mean - half, mean + half, sums.pairs)
    )
    provenance = {**run.manifest.content, "content_sha256": run.manifest.hash}
    return Scores("sweep", value, columns={"low": low, "high": high, "n": n}, provenance=provenance)
