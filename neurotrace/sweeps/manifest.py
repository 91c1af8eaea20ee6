"""Everything that a sweep's numbers depend on. A folder resumes only with the same.

`content` holds weights, configuration, prompts as token ids, metric, intervention, neurons, positions,
precision, batch, threads and versions; its SHA-256 identifies the sweep and is in every part. `asked`
holds the call (names and paths, which may change), `notes` further information.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import parse_json
from neurotrace.folders.content import content_hash, first_differences
from neurotrace.folders.sealing import sealed_json
from neurotrace.sweeps.asked import Sweep, asked_of
from neurotrace.sweeps.folders import Folder
from neurotrace.sweeps.layout import Layout

NAME = "manifest.json"
FORMAT = "neurotrace.sweep"
VERSION = 1
_MOST_BYTES = 2**24  # maximum size of a manifest


@dataclass(frozen=True)
class Manifest:
    """See the module's docstring."""

    content: Mapping[str, Any]
    asked: Sweep
    notes: Mapping[str, Any]

    @property
    def hash(self) -> str:
        return content_hash(self.content)

    @property
    def layout(self) -> Layout:
        cut = self.content["layout"]
        return Layout(cut["pairs"], cut["neurons"], cut["part_rows"])


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    record = {
        "format": f"{FORMAT}/{VERSION}",
        "content_sha256": manifest.hash,
        "content": manifest.content,
        "asked": manifest.asked.record(),
        "notes": manifest.notes,
    }
    folder.write(NAME, sealed_json(record))


def read_manifest(folder: Folder) -> Manifest | None:
    """The folder's manifest; None if there is none.

    Raises:
        InputError: it is not the manifest of a sweep, was changed by hand, or is of a newer version.
    """
    raw = folder.read(NAME, most=_MOST_BYTES + 1)
    if raw is None:
        return None
    where = f"{folder.url}/{NAME}"
    try:
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        record = parse_json(raw)
    except ValueError as error:
        raise InputError(f"{where}: not the manifest of a sweep ({error})") from None
    kind, _, version = str(record.get("format", "") if isinstance(record, dict) else "").partition("/")
    if kind != FORMAT or not version.isdecimal():
        raise InputError(f"{where}: not the manifest of a sweep; name another folder")
    if int(version) > VERSION:
        raise InputError(
            f"{where}: written by a newer neurotrace (format {version}, this one knows {VERSION}): "
            "update neurotrace, or name another folder"
        )
    content, notes = record.get("content"), record.get("notes", {})
    try:
        changed = content_hash(content) != record.get("content_sha256")
        cut = [content["layout"][name] for name in ("pairs", "neurons", "part_rows")]
        good = all(type(size) is int and 0 < size < 2**53 for size in cut)
    except (TypeError, KeyError, ValueError, RecursionError):
        changed, good = False, False
    if changed:
        raise InputError(f"{where}: its content doesn't match its hash: it was changed by hand")
    if not good or not isinstance(notes, dict):
        raise InputError(f"{where}: its layout is missing or not made of whole numbers")
    return Manifest(content, asked_of(record.get("asked"), where), notes)


def refuse_other(was: Mapping[str, Any], now: Mapping[str, Any], folder: Folder) -> None:
    """Raise if the folder holds another sweep; the message names the differences.

    Raises:
        InputError: `now` is not what the folder holds.
    """
    if found := first_differences(was, now):
        raise InputError(
            f"{folder.url} holds another sweep: {found}. Name another folder, or use the earlier settings"
        )
