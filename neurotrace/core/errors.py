"""The one exception for what a user can mend.

Everything that a caller did (a malformed file, a name that isn't there, a model we can't read)
raises `InputError` with a sentence that says what was expected, what was given and what to do. The command
line prints that sentence and exits with 2; any other exception is an internal error and exits with 1.
"""

from __future__ import annotations


class InputError(ValueError):
    """What was expected, what was given, what to do: one line, for the person who called."""


def first_line(error: BaseException) -> str:
    """An exception of another library's in a line: its first, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = (lines or [type(error).__name__])[0]
    return first if len(first) <= 200 else first[:199] + "…"
