"""Files that users name, read: whatever can be wrong with one is a `ValueError` or an `InputError`."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def parse_json(raw: str | bytes) -> Any:
    """`json.loads`, of which everything that can come is a `ValueError`, deep nesting too."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: str | Path) -> Any:
    """What a UTF-8 JSON file holds.

    Raises:
        InputError: it can't be read, or isn't JSON.
    """
    try:
        return parse_json(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as JSON ({error})") from None


def read_tensors(path: str | Path, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON header, tensors) of a safetensors file that one of our `save` wrote.

    Args:
        framework: ``"pt"`` for torch, ``"np"`` for numpy.

    Raises:
        InputError: no such file, another kind of file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            header = parse_json((file.metadata() or {}).get("neurotrace", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: can't be read as safetensors ({error})") from None
    return (header if isinstance(header, dict) else {}), tensors


def read_table(
    path: str | Path, *, words: Sequence[str] = (), numbers: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A Parquet file with at least these columns, and the note that one of our writers left in it.

    Raises:
        InputError: no such file, a damaged one, or other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
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


def prepare_folder(out: str | Path, files: Sequence[str], *, overwrite: bool = False) -> Path:
    """Make the folder and prove that it can be written, before the long work begins.

    Args:
        overwrite: without it, a folder that holds one of `files` is refused.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in files if (folder / name).exists()]
        if present and not overwrite:
            raise InputError(
                f"{folder} already holds {present[0]}: name another folder or pass --overwrite "
                "(overwrite=True in Python)"
            )
        write_atomically(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"can't write to {folder}: {error.strerror or error}; name a folder that can be written"
        ) from None
    return folder


def prepare_file(out: Path) -> None:
    """Make the file's folder and prove that it can be written, before the long work begins."""
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(prefix=f".{out.name}.", dir=out.parent).close()
    except OSError as error:
        raise _cannot_write(out, error) from None


def save_file(path: Path, content: bytes) -> None:
    """`write_atomically`, of a file that the user named.

    Raises:
        InputError: it can't be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _cannot_write(path, error) from None


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Around what writes a folder's files: a full or read-only disk becomes the user's `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"can't write to {folder}: {error.strerror or error}; free some space or name another folder"
        ) from None


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"can't write {path}: {error.strerror or error}; name a file that can be written"
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write, sync, rename. After any failure the final name is what it was before."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_whole(path: Path, save: Callable[[Path], None]) -> None:
    """What `save` writes, under its final name once it is whole."""
    from safetensors import SafetensorError

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            save(Path(folder) / path.name)
        except SafetensorError as error:  # how a full disk comes out of it
            raise OSError(str(error)) from None
        write_atomically(path, (Path(folder) / path.name).read_bytes())


def noted(frame: pd.DataFrame, note: dict[str, Any]) -> bytes:
    """The frame as the bytes of a Parquet file, with a note that `files.read_table` reads."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    return parquet(table.replace_schema_metadata({"neurotrace": json.dumps(note)}))


def parquet(table: pa.Table) -> bytes:
    """The table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
