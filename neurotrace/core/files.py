"""Reading files that users name: any problem is a `ValueError` or an `InputError`."""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from neurotrace.core.errors import InputError, first_line

if TYPE_CHECKING:
    import pandas as pd


_MARKS = {  # UTF-32's mark begins with UTF-16's
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_PARQUET, _CSV = (".parquet", ".pq"), (".csv", ".tsv", ".tab", ".psv", ".txt")
_OTHERS = (".xlsx", ".xls", ".ods", ".pkl", ".pickle", ".pt", ".npy", ".npz", ".arrow", ".gz", ".zip")
_REGULAR = "expected a regular file in the folder itself"
MANIFEST = "manifest.json"
_MOST = 2**26  # maximum bytes of a manifest
# of a manifest that lists files; a changed bit spoils one at most
_MARKS_OF_SEALS = (b'"format": "neurotrace.', b'"files": {', b'"seal": "')
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"\n}\n\Z')
DATA_FILES = (*_PARQUET, *_CSV, ".json", ".jsonl", ".ndjson")


def parse_json(raw: str | bytes) -> Any:
    """`json.loads`; every failure is a `ValueError`, deep nesting included."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deep") from None


def open_inside(path: str | Path) -> BinaryIO:
    """Open a file of a folder that may be somebody else's: no link is followed, no FIFO waited for.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"a symbolic link, {_REGULAR}") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"no file, {_REGULAR}")
    return os.fdopen(handle, "rb")


def _check_listed(path: str | Path) -> None:
    """Raise where the manifest beside the file, or beside its folder, is of other bytes than its own."""
    place = Path(os.path.abspath(path))
    for folder in (place.parent, place.parent.parent):
        if (seal := read_seal(folder)) is not None:
            name = place.relative_to(folder).as_posix()
            if name in seal.files or os.path.dirname(name) in {*map(os.path.dirname, seal.files)} - {""}:
                seal.check(name)
            return


def check_inside(path: Path) -> Path:
    """The path, of a file in a folder that may be somebody else's.

    Raises:
        InputError: it is no such file, or not the one that the folder's manifest names.
    """
    try:
        open_inside(path).close()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from None
    _check_listed(path)
    return path


@dataclass(frozen=True)
class Seal:
    """What the manifest of a folder says: its record, and bytes and SHA-256 of each file."""

    folder: Path
    record: dict[str, Any]
    files: dict[str, dict[str, Any]]  # path in the folder -> {"bytes": 12, "sha256": "…"}

    def problem(self, name: str) -> str | None:
        """``"missing"``, ``"changed"`` or ``"not listed"``; None: the file is as it was written."""
        if name not in self.files:
            return "not listed"
        try:
            return None if listed(self.folder / name) == self.files[name] else "changed"
        except OSError as error:
            return "missing" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "changed"

    def check(self, *names: str) -> None:
        """Check these files, and those listed in these folders.

        Raises:
            InputError: naming the first that is changed, missing or not listed.
        """
        within = [each for each in self.files if each.split("/")[0] in names and "/" in each]
        for name in (*names, *within):
            there = name in self.files or (name != MANIFEST and (self.folder / name).is_file())
            if there and (found := self.problem(name)):
                raise InputError(
                    f"can't read {self.folder / name}: by {MANIFEST} it is {found} (`neurotrace verify` "
                    "checks every file); copy the folder again, or make it again"
                )


def listed(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, as a manifest lists them.

    Raises:
        OSError: it is no regular file, or can't be read.
    """
    digest, size = hashlib.sha256(), 0
    with open_inside(path) as file:
        while part := file.read(2**20):
            digest.update(part)
            size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def is_sealed(raw: bytes) -> bool:
    """Whether the bytes of a manifest are those of `writing.sealed_json`, every one of them."""
    blank = _SEAL.sub(b'"seal": "%s"\n}\n' % (b"0" * 64), raw)
    found = _SEAL.search(raw)
    return found is not None and hashlib.sha256(blank).hexdigest().encode() == found[1]


def read_seal(folder: Path) -> Seal | None:
    """The folder's manifest, where it names its files; None: there is none, or none that does.

    Raises:
        InputError: it is not as it was written, or no regular file.
    """
    path = folder / MANIFEST
    try:
        with open_inside(path) as file:
            raw = file.read(_MOST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from None
    if sum(mark in raw for mark in _MARKS_OF_SEALS) < 2:
        return None
    if not is_sealed(raw):
        raise InputError(f"{path}: not as it was written: changed by hand, or damaged")
    record = parse_json(raw)
    files = record.pop("files", None)
    del record["seal"]
    return Seal(folder, record, files) if isinstance(files, dict) else None


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, without the byte-order mark that some programs put in front.

    Raises:
        InputError: no such file, or bytes that are no such text.
    """
    try:
        with open(path, "rb") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):  # /dev/zero has no end
                raise OSError(errno.EINVAL, f"a device, {_REGULAR}")
            raw = file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: can't be read ({why})") from None
    for name, marks in _MARKS.items():
        if raw.startswith(marks):
            raise InputError(f"{path}: the file is {name}, expected UTF-8; save the file as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it can't be read, or isn't JSON.
    """
    try:
        return parse_json(read_text(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: can't be read as JSON ({error})") from None


def rows_of(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, record) of each row of a file: Parquet, CSV and its like, JSON, JSON lines.

    Cells of a CSV are text as they stand: `007` stays so. Any delimiter and quotes are fine; a JSON file
    is a list of records, one record, or a record a line.

    Raises:
        InputError: naming file and line; while the rows are read.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind in _PARQUET:
        return _parquet_rows(path)
    if kind in _OTHERS:
        raise InputError(f"{path}: {kind} can't be read; save it as .jsonl, .csv or .parquet")
    text = read_text(path)
    if kind in _CSV:
        return _csv_rows(path, text)
    return _json_list(path, text) if text.lstrip()[:1] == "[" else _json_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # split on "\n" alone: str.splitlines would cut a JSON string at U+2028
    lines = [line.strip().lstrip("\ufeff") for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            if number == 1 + next(place for place, each in enumerate(lines) if each):
                with suppress(ValueError):  # one record over many lines
                    yield f"line {number}", parse_json(text)
                    return
            raise InputError(
                f"{path}, line {number}: not JSON ({error}); expected one object a line"
            ) from None
        yield f"line {number}", record


def _json_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The items of a JSON list, each with its line."""
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")
    at = text.index("[") + 1
    line, counted = 1, 0
    found: list[tuple[str, Any]] = []
    try:
        while True:
            at = blank.match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "]" and not found:
                break
            line, counted = line + text.count("\n", counted, at), at
            record, at = decoder.raw_decode(text, at)
            found.append((f"line {line} (record {len(found) + 1})", record))
            at = blank.match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] != ",":
                break
            at += 1
        if text[at : at + 1] != "]" or text[at + 1 :].strip():
            raise json.JSONDecodeError("expected ',' or ']'", text, at)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not JSON ({why}); expected a list of objects") from None
    yield from found


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        delimiter = _delimiter(text, "\t" if path.suffix.lower() in (".tsv", ".tab") else ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header: list[str] = []
        before = 0
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                twice = [name for name in header if name and header.count(name) > 1]
                if twice:
                    raise InputError(f"{path}, line {line}: two columns are called {twice[0]!r}")
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {line}: {len(cells)} cells, expected the header's {len(header)}; a "
                    f"cell that holds {delimiter!r} needs quotes"
                )
            yield f"line {line}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: can't be read as CSV ({error})") from None


