"""What every command needs of the terminal: one-line errors, other libraries kept quiet."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def say(message: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    print(f"neurotrace: {printable(message)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """One line without control characters: those of a prompt or a file name are not for a terminal."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def plain(text: str) -> Text:
    """Words of a prompt or a file for a table: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(text))


def quiet() -> None:
    """Other libraries' chatter is not this command's output; our own warnings are one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "transformer_lens", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(  # type: ignore[assignment]
        f"warning: {message}", file=sys.stderr
    )
