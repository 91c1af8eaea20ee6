"""The folder that `neurotrace circuit` writes.

manifest.json           the model and its weights' hash, prompt sets, seed, versions, command; written last,
                        with bytes and SHA-256 of every other file
summary.json            counts, ECE, abstentions, LiMem
circuit.safetensors     the calibrated circuit; `nt.Circuit.load` reads it
outcomes.parquet, choices.parquet, signals.parquet, scores.parquet, failures.parquet, coverage.parquet
                        the tables of a `TrustStudy`

A folder named `trust` inside a run's folder becomes a section of the run's report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import MANIFEST, check_inside, read_json, read_seal, read_table
from neurotrace.core.process import package_versions
from neurotrace.core.writing import (
    UNFINISHED,
    json_bytes,
    noted,
    prepare_folder,
    write_atomically,
)
from neurotrace.folders.sealing import sealing
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.answers.circuit import Circuit
    from neurotrace.answers.judging import TrustStudy

FORMAT = "neurotrace.trust/1"
TABLES = ("outcomes", "choices", "signals", "scores", "failures", "coverage")
FILES = (MANIFEST, "summary.json", "circuit.safetensors", *(f"{name}.parquet" for name in TABLES))
_INTERVAL = ("auroc", "auroc_lo", "auroc_hi", "n")
_NUMBERS = {  # columns that a report needs
    "signals": _INTERVAL,
    "failures": (*_INTERVAL, "failed"),
    "coverage": ("coverage", "risk", "risk_lo", "risk_hi"),
    "scores": ("p_memory", "p_survives", "survived", "memory", "abstain"),
}
_WORDS = {
    "signals": ("unseen", "signal", "of"),
    "failures": ("signal",),
    "coverage": ("signal",),
    "scores": ("group",),
}


_SAID = ("k", "prompts", "decided", "held_out", "ece", "accuracy", "abstains")


@dataclass(frozen=True)
class JudgedTrust:
    """The part of a `TrustStudy` that the folder holds."""

    manifest: dict[str, Any]
    summary: dict[str, Any]
    circuit: Circuit
    signals: pd.DataFrame
    failures: pd.DataFrame
    coverage: pd.DataFrame
    scores: pd.DataFrame


def prepare_trust(out: str | Path) -> Path:
    """Make the folder; its own earlier files may be replaced, other files may not.

    Raises:
        InputError: the folder holds a run, a sweep or detectors; it cannot be written.
    """
    folder = prepare_folder(out, ())
    held = [name for name in FILES if (folder / name).exists()]
    if held and not _is_own(folder):
        raise InputError(
            f"{folder} holds the {held[0]} of something else, which a circuit's would replace: "
            f"give it a folder of its own, --out {folder / 'trust'} say"
        )
    return folder


def save_trust(
    study: TrustStudy, folder: Path, *, model: HookedModel, probes: Sequence[str], command: str = ""
) -> None:
    """Write into a folder from `prepare_trust`. After a failed write the folder is not readable as a
    result.

    Raises:
        InputError: it can't be written (full, read-only).
    """
    from neurotrace import __version__

    manifest = {
        "format": FORMAT,
        **model_identity(model),
        "probes": list(probes),
        "seed": study.summary["seed"],
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "neurotrace": __version__,
        "versions": package_versions(),
    }
    with sealing(folder, FILES, manifest, beside=False):
        for name in FILES:  # remove earlier files, so that old and new ones are never mixed
            (folder / name).unlink(missing_ok=True)
        write_atomically(folder / "summary.json", json_bytes(study.summary))
        for name in TABLES:
            frame = getattr(study, name)
            write_atomically(folder / f"{name}.parquet", noted(frame, manifest))
        study.circuit.save(folder / "circuit.safetensors")


def read_trust(folder: Path) -> JudgedTrust:
    """Read what `save_trust` wrote.

    Raises:
        InputError: anything else, or a part of it.
    """
    from neurotrace.answers.circuit import Circuit

    manifest, summary = (
        read_json(check_inside(folder / f"{name}.json")) for name in ("manifest", "summary")
    )
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{folder}: not written by `neurotrace circuit` of this version")
    if (seal := read_seal(folder)) is not None:
        seal.check(*FILES)
    said = summary if isinstance(summary, dict) else {}
    if any(not isinstance(said.get(name), (int, float)) for name in _SAID):
        raise InputError(f"{folder / 'summary.json'}: expected the numbers {', '.join(_SAID)}")
    tables = {
        name: read_table(folder / f"{name}.parquet", words=_WORDS[name], numbers=_NUMBERS[name])[0]
        for name in _NUMBERS
    }
    circuit = Circuit.load(check_inside(folder / "circuit.safetensors"))
    return JudgedTrust(manifest, summary, circuit, **tables)


def _is_own(folder: Path) -> bool:
    if not (folder / MANIFEST).exists():  # left by a write that was cut
        return (folder / "summary.json").exists() and set(os.listdir(folder)) <= {*FILES, UNFINISHED}
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT
