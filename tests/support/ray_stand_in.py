"""What a sweep asks of Ray, in this process: one call at a time, and workers that die on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Ref:
    """A call that was handed out, and what came of it."""

    def __init__(self, actor: _Actor, name: str, values: tuple[Any, ...]) -> None:
        self.actor, self.name, self.values = actor, name, values
        self.done, self.result, self.error = False, None, None


class _Actor:
    def __init__(self, number: int, make: Callable[[], Any]) -> None:
        self.number, self._make, self.dead, self.refs = number, make, False, []
        self.worker: Any = None

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *values: self._call(name, values))

    def _call(self, name: str, values: tuple[Any, ...]) -> _Ref:
        self.refs.append(_Ref(self, name, values))
        return self.refs[-1]


class StandIn:
    """`ray`, with as many processors as are asked for.

    Args:
        dies: (worker's number from 0, name of the call, its values) -> whether the worker is lost at
            it; all that it held is lost with it.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, dies: Callable[[int, str, tuple[Any, ...]], bool]) -> None:
        self.dies, self.hired, self.open = dies, 0, False

    def init(self, **_: Any) -> None:
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def hire(kind: Any, values: tuple[Any, ...]) -> _Actor:
            self.hired += 1
            return _Actor(self.hired - 1, lambda: kind(*values))

        return lambda kind: SimpleNamespace(remote=lambda *values: hire(kind, values))

    def wait(self, refs: Sequence[_Ref], *, num_returns: int, timeout: float) -> Any:
        assert self.open
        if timeout and not any(ref.done for ref in refs):
            # the worker that has done least goes first, so that all take part
            self._perform(min(refs, key=lambda ref: sum(one.done for one in ref.actor.refs)))
        done = [ref for ref in refs if ref.done][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: _Ref) -> Any:
        assert ref.done
        if ref.error:
            raise ref.error
        return ref.result

    def _perform(self, ref: _Ref) -> None:
        actor = ref.actor
        if self.dies(actor.number, ref.name, ref.values):
            for held in [one for one in actor.refs if not one.done]:
                held.done, held.error = True, RayError("the actor died")
            return
        ref.done = True
        try:
            actor.worker = actor.worker or actor._make()
            ref.result = getattr(actor.worker, ref.name)(*ref.values)
        except Exception as error:
            ref.error = RayTaskError(error)
