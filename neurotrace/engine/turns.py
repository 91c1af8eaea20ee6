"""One call at a time on a model, under the torch modes that its numbers are defined in.

Hooks and overridden modules are put on a model for the time of a pass, where a second thread would meet
them. So every public function that runs a model takes a turn: a second thread waits until the first has
its result. The user's own pass beside it waits for a single pass at most (`passing`). Within a turn
autocast is off (its numbers would be others) and so is inference mode (nothing made in it can be
differentiated later).
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.passing = threading.RLock()
        self.depth = 0
        self.notes: dict[str, Any] = {}  # what holds until the outermost turn ends


_turns: weakref.WeakKeyDictionary[Any, _Turn] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _turn_of(model: Any) -> _Turn:
    with _making:
        return _turns.setdefault(model, _Turn())


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """Other threads' turns on `model` wait while this is on; one's own thread may enter again."""
    with _turn_of(model).lock:
        yield


@contextmanager
def turn(model: Any) -> Iterator[dict[str, Any]]:
    """`alone`, with `plain`; gives notes that are kept until the outermost turn ends."""
    own = _turn_of(model)
    with own.lock, plain():
        own.depth += 1
        try:
            yield own.notes
        finally:
            own.depth -= 1
            if not own.depth:
                own.notes.clear()


@contextmanager
def passing(model: Any) -> Iterator[None]:
    """One pass over `model`: no other thread has hooks on it meanwhile, nor puts any on."""
    with _turn_of(model).passing:
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Neither autocast nor inference mode, whatever the caller has on."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def takes_turns(function: Function) -> Function:
    """Call `function` in a turn of its argument `model` (None, or a name: only `plain`)."""
    place = list(inspect.signature(function).parameters).index("model")

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        model = args[place] if len(args) > place else kwargs.get("model")
        hooked = model is not None and hasattr(model, "hook_dict")
        with turn(model) if hooked else plain():
            return function(*args, **kwargs)

    call.takes_turns = True  # type: ignore[attr-defined]  # `wraps` hands it on to decorators above
    return cast(Function, call)
