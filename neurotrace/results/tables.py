"""The folders that `neurotrace rank`, `detect` and `locate` write, and the file of known neurons.

rank:
rankers.parquet         a row for each (family, ranker): `Comparison.rankers`
flips.parquet           for each (family, ranker, direction, k, positions)
curves.parquet          necessity and sufficiency at each k
scores.parquet          family, direction, method, layer, neuron, score; in a mixture of experts name
report.html             the same as a page

detect:
detectors.parquet       one row for each (detector, view, training task, test task)
weights.parquet         posterior weights of the fused views, one row for each fold
chosen.safetensors      the chosen detector, fitted on all prompts; `nt.load_detector` reads it
circuit.safetensors     the circuit whose margin it may read; `nt.Circuit.load` reads it
transfer.html, sites.html, weights.html

locate:
sites.csv               a row for each unit that was patched
decided.csv, .parquet   of each kind the fewest that flip both ways; a run's report shows it
…-to-….html             a figure for each family and direction

all:
manifest.json           command and versions; bytes and SHA-256 of each file. In a run's folder its manifest
                        lists them
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json
from neurotrace.core.neurons import Neuron
from neurotrace.core.writing import noted, prepare_folder, save_page, write_atomically
from neurotrace.folders.sealing import sealing
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    from neurotrace.answers.detection import Detection
    from neurotrace.studies.comparison import Comparison

OF_RANK, OF_DETECT = "neurotrace.rank/1", "neurotrace.detect/1"
TABLES = (
    *("rankers.parquet", "rankers.csv", "flips.parquet", "flips.csv"),
    *("curves.parquet", "scores.parquet", "report.html"),
)
DETECTIONS = (
    *("detectors.parquet", "weights.parquet", "chosen.safetensors", "circuit.safetensors"),
    *("transfer.html", "sites.html", "weights.html"),
)


def known_truth(model: str) -> tuple[Neuron, ...]:
    """The known deciding neurons of a built-in or newly trained organism; else none."""
    from neurotrace import organism

    folder = organism.folder(model) if model in organism.NAMES else Path(model)
    path = folder / "truth.json"
    return read_truth(path) if os.path.isfile(path) else ()


def read_truth(path: Path) -> tuple[Neuron, ...]:
    """Neurons from a JSON list, ``["L2.N12", ...]``, or from an organism's `truth.json` (`live`).

    Raises:
        InputError: not such a file, or no neuron in it.
    """
    content = read_json(path)
    if isinstance(content, dict):
        live = content.get("live")
        content = [n for names in live.values() for n in names] if isinstance(live, dict) else None
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise InputError(
            f'--truth {path}: expected a list of neurons, ["L2.N12", …], or an organism\'s truth.json'
        )
    if not content:
        raise InputError(f"--truth {path}: no neuron in it")
    return tuple(sorted({Neuron.parse(name) for name in content}))


def prepare_tables(out: Path, *, overwrite: bool) -> Path:
    """Make the folder; raise if it holds such tables already."""
    return prepare_folder(out, TABLES, overwrite=overwrite)


def save_tables(comparison: Comparison, out: Path, *, command: str, seed: int) -> None:
    """Write the folder; each file is written completely or not at all."""
    import pandas as pd

    from neurotrace import __version__
    from neurotrace.results.report import write_comparison

    scores = [
        frame.to_frame().drop(columns=list(frame.columns)).assign(family=family, direction=direction)
        for (family, _, direction), frame in comparison.scores.items()
    ]
    record = {"command": command, "neurotrace": __version__, "seed": seed}
    note = record | {
        "model": comparison.model.name,
        "settings": dict(comparison.settings),
        "truth": comparison.named_truth,
    }
    with sealing(out, TABLES, {"format": OF_RANK} | record):
        for name, frame in (
            ("rankers.parquet", comparison.rankers),
            ("flips.parquet", comparison.flips),
            ("curves.parquet", comparison.curves),
            ("scores.parquet", pd.concat(scores, ignore_index=True)),
        ):
            write_atomically(out / name, noted(frame, note))
        for name, frame in (("rankers", comparison.rankers), ("flips", comparison.flips)):
            text = frame.to_csv(index=False, float_format="%.3f")
            write_atomically(out / f"{name}.csv", text)
        save_page(out / "report.html", lambda: write_comparison(comparison, record))


def prepare_detection(out: Path, *, overwrite: bool) -> Path:
    """Make the folder; raise if it holds detectors already."""
    return prepare_folder(out, DETECTIONS, overwrite=overwrite)


def save_detection(found: Detection, out: Path, *, model: HookedModel, command: str) -> None:
    """Write the folder; each file is written completely or not at all."""
    from neurotrace import __version__
    from neurotrace.detectors import save_detector
    from neurotrace.plots.detectors import plot_sites, plot_transfer, plot_weights
    from neurotrace.plots.style import page

    about = found.about | model_identity(model)
    about |= {"command": command, "neurotrace": __version__, "outcomes": found.outcomes}
    figures = {
        "transfer.html": plot_transfer(found.table),
        "sites.html": plot_sites(found.table),
        "weights.html": plot_weights(found.weights),
    }
    record = {"format": OF_DETECT, **model_identity(model), "command": command, "neurotrace": __version__}
    with sealing(out, DETECTIONS, record):
        for name, frame in (("detectors", found.table), ("weights", found.weights)):
            write_atomically(out / f"{name}.parquet", noted(frame, about))
        save_detector(found.chosen, out / "chosen.safetensors", about=about)
        if found.circuit is not None:
            found.circuit.save(out / "circuit.safetensors")
        for name, figure in figures.items():
            save_page(out / name, partial(page, figure))
