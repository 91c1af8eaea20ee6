"""The terminal: one-line errors, escaped text, tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from neurotrace.core.display import line

if TYPE_CHECKING:
    from rich.text import Text

    from neurotrace.sweeps.cost import Cost


def say(message: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    print(f"neurotrace: {line(message)}", file=sys.stderr)
    return code


def plain(text: str) -> Text:
    """Text of a prompt or a file for a table: no markup, no control characters."""
    from rich.text import Text

    return Text(line(text))


def show(found: list[tuple[str, Cost]]) -> None:
    """The table of costs."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in ("cells", "operations", "time", "memory", "output"):
        table.add_column(name, justify="right")
    for name, each in found:
        table.add_row(
            name, f"{each.cells:.4g}", f"{each.operations:.3g}", duration(each.seconds),
            f"{each.memory / 2**30:.3g} GiB", size(each.output),
        )  # fmt: skip
    Console().print(table)


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
