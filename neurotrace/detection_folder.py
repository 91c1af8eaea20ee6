"""The folder that `neurotrace detect` writes.

detectors.parquet       a row for each (detector, view, task learnt from, task asked about)
weights.parquet         posterior weights of the fused views, a row for each fold
chosen.safetensors      the chosen detector, fitted on all prompts; `nt.load_detector` reads it
circuit.safetensors     the circuit whose margin it may read; `nt.Circuit.load` reads it
transfer.html, sites.html, weights.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.errors import InputError
from neurotrace.runs import parquet, prepare_folder, write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.detection import Detection

FILES = (
    "detectors.parquet", "weights.parquet", "chosen.safetensors", "circuit.safetensors",
    "transfer.html", "sites.html", "weights.html",
)  # fmt: skip


def prepare_detection(out: Path, *, overwrite: bool) -> Path:
    """Make the folder, and refuse one that holds detectors already."""
    return prepare_folder(out, FILES, overwrite=overwrite)


def save_detection(found: Detection, out: Path, *, command: str) -> None:
    """Write the folder; every file whole or not at all."""
    from neurotrace import __version__
    from neurotrace.detectors import save_detector
    from neurotrace.plotting_detectors import plot_sites, plot_transfer, plot_weights

    about = found.about | {
        "command": command,
        "neurotrace": __version__,
        "outcomes": found.outcomes,
    }
    figures = {
        "transfer.html": plot_transfer(found.table), "sites.html": plot_sites(found.table),
        "weights.html": plot_weights(found.weights),
    }  # fmt: skip
    try:
        for name, frame in (("detectors", found.table), ("weights", found.weights)):
            write_atomically(out / f"{name}.parquet", _parquet(frame, json.dumps(about)))
        _whole(
            out / "chosen.safetensors", lambda path: save_detector(found.chosen, path, about=about)
        )
        if found.circuit is not None:
            _whole(out / "circuit.safetensors", found.circuit.save)
        for name, figure in figures.items():
            write_atomically(out / name, figure.to_html(include_plotlyjs=True).encode())
    except OSError as error:
        raise InputError(
            f"can't write to {out}: {error.strerror or error}; free some space or name another folder"
        ) from None


def _parquet(frame: pd.DataFrame, note: str) -> bytes:
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    return parquet(table.replace_schema_metadata({"neurotrace": note}))


def _whole(path: Path, save: Callable[[Path], None]) -> None:
    """What `save` writes, under its final name once it is whole."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        save(Path(folder) / path.name)
        write_atomically(path, (Path(folder) / path.name).read_bytes())
