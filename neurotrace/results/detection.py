"""The folder that `neurotrace detect` writes.

detectors.parquet       one row for each (detector, view, training task, test task)
weights.parquet         posterior weights of the fused views, one row for each fold
chosen.safetensors      the chosen detector, fitted on all prompts; `nt.load_detector` reads it
circuit.safetensors     the circuit whose margin it may read; `nt.Circuit.load` reads it
transfer.html, sites.html, weights.html
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.core.writing import filling, noted, prepare_folder, save_page, write_atomically
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    from neurotrace.answers.detection import Detection

FILES = (
    "detectors.parquet",
    "weights.parquet",
    "chosen.safetensors",
    "circuit.safetensors",
    "transfer.html",
    "sites.html",
    "weights.html",
)


def prepare_detection(out: Path, *, overwrite: bool) -> Path:
    """Make the folder; raise if it holds detectors already."""
    return prepare_folder(out, FILES, overwrite=overwrite)


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
    with filling(out):
        for name, frame in (("detectors", found.table), ("weights", found.weights)):
            write_atomically(out / f"{name}.parquet", noted(frame, about))
        save_detector(found.chosen, out / "chosen.safetensors", about=about)
        if found.circuit is not None:
            found.circuit.save(out / "circuit.safetensors")
        for name, figure in figures.items():
            save_page(out / name, partial(page, figure))
