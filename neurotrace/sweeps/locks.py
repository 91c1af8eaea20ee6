"""One writer per shard; the lock names the owner.

On a local or network file system the kernel holds the lock (flock) and releases it when its owner dies,
also by kill -9. Other stores have no locks: the owner renews a file, and an owner that has not renewed
it for half an hour counts as dead. A wrong guess costs only time, because two writers of one part write
the same bits.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import open_inside, parse_json
from neurotrace.core.process import command_line
from neurotrace.folders.shards import Shard
from neurotrace.sweeps.folders import Folder

LOCKS = "locks"
_A_LOOK = 1.0  # seconds: a process that only checks a lock holds it for a moment
DEAD_AFTER = 1800.0  # seconds without renewal, if the kernel does not know


class Held(InputError):
    """Another process writes this shard, or one that overlaps it."""


@contextmanager
def locked(folder: Folder, shard: Shard) -> Iterator[Callable[[], None]]:
    """Hold the shard's lock inside the `with`; call the yielded function regularly to renew it.

    Raises:
        Held: names the owner.
    """
    name = f"{LOCKS}/shard-{shard.index}-of-{shard.count}.lock"
    if folder.local:
        import fcntl

        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(folder.own(name), flags, 0o666)
        except OSError as error:
            raise folder.cannot_write(name, error) from None
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                raise InputError(f"{folder.file(name)}: expected a file of its own; remove what is there")
            until = time.monotonic() + _A_LOOK
            while not _flock(handle, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    _refuse(folder, name)
                time.sleep(0.02)
            os.ftruncate(handle, 0)
            os.pwrite(handle, _owner(), 0)
            _refuse_overlap(folder, shard)
            yield lambda: None
        finally:
            os.close(handle)
    else:
        if _alive(folder, name):
            _refuse(folder, name)
        _refuse_overlap(folder, shard)
        folder.write(name, _owner())
        try:
            yield lambda: folder.write(name, _owner())
        finally:
            folder.remove(name)


def owners(folder: Folder) -> dict[Shard, dict[str, Any]]:
    """Live locks: shard -> its owner."""
    found = {}
    for file in folder.names(LOCKS):
        try:
            index, count = file.removeprefix("shard-").removesuffix(".lock").split("-of-")
            shard = Shard(int(index), int(count))
        except ValueError:
            continue
        if _alive(folder, f"{LOCKS}/{file}"):
            found[shard] = _read(folder, f"{LOCKS}/{file}")
    return found


def _refuse_overlap(folder: Folder, shard: Shard) -> None:
    for other in owners(folder):
        if other.count != shard.count:
            _refuse(folder, f"{LOCKS}/shard-{other.index}-of-{other.count}.lock")


def _refuse(folder: Folder, name: str) -> None:
    who = _read(folder, name)
    more = "" if folder.local else f"; if that one is dead, delete {folder.file(name)}"
    raise Held(
        f"{folder.url} is being written by process {who.get('pid', '?')} of {who.get('user', '?')} "
        f"on {who.get('host', '?')} ({name.removeprefix(LOCKS + '/')}, {who.get('command', '?')}): "
        f"wait for it, or name another folder or shard{more}"
    )


def _alive(folder: Folder, name: str) -> bool:
    if not folder.local:
        beat = _read(folder, name).get("beat")
        return isinstance(beat, (int, float)) and time.time() - beat < DEAD_AFTER
    import fcntl

    try:
        with open_inside(folder.own(name)) as file:
            return not _flock(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def _flock(handle: int, kind: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        warnings.warn(f"two writers can't be distinguished here: {error.strerror}", stacklevel=3)
    return True


def _owner() -> bytes:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    who = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": user,
        "beat": time.time(),
        "command": command_line(),
    }
    return json.dumps(who).encode()


def _read(folder: Folder, name: str) -> dict[str, Any]:
    try:
        found = parse_json(folder.read(name) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
