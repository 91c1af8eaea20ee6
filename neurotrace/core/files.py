"""Files that users name, read: whatever can be wrong with one is a `ValueError` or an `InputError`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


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
            raise InputError(f"{path}: wanted the column {name!r}, came {what}")
    return frame, note if isinstance(note, dict) else {}
