"""When do a behaviour and its neurons appear? Measurements at the checkpoints of a model.

For each checkpoint and family, with one split of the pairs by group:

    recalls, reasons    share of all memorization (reasoning) prompts answered as named
    pairs               held-out pairs answered correctly on both sides; below `FEWEST` the rest is NaN
    flips_*             of those, answers flipped by a donor patch of the top k, ranked on training pairs;
                        *_low and *_high: 95 %, clustered by group
    random_*            the same with random neurons of the same layers
    stable_*            Jaccard's index of the top k of a resample of the training groups with the top k
    kept_*              Jaccard's index of the top k with the previous checkpoint's
    settled_*           Jaccard's index of the top k with the last checkpoint's
    concentrated_*      area of the necessity curve (`faithfulness.py`)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair, pair_records, split_pairs
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.decoding.tokenizers import split_revision
from neurotrace.folders.units import JSON, NOTHING_KEPT, Units
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import patch
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.identity import json_hash, surroundings, weights_hash
from neurotrace.models.loading import load_model
from neurotrace.models.origins import twin
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import RANKERS, ranker_of
from neurotrace.studies.faithfulness import area, curves
from neurotrace.studies.overlap import jaccard
from neurotrace.studies.significance import group_scores, stability

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 8  # minimum number of pairs, in training and held out; below it only accuracy is reported
ENDS = ("low", "high")  # quantile of a 95 % interval
_CURVE_PAIRS = 8
_MEASURED = ("flips", "random", "stable", "kept", "settled", "concentrated")


def checkpoints_of(model: str | Path, which: str = "all") -> list[str]:
    """The checkpoints of one model, in the order of training, as `load_model` takes them.

    Args:
        which: ``"all"`` that its folder holds: the sub-folders by name, then the folder itself; or
            names separated by commas, in their order: sub-folders, or revisions of a model on the hub.

    Raises:
        InputError: no such sub-folder; ``"all"`` of a model that is no folder.

    Example::

        table = nt.timeline(nt.checkpoints_of("EleutherAI/pythia-70m", "8"), pairs)
    """
    folder = Path(model)
    if which == "all":
        if not os.path.isdir(folder):
            raise InputError(
                f"{model} is no folder of checkpoints: name a hub model's revisions, e.g. step1000,step2000"
            )
        found = [*sorted(folder.glob("*/config.json")), *folder.glob("config.json")]
        return [str(path.parent) for path in found]
    names = [name.strip() for name in which.split(",") if name.strip()]
    if not os.path.isdir(folder):
        return [f"{model}@{name}" for name in names]
    missing = [name for name in names if not (folder / name / "config.json").is_file()]
    if missing:
        raise InputError(f"{folder} holds no model in {missing[0]!r}: expected its sub-folders' names")
    return [str(folder / name) for name in names]


def timeline(
    checkpoints: Sequence[str | Path],
    pairs: Sequence[PromptPair],
    *,
    method: str = "two_ended",
    k: int = 8,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> pd.DataFrame:
    """One row for each (checkpoint, family); see the module's docstring.

    Args:
        checkpoints: of one model, in the order of training: folders, ``name@revision`` of a model on
            the hub, or anything else that `load_model` takes; `checkpoints_of` lists a model's.
        method: a ranker that is a mean over pairs.
        units: ``nt.Units("runs/growth")`` keeps each checkpoint and family; the same call goes on.

    Raises:
        InputError: fewer than two checkpoints; models of different shapes; an unknown method; `units` of
            another call.

    Example::

        table = nt.timeline(["organism"], nt.load_pairs("arithmetic"), k=8)
        nt.plot_timeline(table)
    """
    import pandas as pd

    names = [str(source) for source in checkpoints]
    if len(set(names)) < 2:
        raise InputError(f"{len(set(names))} checkpoints: expected two or more of one model")
    if not ranker_of(method).mean_over_pairs:
        means = ", ".join(name for name, each in RANKERS.items() if each.mean_over_pairs)
        raise InputError(f"method {method!r} is no mean over pairs: expected one of {means}")
    rows: list[dict[str, Any]] = []
    tops: list[dict[Direction, set[int]]] = []
    labels = [_label(name) for name in names]
    if len(set(labels)) < len(names):
        labels = names
    shapes: dict[tuple[int, int], str] = {}
    work = list(zip(names, labels, strict=True))
    units.begin(
        {"command": "timeline", "checkpoints": names, "method": method, "k": k, "seed": seed}
        | {"pairs_sha256": json_hash(pair_records(pairs))}
        | {"surroundings": surroundings() | {"device": device, "dtype": dtype}}
    )
    for name, label in over(progress, work, "checkpoint", outer=True):
        model = load_model(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        info, weights = inspect_model(model), weights_hash(twin(model) or model)
        shapes.setdefault((info.n_layers, info.d_mlp), name)
        if len(shapes) > 1:
            raise InputError(
                f"{' and '.join(shapes.values())} differ in shape: expected checkpoints of one model"
            )
        for family in dict.fromkeys(pair.family for pair in pairs):
            own = [pair for pair in pairs if pair.family == family]
            # by the weights: a checkpoint may have been written again
            done = units.once(
                f"{name}: {family}, {weights}",
                JSON,
                partial(_measured, model, own, method, k, seed),
            )
            rows.append({"checkpoint": label, "family": family, "k": k} | done["row"])
            tops.append({Direction(way): set(own) for way, own in done["top"].items()})
    families = len(rows) // len(names)
    for place, (row, top) in enumerate(zip(rows, tops, strict=True)):
        last = tops[len(tops) - families + place % families]
        previous = tops[place - families] if place >= families else {}
        for column, other in (("settled", last), ("kept", previous)):
            for way in set(top) & set(other):
                row[f"{column}_{way}"] = jaccard(top[way], other[way])
    return pd.DataFrame(rows)


def _label(source: str) -> str:
    """The revision, the folder's name, or the model's."""
    name, revision = split_revision(source)
    return Path(source).name if name == source else revision


def _measured(
    model: HookedModel, pairs: Sequence[PromptPair], method: str, k: int, seed: int
) -> dict[str, Any]:
    """`row`, the columns, and `top`, the top k in each direction, of one family on one checkpoint."""
    every = encode(model, pairs, check=False)
    recalls = every.on_memorization.answer == 0
    reasons = every.on_reasoning.answer == 1
    row: dict[str, Any] = {
        "recalls": float(recalls.float().mean()),
        "reasons": float(reasons.float().mean()),
    }
    columns = [f"{name}_{way}" for name in _MEASURED for way in DIRECTIONS]
    row |= dict.fromkeys([*columns, *(f"{c}_{end}" for c in columns[:2] for end in ENDS)], np.nan)
    behaves = every.at((recalls & reasons).nonzero()[:, 0].tolist())
    first, second = split_pairs(pairs, seed=seed)
    train, test = behaves.of(first), behaves.of(second)
    row["pairs"] = len(test)
    top: dict[Direction, list[int]] = {}
    if min(len(train), len(test)) < FEWEST:
        return {"row": row, "top": top}
    for way in DIRECTIONS:
        grouped = group_scores(ranker_of(method).function, model, train, donor=way.donor)
        scores = grouped.scores
        neurons = scores.top(k, direction=way)
        width = scores.value.shape[1]
        top[way] = [neuron.layer * width + neuron.index for neuron in neurons]
        others = scores.random_like(neurons, seed=seed)
        done = [patch(neurons), patch(others, role="random")]
        rates = measure(model, test, done).rates().set_index("role")
        row[f"flips_{way}"], row[f"random_{way}"] = map(float, rates.loc[["selected", "random"], "answers"])
        for end in ENDS:
            row[f"flips_{way}_{end}"] = float(rates.loc["selected", f"answers_{end}"])
        row[f"stable_{way}"] = float(stability(grouped, k=k, resamples=200)[1])
        few = train.at(range(min(_CURVE_PAIRS, len(train))))
        curve = curves(model, few, scores, donor=way.donor)
        row[f"concentrated_{way}"] = float(area(curve["k"], curve["necessity"]))
    return {"row": row, "top": top}
