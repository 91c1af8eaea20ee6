"""Display of results: a sentence that says what they are, then small tables.

A class that inherits `Shown` and returns its tables from `_view` looks the same in a notebook
(`_repr_html_`), in IPython's terminal and under `rich.print`. Text from prompts is data in both.
"""

from __future__ import annotations

import html
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from rich.console import Group
    from rich.text import Text

# a page may load nothing and send nothing: its scripts, styles and figures are all in it
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; script-src '
    "'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'\">"
)
TOWARDS_MEMORY, TOWARDS_REASONING, NEUTRAL = "#0072B2", "#D55E00", "#5f7a76"
_WIDTH = 6  # characters of a bar in a terminal


@dataclass(frozen=True)
class Bar:
    """A number with a bar drawn behind it; the bar of a signed number starts in the middle."""

    value: float
    bound: float  # the magnitude that fills the bar
    text: str
    signed: bool = False

    @property
    def share(self) -> float:
        """Of the bound, in -1..1; 0 for what isn't a number."""
        if not self.bound > 0 or self.value != self.value:
            return 0.0
        return max(-1.0, min(1.0, self.value / self.bound))

    @property
    def colour(self) -> str:
        if not self.signed:
            return NEUTRAL
        return TOWARDS_MEMORY if self.value > 0 else TOWARDS_REASONING


Cell = str | int | Bar | None


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    title: str = ""


@dataclass(frozen=True)
class View:
    what: str
    tables: tuple[Table, ...] = ()
    more: str = ""  # where the rest is to be found


class Shown:
    """What inherits this shows its `_view`."""

    def _view(self) -> View:
        raise NotImplementedError

    def to_dataset(self) -> datasets.Dataset:
        """The rows of `to_frame` as a `datasets.Dataset`, to filter, save or share."""
        return to_dataset(self)

    def _repr_html_(self) -> str:
        return to_html(self._view())

    def __rich__(self) -> Group:
        return to_rich(self._view())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's text form: the same tables, coloured only on a terminal."""
        from rich.console import Console

        page = io.StringIO()
        Console(file=page, force_terminal=sys.stdout.isatty(), width=100).print(self.__rich__())
        printer.text(page.getvalue().rstrip("\n"))


def to_dataset(rows: Any) -> datasets.Dataset:
    """A `datasets.Dataset` of pairs, prompts or any result that has rows.

    Args:
        rows: what has `to_frame` (`EncodedPairs`, `Effects`, `NeuronEffects`, `Scores`, ...), or a list
            of `PromptPair`s or `Prompt`s; `load_pairs` reads what comes of those.

    Raises:
        InputError: it has no rows.

    Example::

        nt.to_dataset(nt.load_pairs("letters")).save_to_disk("letters")
    """
    import datasets

    if hasattr(rows, "to_frame"):
        return datasets.Dataset.from_pandas(rows.to_frame(), preserve_index=False)
    records = list(rows) if isinstance(rows, Iterable) else []
    if not records or not all(is_dataclass(each) for each in records):
        raise InputError(
            f"expected a result with rows, or a list of pairs or prompts, got {type(rows).__name__}"
        )
    return datasets.Dataset.from_list([asdict(each) for each in records])


def to_html(view: View) -> str:
    """A fragment with its styles inline: it takes a notebook's colours, light or dark."""
    parts = [f"<p style='margin:.2em 0'>{html.escape(view.what)}</p>"]
    for table in view.tables:
        head = "".join(
            f"<th scope='col' style='{_style(table, place)}'>{html.escape(name.strip())}</th>"
            for place, name in enumerate(table.columns)
        )
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td style='{_style(table, place)}'>{_html(cell)}</td>" for place, cell in enumerate(row)
            )
            + "</tr>"
            for row in table.rows
        )
        title = f"<caption style='text-align:left'><b>{html.escape(table.title)}</b></caption>"
        parts.append(
            "<table style='border-collapse:collapse;font-variant-numeric:tabular-nums;"
            f"margin:.4em 0'>{title if table.title else ''}"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )
    if view.more:
        parts.append(f"<p style='margin:.2em 0;opacity:.75'>{html.escape(view.more)}</p>")
    return f"<div class='neurotrace'>{''.join(parts)}</div>"


