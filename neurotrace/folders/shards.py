"""A share of work that several processes do, each its own: ``"2/8"``, the second of eight."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neurotrace.core.errors import InputError


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of the parts, `index` from 1."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """``"2/8"``: the second of eight; `InputError` for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard {text!r}: expected i/n with i from 1 to n, e.g. 2/8")
    return Shard(int(match[1]), int(match[2]))