def _delimiter(text: str, usual: str) -> str:
    """The sign that cuts the first rows into equally many cells, as many as possible."""
    start = io.StringIO(text, newline="")
    header = next((line for line in start if line.strip()), "")
    found = {usual: 1}
    for sign in sorted(set(header) - set("\"'_-.()[]{}/ \r\n")):
        if sign.isalnum() or not sign.isascii():
            continue
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=sign)
        try:
            lengths = {len(row) for row in islice(rows, 20) if any(row)}
        except csv.Error:
            continue
        if len(lengths) == 1:
            found[sign] = max(lengths)
        elif sign == usual:
            found[sign] = 2  # some rows are cut wrongly, which is said with their lines
    best = max(found.values())
    return usual if found[usual] == best else max(found, key=lambda sign: found[sign])


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: can't be read as Parquet ({first_line(error)})") from None


def read_tensors(path: str | Path, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON header, tensors) of a safetensors file that one of our `save` wrote.

    Args:
        framework: ``"pt"`` for torch, ``"np"`` for numpy.

    Raises:
        InputError: no such file, another kind of file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    _check_listed(path)
    try:
        with _in_utf8(path) as place, safe_open(place, framework=framework) as file:
            header = parse_json((file.metadata() or {}).get("neurotrace", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: can't be read as safetensors ({error})") from None
    return (header if isinstance(header, dict) else {}), tensors


@contextmanager
def _in_utf8(path: str | Path) -> Iterator[str | Path]:
    """The path, or that of a copy where its name is not UTF-8, which safetensors' reader wants."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copy(path, Path(folder, "copy"))
    else:
        yield path


def read_table(
    path: str | Path, *, words: Sequence[str] = (), numbers: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A Parquet file with at least these columns, and the note that one of our writers left in it.

    Raises:
        InputError: no such file, a damaged one, or other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_listed(path)
    try:
        with open_inside(path) as file:
            table = pq.read_table(file)
        note = parse_json((table.schema.metadata or {}).get(b"neurotrace", b"{}"))
        frame = table.to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: can't be read as Parquet ({error})") from None
    kinds = dict(zip(frame.columns, (kind.kind for kind in frame.dtypes), strict=True))
    for name in (*words, *numbers):
        if name not in kinds or (name in numbers and kinds[name] not in "iufb"):
            what = f"{kinds[name]!r}" if name in kinds else "no such column"
            raise InputError(f"{path}: expected the column {name!r}, got {what}")
    return frame, note if isinstance(note, dict) else {}
