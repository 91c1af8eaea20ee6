"""Writing files: each is there complete, or what was there before is.

Nothing else in the package writes a file that a user keeps; a test holds that. Only a regular file is ever
replaced: a link, a device or a FIFO at the final name is refused. Modes are those of the umask; a file
that is replaced keeps its own.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import MANIFEST, read_seal

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
UNFINISHED = "unfinished"  # what a command keeps in its folder until that is complete
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-z_]{8}|\.writable-[0-9a-f]{8}")
_NAME = 100  # characters of a file's name that a temporary one repeats


def prepare_folder(out: str | Path, files: Sequence[str], *, overwrite: bool = False) -> Path:
    """Make the folder and check that it can be written, before the long work begins.

    Args:
        overwrite: without it, a folder that holds one of `files` is refused.
    """
    folder = Path(out)
    _refuse_url(folder)
    try:
        _made[:0] = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in files if os.path.lexists(folder / name)]
        if present and not _finished(folder, files, present):
            present = []
        if present and not overwrite:
            raise InputError(
                f"{folder} already holds {present[0]}: name another folder or pass --overwrite "
                "(overwrite=True in Python)"
            )
        for name in present:
            _replaceable(folder / name)
        _probe(folder)
    except OSError as error:
        raise InputError(
            f"can't write to {folder}: {error.strerror or error}; name a folder that can be written"
        ) from None
    return folder


_made: list[Path] = []  # folders that were not there, the innermost first


def remove_empty() -> None:
    """Remove the folders that `prepare_folder` made and into which nothing was written."""
    while _made:
        with suppress(OSError):
            _made.pop(0).rmdir()


def _finished(folder: Path, files: Sequence[str], present: Sequence[str]) -> bool:
    """Whether these files are a result, not left by work that goes on nor another command's manifest."""
    try:
        seal = read_seal(folder)
    except InputError:
        return True
    if seal is None:
        return MANIFEST in present or not os.path.lexists(folder / UNFINISHED / MANIFEST)
    if any(name.split("/")[0] in files for name in seal.files):
        return True
    return list(present) != [MANIFEST] and not os.path.lexists(folder / UNFINISHED / MANIFEST)


_held: dict[tuple[int, int], int] = {}  # folder -> the handle that holds its lock, until this process ends


def hold_folder(folder: Path, *, shared: bool = False) -> None:
    """Be the only process that writes into the folder, to this one's end, however that comes.

    The kernel holds the lock on the folder itself: no file is left behind.

    Args:
        shared: others may write, too, that ask for it with `shared`.

    Raises:
        InputError: another process does; its number is named where /proc/locks tells it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    found = os.fstat(handle)
    try:
        if (found.st_dev, found.st_ino) not in _held:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            _held[found.st_dev, found.st_ino] = handle
            return
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"{folder} is being written by {_holder(found.st_ino)}: wait for it, or name another folder"
        ) from None
    except OSError:  # a file system without such locks
        pass
    os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Context in which no other process is, of those that use it for this folder; waits for its turn."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without such locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _holder(inode: int) -> str:
    with suppress(OSError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f"process {words[4]}"
    return "another process"


def sweep_up(folder: Path, names: Sequence[str] = ()) -> None:
    """Remove what writes that were cut have left of these files; no name: of every file.

    For a folder that this process alone writes to.
    """
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found and (not names or not found[1] or found[1] in [name[:_NAME] for name in names]):
            remove(path)


def prepare_file(out: Path, *, source: str | Path | None = None) -> None:
    """Make the file's folder and check that it can be written, before the long work begins.

    Args:
        source: what it is made from, which must be another file.
    """
    _refuse_url(out)
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        there = source is not None and os.path.exists(source) and os.path.exists(out)
        if there and os.path.samefile(str(source), out):
            raise InputError(f"{out} is the source itself; name another file")
        _replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        _probe(out.parent)
    except OSError as error:
        raise _cannot_write(out, error) from None


def save_file(path: Path, content: bytes | str) -> None:
    """`write_atomically` for a file that the user named.

    Raises:
        InputError: it can't be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _cannot_write(path, error) from None


def save_whole(path: Path, save: Callable[[Path], None]) -> None:
    """`write_whole`, of a file that the user named.

    Raises:
        InputError: it can't be written.
    """
    try:
        write_whole(path, save)
    except OSError as error:
        raise _cannot_write(path, error) from None


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Context of writing a folder's files: a full or read-only disk raises `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"can't write to {folder}: {error.strerror or error}; free some space or name another folder"
        ) from None


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"can't write {path}: {error.strerror or error}; name a file that can be written")


def json_bytes(content: Any) -> bytes:
    """`content` as a JSON file holds it; half a surrogate pair becomes a question mark."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write, sync, rename. After any failure the file under the final name is unchanged.

    Args:
        content: text becomes UTF-8; half a surrogate pair, of a path that is no text, a question mark.

    Raises:
        InputError: what is there under that name is no regular file.
    """
    _replaceable(path)
    temporary = path.with_name(f".{path.name[:_NAME]}.{uuid.uuid4().hex[:8]}")
    try:
        # O_EXCL follows no link, and the mode is that of the umask
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        put(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, save: Callable[[Path], None]) -> None:
    """Write with `save` and rename to the final name when complete."""
    from safetensors import SafetensorError

    _replaceable(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:_NAME]}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            save(made)
        except SafetensorError as error:  # its error on a full disk
            raise OSError(str(error)) from None
        put(made, path)


def save_page(path: Path, make: Callable[[], str]) -> None:
    """Write a page of results that are saved: where memory ends, they stay, with a warning."""
    try:
        write_atomically(path, make())
    except MemoryError:
        path.unlink(missing_ok=True)  # an earlier one is of other results
        warnings.warn(
            f"memory ran out while {path.name} was made; the results in {path.parent} are complete",
            stacklevel=2,
        )


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder with `fill` and put it in the place of the old one when complete."""
    if (os.path.lexists(path) and not path.is_dir()) or path.is_symlink():
        raise InputError(f"{path}: expected a folder or nothing there; move it away")
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:_NAME]}.", dir=path.parent) as home:
        made, old = Path(home, "new"), Path(home, "old")
        made.mkdir()
        fill(made)
        for file in made.rglob("*"):
            _sync(file)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(made, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def kind_of(mode: int) -> str:
    """What a file is that is no regular one, in words."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a folder")


def _replaceable(path: Path) -> int | None:
    """The mode of the file there; None: there is none. Anything else is refused."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # a NUL in the name
        raise InputError(f"can't write {path}: {error}") from None
    if stat.S_ISREG(found.st_mode):
        return stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return None  # the rename says what is wrong
    raise InputError(
        f"{path} is {kind_of(found.st_mode)}, which would be replaced: name a file or a new name"
    )


def put(made: Path, path: Path) -> None:
    """Rename a complete file to its final name: synced, as is the folder, so that it outlives a power cut.

    Raises:
        InputError: what is there under that name is no regular file.
    """
    mode = _replaceable(path)
    if mode is not None:
        os.chmod(made, mode)
    _sync(made)
    os.replace(made, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a store without sync
            raise
    finally:
        os.close(handle)


def _probe(folder: Path) -> None:
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless:  # a file that no kill can leave behind
        try:
            os.close(os.open(folder, nameless | os.O_WRONLY, 0o666))
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
    write_atomically(probe := folder / f".writable-{uuid.uuid4().hex[:8]}", b"")
    probe.unlink()


def _refuse_url(out: Path) -> None:
    if _URL.match(str(out)):
        raise InputError(f"{out}: expected a path here; only the folder of a sweep may be a URL")


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
