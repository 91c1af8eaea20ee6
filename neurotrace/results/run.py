"""A run's folder: settings, identity of the model, results.

manifest.json    versions, seeds, the model's identity and weights' hash, device, dtype, command; written
                 last, with bytes and SHA-256 of every other file
summary.json     the flip rates and the verdict
scores.parquet   family, direction, layer, neuron, method, score; in a mixture of experts name
pairs.parquet    the pairs that were studied, as text
effects.parquet  one row for each held-out pair × intervention × k, controls included
estimates.parquet family, direction, layer, neuron, estimate, exact
dropped.parquet  the dropped pairs, with the reason
neurons.csv, interventions/  what was chosen: its neurons, and files to apply it (`findings.py`)
decided.parquet  if asked for (`--units all`): of each kind of unit the fewest that flip both ways
explorer.json    the data of the neuron explorer
report.html      the report
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.files import parse_json
from neurotrace.core.neurons import definition
from neurotrace.core.pairs import pair_record, pair_records
from neurotrace.core.process import package_versions
from neurotrace.core.writing import (
    json_bytes,
    noted,
    parquet,
    prepare_folder,
    save_page,
    write_atomically,
)
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.sealing import sealing
from neurotrace.locating.deciding import DECIDED
from neurotrace.models.identity import weights_hash
from neurotrace.models.protocol import HookedModel
from neurotrace.results.findings import save_findings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from neurotrace.results.explorer import Explorer
    from neurotrace.studies.study import Study

FILES = (
    "manifest.json",
    "summary.json",
    "scores.parquet",
    "pairs.parquet",
    "effects.parquet",
    "estimates.parquet",
    "dropped.parquet",
    "neurons.csv",
    "interventions",
    "explorer.json",
    "report.html",
)


@takes_turns
def save_run(
    study: Study,
    out: str | Path,
    *,
    model: HookedModel,
    probes: Sequence[str],
    command: str = "",
    chat: dict[str, Any] | None = None,
    overwrite: bool = False,
    explorer: Explorer | None = None,
    benchmark: dict[str, Any] | None = None,
    decided: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Write the run's folder; returns the content of `summary.json`.

    Args:
        chat: the rendering for a chat model (`probe_sets.chat.chat_record`), if there is one.
        explorer: from `nt.explore(model, study.encoded, study)`, for the report.
        benchmark: `Benchmark.record()` and `file`: accuracy before and under what all pairs chose.
        decided: rows of `nt.decided_by` with a column `family`.

    Raises:
        InputError: the folder holds a run already, or can't be written (full, read-only).

    Example::

        study = nt.study(model, nt.load_pairs("arithmetic"))
        nt.save_run(study, "runs/mine", model=model, probes=["arithmetic"])
    """
    import pyarrow as pa

    from neurotrace.results.reading import read_files
    from neurotrace.results.report import write_report

    folder = prepare_folder(out, FILES, overwrite=overwrite)
    summary = summarise(study, probes)
    if benchmark is not None:
        summary["benchmark"] = benchmark
    record = manifest(study, model=model, probes=probes, command=command, chat=chat)
    files = FILES if decided is None else (*FILES, DECIDED)
    with sealing(folder, files, record, beside=False):
        for name, table in (
            ("scores.parquet", _scores(study)),
            (
                "pairs.parquet",
                pa.Table.from_pylist(pair_records(study.encoded.pairs)),
            ),
            ("effects.parquet", study.effects.table),
            ("estimates.parquet", _estimates(study)),
            ("dropped.parquet", _dropped(study)),
        ):
            write_atomically(folder / name, parquet(table))
        save_findings(study.interventions, _estimates(study).to_pandas(), folder)
        if decided is not None:
            of = {"model": study.model.name, "weights_sha256": record["model"]["weights_sha256"]}
            write_atomically(folder / DECIDED, noted(decided, of))
        if explorer is None:  # a file of an earlier run would not match this one
            (folder / "explorer.json").unlink(missing_ok=True)
        else:
            write_atomically(folder / "explorer.json", json_bytes(explorer.data))
        write_atomically(folder / "summary.json", json_bytes(summary))
        (folder / "report.html").unlink(missing_ok=True)
        fault: Exception | None = None
        try:
            known = parse_json(json_bytes(record))
            save_page(folder / "report.html", lambda: write_report(read_files(folder, known)))
        except Exception as error:  # it costs the page, not the run
            fault = error
    if fault is not None:
        raise fault
    return summary


