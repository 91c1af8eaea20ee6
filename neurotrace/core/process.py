"""Progress bars on standard error, only where somebody is looking."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
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


Progress = Any  # a callable (iterable, total=, description=) -> iterable; see `progress.py`


def quiet() -> None:
    """Other libraries' chatter is not this command's output; our own warnings are one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "transformer_lens", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(  # type: ignore[assignment]
        f"warning: {message}", file=sys.stderr
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
