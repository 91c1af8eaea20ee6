"""This process: its progress, versions, the command line, other libraries' messages silenced."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol, TypeVar

from neurotrace.core.display import duration, line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

Item = TypeVar("Item")


class _Shows(Protocol):
    """Yields the items of `iterable` and shows the progress, e.g. `bars` or tqdm's `tqdm`."""

    def __call__(self, iterable: Iterable[Item], description: str = "") -> Iterable[Item]: ...


Progress = _Shows | None


def over(
    progress: Progress, items: Sequence[Item], description: str, *, outer: bool = False
) -> Iterable[Item]:
    """`items`, with progress shown by `progress`; None shows nothing.

    Args:
        outer: the loop runs once in each item of the loop around it, so that its share counts.
    """
    if progress is None:
        return items
    if isinstance(progress, _Meter):
        return progress(items, description, outer=outer)
    return progress(items, description=description)


_WORK = 0.5  # seconds: an item that takes longer was worked on, not read from a folder


class _Loop:
    """A loop that is open: its name, its items, how many of them are finished."""

    def __init__(self, name: str, total: int, outer: bool) -> None:
        self.name, self.total, self.done, self.outer = name, total, 0, outer
        self.since = (0.0, 0.0)  # when its present item began, and the whole share done by then


class _Meter:
    """The loops of this process that are open, outermost first, as one line on standard error.

    On a terminal the line stays in place, with a bar; elsewhere it is printed every half minute. The share
    and the time left are those of the outer loops: an inner loop runs many times, so its own share says
    little. What was read from an earlier call's folder takes no time, and does not count for the time left.
    """

    every = 30.0  # seconds between two printed lines

    def __init__(self) -> None:
        self.silent = False
        self.loops: list[_Loop] = []
        self.live: Live | None = None
        self.last = 0.0
        self.begun: tuple[float, float] | None = None  # when work began, and the share done by then

    def __call__(
        self, iterable: Iterable[Item], description: str = "", *, outer: bool = False
    ) -> Iterable[Item]:
        few = not isinstance(iterable, Sized) or len(iterable) < 2
        return iterable if self.silent or few else self._loop(iterable, description, outer)

    def _loop(self, iterable: Iterable[Item], name: str, outer: bool) -> Iterator[Item]:
        assert isinstance(iterable, Sized)
        own = _Loop(line(name), len(iterable), outer)
        self._enter(own)
        try:
            for item in iterable:
                yield item
                self._done(own)
        finally:
            self._leave(own)

    def _enter(self, own: _Loop) -> None:
        now = time.monotonic()
        if not self.loops:
            self.last, self.begun = now, None
            if sys.stderr.isatty():
                self.live = _live(self._drawn)
        own.since = now, self.share()
        self.loops.append(own)

    def _done(self, own: _Loop) -> None:
        now = time.monotonic()
        own.done += 1
        if self.begun is None and now - own.since[0] > _WORK:
            self.begun = own.since
        own.since = now, self.share()
        if self.live is None and now - self.last >= self.every:
            self.last = now
            print(self.text(), file=sys.stderr, flush=True)

    def _leave(self, own: _Loop) -> None:
        if own in self.loops:
            del self.loops[self.loops.index(own) :]
        if not self.loops:
            self.__exit__()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """After an error too the line leaves the terminal, and no loop is open."""
        self.loops.clear()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def share(self) -> float:
        """The finished share of the outer loops; of a single loop its own."""
        share, weight = 0.0, 1.0
        for place, each in enumerate(self.loops):
            if place == 0 or each.outer:
                weight /= each.total
                share += each.done * weight
        return share

    def text(self) -> str:
        """The line: `family 2 of 3, fold 1 of 5, ranking 3 of 16: 38 %, 12 min left`."""
        where = ", ".join(
            f"{each.name} {min(each.done + each.outer, each.total)} of {each.total}" for each in self.loops
        )
        share = self.share()
        if self.begun is None or share <= self.begun[1]:
            return f"{where}: {share:.0%}"
        left = (time.monotonic() - self.begun[0]) * (1 - share) / (share - self.begun[1])
        return f"{where}: {share:.0%}, {duration(float(f'{left:.2g}'))} left"

    def _drawn(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(1.0, self.share(), width=20), Text(self.text(), overflow="ellipsis"))
        return grid


def _live(drawn: Callable[[], Table]) -> Live:
    from rich.console import Console
    from rich.live import Live

    shown = Live(console=Console(stderr=True), transient=True, get_renderable=drawn)
    shown.start()
    return shown


bars = _Meter()  # the command line's `progress`


def quiet() -> None:
    """Silence other libraries' messages; print this project's warnings as one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if bars.silent or not sys.stderr.isatty():  # other libraries' bars would fill a log
        os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("transformers", "transformer_lens", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(  # type: ignore[assignment]
        f"warning: {line(str(message))}", file=sys.stderr
    )


_PACKAGES = ("torch", "transformers", "transformer-lens", "datasets", "numpy", "pyarrow", "scipy")


def package_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """How this process was called, quoted for a shell."""
    import shlex

    return shlex.join(["neurotrace", *sys.argv[1:]])
