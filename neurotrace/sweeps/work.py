"""The model, loaded once, and the rows of any part.

The manifest alone determines a part's passes (`batch` tokens each, without trials, never shared with
another part), so its rows have the same bits on every machine of one kind. If memory runs out, passes
are halved for the rest of this process, and the rows record it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.ablation import passes
from neurotrace.ablation.batch import Batch, batch_for
from neurotrace.ablation.group_sums import grouped
from neurotrace.ablation.task import Precision, Task, Where, places_of, prepare
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, command_line
from neurotrace.core.sides import Side
from neurotrace.models.encoding import encode
from neurotrace.models.identity import model_record, pairs_hash, surroundings
from neurotrace.models.protocol import HookedModel
from neurotrace.sweeps.asked import Sweep, pairs_of
from neurotrace.sweeps.layout import Layout
from neurotrace.sweeps.manifest import Manifest
from neurotrace.sweeps.parts import TEXTS, schema

if TYPE_CHECKING:
    import pyarrow as pa

_MEMORY_GB = 4.0  # memory of one pass; a fixed number, so that passes are always the same
METRIC = "change of L = logit(memorized) - logit(reasoned) at the last token, nats"


@dataclass(frozen=True)
class Work:
    """A loaded model, ready for any part of the sweep that `manifest` describes."""

    task: Task
    places: Int[Tensor, " place"]
    manifest: Manifest


def open_work(asked: Sweep, model: HookedModel, *, progress: Progress = None) -> Work:
    """Encode the pairs, check the engine, and make the manifest.

    Raises:
        InputError: no pair that this model answers correctly, or a setting that does not fit the model.
    """
    if asked.threads:
        torch.set_num_threads(asked.threads)
    pairs = pairs_of(asked)
    encoded = encode(model, pairs, progress=progress)
    ordered = encoded.at(grouped(encoded.pairs))  # the pairs of a group stay together
    task = prepare(
        model,
        ordered,
        asked.mode,
        cast(Side, asked.donor),
        positions=cast(Where, asked.where()),
        precision=cast(Precision, asked.precision),
        progress=progress,
    )
    info = task.info
    tokens = asked.batch or batch_for(info, None, None).trials[0]
    task = replace(task, batch=Batch(None, (asked.memory_gb or _MEMORY_GB) * 2**30, (tokens,)))
    places = places_of(asked.chosen(info.n_layers, info.d_mlp), task)
    asked = replace(asked, threads=torch.get_num_threads())
    layout = Layout(len(ordered), len(places), asked.part_rows)
    notes = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "model": info.name,
        "pairs": {"read": len(pairs), "kept": len(ordered), "dropped": encoded.reasons()},
    }
    return Work(task, places, Manifest(_content(task, places, layout, asked), asked, notes))


def compute(work: Work, part: int) -> pa.Table:
    """The rows of one part, in the order of its cells.

    Raises:
        InputError: not even one row fits the memory.
    """
    import pyarrow as pa

    task, count = work.task, len(work.places)
    first, last = work.manifest.layout.bounds(part)
    effect = np.empty(last - first, dtype="float32")
    before, batch = np.empty_like(effect), np.empty(last - first, dtype="int32")
    rows = range(first // count, (last - 1) // count + 1)
    for row in rows:
        start, stop = max(first, row * count), min(last, (row + 1) * count)
        places = work.places[start - row * count : stop - row * count]
        at = slice(start - first, stop - first)
        before[at], effect[at], batch[at] = _one_pair(task, row, places)
    of_cell = np.arange(first, last) // count - rows.start
    columns: dict[str, Any] = {}
    for name, field in zip(TEXTS, ("id", *TEXTS[1:]), strict=True):
        words = pa.array([getattr(task.encoded.pairs[row], field) for row in rows], pa.string())
        columns[name] = words.take(pa.array(of_cell))
    place = work.places.numpy()[np.arange(first, last) % count]
    bad = ~np.isfinite(effect)
    columns["layer"] = (place // task.info.d_mlp).astype("int32")
    columns["neuron"] = (place % task.info.d_mlp).astype("int32")
    columns["L_before"] = before
    columns["L_after"] = pa.array(before + effect, mask=bad)
    columns["effect"] = pa.array(effect, mask=bad)
    columns["batch"] = batch
    marks = np.where(np.isnan(effect), "not a number", "infinite")
    columns["mark"] = pa.array(marks, pa.string(), mask=~bad)
    return pa.table(columns, schema=schema())


def _one_pair(task: Task, row: int, places: Int[Tensor, " place"]) -> tuple[float, np.ndarray, np.ndarray]:
    """(L before, change of L for each place, tokens in the pass that computed it)."""
    try:
        of = passes.clean(task, row)
        new = (of.values + passes.changes(task, of.values, of.given)).flatten(1)
        effects, sizes = [], []
        for some in passes.groups(places, task.info.d_mlp):
            effects.append(passes.one_by_one(task, of, some, new[:, some].t()) - of.before)
            sizes.append(np.full(len(some), task.batch.held or task.batch.trials[0], dtype="int32"))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
            raise InputError(
                f"out of memory on pair {task.encoded.pairs[row].id} with a single row: free some, "
                "use a smaller dtype or another device, and run the same command again"
            ) from None
        raise
    return of.before, torch.cat(effects).numpy(), np.concatenate(sizes)


def _content(task: Task, places: Int[Tensor, " place"], layout: Layout, asked: Sweep) -> dict[str, Any]:
    record = task.record()
    budget: Batch = task.batch
    around = surroundings(task.model)
    return {
        "model": model_record(task.model),
        "pairs_sha256": pairs_hash(task.encoded),
        "metric": METRIC,
        "mode": task.kind,
        "donor": task.donor,
        "positions": record["positions"],
        "neurons_sha256": hashlib.sha256(places.numpy().astype("<i8").tobytes()).hexdigest(),
        "layout": {
            "pairs": layout.pairs,
            "neurons": layout.neurons,
            "part_rows": layout.part_rows,
        },
        "passes": {
            "path": record["path"],
            "precision": record["precision"],
            "device": around["device"],
            "threads": asked.threads,
            "batch": budget.trials[0],
            "memory_gb": budget.budget / 2**30,
        },
        "versions": around["versions"],
    }
