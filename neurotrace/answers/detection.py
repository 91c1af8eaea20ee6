"""Detectors of one model, from prompts to a table of transfer between tasks.

Reads the views at the final token position, runs every detector on every pair of tasks
(`detectors/transfer.py`), chooses the one that performs best on tasks that it was not trained on, and
fits it on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.answers.answered import Answered, answer
from neurotrace.answers.circuit import Circuit, find_circuit
from neurotrace.answers.margin import causal_margin
from neurotrace.answers.views import read_views, view_names
from neurotrace.core.display import Shown, Table, View, share
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.prompts import Prompt, originals
from neurotrace.detectors.base import Detector
from neurotrace.detectors.table import DETECTORS
from neurotrace.detectors.transfer import BASELINES, OTHERS, Task, stack, transfer
from neurotrace.detectors.weights import DRAWS
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import JSON, NOTHING_KEPT, Units
from neurotrace.models.hooks import SITES, inspect_model
from neurotrace.models.identity import json_hash, model_record, surroundings
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

CIRCUIT_PROMPTS = 60  # maximum number of prompts to find a circuit on
_KINDS = ("own", "another", "others", "worst")  # columns of `summary`
ASK_MORE = 3  # prompts asked per prompt used, because outcomes are rarely balanced


@dataclass(frozen=True)
class Detection(Shown):
    """The result of `detect`."""

    table: pd.DataFrame  # `transfer.COLUMNS`
    weights: pd.DataFrame  # of the fused views
    chosen: Detector
    about: dict[str, Any]  # of the chosen one: model, detector, views in order, training data
    circuit: Circuit | None
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)  # by unit

    def to_frame(self) -> pd.DataFrame:
        """One row for each (detector, view, training task, test task)."""
        return self.table

    def _view(self) -> View:
        rows = [
            (row["detector"], row["view"], *(share(row[kind]) for kind in _KINDS))
            for row in summary(self.table).to_dict("records")
        ]
        counts = ", ".join(f"{unit} {n['memory']}/{n['reasoning']}" for unit, n in self.outcomes.items())
        return View(
            f"Detectors of memory in {self.about['model']}, tested on groups that they have not seen. "
            f"Answered from memory/by reasoning: {counts}.",
            (
                Table(
                    ("detector", "view", "own task", "another", "the one left out", "worst"),
                    rows,
                    "AUROC for “from memory”, mean over tasks; .5 is chance",
                ),
            ),
            f"Chosen: {self.about['detector']} on {', '.join(self.about['views'])}.{self._fused()} Each "
            "pair of tasks with intervals: .to_frame(); as a figure: nt.plot_transfer(detection.table).",
        )

    def _fused(self) -> str:
        """How well the posteriors of the fused views were sampled."""
        if self.weights.empty:
            return ""
        return (
            f" Posteriors of the fused views' weights: R-hat at most {self.weights['r_hat'].max():.3f}, at "
            f"least {self.weights['ess'].min():,.0f} effective draws."
        )

    def __repr__(self) -> str:
        return f"Detection({self.about['model']}: {len(self.table)} rows)"


@takes_turns
def detect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    by: str = "family",
    depths: int = 8,
    k: int | None = None,
    folds: int = 3,
    seed: int = 0,
    max_prompts: int = 0,
    margin: bool = True,
    draws: int = DRAWS,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> Detection:
    """Every detector, trained and tested on every pair of tasks; see the module's docstring.

    Changed versions (`perturbs`) are left out; detectors are trained and tested on the originals.

    Args:
        by: "family", or "template": the unit of training and testing.
        depths: blocks at which each site is read, spread evenly.
        k: neurons of either kind in a circuit; None: 0.11 % of all, at least 4.
        max_prompts: maximum number of prompts of each unit, balanced over both outcomes if possible.
        margin: also find circuits and evaluate the causal margin; this takes most of the time.
        draws: from the posterior of the fused views' weights; up to four times as many if not converged.
        units: ``nt.Units("runs/detect")`` keeps each training set's detectors; the same call goes on.

    Raises:
        InputError: an outcome is missing, such a posterior has not converged, or `units` of another call.

    Example::

        detection = nt.detect(model, nt.load_prompts("arithmetic"), k=8, folds=2)
        detection.table
    """
    if by not in ("family", "template"):
        raise InputError(f"by={by!r}: expected 'family' or 'template'")
    settings = {"by": by, "depths": depths, "k": k, "folds": folds, "seed": seed, "margin": margin}
    units.begin(
        {"command": "detect", "model": {"name": inspect_model(model).name} | model_record(model)}
        | {"settings": settings | {"max_prompts": max_prompts, "draws": draws}}
        | {"prompts_sha256": json_hash([each.__dict__ for each in prompts])}
        | {"surroundings": surroundings(model)}
    )
    asked = originals(prompts)
    if max_prompts:
        asked = _some(asked, by, ASK_MORE * max_prompts, seed)
    answered = answer(model, asked, progress=progress).decided()
    if max_prompts:
        answered = answered.at(_sample(answered, by, max_prompts, seed))
    of_unit = _units(answered.prompts, by)
    y = np.array([outcome == "memory" for outcome in answered.outcome]).astype(int)
    if len(set(y)) < 2:
        raise InputError(
            f"the model answers all {len(y)} prompts from {answered.outcome[0]}: detectors need both "
            "outcomes; add prompts that it answers the other way"
        )
    names = view_names(model, depths=depths)
    size = max(4, round(0.0011 * inspect_model(model).n_neurons)) if k is None else k

    def circuit_of(rows: np.ndarray) -> Circuit:
        drawn = np.random.default_rng(seed).permutation(rows)[:CIRCUIT_PROMPTS]
        own = answered.at(drawn.tolist())
        return find_circuit(model, own.prompts, k=size)

    def margins(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return _parts(model, answered.at(rows.tolist()), circuit_of(train))

    task = Task(
        read_views(model, answered, [*names, *BASELINES], progress=progress),
        y,
        of_unit,
        np.array([f"{p.family}/{p.template}" for p in answered.prompts]),
        np.array([p.group for p in answered.prompts]),
        [p.prompt for p in answered.prompts],
        margins if margin else None,
        _fused(names),
        draws,
    )
    table, weights = transfer(
        task,
        folds=folds,
        seed=seed,
        once=lambda name, make: units.once(name, JSON, make),
        progress=progress,
    )
    name, view = choose(table)
    circuit = circuit_of(np.arange(len(y))) if margin else None
    parts = _parts(model, answered, circuit) if circuit else None
    chosen, views = _fit(task, name, view, parts, seed)
    about = {
        "model": inspect_model(model).name,
        "detector": name,
        "views": views,
        "by": by,
        "trained_on": sorted(set(of_unit.tolist())),
        "prompts": len(y),
        "circuit_k": size if margin else None,
    }
    outcomes = {
        u: {"memory": int(y[of_unit == u].sum()), "reasoning": int((1 - y[of_unit == u]).sum())}
        for u in sorted(set(of_unit.tolist()))
    }
    return Detection(table, weights, chosen, about, circuit, outcomes)


def choose(table: pd.DataFrame) -> tuple[str, str]:
    """(detector, view) with the highest mean AUROC on units that it was not trained on.

    Among those that `DETECTORS` calls choosable. With a single unit: on its own held-out groups.
    """
    away = table[(table["train_family"] == OTHERS)]
    away = away if len(away) else table
    able = away[away["detector"].isin([name for name, e in DETECTORS.items() if e.choosable])]
    mean = able.groupby(["detector", "view"], sort=False)["auroc"].mean()
    name, view = mean.idxmax()
    return str(name), str(view)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per (detector, view): mean AUROC on its own task, on another, and on the task left out.

    `worst` is the lowest of the tasks that it was not trained on (its own, if there is only one task).
    """
    import pandas as pd

    left_out = table["train_family"] == OTHERS
    own = table["train_family"] == table["test_family"]
    kinds = {"own": own, "another": ~own & ~left_out, "others": left_out}
    keys = ["detector", "view"]
    means = {name: table[rows].groupby(keys, sort=False)["auroc"].mean() for name, rows in kinds.items()}
    away = table[~own] if (~own).any() else table
    means["worst"] = away.groupby(keys, sort=False)["auroc"].min()
    order = table[keys].drop_duplicates()
    return order.merge(pd.DataFrame(means).reset_index(), on=keys, how="left")


