"""A run's folder, read back, for the report and for notebooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neurotrace.core.display import Shown, Table, View, clip, rate
from neurotrace.core.errors import InputError
from neurotrace.core.files import check_inside, open_inside, read_json, read_seal, read_table
from neurotrace.core.pairs import OPTIONAL_FIELDS, PAIR_FIELDS, PromptPair, pair_from
from neurotrace.core.sides import Direction, spoken
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention
from neurotrace.locating.deciding import DECIDED, NUMBERS, WORDS
from neurotrace.results.findings import FOLDER, TABLE, neurons_table, read_findings
from neurotrace.studies.study import ALL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from neurotrace.results.explorer import Explorer
    from neurotrace.results.trust import JudgedTrust

FORMAT = "neurotrace.run/1"
_READ = (
    *(f"{name}.parquet" for name in ("scores", "pairs", "effects", "estimates", "dropped")),
    *("summary.json", "explorer.json", TABLE, FOLDER),
)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Run(Shown):
    """The content of a run's folder. Each table is the file of the same name."""

    folder: Path
    summary: dict[str, Any]
    manifest: dict[str, Any]
    effects: Effects
    scores: pd.DataFrame
    estimates: pd.DataFrame  # family, direction, layer, neuron, estimate, exact
    pairs: tuple[PromptPair, ...]  # None: a run of an earlier version
    dropped: pd.DataFrame
    explorer: Explorer | None
    trust: JudgedTrust | None  # from `neurotrace circuit` in the folder `trust` inside this one
    detectors: pd.DataFrame | None  # from `neurotrace detect` in this folder
    detected: dict[str, Any]  # how they were made
    decided: pd.DataFrame | None  # from `neurotrace locate` in this folder
    left_out: tuple[str, ...]  # results in the folder that are of another model, with the reason
    neurons: pd.DataFrame  # `neurons.csv`: what was chosen, fold by fold; empty: a run of 0.1

    def interventions(
        self,
        *,
        family: str | None = None,
        direction: Direction | str | None = None,
        fold: int | str | None = None,
    ) -> tuple[Intervention, ...]:
        """What each fold chose, and for each family and direction one made from all pairs.

        Each says in `provenance` whose it is and how it was judged.

        Args:
            fold: a number, or ``"all"`` for those made from all pairs.

        Example::

            run = nt.load_run("runs/demo")
            (change,) = run.interventions(family="letters", direction="to_reasoning", fold="all")
            nt.measure(nt.load_model("organism"), run.pairs, [change])

        Raises:
            InputError: none that fits; a file that can't be read.
        """
        every = read_findings(self.folder)
        wanted = {"family": family, "fold": fold}
        asked = {name: value for name, value in wanted.items() if value is not None}
        found = tuple(
            each
            for each in every
            if all(each.provenance.get(name) == value for name, value in asked.items())
            and direction in (None, each.direction)
        )
        if not found:
            there = sorted({f"{each.provenance['family']} {each.direction}" for each in every})
            raise InputError(
                f"{self.folder}: no intervention of family={family!r}, direction={direction!r}, "
                f"fold={fold!r}: "
                + (f"there are {'; '.join(there)}" if there else "0.1 saved none, run the study again")
            )
        return found

    def intervention(
        self,
        *,
        family: str | None = None,
        direction: Direction | str | None = None,
        fold: int | str = ALL,
    ) -> Intervention:
        """The one of `interventions()` that is named; `InputError` if several are."""
        every = self.interventions(family=family, direction=direction, fold=fold)
        if len(every) > 1:
            there = "; ".join(f"{each.provenance['family']} {each.direction}" for each in every)
            raise InputError(
                f"{self.folder} has several: pick one by --family and --direction (in Python and in model "
                f"arguments family=, direction=): {there}"
            )
        return every[0]

    def held_out(self, intervention: Intervention) -> list[PromptPair]:
        """The pairs that had no part in making one of `interventions()`: none where all pairs had."""
        about = intervention.provenance
        rows = self.effects.where(
            role="selected", chosen=True, family=about["family"], direction=intervention.direction
        ).to_frame()
        own = set(rows.loc[rows["fold"] == about["fold"], "pair"])
        return [pair for pair in self.pairs if pair.family == about["family"] and pair.id in own]

    def to_frame(self) -> pd.DataFrame:
        """The flips: a row for each (family, method, direction, intervention, k) that was tried."""
        import pandas as pd

        return pd.DataFrame(self.summary["flips"])

    def selected(self) -> list[dict[str, Any]]:
        """The flips of the row that training pairs chose, for each family and direction."""
        return [flip for flip in self.summary["flips"] if flip["selected"]]

    def _view(self) -> View:
        rows = [
            (
                flip["family"],
                spoken(flip["direction"]),
                flip["intervention"],
                flip["k"],
                rate(flip["answers"]),
                f"{flip['answers_ci'][0]:.0%}–{flip['answers_ci'][1]:.0%}",
                f"≤ {flip['control_answers']:.1%}",
                flip["n"],
            )
            for flip in self.selected()
        ]
        columns = ("family", "direction", "change", "k", "flipped", "95 %", "controls", "pairs")
        return View(
            f"A run on {self.summary['model']}: {self.summary['pairs']['kept']} pairs, "
            f"{self.summary['neurons']:,} neurons. Made by: {clip(self.manifest['command'], 200)}",
            (Table(columns, rows, "Held-out answers flipped by what training pairs chose"),),
            f"The page: {self.folder / 'report.html'}; all flips: .to_frame(); the map: .explorer.",
        )

    def __repr__(self) -> str:
        return f"Run({self.summary['model']}: {len(self.summary['flips'])} interventions)"


