"""`open_run`: the parts of one or several folders as one table, read lazily.

Files are found by their number, never by a path that a manifest names, and each is checked against
the manifest's hash before it counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from neurotrace.core.display import Shown, Table, View
from neurotrace.core.errors import InputError
from neurotrace.sweeps.driver import known_sweep, marked_cells
from neurotrace.sweeps.folders import Folder, open_folder, reason
from neurotrace.sweeps.layout import Layout
from neurotrace.sweeps.manifest import Manifest, refuse_other
from neurotrace.sweeps.parts import PARTS, is_whole, part_file, present, schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as ds

    from neurotrace.core.scores import Scores


@dataclass(frozen=True)
class SweepRun(Shown):
    """A sweep on disk, complete or partial.

    Columns: `pair, family, template, group, layer, neuron`; `L_before, L_after, effect` (nats, null if
    not finite); `batch` (tokens in the pass that computed it); `mark` (why it is null).

    Attributes:
        parts: number -> the folder that holds it.
        broken: file -> what is wrong with it. Such files are not read.
    """

    manifest: Manifest
    parts: Mapping[int, Folder]
    broken: Mapping[str, str]

    @property
    def layout(self) -> Layout:
        return self.manifest.layout

    @property
    def missing(self) -> tuple[int, ...]:
        """Missing parts."""
        return tuple(part for part in range(self.layout.parts) if part not in self.parts)

    @property
    def complete(self) -> bool:
        return len(self.parts) == self.layout.parts

    def __len__(self) -> int:
        """Number of rows on disk."""
        cut = map(self.layout.bounds, self.parts)
        return sum(last - first for first, last in cut)

    def dataset(self) -> ds.Dataset:
        """The rows as a `pyarrow.dataset`, in order of pair, layer and neuron; nothing is read yet."""
        import pyarrow.dataset as ds
        from fsspec.implementations.local import LocalFileSystem
        from pyarrow import fs as arrow_fs

        if not self.parts:
            raise InputError("the sweep has no finished part yet: run it first")
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=options)
        children = []
        ordered = [(self.parts[part], part_file(part)) for part in sorted(self.parts)]
        for fs, some in groupby(ordered, key=lambda one: one[0].fs):
            files = [folder.file(name) for folder, name in some]
            where = arrow_fs.LocalFileSystem() if isinstance(fs, LocalFileSystem) else fs
            children.append(ds.dataset(files, format=form, filesystem=where))
        return children[0] if len(children) == 1 else ds.dataset(children)

    def to_frame(self, columns: Sequence[str] | None = None, where: Any = None) -> pd.DataFrame:
        """Rows as a pandas frame.

        Args:
            columns: None: all of them.
            where: a `pyarrow.compute` expression: ``pc.field("layer") == 3``.
        """
        return self.dataset().to_table(columns=columns, filter=where).to_pandas()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches.

        Raises:
            InputError: a part is damaged.
        """
        import pyarrow as pa

        try:
            yield from self.dataset().to_batches(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"a part is damaged ({reason(error)}): delete it, run again") from None

    def marked(self) -> list[str]:
        """Cells without a finite effect, as ``"L3.N771 on pair p7: not a number"``."""
        import pyarrow.compute as pc

        columns = ["layer", "neuron", "pair", "mark"]
        return marked_cells(self.dataset().to_table(columns, filter=pc.field("mark").is_valid()))

    def scores(self) -> Scores:
        """The same `Scores` as `nt.ablate` returns, computed from the rows."""

        return scores(self)

    def check(self) -> None:
        """Read and check everything once.

        Raises:
            InputError: parts are missing, broken or damaged; the first ones are named.
        """
        if self.broken:
            name, why = next(iter(self.broken.items()))
            raise InputError(f"{name}: {why}; run the sweep again, it computes that part again")
        if not self.complete:
            raise InputError(
                f"{len(self.missing)} of {self.layout.parts} parts are missing (the first: "
                f"{self.missing[0]}): run the sweep again, it resumes"
            )
        for part, folder in self.parts.items():
            if not is_whole(folder, part):
                raise InputError(
                    f"{folder.file(part_file(part))} is damaged: delete it and run the sweep again, it "
                    "does that part anew"
                )

    def merge(self, out: str | Path) -> Path | str:
        """Write all rows, in order, into one Parquet file; returns its path.

        Raises:
            InputError: the sweep is not complete, or the file can't be written.
        """
        import pyarrow.parquet as pq

        self.check()
        head, _, tail = str(out).rpartition("/")
        folder = open_folder(head or ".")
        folder.make()
        try:
            with (
                folder.writing(tail) as sink,
                pq.ParquetWriter(sink, schema(), compression="zstd") as file,
            ):
                for part in range(self.layout.parts):
                    own = self.parts[part]
                    with own.open(part_file(part)) as source:
                        file.write_table(pq.read_table(source).replace_schema_metadata(None))
        except OSError as error:
            raise folder.cannot_write(tail, error) from None
        return out

    def _view(self) -> View:
        import pyarrow.compute as pc

        asked = self.manifest.asked
        marked = self.dataset().count_rows(filter=pc.field("mark").is_valid())
        facts = [
            ("parts there", f"{len(self.parts)} of {self.layout.parts}"),
            ("rows", f"{len(self):,}"),
            ("damaged files", f"{len(self.broken)}"),
            ("effects that are not finite", f"{marked}"),
        ]
        return View(
            f"A sweep: {asked.mode} of each of {self.layout.neurons:,} neurons on each of "
            f"{self.layout.pairs:,} pairs of {asked.model}.",
            (Table(("", "count"), facts),),
            "A mean for each neuron: .scores(); rows: .to_frame(columns, where), .dataset().",
        )

    def __repr__(self) -> str:
        asked = self.manifest.asked
        return (
            f"SweepRun({asked.mode} of {self.layout.neurons} neurons × {self.layout.pairs} pairs of "
            f"{asked.model}; {len(self.parts)} of {self.layout.parts} parts, {len(self)} rows)"
        )


