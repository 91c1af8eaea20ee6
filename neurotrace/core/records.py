"""JSON lines, read and checked: what `pairs.py` and `prompts.py` have in common. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neurotrace.core.errors import InputError
from neurotrace.core.files import parse_json


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=_Named)
Source = str | Path | Iterable[Mapping[str, Any]]


def probes_folder() -> Path:
    """Where the packaged probes lie: inside an installed wheel, beside the package in a clone."""
    here = Path(__file__).parent.parent
    inside = here / "probes"
    return inside if inside.is_dir() else here.parent / "probes"


def probe_names(what: str = "pairs") -> list[str]:
    """Names of the packaged sets that hold pairs (or `what`: ``"prompts"``)."""
    return sorted(path.parent.name for path in probes_folder().glob(f"*/{what}.jsonl"))


def read_records(
    source: Source, what: str, make: Callable[[Any, str], Record], fields: Sequence[str]
) -> list[Record]:
    """Every record of a packaged set, a file, a folder or an iterable of dicts, made by `make`.

    Args:
        what: ``"pairs"`` or ``"prompts"``: the file's name without its ending.
        make: (the parsed line, where it stands) -> the record; raises InputError.
        fields: what a line must have, for the messages.
    """
    wanted = "the fields " + ", ".join(fields)
    if isinstance(source, (str, Path)):
        path = _file(source, what)
        lines: Iterator[tuple[str, Any]] = _lines(path, wanted)
        name = str(path)
    else:
        lines = ((f"{what[:-1]} {number}", record) for number, record in enumerate(source, 1))
        name = f"the given {what}"
    records = [make(record, f"{name}, {where}") for where, record in lines]
    if not records:
        raise InputError(f"{name}: no {what} in it; expected at least one JSON line with {wanted}")
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise InputError(f"{name}: the id {short(record.id)} occurs twice; ids must be unique")
        seen.add(record.id)
    return records


def text_fields(
    record: Any, where: str, fields: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The record's fields, each checked to be text that is not empty (`optional` ones: or null)."""
    wanted = "the fields " + ", ".join(fields)
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: expected a JSON object with {wanted}, got {short(record)}")
    missing = [name for name in fields if name not in record and name not in optional]
    if missing:
        raise InputError(f"{where}: field {missing[0]!r} is missing; expected {wanted}")
    unknown = sorted(str(name) for name in record if name not in fields)
    if unknown:
        raise InputError(f"{where}: field {short(unknown[0])} is unknown; expected {wanted}")
    found = {name: record.get(name) for name in fields}
    for name, value in found.items():
        if value is None and name in optional:
            continue
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{where}: field {name!r} is {short(value)}; expected text that is not empty"
            )
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise InputError(f"{where}: field {name!r} holds half a surrogate pair; remove it")
    return found


def refuse_same_answers(memorized: str, reasoned: str, where: str) -> None:
    """A flip exists only between two different answers."""
    if memorized == reasoned:
        raise InputError(
            f"{where}: both answers are {short(memorized)}; a flip needs two different "
            "answers: remove the pair or name another answer"
        )


def short(value: Any, limit: int = 60) -> str:
    """`repr`, cut to `limit` signs."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _file(source: str | Path, what: str) -> Path:
    packaged = probes_folder() / str(source) / f"{what}.jsonl"
    path = Path(source)
    if os.path.isdir(path):  # unlike Path's, these two take a name that is too long
        path = path / f"{what}.jsonl"
    if os.path.isfile(path):
        return path
    if isinstance(source, str) and os.path.isfile(packaged):
        return packaged
    raise InputError(
        f"no {what} at {short(str(source), 200)}: expected a .jsonl file, a folder with {what}.jsonl, "
        f"or one of the packaged sets {', '.join(probe_names(what))}"
    )


def _lines(path: Path, wanted: str) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    # split on "\n" alone: str.splitlines would cut a JSON string at U+2028
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", parse_json(line)
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: not JSON ({error}); expected one object a line with {wanted}"
                ) from None
