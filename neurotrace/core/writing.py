"""Files and folders written so that nothing is half there and nobody's work is lost.

What stands under its final name is whole: it was written under another one, synced and renamed. What
can't be written becomes the user's `InputError`, where it can be before the long work begins.
"""

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