def open_run(*folders: str | Path) -> SweepRun:
    """Open a sweep's folder; several folders of one sweep (its shards) are joined.

    Raises:
        InputError: no sweep there, or the folders hold different sweeps (the message names the
            difference).

    Example::

        effects = nt.open_run("runs/grid").to_frame()
    """
    if not folders:
        raise InputError("open_run: name the folder of a sweep")
    first: Manifest | None = None
    parts: dict[int, Folder] = {}
    broken: dict[str, str] = {}
    for where in folders:
        folder, manifest = known_sweep(where)
        first = first or manifest
        refuse_other(first.content, manifest.content, folder)
        whole, bad = present(folder, manifest)
        parts = dict.fromkeys(whole, folder) | parts
        broken |= {f"{folder.url}/{PARTS}/{name}": why for name, why in bad.items()}
    assert first is not None
    return SweepRun(first, parts, broken)


class _Sums:
    """Over groups: S, S², n·S and n² of each neuron (S a group's sum, n its pairs), pairs and groups."""

    def __init__(self, neurons: int) -> None:
        self.own, self.own_n, self.total, self.squares, self.sized, self.sizes = np.zeros((6, neurons))
        self.pairs, self.groups = np.zeros((2, neurons))
        self.group: str | None = None

    def add(self, group: str, places: np.ndarray, effect: np.ndarray) -> None:
        if group != self.group:
            self.fold()
            self.group = group
        known = np.isfinite(effect)
        np.add.at(self.own, places[known], effect[known])
        np.add.at(self.own_n, places[known], 1)

    def fold(self) -> None:
        self.total += self.own
        self.squares += self.own**2
        self.sized += self.own * self.own_n
        self.sizes += self.own_n**2
        self.pairs += self.own_n
        self.groups += self.own_n > 0
        self.own[:] = self.own_n[:] = 0


def scores(run: SweepRun) -> Scores:
    """Mean change of L (nats); columns `low` and `high` (95 %, Student's t on group sums) and `n`.

    Raises:
        InputError: the sweep is not complete.
    """
    import torch

    from neurotrace.core.scores import Scores

    if not run.complete:
        raise InputError(
            f"{len(run.missing)} of {run.layout.parts} parts are missing: means over some of the "
            "pairs would differ from neuron to neuron; run the sweep to its end"
        )
    model = run.manifest.content["model"]
    shape = model["layers"], model["neurons_per_layer"]
    sums = _Sums(shape[0] * shape[1])
    for batch in run.batches(["group", "layer", "neuron", "effect"]):
        frame = batch.to_pandas()
        places = (frame["layer"] * shape[1] + frame["neuron"]).to_numpy()
        effect = frame["effect"].to_numpy(dtype="float64", na_value=np.nan)
        names = frame["group"].to_numpy()
        cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
        for part in np.split(np.arange(len(names)), cuts):
            if len(part):
                sums.add(names[part[0]], places[part], effect[part])
    sums.fold()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.total / sums.pairs
        spread = sums.squares - 2 * mean * sums.sized + mean**2 * sums.sizes
        free = np.where(sums.groups > 1, sums.groups - 1, np.nan)
        error = np.sqrt(spread.clip(min=0) * sums.groups / free) / sums.pairs
    half = stats.t.ppf(0.975, free) * error
    value, low, high, n = (
        torch.from_numpy(column).float().view(shape)
        for column in (mean, mean - half, mean + half, sums.pairs)
    )
    provenance = {**run.manifest.content, "content_sha256": run.manifest.hash}
    return Scores("sweep", value, columns={"low": low, "high": high, "n": n}, provenance=provenance)