def summarise(study: Study, probes: Sequence[str]) -> dict[str, Any]:
    """The content of `summary.json`."""
    from neurotrace.studies.held_out import flip_record
    from neurotrace.studies.verdict import RULE

    return {
        "model": study.model.name,
        "probes": list(probes),
        "neuron_definition": definition(study.model.experts),
        "pairs": {
            "read": study.read,
            "kept": len(study.encoded),
            "train": study.smallest_train,
            "test": len(study.encoded),
            "dropped": study.encoded.reasons(),
        },
        "split": study.split,
        "folds": study.folds,
        "neurons": study.model.n_neurons,
        "verdict": {
            "rule": str(RULE),
            "families": {name: each.record() for name, each in study.verdicts().items()},
        },
        "flips": [flip_record(flip) for flip in study.flips],
        "examples": [example.__dict__ for example in study.examples],
    }


def manifest(
    study: Study,
    *,
    model: HookedModel,
    probes: Sequence[str],
    command: str = "",
    chat: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `manifest.json`: enough to repeat the run and to compare two runs."""
    import torch

    from neurotrace import __version__
    from neurotrace.models.origins import tokenizer_of, twin
    from neurotrace.results.reading import FORMAT

    info = study.model
    tokenizer = tokenizer_of(model)
    real = twin(model) or model
    config = getattr(real, "config", None)
    lines = "\n".join(
        json.dumps(pair_record(pair), sort_keys=True, ensure_ascii=True) for pair in study.encoded.pairs
    )
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "neurotrace": __version__,
        "versions": {"python": platform.python_version()} | package_versions(),
        "model": {
            "name": info.name,
            "hooked_by": info.kind,
            "architecture": type(real).__name__,
            "layers": info.n_layers,
            "neurons_per_layer": info.d_mlp,
            "d_model": info.d_model,
            **info.naming,
            "weights_sha256": weights_hash(real),
            "attention": getattr(config, "_attn_implementation", None),
        },
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "vocabulary": len(tokenizer),
            "bos": getattr(tokenizer, "bos_token", None),
            "prepended": tokenizer.decode(tokenizer("").input_ids),
        },
        "chat": chat,
        "device": str(info.device),
        "dtype": str(info.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": study.seed,
        "split": study.split,
        "folds": study.folds,
        "settings": dict(study.settings),
        "probes": list(probes),
        "kept_pairs_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "neuron_definition": definition(info.experts),
    }


def _scores(study: Study) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    frames = []
    for (family, _, direction), scores in study.scores.items():
        frame = scores.to_frame().drop(columns=list(scores.columns))
        frame.insert(0, "family", family)
        frame.insert(1, "direction", direction)
        frames.append(frame)
    return pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)


def _estimates(study: Study) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        name: [] for name in ("family", "direction", "layer", "neuron", "estimate", "exact")
    }
    for family, direction, estimate, exact in study.estimates:
        both = (~(estimate.value.isnan() | exact.value.isnan())).nonzero()
        layer, neuron = both[:, 0], both[:, 1]
        columns["family"] += [family] * len(both)
        columns["direction"] += [direction] * len(both)
        columns["layer"] += layer.tolist()
        columns["neuron"] += neuron.tolist()
        columns["estimate"] += estimate.value[layer, neuron].tolist()
        columns["exact"] += exact.value[layer, neuron].tolist()
    return pa.table(columns)


def _dropped(study: Study) -> pa.Table:
    import pyarrow as pa

    fields = ("pair", "family", "template", "group", "reason", "detail")
    rows = [
        (d.pair.id, d.pair.family, d.pair.template, d.pair.group, d.reason, d.detail)
        for d in study.encoded.dropped
    ]
    return pa.table(
        {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(fields)}
    )
