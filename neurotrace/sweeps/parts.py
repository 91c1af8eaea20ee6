"""One Parquet file a part: a row a cell, written whole, and known from its footer.

A cell whose effect is not finite has nulls in `L_after` and `effect`, so that no reader averages it
in, and `mark` says what was met. `batch` is the number of tokens in the pass that computed it: less
than the manifest's says that memory ran short, and that the last bits may differ.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neurotrace.errors import InputError
from neurotrace.files import parse_json
from neurotrace.sweeps.folders import Folder
from neurotrace.sweeps.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
TEXTS = ("pair", "family", "template", "group")
_NAME = re.compile(r"part-(\d{8,15})\.parquet")
_META = b"neurotrace"


def part_file(part: int) -> str:
    return f"{PARTS}/part-{part:08d}.parquet"


def schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [(name, pa.string()) for name in TEXTS]
        + [("layer", pa.int32()), ("neuron", pa.int32())]
        + [(name, pa.float32()) for name in ("L_before", "L_after", "effect")]
        + [("batch", pa.int32()), ("mark", pa.string())]
    )


def write_part(
    folder: Folder, manifest: Manifest, part: int, table: pa.Table, *, seconds: float
) -> None:
    """Write the part, whole or not at all."""
    import pyarrow.parquet as pq

    first, last = manifest.layout.bounds(part)
    if table.num_rows != last - first:
        raise RuntimeError(f"part {part} has {table.num_rows} rows, wanted {last - first}")
    note = {
        "content_sha256": manifest.hash, "part": part, "host": socket.gethostname(),
        "pid": os.getpid(), "seconds": round(seconds, 3), "finished": time.time(),
    }  # fmt: skip
    sink = io.BytesIO()
    table = table.replace_schema_metadata({_META: json.dumps(note).encode()})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    folder.write(part_file(part), sink.getvalue())


def present(folder: Folder, manifest: Manifest) -> tuple[dict[int, dict[str, Any]], dict[str, str]]:
    """Whole parts (number -> its note), and files that are none (name -> why)."""
    from concurrent.futures import ThreadPoolExecutor

    names = [name for name in folder.names(PARTS) if not name.startswith(".")]
    with ThreadPoolExecutor(8) as pool:
        checked = list(pool.map(lambda name: _check(folder, manifest, name), names))
    whole, broken = {}, {}
    for name, found in zip(names, checked, strict=True):
        if isinstance(found, str):
            broken[name] = found
        else:
            whole[found["part"]] = found
    return whole, broken


def sweep_up(folder: Folder, parts: list[int]) -> None:
    """Remove what an interrupted write of these parts left under another name."""
    own = {f".{part_file(part).removeprefix(PARTS + '/')}" for part in parts}
    for name in folder.names(PARTS):
        if name.rpartition(".")[0] in own:
            folder.remove(f"{PARTS}/{name}")


def set_aside(folder: Folder, name: str) -> None:
    """Keep a broken part's bytes where no reader takes them for a part."""
    try:
        folder.fs.mv(folder.file(f"{PARTS}/{name}"), folder.file(f"{PARTS}/.broken-{name}"))
    except OSError as error:
        raise InputError(
            f"can't move the broken {name} in {folder.url} out of the way: {error}"
        ) from None


def _check(folder: Folder, manifest: Manifest, name: str) -> dict[str, Any] | str:
    """The part's note, or what is wrong with the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    match = _NAME.fullmatch(name)
    if match is None or name != part_file(int(match[1])).removeprefix(PARTS + "/"):
        return "its name is not that of a part"
    part = int(match[1])
    if part >= manifest.layout.parts:
        return f"the sweep has {manifest.layout.parts} parts"
    try:
        with folder.fs.open(folder.file(f"{PARTS}/{name}"), "rb") as file:
            footer = pq.ParquetFile(file)
            rows, found = footer.metadata.num_rows, footer.schema_arrow
        note = parse_json((found.metadata or {}).get(_META, b"null"))
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"cut short or damaged ({str(error).splitlines()[0][:100]})"
    if not isinstance(note, Mapping) or note.get("part") != part:
        return "not written by a sweep, or under another number"
    if note.get("content_sha256") != manifest.hash:
        return "of another sweep"
    first, last = manifest.layout.bounds(part)
    if rows != last - first or not found.equals(schema()):
        return f"{rows} rows or other columns, wanted {last - first}"
    return {**note, "part": part}