def to_rich(view: View) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = [Text(plain(view.what)), Text()]
    for table in view.tables:
        drawn = RichTable(
            title=Text(plain(table.title)) if table.title else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 0),
        )
        for place, name in enumerate(table.columns):
            right = _side(table, place) == "right"
            drawn.add_column(plain(name.strip()), justify="right" if right else "left", no_wrap=right)
        for row in table.rows:
            drawn.add_row(*(_rich(cell) for cell in row))
        parts.append(drawn)
    if view.more:
        parts.append(Text(plain(view.more), style="dim"))
    return Group(*parts)


def frame_table(frame: pd.DataFrame, title: str = "", *, limit: int = 10) -> Table:
    """The first rows of a data frame; numbers to three digits."""
    rows = [tuple(_cell(value) for value in row) for row in frame.head(limit).itertuples(index=False)]
    return Table(tuple(str(name).replace("_", " ") for name in frame.columns), rows, title)


def plain(text: str) -> str:
    """`text` without control characters: those of a prompt or a file name are not for a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def plain_lines(text: str) -> str:
    """`plain`, line by line."""
    return "\n".join(map(plain, text.split("\n")))


def json_line(value: Any, *, ascii_only: bool = False) -> str:
    """`value` as JSON in one line; control characters, bidirectional ones too, as their escapes."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return json.dumps(char).strip('"') if char > "\x7f" else f"\\u{ord(char):04x}"


def line(text: str) -> str:
    """`plain`, in one line."""
    return plain(" ".join(text.split()))


def percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.1%}"


def rate(value: float | None) -> Cell:
    """A share in 0..1 as a bar."""
    return None if value is None else Bar(value, 1.0, percent(value))


def share(value: float) -> Cell:
    """An AUROC, a probability: digits on a bar that 1 fills."""
    return None if value != value else Bar(value, 1.0, f"{value:.2f}")


def clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cell(value: Any) -> Cell:
    if isinstance(value, float):  # numpy's, too
        return None if value != value else Bar(0.0, 0.0, f"{value:.3g}")
    return value if isinstance(value, int) else str(value)


def _side(table: Table, place: int) -> str:
    """Words are aligned left, numbers right."""
    return "left" if any(isinstance(row[place], str) for row in table.rows) else "right"


def _style(table: Table, place: int) -> str:
    return f"text-align:{_side(table, place)};padding:.1em .6em .1em 0"


def _html(cell: Cell) -> str:
    if not isinstance(cell, Bar):
        return "–" if cell is None else html.escape(str(cell))
    if not cell.bound:  # a number alone
        return html.escape(cell.text)
    if cell.signed:
        half = abs(cell.share) * 50
        ends = (50, 50 + half) if cell.share > 0 else (50 - half, 50)
    else:
        ends = (0, abs(cell.share) * 100)
    paint = (
        f"linear-gradient(90deg,transparent {ends[0]:.1f}%,{cell.colour}66 {ends[0]:.1f}%,"
        f"{cell.colour}66 {ends[1]:.1f}%,transparent {ends[1]:.1f}%)"
    )
    return (
        f"<span style='display:inline-block;min-width:7em;padding:0 .3em;background:{paint}'>"
        f"{html.escape(cell.text)}</span>"
    )


def _rich(cell: Cell) -> Text:
    from rich.text import Text

    if not isinstance(cell, Bar):
        return Text("–" if cell is None else plain(str(cell)))
    filled = round(abs(cell.share) * _WIDTH)
    if not cell.bound:
        return Text(plain(cell.text))
    drawn = Text(f"{plain(cell.text)} ")
    drawn.append("█" * filled, style=cell.colour)
    drawn.append("·" * (_WIDTH - filled), style="dim")
    return drawn


def duration(seconds: float) -> str:
    """Three digits in the largest unit of which there are two: `"90 s"`, `"2.5 min"`."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
