"""The one exception for mistakes of the user.

A mistake of the caller (a malformed file, an unknown name, a model that cannot be read) raises
`InputError` with a sentence that says what was expected, what was given and what to do. The command
line prints that sentence and exits with 2; any other exception is an internal error and exits with 1.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_LONGEST = 2000  # characters of a message


class InputError(ValueError):
    """What was expected, what was given, what to do: one line, for the caller.

    A message may quote a file, so it is cut in the middle beyond 2,000 characters.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        super().__init__(text if len(text) <= _LONGEST else f"{text[:1500]} … {text[-400:]}")


# what code meets in a file that is well-formed and lacks something, or holds something else
READ_WRONG = (
    *(ArithmeticError, AttributeError, LookupError, NotImplementedError, StopIteration),
    *(TypeError, ValueError),
)


@contextmanager
def reading(folder: object) -> Iterator[None]:
    """Inside the `with`, what is met in a folder that holds something else than its command writes is an
    `InputError` that names the folder."""
    try:
        yield
    except InputError:
        raise
    except READ_WRONG as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{folder}: it holds something else than its command writes ({what})") from error


def first_line(error: BaseException) -> str:
    """The first line of another library's exception, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = (lines or [type(error).__name__])[0]
    return first if len(first) <= 200 else first[:199] + "…"


def one_of(given: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: what was meant, perhaps, and all names.

    Example::

        raise InputError(f"method {name!r}: {one_of(name, RANKERS)}")
    """
    names = list(known)
    close = get_close_matches(str(given), names, 1, 0.6)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}expected one of {', '.join(names)}"


def renamed(**new: str) -> Callable[[Function], Function]:
    """Take parameters by their old names for one release more, with a DeprecationWarning.

    Example::

        @renamed(mode="kind")
        def ablate(model, pairs, *, kind="zero"): ...
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            for old in new.keys() & named.keys():
                said = f"{function.__name__}: {old}= is called {new[old]}= now"
                if new[old] in named:
                    raise TypeError(f"{said}: pass one of them")
                warnings.warn(said, DeprecationWarning, stacklevel=2)
                named[new[old]] = named.pop(old)
            return function(*arguments, **named)

        return call  # type: ignore[return-value]

    return decorate
