"""Files that users name, read: whatever can be wrong with one is a `ValueError` or an `InputError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neurotrace.errors import InputError


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
