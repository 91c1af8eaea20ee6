"""One Parquet file per part, one row per cell, written completely and identified by its footer.

A cell whose effect is not finite has nulls in `L_after` and `effect`, so that no mean includes it;
`mark` gives the reason. `batch` is the number of tokens in the pass that computed it. If it is less
than the manifest's, memory ran short and the last bits may differ.

Parquet's checksums cover only its pages. One wrong bit in a footer's statistics can hide rows from a
filter or hang Arrow's reader. So the note in the footer holds two CRC-32 sums: of all bytes before the
footer, and of the footer.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import parse_json
from neurotrace.sweeps.folders import Folder
from neurotrace.sweeps.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
TEXTS = ("pair", "family", "template", "group")
_NAME = re.compile(r"part-(\d{8,15})\.parquet")
_META = b"neurotrace"
_SEAL = re.compile(rb'"seal": "([0-9a-f]{8})([0-9a-f]{8})"')  # body, footer (with zeros for its own)
_TAIL = 8  # bytes of a Parquet file's end: the footer's length and a word


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


def write_part(folder: Folder, manifest: Manifest, part: int, table: pa.Table, *, seconds: float) -> None:
    """Write the part completely or not at all."""
    import pyarrow.parquet as pq

    first, last = manifest.layout.bounds(part)
    if table.num_rows != last - first:
        raise RuntimeError(f"part {part} has {table.num_rows} rows, expected {last - first}")
    note = {
        "content_sha256": manifest.hash,
        "part": part,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "seconds": round(seconds, 3),
        "finished": time.time(),
        "seal": "0" * 16,
    }
    sink = io.BytesIO()
    table = table.replace_schema_metadata({_META: json.dumps(note).encode()})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    folder.write(part_file(part), sealed(sink.getvalue()))


def sealed(raw: bytes) -> bytes:
    """A part's bytes with the checksums in its note set."""
    start = len(raw) - _TAIL - int.from_bytes(raw[-_TAIL:-4], "little")
    footer = _SEAL.sub(b'"seal": "%08x' % zlib.crc32(raw[:start]) + b'00000000"', raw[start:])
    footer = _SEAL.sub(rb'"seal": "\g<1>' + b'%08x"' % zlib.crc32(footer), footer)
    return raw[:start] + footer


def present(folder: Folder, manifest: Manifest) -> tuple[dict[int, dict[str, Any]], dict[str, str]]:
    """Complete parts (number -> its note), and other files (name -> reason)."""
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


def is_whole(folder: Folder, part: int) -> bool:
    """Whether every byte is as it was written; `present` checks only the footer."""
    raw = folder.read(part_file(part)) or b""
    try:
        footer = _footer(io.BytesIO(raw))
    except ValueError:
        return False
    seal = _SEAL.search(footer)
    return seal is not None and zlib.crc32(raw[: -len(footer)]) == int(seal[1], 16)


def _footer(file: Any) -> bytes:
    """From the start of the footer to the end of the file.

    Raises:
        ValueError: it is not as it was written.
    """
    file.seek(-_TAIL, io.SEEK_END)
    size = int.from_bytes(file.read(_TAIL)[:4], "little") + _TAIL
    file.seek(-size, io.SEEK_END)
    footer = bytes(file.read(size))
    seal = _SEAL.search(footer)
    blank = _SEAL.sub(rb'"seal": "\g<1>00000000"', footer)
    if seal is None or zlib.crc32(blank) != int(seal[2], 16):
        raise ValueError("its footer is not as it was written")
    return footer


def sweep_up(folder: Folder, parts: list[int]) -> None:
    """Remove temporary files of interrupted writes of these parts."""
    own = {f".{part_file(part).removeprefix(PARTS + '/')}" for part in parts}
    for name in folder.names(PARTS):
        if name.rpartition(".")[0] in own:
            folder.remove(f"{PARTS}/{name}")


def set_aside(folder: Folder, name: str) -> None:
    """Move a broken part to a name that no reader takes for a part."""
    try:
        folder.fs.mv(folder.file(f"{PARTS}/{name}"), folder.file(f"{PARTS}/.broken-{name}"))
    except OSError as error:
        raise InputError(f"can't move the broken {name} in {folder.url} out of the way: {error}") from None


def _check(folder: Folder, manifest: Manifest, name: str) -> dict[str, Any] | str:
    """The part's note, or the problem of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    match = _NAME.fullmatch(name)
    if match is None or name != part_file(int(match[1])).removeprefix(PARTS + "/"):
        return "its name is not that of a part"
    part = int(match[1])
    if part >= manifest.layout.parts:
        return f"the sweep has {manifest.layout.parts} parts"
    try:
        with folder.open(f"{PARTS}/{name}") as file:
            _footer(file)
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
        return f"{rows} rows or other columns, expected {last - first}"
    return {**note, "part": part}
