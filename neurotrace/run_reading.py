"""A run's folder, read back: what `report.py` writes the page from, and what a notebook shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.display import Shown, Table, View, clip, rate
from neurotrace.effects import Effects
from neurotrace.errors import InputError
from neurotrace.files import read_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from neurotrace.explorer import Explorer

FORMAT = "neurotrace.run/1"


@dataclass(frozen=True)
class Run(Shown):
    """What `save_run` wrote. The tables are those of the folder's files of the same name."""

    folder: Path
    summary: dict[str, Any]
    manifest: dict[str, Any]
    effects: Effects
    scores: pd.DataFrame
    estimates: pd.DataFrame  # family, direction, layer, neuron, estimate, exact
    dropped: pd.DataFrame
    explorer: Explorer | None
    detectors: pd.DataFrame | None  # of `neurotrace detect` into the same folder

    def to_frame(self) -> pd.DataFrame:
        """The flips: a row for each (family, method, direction, intervention, k) that was tried."""
        import pandas as pd

        return pd.DataFrame(self.summary["flips"])

    def selected(self) -> list[dict[str, Any]]:
        """The flips of the one row for each family and direction that training pairs chose."""
        return [flip for flip in self.summary["flips"] if flip["selected"]]

    def _view(self) -> View:
        rows = [
            (flip["family"], flip["direction"].replace("_", " "), flip["intervention"], flip["k"],
             rate(flip["answers"]), f"{flip['answers_ci'][0]:.0%}–{flip['answers_ci'][1]:.0%}",
             f"≤ {flip['control_answers']:.1%}", flip["n"])
            for flip in self.selected()
        ]  # fmt: skip
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
    """
    from neurotrace.explorer import Explorer

    place = Path(folder)
    manifest = _json(place / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{place}: its manifest says {manifest.get('format')!r}, wanted {FORMAT!r}: "
            "this reads the folders of `neurotrace run` (nt.open_run reads sweeps)"
        )
    explorer, detectors = place / "explorer.json", place / "detectors.parquet"
    scores, estimates, dropped = (
        _table(place / f"{name}.parquet").to_pandas() for name in ("scores", "estimates", "dropped")
    )
    return Run(
        place, _json(place / "summary.json"), manifest, Effects(_table(place / "effects.parquet")),
        scores, estimates, dropped,
        Explorer.load(explorer) if explorer.exists() else None,
        _table(detectors).to_pandas() if detectors.exists() else None,
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"no run in {path.parent}: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: wanted a JSON object")
    return found


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"can't read {path}: {error}; run the study again") from None
