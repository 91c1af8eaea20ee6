"""Two runs side by side: the same neurons? the same flips? at what depth?

Neurons are those of the interventions made from all pairs. Their overlap is Jaccard's index, |A and B| /
|A or B|, beside that of random sets with as many neurons in each layer. It is left out where the models
differ in shape; their mean depths, 0 for the first block and 1 for the last, compare anyway.

Flips are compared on the pairs that both runs studied, each run judging them held out. Two runs agree on
a pair where both flip its answer or neither does; agreement by chance is that of two runs that flip as
many answers each, independently of one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurotrace.core.display import Shown, Table, View, percent
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.sides import DIRECTIONS, Direction, spoken
from neurotrace.interventions.intervention import Intervention
from neurotrace.results.findings import places
from neurotrace.studies.overlap import by_chance, jaccard
from neurotrace.studies.study import ALL

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.results.reading import Run

_KNOWN = ("memorization", "reasoning", "memorized_answer", "reasoned_answer")  # by these, not by id


@dataclass(frozen=True)
class RunComparison(Shown):
    """What `compare_runs` found; `table` has a row for each family and direction of both runs."""

    first: str
    second: str
    same_weights: bool
    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Columns: `family, direction`; `k_first, k_second, shared, jaccard, chance, p` (NaN: models of
        different shapes); `depth_first, depth_second`; `pairs` in both runs, `flips_first, flips_second`
        on them, `agree, agree_chance` (NaN: no pair in both)."""
        return self.table

    def _view(self) -> View:
        neurons, flips = [], []
        for row in self.table.itertuples():
            which = (row.family, spoken(row.direction))
            depth = f"{row.depth_first:.2f}", f"{row.depth_second:.2f}"
            found = (_digits(row.shared), _digits(row.jaccard), _digits(row.chance), _digits(row.p))
            neurons.append((*which, row.k_first, row.k_second, *found, *depth))
            rates = (row.flips_first, row.flips_second, row.agree, row.agree_chance)
            flips.append((*which, row.pairs, *map(percent, rates)))
        which = ("family", "direction")
        of_neurons = ("k 1", "k 2", "shared", "Jaccard", "chance", "p", "depth 1", "depth 2")
        of_flips = ("pairs", "flipped 1", "flipped 2", "agree", "chance")
        return View(
            f"1 is {self.first}, 2 is {self.second}: "
            + ("the same weights." if self.same_weights else "other weights."),
            (
                Table((*which, *of_neurons), neurons, "The neurons"),
                Table((*which, *of_flips), flips, "The flips, on the pairs that both runs studied"),
            ),
            "Chance: random neurons of the same layers; runs that flip independently at these rates.",
        )

    def __repr__(self) -> str:
        return f"RunComparison({self.first}, {self.second}: {len(self.table)} rows)"


def compare_runs(first: Run, second: Run) -> RunComparison:
    """Whether two runs found the same neurons and flip the same answers.

    Raises:
        InputError: no family in both; a run of 0.1, which saved no interventions.

    Example::

        nt.compare_runs(nt.load_run("runs/seed-0"), nt.load_run("runs/seed-1")).to_frame()
    """
    import pandas as pd

    runs = (first, second)
    shapes = [_shape(run) for run in runs]
    made = [{(e.provenance["family"], e.direction): e for e in run.interventions(fold=ALL)} for run in runs]
    keys = [key for key in made[0] if key in made[1]]
    if not keys:
        families = [", ".join(sorted({family for family, _ in own})) for own in made]
        raise InputError(
            f"the runs have no family in common: {first.folder} has {families[0]}; {second.folder} has "
            f"{families[1]}"
        )
    keys.sort(key=lambda key: (key[0], DIRECTIONS.index(key[1])))
    rows = []
    for key in keys:
        own = [of_run[key] for of_run in made]
        row: dict[str, Any] = {"family": key[0], "direction": key[1]}
        row |= {"k_first": len(own[0]), "k_second": len(own[1])}
        row |= _overlap(own[0], own[1], shapes[0][1]) if shapes[0] == shapes[1] else {}
        depth = [_depth(each, shape[0]) for each, shape in zip(own, shapes, strict=True)]
        row |= {"depth_first": depth[0], "depth_second": depth[1]}
        rows.append(row | _agreement(*(_flips(run, *key) for run in runs)))
    columns = [
        "family",
        "direction",
        "k_first",
        "k_second",
        "shared",
        "jaccard",
        "chance",
        "p",
        "depth_first",
        "depth_second",
        "pairs",
        "flips_first",
        "flips_second",
        "agree",
        "agree_chance",
    ]
    hashes = {run.manifest["model"]["weights_sha256"] for run in runs}
    return RunComparison(
        str(first.folder), str(second.folder), len(hashes) == 1, pd.DataFrame(rows, columns=columns)
    )


def _shape(run: Run) -> tuple[int, int]:
    return run.manifest["model"]["layers"], run.manifest["model"]["neurons_per_layer"]


def _overlap(first: Intervention, second: Intervention, width: int) -> dict[str, Any]:
    a, b = places(first, width), places(second, width)
    chance, p = by_chance(a, b, width)
    return {"shared": len(a & b), "jaccard": jaccard(a, b), "chance": chance, "p": p}


def _depth(intervention: Intervention, layers: int) -> float:
    mean = sum(neuron.layer for neuron in intervention.neurons) / len(intervention)
    return mean / max(1, layers - 1)


def _flips(run: Run, family: str, direction: Direction) -> dict[tuple[str, ...], bool]:
    """What a pair says -> whether its answer flipped when it was held out."""
    said = {pair.id: _text(pair) for pair in run.pairs if pair.family == family}
    rows = run.effects.where(role="selected", chosen=True, family=family, direction=direction).to_frame()
    return {said[row.pair]: bool(row.answers) for row in rows.itertuples() if row.pair in said}


def _text(pair: PromptPair) -> tuple[str, ...]:
    return tuple(getattr(pair, name) for name in _KNOWN)


def _agreement(first: dict[tuple[str, ...], bool], second: dict[tuple[str, ...], bool]) -> dict[str, Any]:
    both = sorted(first.keys() & second.keys())
    if not both:
        return {"pairs": 0}
    a, b = (sum(flips[pair] for pair in both) / len(both) for flips in (first, second))
    agree = sum(first[pair] == second[pair] for pair in both) / len(both)
    return {
        "pairs": len(both),
        "flips_first": a,
        "flips_second": b,
        "agree": agree,
        "agree_chance": a * b + (1 - a) * (1 - b),
    }


def _digits(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"
