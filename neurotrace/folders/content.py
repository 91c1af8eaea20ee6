"""What the results of a call depend on, as JSON data: hashed, and compared with what a folder holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from neurotrace.core.display import clip


def content_hash(content: Any) -> str:
    """SHA-256 of the content as sorted JSON."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Each differing value, as ``"mode: was 'zero', is 'mean'"``."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = [*was, *(key for key in now if key not in was)]
        return [
            line
            for key in keys
            for line in differences(was.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if was == now else [f"{name}: was {clip(repr(was), 40)}, is {clip(repr(now), 40)}"]


def first_differences(was: Any, now: Any) -> str:
    """The first four in a line; empty: there are none."""
    found = differences(was, now)
    more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
    return "; ".join(found[:4]) + more
