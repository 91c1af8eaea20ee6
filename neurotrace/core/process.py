"""This process: progress bars, versions, the command line, other libraries' messages silenced."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, TypeVar

from neurotrace.core.display import line

Item = TypeVar("Item")


class _Shows(Protocol):
    """Yields the items of `iterable` and shows the progress, e.g. `bars` or tqdm's `tqdm`."""

    def __call__(self, iterable: Iterable[Item], description: str = "") -> Iterable[Item]: ...


Progress = _Shows | None


def over(progress: Progress, items: Sequence[Item], description: str) -> Iterable[Item]:
    """`items`, with progress shown by `progress`; None shows nothing."""
    return items if progress is None else progress(items, description=description)


def bars(iterable: Iterable[Item], description: str = "") -> Iterable[Item]:
    """`iterable`, with a bar (rate, time left) on a terminal and nothing elsewhere."""
    if not sys.stderr.isatty() or (isinstance(iterable, Sized) and len(iterable) < 2):
        return iterable
    return _bars(iterable, description)


def _bars(iterable: Iterable[Item], description: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    yield from track(
        iterable,
        description=escape(f"{line(description):<38}"),
        console=Console(stderr=True),
        transient=True,
    )


def quiet() -> None:
    """Silence other libraries' messages; print this project's warnings as one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
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
