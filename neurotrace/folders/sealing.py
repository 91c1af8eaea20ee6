"""Writing the files of a command's folder: its manifest comes last, with the hash of each.

`core/files.py` reads such a manifest and checks files against it; `results/verify.py` checks all of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import MANIFEST, listed, read_seal
from neurotrace.core.writing import UNFINISHED, filling, json_bytes, remove, sweep_up, write_atomically


@contextmanager
def sealing(
    folder: Path, files: Sequence[str], record: Mapping[str, Any], *, beside: bool = True
) -> Iterator[None]:
    """Context of writing `files` of a folder: its manifest goes first, and comes last with their hashes.

    What `folders.units` kept in the folder on the way goes in the end.

    Args:
        files: names, of folders too; those that are not there in the end are not listed.
        record: what the manifest says besides, with `format`.
        beside: where the manifest of another command is there, keep its record and add the files.

    Raises:
        InputError: the disk is full or read-only.
    """
    with filling(folder):
        sweep_up(folder, [*files, MANIFEST])
        known = _known(folder)
        kept = known if beside and known and known["format"] != record["format"] else record
        if kept is record:
            (folder / MANIFEST).unlink(missing_ok=True)
        yield
        found = {name: of for name, of in known.get("files", {}).items() if name.split("/")[0] not in files}
        found |= {name: listed(folder / name) for name in inside(folder) if name.split("/")[0] in files}
        write_atomically(folder / MANIFEST, sealed_json({**kept, "files": found}))
        remove(folder / UNFINISHED)


def list_again(folder: Path, name: str) -> None:
    """Set one file's hash in the folder's manifest, where there is one that names files."""
    if (seal := read_seal(folder)) and (folder / name).exists():
        files = seal.files | {name: listed(folder / name)}
        write_atomically(folder / MANIFEST, sealed_json({**seal.record, "files": files}))


def inside(folder: Path) -> list[str]:
    """Paths of the files in a folder and below, but for hidden ones and folders with their own manifest."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        at = Path(place)
        folders[:] = [
            each for each in folders if each[0] != "." and not os.path.lexists(at / each / MANIFEST)
        ]
        links = [each for each in folders if (at / each).is_symlink()]
        found += [at / each for each in (*files, *links) if each[0] != "."]
    return sorted({path.relative_to(folder).as_posix() for path in found} - {MANIFEST})


def sealed_json(record: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, with a SHA-256 of all of it at their end."""
    raw = json_bytes({**record, "seal": "0" * 64})
    return raw[:-68] + hashlib.sha256(raw).hexdigest().encode() + raw[-4:]


def _known(folder: Path) -> dict[str, Any]:
    """The manifest there, with its list of files; empty: none, or one that can't be read."""
    try:
        seal = read_seal(folder)
        return {} if seal is None else {**seal.record, "files": seal.files}
    except InputError:
        return {}
