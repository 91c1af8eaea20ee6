"""Rankers side by side, family by family: the tables of docs/rankers.md.

The pairs of a family are split by group. Rankings, exact effects and curves come from the training
part; flips are counted on the held-out part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurotrace.ablation.neurons import ablate
from neurotrace.core.errors import InputError, one_of
from neurotrace.core.neurons import Neuron, NeuronSet
from neurotrace.core.pairs import PromptPair, sample_pairs, split_pairs
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS, Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import JSON, NOTHING_KEPT, TABLE, Units, many, several
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import Intervention, patch
from neurotrace.interventions.kinds import parse_kind
from neurotrace.interventions.targets import routed
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import ModelInfo, inspect_model
from neurotrace.models.identity import model_record, pairs_hash, surroundings
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import RANKERS, compared_by, passes, ranker_of
from neurotrace.studies.faithfulness import area, curves, overlap_of_tops, recall, spearman

if TYPE_CHECKING:
    import pandas as pd

ALL = compared_by("rank")
Positions = Literal["read", "all"]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    `rankers`: one row for each (family, ranker):
        spearman         with the exact donor patch, over neurons with an effect; mean of both directions
        spearman_mean    with exact mean ablation, likewise
        top1_overlap     share of the exact top 1 % in the ranker's, mean of both directions; among those
                         measured exactly
        recall_truth     share of the planted neurons in a top of the same size, mean of both directions
        flips_to_reasoning, flips_to_memorization   of held-out answers, by a donor patch of the top k
        *_low, *_high    their 95 % intervals, clustered by group
        necessity, sufficiency   areas of the curves (`faithfulness.py`), mean of both directions
        cost_passes      forward and backward passes a pair for one direction
        seconds          for one direction, on this machine
    `flips`: the same for each (family, ranker, direction, k, positions); `curves`: the curves' points.
    """

    model: ModelInfo
    rankers: pd.DataFrame
    flips: pd.DataFrame
    curves: pd.DataFrame
    scores: Mapping[tuple[str, str, Direction], Scores]
    truth: tuple[Neuron, ...]
    k: int
    exact_neurons: int  # measured exactly, of all
    pairs: Mapping[str, tuple[int, int]]  # family -> training, held-out
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named_truth(self) -> list[str]:
        """The names of the planted neurons."""
        return NeuronSet(self.truth, experts=self.model.experts).names