def _fit(
    task: Task, name: str, view: str, parts: np.ndarray | None, seed: int
) -> tuple[Detector, list[str]]:
    views = dict(task.views) | ({} if parts is None else {"margin": parts})
    entry = DETECTORS[name]
    if entry.learns == "views":
        used = [*task.fused, *(["margin"] if parts is not None else [])]
        columns, X = stack({own: views[own] for own in used})
        fused = entry.make(views=columns, seed=seed, draws=task.draws)
        return fused.fit(X, task.y, groups=task.groups), used
    return entry.make(seed=seed).fit(views[view], task.y, groups=task.groups), [view]


def _parts(model: HookedModel, answered: Answered, circuit: Circuit) -> np.ndarray:
    found = causal_margin(model, answered, circuit)
    return np.stack([found.memory_fall.numpy(), found.reasoning_fall.numpy()], axis=1)


def _fused(names: Sequence[str]) -> tuple[str, ...]:
    """All neurons, and the residual stream and the attention at three depths."""
    found = ["neurons"]
    for site in SITES[1:]:
        own = [name for name in names if name.startswith(f"{site}@")]
        places = np.linspace(0, len(own) - 1, min(3, len(own))).round().astype(int)
        found += [own[place] for place in places]
    return tuple(found)


def _units(prompts: Sequence[Prompt], by: str) -> np.ndarray:
    return np.array(
        [prompt.family if by == "family" else f"{prompt.family}/{prompt.template}" for prompt in prompts]
    )


def _some(prompts: Sequence[Prompt], by: str, most: int, seed: int) -> list[Prompt]:
    """At most `most` prompts of each unit, drawn at random."""
    rng = np.random.default_rng(seed)
    units = _units(prompts, by)
    drawn = [rng.permutation(np.flatnonzero(units == unit))[:most] for unit in sorted(set(units))]
    return [prompts[row] for row in np.sort(np.concatenate(drawn))]


def _sample(answered: Answered, by: str, most: int, seed: int) -> list[int]:
    """Rows, at most `most` a unit, half of them of either outcome if possible."""
    rng = np.random.default_rng(seed)
    units, recalled = _units(answered.prompts, by), np.array(answered.outcome) == "memory"
    rows: list[int] = []
    for unit in sorted(set(units)):
        memory, reasoning = (
            rng.permutation(np.flatnonzero((units == unit) & (recalled == kind))) for kind in (True, False)
        )
        first = min(len(memory), max(most // 2, most - len(reasoning)))
        rows += [*memory[:first], *reasoning[: most - first]]
    return sorted(int(row) for row in rows)
