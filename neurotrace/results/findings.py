"""The part of a run's folder that can be taken along: chosen interventions and their neurons by name.

interventions/NN-FAMILY-DIRECTION-FOLD.safetensors   what `Intervention.load` reads; fold: a number, or all
neurons.csv   a row for each neuron of each: layer, neuron, family, direction, fold, rank, score, exact,
              method, kind, in a mixture of experts name; exact: its exact effect on L in nats, where
              `estimates.parquet` knows it
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.core.errors import InputError
from neurotrace.core.files import check_inside
from neurotrace.core.neurons import Neuron
from neurotrace.core.sides import Direction
from neurotrace.core.writing import remove, write_atomically
from neurotrace.interventions.intervention import Intervention
from neurotrace.studies.overlap import by_chance, jaccard
from neurotrace.studies.study import ALL

if TYPE_CHECKING:
    import pandas as pd

FOLDER, TABLE = "interventions", "neurons.csv"
_COLUMNS = (
    "layer",
    "neuron",
    "family",
    "direction",
    "fold",
    "rank",
    "score",
    "exact",
    "method",
    "kind",
)
_OF_FAMILY = ("family", "direction", "layer", "neuron")


@dataclass(frozen=True)
class Stability:
    """How far the folds of one family and direction chose the same neurons.

    Attributes:
        neurons: those of the intervention made from all pairs, and in how many folds each was chosen.
        named: the same with their names.
        jaccard: mean over pairs of folds of |A and B| / |A or B|; None with one fold.
        chance: the same of random sets with as many neurons in each layer.
    """

    neurons: tuple[tuple[Neuron, int], ...]
    named: tuple[tuple[str, int], ...]
    folds: int
    jaccard: float | None
    chance: float | None


def save_findings(interventions: Sequence[Intervention], estimates: pd.DataFrame, folder: Path) -> None:
    """Write both; what an earlier run left in the folder goes.

    Args:
        estimates: family, direction, layer, neuron, exact.
    """
    place = folder / FOLDER
    remove(place)
    place.mkdir()
    for number, each in enumerate(interventions):
        family = re.sub(r"[^A-Za-z0-9]+", "_", str(each.provenance["family"]))[:40].strip("_")
        name = f"{number:03}-{family}-{each.direction}-{each.provenance['fold']}.safetensors"
        each.save(place / name)
    write_atomically(folder / TABLE, neurons_table(interventions, estimates).to_csv(index=False))


def read_findings(folder: Path) -> tuple[Intervention, ...]:
    """The folder's interventions in the order in which they were written; none in a run of 0.1.

    Raises:
        InputError: a file that can't be read.
    """
    if (folder / FOLDER).is_symlink():
        raise InputError(f"{folder / FOLDER} is a symbolic link, which is not followed")
    files = sorted((folder / FOLDER).glob("*.safetensors"))
    return tuple(Intervention.load(check_inside(path)) for path in files)


def neurons_table(interventions: Sequence[Intervention], estimates: pd.DataFrame) -> pd.DataFrame:
    """A row for each neuron of each intervention; the columns are in the module's docstring."""
    import pandas as pd

    if not interventions:
        return pd.DataFrame(columns=list(_COLUMNS))
    frames = []
    for each in interventions:
        frame = each.to_frame().drop(columns=["keep", "gain", "offset", "donor_mean"], errors="ignore")
        frame["family"], frame["direction"] = each.provenance["family"], str(each.direction)
        frame["fold"], frame["method"] = str(each.provenance["fold"]), each.label
        frame["kind"] = each.kind
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    columns = [*_COLUMNS, *(["name"] if "name" in table else [])]
    if estimates.empty:
        return table.assign(exact=float("nan"))[columns]
    exact = estimates[[*_OF_FAMILY, "exact"]].astype({"direction": str})
    return table.merge(exact, on=list(_OF_FAMILY), how="left")[columns]


def stability(interventions: Sequence[Intervention], width: int) -> dict[tuple[str, Direction], Stability]:
    """(family, direction) -> how far its folds agree.

    Args:
        width: neurons in a layer.
    """
    grouped: dict[tuple[str, Direction], list[Intervention]] = {}
    for each in interventions:
        grouped.setdefault((str(each.provenance["family"]), each.direction), []).append(each)
    found = {}
    for key, own in grouped.items():
        whole = next(each for each in own if each.provenance["fold"] == ALL)
        folds = [places(each, width) for each in own if each is not whole]
        times = Counter(place for fold in folds for place in fold)
        chosen = [times[n.layer * width + n.index] for n in whole.neurons]
        neurons = tuple(zip(whole.neurons, chosen, strict=True))
        named = tuple(zip(whole.names, chosen, strict=True))
        twos = list(combinations(folds, 2))
        same = [jaccard(a, b) for a, b in twos]
        chance = [by_chance(a, b, width)[0] for a, b in twos]
        found[key] = Stability(
            neurons,
            named,
            len(folds),
            _mean(same),
            _mean(chance),
        )
    return found


def places(intervention: Intervention, width: int) -> set[int]:
    """Its neurons as numbers, counted through the layers."""
    return {neuron.layer * width + neuron.index for neuron in intervention.neurons}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
