"""The terminal. Every word of a command goes through here: text of prompts and files is data.

Control characters, escape sequences and bidirectional controls are shown as U+FFFD, in JSON as escapes;
rich's markup in a path or a name stays what it is. A test holds that no command prints otherwise.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from neurotrace.core.display import duration, json_line, line, plain_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from neurotrace.sweeps.cost import Cost

# that end a command in order; Windows has no SIGHUP
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def say(message: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    print(f"neurotrace: {line(message)}", file=sys.stderr)
    return code


def tell(text: str, *, error: bool = False) -> None:
    """Lines on standard output, or on standard error."""
    print(plain_lines(text), file=sys.stderr if error else sys.stdout)


def tell_json(value: Any) -> None:
    """A line of JSON on standard output, at once."""
    known = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(json_line(value, ascii_only=not known), flush=True)


def console() -> Console:
    """rich's console, for tables: strings are text without markup, and without control characters."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
            return super().render_str(plain_lines(text), **options)

    return Plain(markup=False, emoji=False, highlight=False)


def plain(text: str) -> Text:
    """Text of a prompt or a file for a table: no markup, no control characters."""
    from rich.text import Text

    return Text(line(text))


def show(found: list[tuple[str, Cost]]) -> None:
    """The table of costs."""
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in ("cells", "operations", "time", "memory", "output"):
        table.add_column(name, justify="right")
    for name, each in found:
        table.add_row(
            name,
            f"{each.cells:.4g}",
            f"{each.operations:.3g}",
            duration(each.seconds),
            f"{each.memory / 2**30:.3g} GiB",
            size(each.output),
        )
    console().print(table)


def size(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