def load_run(folder: str | Path) -> Run:
    """Read the folder of `neurotrace run` or `save_run`.

    Raises:
        InputError: no run there, one of another version, or a file that can't be read.

    Example::

        run = nt.load_run("runs/demo")
        run.interventions(direction="to_reasoning")
    """
    place = Path(folder)
    manifest = _json(place / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{place}: its manifest says {manifest.get('format')!r}, expected {FORMAT!r}: "
            "this reads the folders of `neurotrace run` (nt.open_run reads sweeps)"
        )
    if (seal := read_seal(place)) is not None:
        seal.check(*_READ)
        manifest = seal.record
    return read_files(place, manifest)


def read_files(place: Path, manifest: dict[str, Any]) -> Run:
    """`load_run` without the manifest, which is written last."""
    from neurotrace.results.explorer import Explorer

    explorer = place / "explorer.json"
    scores, estimates, dropped = (
        _table(place / f"{name}.parquet").to_pandas() for name in ("scores", "estimates", "dropped")
    )
    left_out: list[str] = []
    trust = _beside(place / "trust", _trust, manifest, left_out)
    detectors, detected = _beside(place / "detectors.parquet", _detectors, manifest, left_out) or (
        None,
        {},
    )
    decided = _beside(place / DECIDED, _decided, manifest, left_out)
    return Run(
        place,
        _json(place / "summary.json"),
        manifest,
        Effects(_table(place / "effects.parquet")),
        scores,
        estimates,
        _pairs(place / "pairs.parquet"),
        dropped,
        Explorer.load(check_inside(explorer)) if os.path.lexists(explorer) else None,
        trust,
        detectors,
        detected,
        decided,
        tuple(left_out),
        _neurons(place / TABLE),
    )


def load_intervention(
    path: str | Path,
    *,
    family: str | None = None,
    direction: Direction | str | None = None,
    fold: int | str = ALL,
) -> Intervention:
    """A saved intervention: a file of `Intervention.save`, or from the folder of a run.

    Raises:
        InputError: nothing there that can be read; a run with none that fits, or with several.
    """
    if Path(path).suffix == ".safetensors":
        return Intervention.load(path)
    number = int(fold) if str(fold).isdigit() else fold
    return load_run(path).intervention(family=family, direction=direction, fold=number)


def _beside(
    path: Path,
    read: Callable[[Path, dict[str, Any]], Found],
    manifest: dict[str, Any],
    left_out: list[str],
) -> Found | None:
    """The results of other commands in the run's folder, if they are of its model; else the reason."""
    if not path.exists():
        return None
    try:
        return read(path, manifest)
    except InputError as error:
        left_out.append(str(error))
        return None


def _trust(path: Path, manifest: dict[str, Any]) -> JudgedTrust:
    from neurotrace.results.trust import read_trust

    found = read_trust(path)
    _same_model(path, found.manifest, manifest)
    return found


def _detectors(path: Path, manifest: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    from neurotrace.detectors.transfer import COLUMNS

    found, about = read_table(path, words=COLUMNS[:4], numbers=COLUMNS[4:])
    _same_model(path, about, manifest)
    return found, about


def _decided(path: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    found, about = read_table(path, words=("family", *WORDS), numbers=NUMBERS)
    _same_model(path, about, manifest)
    return found


def _same_model(path: Path, about: dict[str, Any], manifest: dict[str, Any]) -> None:
    """InputError unless the results were measured on the weights of the run."""
    own, other = manifest["model"], about.get("model")
    if about.get("weights_sha256") == own["weights_sha256"]:
        return
    of = f"of {other}" if other and other != own["name"] else f"of other weights than {own['name']}'s"
    raise InputError(
        f"{path} is {of if 'weights_sha256' in about else 'of an unknown model'}, the run is of "
        f"{own['name']}: make it again with the run's model, or move it away"
    )


def _pairs(path: Path) -> tuple[PromptPair, ...]:
    if not path.exists():
        return ()
    table = _table(path)
    if set(table.column_names) - set(OPTIONAL_FIELDS) != set(PAIR_FIELDS):
        raise InputError(f"{path}: expected the columns {', '.join(PAIR_FIELDS)}")
    return tuple(pair_from(row, str(path)) for row in table.to_pylist())


def _neurons(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        return neurons_table((), pd.DataFrame())
    try:
        return pd.read_csv(
            check_inside(path),
            dtype={"fold": str, "family": str},
            keep_default_na=False,
            na_values={"score": [""], "exact": [""]},
        )
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}; run the study again") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(check_inside(path) if os.path.lexists(path) else path)
    except InputError as error:
        raise InputError(f"no run in {path.parent}: {error}; `neurotrace run --out` makes one") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object")
    return found


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_inside(path) as file:
            return pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"can't read {path}: {error}; run the study again") from None
