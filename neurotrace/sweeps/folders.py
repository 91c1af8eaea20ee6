"""A folder, local or on any fsspec file system (s3://bucket/run): files are complete or absent.

A local file is written under another name, synced and renamed. A remote one is uploaded under another
name and moved, which object stores do in one step.
"""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import open_inside
from neurotrace.core.writing import put, write_atomically


@dataclass(frozen=True)
class Folder:
    """`fs` is an fsspec file system, `path` the folder on it, `url` what the user wrote."""

    fs: Any
    path: str
    url: str

    @property
    def local(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self.fs, LocalFileSystem)

    def file(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def own(self, name: str) -> str:
        """`file`, where nothing on the way from the folder to it is a link; local folders only.

        Raises:
            InputError: a link, which may lead out of a folder that somebody else has made.
        """
        so_far = ""
        for part in name.split("/") if self.local else ():
            so_far = posixpath.join(so_far, part)
            if os.path.islink(self.file(so_far)):
                raise InputError(
                    f"{self.file(so_far)} is a symbolic link, which is not followed: put there what it "
                    "points to, or remove it"
                )
        return self.file(name)

    def open(self, name: str) -> Any:
        """The file for reading.

        Raises:
            OSError, InputError: it can't be read, is a link or no regular file.
        """
        return open_inside(self.own(name)) if self.local else self.fs.open(self.file(name), "rb")

    def make(self, *inside: str) -> None:
        """Make the folder, with these inside it, and check that it can be written.

        Raises:
            InputError: it can't.
        """
        try:
            for name in ("", *inside):
                self.fs.makedirs(self.own(name), exist_ok=True)
            probe = f".writable-{uuid.uuid4().hex[:8]}"
            self.write(probe, b"")
            self.fs.rm_file(self.file(probe))
        except InputError:
            raise
        except Exception as error:  # each store has its own error types
            raise InputError(
                f"can't write to {self.url}: {reason(error)}; name a folder that can be written"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Write `name` completely.

        Raises:
            InputError: the disk is full, or the folder has become read-only.
        """
        try:
            if self.local:
                write_atomically(Path(self.own(name)), content)
            else:
                with self.writing(name) as file:
                    file.write(content)
        except OSError as error:
            raise self.cannot_write(name, error) from None

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A file to write to, which becomes `name` when the `with` ends without an error."""
        head, _, tail = name.rpartition("/")
        temporary = self.file(posixpath.join(head, f".{tail}.{uuid.uuid4().hex[:8]}"))
        try:
            with self.fs.open(temporary, "wb") as file:
                yield file
            if self.local:
                put(Path(temporary), Path(self.own(name)))
            else:
                self.fs.mv(temporary, self.file(name))
        except BaseException:
            with suppress(OSError):
                self.fs.rm_file(temporary)
            raise

    def cannot_write(self, name: str, error: OSError) -> InputError:
        return InputError(
            f"can't write {name} to {self.url}: {reason(error)}; free some space and run the same "
            "command again. What was finished is kept"
        )

    def _cannot_read(self, name: str, error: OSError) -> InputError:
        return InputError(f"can't read {self.file(name)}: {reason(error)}")

    def read(self, name: str, *, most: int = -1) -> bytes | None:
        """The file's bytes, at most so many; None if there is no such file.

        Raises:
            InputError: it can't be read.
        """
        try:
            if self.local:
                with self.open(name) as file:
                    return bytes(file.read(most))
            return bytes(self.fs.cat_file(self.file(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._cannot_read(name, error) from None

    def names(self, inside: str = "") -> list[str]:
        """Names of the files and folders in it, hidden ones too, sorted."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self.own(inside).rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._cannot_read(inside, error) from None
        return sorted(posixpath.basename(path.rstrip("/")) for path in found)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.file(name))


def open_folder(where: str | Path) -> Folder:
    """The folder of this path or URL; nothing is read or written yet.

    Raises:
        InputError: an empty path, an unknown kind of URL, or a package that it needs is missing.
    """
    import fsspec

    url = str(where)
    try:
        if not url.strip() or "\0" in url:
            raise ValueError("it is empty, or holds a NUL")
        if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
            kinds = {step.partition("://")[0] for step in url.split("::") if "://" in step}
            if kinds & set(fsspec.available_protocols()) - {"file", "local", "memory"}:
                raise ValueError("HF_HUB_OFFLINE is set, and that is on the network")
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(
            f"can't use {url!r} as a folder: {reason(error)}; expected a path, or a URL that fsspec knows"
        ) from None
    return Folder(fs, path.rstrip("/") or "/", url)


def reason(error: BaseException) -> str:
    """A short description of an exception."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
