"""Rows of files and tables, read and checked: pairs, prompts and facts alike. No torch here."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neurotrace.core.errors import InputError, first_line
from neurotrace.core.files import DATA_FILES, rows_of


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=_Named)
Source = Any  # str | Path | a frame | Iterable[Mapping[str, Any]]: whatever `read_rows` reads


def probes_folder() -> Path:
    """The folder of the packaged prompt sets: inside an installed wheel, beside the package in a clone."""
    here = Path(__file__).parent.parent
    inside = here / "probes"
    return inside if inside.is_dir() else here.parent / "probes"


def probe_names(what: str = "pairs") -> list[str]:
    """Names of the packaged sets that hold pairs (or `what`: ``"prompts"``).

    Example::

        nt.probe_names()
        nt.probe_names("prompts")
    """
    return sorted(path.parent.name for path in probes_folder().glob(f"*/{what}.jsonl"))


def read_records(
    source: Source,
    what: str,
    make: Callable[[Any, str], Record],
    fields: Sequence[str],
    *,
    split: str | None = None,
) -> list[Record]:
    """Every record of whatever `read_rows` reads, made by `make`.

    Args:
        what: ``"pairs"`` or ``"prompts"``: the file's name without its ending.
        make: (the row, where it stands) -> the record; raises InputError.
        fields: what a row must have, for the messages.
        split: of a `datasets` data set.
    """
    name, rows = read_rows(source, what, split=split)
    wanted = "the fields " + ", ".join(fields)
    return unique(name, what, wanted, ((where, make(row, where)) for where, row in rows))


def unique(name: str, what: str, wanted: str, made: Iterable[tuple[str, Record]]) -> list[Record]:
    """The records, of which there must be one and no two with the same id.

    Args:
        made: (where it stands, the record).
    """
    seen: dict[str, str] = {}
    records = []
    for where, record in made:
        if record.id in seen:
            raise InputError(
                f"{where}: the id {short(record.id)} occurs twice, first at "
                f"{seen[record.id].removeprefix(f'{name}, ')}; ids must be unique"
            )
        seen[record.id] = where
        records.append(record)
    if not records:
        raise InputError(f"{name}: no {what} in it; expected at least one row with {wanted}")
    return records


def read_rows(
    source: Source, what: str, *, split: str | None = None
) -> tuple[str, Iterator[tuple[str, Any]]]:
    """(the source's name, its rows), each row with where it stands: a file's line, a table's row.

    Args:
        source: a packaged set's name; a file (JSON, JSON lines, CSV and its like, Parquet); a folder
            with ``<what>.jsonl`` or with a data set that `datasets` reads; a data set's name on the
            hub, ``owner/name``; a pandas or polars frame, an Arrow table, a `datasets.Dataset`, dicts
            or dataclasses.
        split: of a `datasets` data set; needed where there are several.

    Raises:
        InputError: nothing there, or not to be read; also while the rows are read.
    """
    if isinstance(source, (str, Path)):
        name = str(source)
        path = _file(source, what)
        if path is not None and split is None:
            name = str(path)
            rows = rows_of(path)
        else:
            rows = _dataset_rows(name, split)
        return name, ((f"{name}, {where}", row) for where, row in rows)
    if isinstance(source, Mapping):  # a DatasetDict, or a dict that is no table
        source, split = _one_split(source, split), None
    if split is not None:
        raise InputError(f"split={split!r}: expected none; what is given has no splits")
    return f"the given {what}", (
        (f"the given {what}, {where}", row) for where, row in _given_rows(source, what)
    )


def _given_rows(source: Any, what: str) -> Iterator[tuple[str, Any]]:
    """Of a table in memory. Frames are met by what they can do: polars needn't be there."""
    rows: Iterable[Any]
    if hasattr(source, "to_dicts"):  # polars
        rows = source.to_dicts()
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        rows = source.to_dict("records")
    elif hasattr(source, "to_pylist"):  # Arrow
        rows = source.to_pylist()
    elif hasattr(source, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        rows = from_dataframe(source).to_pylist()
    elif isinstance(source, Iterable):
        rows = source
    else:
        raise InputError(f"{what}: expected a name, a file, a table or dicts, got {type(source).__name__}")
    kind = "row" if hasattr(source, "columns") or hasattr(source, "column_names") else what[:-1]
    for number, row in enumerate(rows, 1):
        yield f"{kind} {number}", asdict(row) if is_dataclass(row) else row  # type: ignore[arg-type]


def _dataset_rows(name: str, split: str | None) -> Iterator[tuple[str, Any]]:
    """Of what `datasets.load_dataset` finds: a folder of data files, or a name on the hub.

    Cells of CSV files are text. No code that comes with a data set runs: `datasets` has no such
    loaders any more, and of its own only those that read tables are let in.
    """
    import datasets

    found: Any
    try:
        if os.path.isdir(name) and _SAVED & set(os.listdir(name)):
            found = datasets.load_from_disk(name)
        else:
            kind = datasets.load_dataset_builder(name).info.builder_name
            if kind not in ("csv", "json", "parquet", "arrow", "text"):
                raise InputError(f"{name}: a data set of the kind {kind!r}; expected a table")
            found = datasets.load_dataset(name)
            if kind == "csv":  # once more with every column as text, now that they are known
                columns = next(iter(found.values())).column_names
                text = datasets.Features({column: datasets.Value("string") for column in columns})
                found = datasets.load_dataset(name, features=text, keep_default_na=False)
        if isinstance(found, Mapping):
            found = _one_split(found, split)
        elif split is not None:
            raise InputError(f"split={split!r}: expected none; it has no splits")
    except InputError:
        raise
    except Exception as error:  # a hub out of reach, files that don't fit: many kinds
        why = first_line(error.__cause__ or error)
        raise InputError(f"{name}: datasets can't load it ({why})") from None
    rows: Iterable[Any] = found
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _one_split(splits: Mapping[str, Any], split: str | None) -> Any:
    names = [str(name) for name in splits]
    if not all(hasattr(each, "column_names") for each in splits.values()) or not names:
        raise InputError("got a dict: expected rows, a list of dicts say")
    if split is None and len(names) == 1:
        return splits[names[0]]
    if split not in names:
        raise InputError(f"split={split!r}: expected one of {', '.join(names)} (split=, or --split)")
    return splits[split]


def no_text(value: Any) -> str | None:
    """What a cell is that is no text: "empty", "a list of 2"; None: it is text.

    Nothing is turned into text here: `None`, NaN and lists have no meaning as an answer, and of a
    number the leading zeros are lost.
    """
    if isinstance(value, str):
        return None if value.strip() else (short(value) if value else "empty")
    if value is None or type(value).__name__ in ("NAType", "NaTType") or is_nan(value):
        return "empty"
    if isinstance(value, (list, tuple, set)) or type(value).__name__ == "ndarray":
        return f"a list of {len(value)}, {short(value)}"
    if isinstance(value, (bool, int, float)) or type(value).__module__ == "numpy":
        return f"{short(value)} and no text (leading zeros and spaces are lost: store it as text)"
    return short(value)


def listed(text: str) -> list[Any] | None:
    """The items of a list that was written into a cell, `['France']` say; None: it is no such text."""
    if not (text.strip().startswith("[") and text.strip().endswith("]")) or len(text) > 10_000:
        return None
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, list) else None


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


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
        if name in optional and (value is None or value == "" or is_nan(value)):
            found[name] = None
            continue
        if (kind := no_text(value)) is not None:
            raise InputError(f"{where}: field {name!r} is {kind}; expected text that is not empty")
        if any("\ud800" <= char <= "\udfff" for char in str(value)):
            raise InputError(f"{where}: field {name!r} holds half a surrogate pair; remove it")
    return found


def refuse_same_answers(memorized: str, reasoned: str, where: str) -> None:
    """Raise if both answers are the same: a flip needs two different answers."""
    if memorized == reasoned:
        raise InputError(
            f"{where}: both answers are {short(memorized)}; a flip needs two different "
            "answers: remove the pair or name another answer"
        )


def short(value: Any, limit: int = 60) -> str:
    """`repr`, cut to `limit` signs."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_SAVED = {"dataset_info.json", "dataset_dict.json"}  # by `save_to_disk`
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def _file(source: str | Path, what: str) -> Path | None:
    """The file that is meant; None: a data set for `datasets`."""
    packaged = probes_folder() / str(source) / f"{what}.jsonl"
    path = Path(source)
    if os.path.isdir(path):  # unlike Path's, these two take a name that is too long
        try:
            inside = {each.name: each for each in path.iterdir()}
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror})") from None
        tables = [inside[name] for name in sorted(inside) if inside[name].suffix in DATA_FILES]
        if f"{what}.jsonl" in inside:
            return inside[f"{what}.jsonl"]
        if _SAVED & set(inside):
            return None
        if len(tables) == 1:
            return tables[0]
        if tables or {"data", "train"} & set(inside):
            return None
    if os.path.isfile(path):
        return path
    if isinstance(source, str):
        if os.path.isfile(packaged):
            return packaged
        if _HUB_NAME.fullmatch(source) and path.suffix.lower() not in DATA_FILES:
            return None
    names = probe_names(what)
    close = get_close_matches(str(source), names, 1, 0.6)
    meant = f"did you mean the set {close[0]!r}? " if close else ""
    packaged_too = f", or one of the packaged sets {', '.join(names)}" if names else ""
    raise InputError(
        f"no {what} at {short(str(source), 200)}: {meant}expected a file (JSON, JSON lines, CSV, "
        f"TSV, Parquet), a folder with {what}.jsonl or other data, a set's name on the hub{packaged_too}"
    )