@takes_turns
def compare(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    methods: Sequence[str] = ALL,
    *,
    truth: Sequence[Neuron] = (),
    ks: Sequence[int] = (),
    positions: Sequence[Positions] = ("read",),
    train_pairs: int = 64,
    exact_neurons: int = 4096,
    curve_pairs: int = 16,
    seed: int = 0,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> Comparison:
    """Rank by every method, and compare the rankings with exact effects, planted neurons and held-out
    flips.

    Args:
        methods: ranker names; `ranker:kind` ranks for another intervention than the donor patch that is
            applied (e.g. "gradient:mean").
        truth: the neurons that are known to decide, e.g. planted ones.
        ks: numbers of neurons to patch; the first is the table's k. Default: the number of `truth`,
            else 1 % of all, at most 64.
        train_pairs: maximum number of pairs to rank on, in each family.
        exact_neurons: maximum number of neurons measured exactly, drawn at random; `spearman` and
            `top1_overlap` are over those.
        curve_pairs: pairs for the curves; 0: no curves.
        units: ``nt.Units("runs/rank")`` keeps what is finished in that folder; the same call goes on.

    Raises:
        InputError: an unknown method; a family with too few pairs to split; `units` of another call.

    Example::

        found = nt.compare(model, pairs, methods=("gradient", "contrast", "random"), ks=[8])
        found.rankers
    """
    import pandas as pd

    asked = [_parse(name) for name in dict.fromkeys(methods)]
    info = inspect_model(model)
    outside = [n for n in truth if n.layer >= info.n_layers or n.index >= info.d_mlp]
    if outside:
        raise InputError(f"truth: {outside[0]} is not in {info.name}: expected neurons of this model")
    sizes = tuple(ks) or (len(truth) or max(1, min(64, info.n_neurons // 100)),)
    if any(not 1 <= k <= info.n_neurons for k in sizes):
        raise InputError(f"k={list(sizes)}: expected 1 to {info.n_neurons}, the model's neurons")
    encoded = encode(model, pairs, progress=progress)
    settings = {
        "train_pairs": train_pairs,
        "curve_pairs": curve_pairs,
        "seed": seed,
        "ks": list(sizes),
        "positions": list(positions),
        **routed(model),
    }
    units.begin(
        {"command": "compare", "model": {"name": info.name} | model_record(model), "rankers": asked}
        | {"pairs_sha256": pairs_hash(encoded), "truth": list(map(str, truth)), "settings": settings}
        | {"exact_neurons": exact_neurons, "surroundings": surroundings(model)}
    )
    families = list(dict.fromkeys(pair.family for pair in encoded.pairs))
    train, test = {}, {}
    for family in families:
        first, second = split_pairs([p for p in encoded.pairs if p.family == family], seed=seed)
        train[family] = encoded.of(sample_pairs(first, train_pairs, seed=seed))
        test[family] = encoded.of(second)
    exact = units.each(
        _TIMED,
        {
            (family, kind, way): (
                f"{family}: exact, {kind} {way}",
                partial(_exact, model, train[family], kind, way.donor, exact_neurons, seed, progress),
            )
            for family in families
            for kind in ("patch", "mean")
            for way in DIRECTIONS
        },
        progress,
        "exact effects",
    )
    truths = {
        family: {key[1:]: each for key, each in exact.items() if key[0] == family} for family in families
    }
    labels = {name if kind == "patch" else f"{name}:{kind}": (name, kind) for name, kind in asked}
    ranked = units.each(
        _RANKED,
        {
            (family, label): (
                f"{family}: {label}",
                partial(_ranked, model, train[family], *how, truths[family], truth, curve_pairs),
            )
            for family in families
            for label, how in labels.items()
        },
        progress,
        "ranker",
    )
    kept: dict[tuple[str, str, Direction], Scores] = {
        (family, label, way): replace(scores, method=label)
        for (family, label), found in ranked.items()
        for way, scores in zip(DIRECTIONS, found["scores"], strict=True)
    }
    flips = units.each(
        TABLE,
        {
            (family,): (
                f"{family}: flips",
                partial(_flips, model, test[family], _of(kept, family), sizes, positions),
            )
            for family in families
        },
        progress,
        "flips",
    )
    table = [
        _with_flips(
            {"family": family, "ranker": label} | found["row"], flips[(family,)], sizes[0], positions[0]
        )
        for (family, label), found in ranked.items()
    ]
    drawn = [
        found["curves"].assign(family=family, ranker=label) for (family, label), found in ranked.items()
    ]
    counts = {family: (len(train[family]), len(test[family])) for family in families}
    measured = int((~next(iter(exact.values()))["scores"][0].value.isnan()).sum())
    return Comparison(
        info,
        pd.DataFrame(table),
        pd.concat(flips.values(), ignore_index=True),
        pd.concat(drawn, ignore_index=True) if curve_pairs else pd.DataFrame(),
        kept,
        tuple(truth),
        sizes[0],
        measured,
        counts,
        settings,
    )


def _of(kept: Mapping[tuple[str, str, Direction], Scores], family: str) -> dict[Any, Scores]:
    return {key: each for key, each in kept.items() if key[0] == family}


def _parse(method: str) -> tuple[str, str]:
    name, _, kind = method.partition(":")
    if name not in RANKERS:
        raise InputError(f"method {method!r}: {one_of(method, RANKERS)}, or ranker:intervention")
    parse_kind(kind or "patch")
    return name, kind or "patch"


_TIMED = several(scores=many(Scores), seconds=JSON)
_RANKED = several(scores=many(Scores), row=JSON, curves=TABLE)


def _ranked(
    model: HookedModel,
    train: EncodedPairs,
    name: str,
    kind: str,
    exact: Mapping[tuple[str, Direction], dict[str, Any]],
    truth: Sequence[Neuron],
    curve_pairs: int,
) -> dict[str, Any]:
    """Scores in both directions, the row of the table as far as it needs no other ranker, the curves."""
    import pandas as pd

    found: dict[Direction, Scores] = {}
    seconds = 0.0
    for way in DIRECTIONS:
        if name == "exact" and (kind, way) in exact:
            (found[way],), spent = exact[kind, way]["scores"], exact[kind, way]["seconds"]
        else:
            start = time.perf_counter()
            found[way] = ranker_of(name).function(model, train, donor=way.donor, kind=kind)
            spent = time.perf_counter() - start
        seconds += spent / len(DIRECTIONS)
    row = _agreement(found, {key: each["scores"][0] for key, each in exact.items()}, truth)
    points: list[pd.DataFrame] = []
    if curve_pairs:
        points = _curves(model, train.at(range(min(curve_pairs, len(train)))), found)
        for column in ("necessity", "sufficiency"):
            areas = [area(part["k"], part[column]) for part in points]
            row[column] = float(np.mean(areas)) if areas else np.nan
    row |= {
        "cost_passes": passes(name, kind, inspect_model(model), len(train)),
        "seconds": round(seconds, 3),
    }
    curves_of = pd.concat(points, ignore_index=True) if points else pd.DataFrame()
    return {"scores": tuple(found.values()), "row": row, "curves": curves_of}


def _exact(
    model: HookedModel,
    train: EncodedPairs,
    kind: str,
    donor: Side,
    most: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    info = inspect_model(model)
    some = None
    if most < info.n_neurons:
        order = np.random.default_rng(seed).permutation(info.n_neurons)[:most].tolist()
        some = [Neuron(place // info.d_mlp, place % info.d_mlp) for place in order]
    start = time.perf_counter()
    found = ablate(model, train, some, kind=kind, donor=donor, progress=progress)
    return {"scores": (replace(found, method="exact"),), "seconds": time.perf_counter() - start}


def _agreement(
    found: Mapping[Direction, Scores],
    exact: Mapping[tuple[str, Direction], Scores],
    truth: Sequence[Neuron],
) -> dict[str, float]:
    """Means over both directions; `recall_truth` also for each."""
    row = {
        "spearman": _mean(spearman(found[way], exact["patch", way]) for way in found),
        "spearman_mean": _mean(spearman(found[way], exact["mean", way]) for way in found),
        "top1_overlap": _mean(
            overlap_of_tops(found[way], exact["patch", way], direction=way) for way in found
        ),
    }
    recalls = {
        f"recall_{way}": recall(found[way], truth, direction=way) if truth else np.nan for way in found
    }
    return row | {"recall_truth": _mean(recalls.values())} | recalls


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _curves(
    model: HookedModel, pairs: EncodedPairs, found: Mapping[Direction, Scores]
) -> list[pd.DataFrame]:
    if any(scores.value.isnan().any() for scores in found.values()):
        # unranked neurons: Pearson of a constant neuron, neurons that `exact` left out
        found = {
            way: replace(scores, value=scores.value.nan_to_num(nan=0.0), columns={})
            for way, scores in found.items()
        }
    return [curves(model, pairs, scores, donor=way.donor) for way, scores in found.items()]


def _flips(
    model: HookedModel,
    test: EncodedPairs,
    found: Mapping[tuple[str, str, Direction], Scores],
    ks: Sequence[int],
    positions: Sequence[Positions],
) -> pd.DataFrame:
    import pandas as pd

    made: list[Intervention] = []
    for (_, label, way), scores in found.items():
        measured = int((~scores.value.isnan()).sum())
        top = scores.top(min(max(ks), measured), direction=way)
        for k in ks:
            made.append(replace(patch(top[:k], donor=way.donor), label=label))
    tables = []
    for where in positions:
        rates = measure(model, test, made, positions=where).rates(by=("family", "label", "direction", "k"))
        tables.append(rates.rename(columns={"label": "ranker"}).assign(positions=where))
    return pd.concat(tables, ignore_index=True)


def _with_flips(row: dict[str, Any], rates: pd.DataFrame, k: int, positions: Positions) -> dict[str, Any]:
    own = rates[(rates["ranker"] == row["ranker"]) & (rates["k"] == k) & (rates["positions"] == positions)]
    flips: dict[str, Any] = {}
    for way in DIRECTIONS:
        one = own[own["direction"] == way]
        for name, column in (("", "answers"), ("_low", "answers_low"), ("_high", "answers_high")):
            flips[f"flips_{way}{name}"] = float(one[column].iloc[0]) if len(one) else np.nan
    pairs = int(own["n"].iloc[0]) if len(own) else 0
    cost = {name: row.pop(name) for name in ("cost_passes", "seconds")}
    return row | flips | {"k": k, "pairs": pairs} | cost
