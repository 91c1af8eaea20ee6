"""Progress bars on standard error, only where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def bars(iterable: Sequence[Any], description: str = "") -> Iterable[Any]:
    """`iterable`, with a bar (rate, time left) on a terminal and nothing elsewhere."""
    if not sys.stderr.isatty() or len(iterable) < 2:
        return iterable
    return _bars(iterable, description)


def _bars(iterable: Sequence[Any], description: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    yield from track(
        iterable, description=f"{description:<38}", console=Console(stderr=True), transient=True
    )
