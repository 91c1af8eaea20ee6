"""Workers of a Ray cluster, each of which loads the model once and receives part by part.

The caller holds the lock and the queue of parts; only their numbers or names are sent. The parts of a lost
worker return to the queue, and another worker is started. If the caller dies, its workers stop. Each worker
has two parts assigned, so that none waits. A worker is a class with `start()`, which loads, and `do(part)`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurotrace.core.errors import InputError, first_line

Stop = Callable[[], bool]
AHEAD = 2  # parts under way with one worker
_LOSSES = 3  # maximum number of workers that may die of one part, or while loading the model
_STARTS = 3  # attempts to start Ray here: its own limit of 30 seconds is too short on a busy machine
_ANSWER = 10.0  # seconds for a cluster to accept a connection
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # of HTTP/2
_SETTINGS = b"\x04"  # the type of the frame that answers
_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_PATIENCE = 60.0  # seconds without any worker before a message


@dataclass
class Crew:
    """Workers, and the tasks of each: reference -> (worker, part; None: its start)."""

    ray: Any
    hire: Callable[[], Any]
    under_way: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    ready: list[Any] = field(default_factory=list)
    unborn: int = 0  # workers that died before they were ready

    def grow(self) -> None:
        worker = self.hire()
        self.under_way[worker.start.remote()] = (worker, None)

    def give(self, part: Any, worker: Any) -> None:
        self.under_way[worker.do.remote(part)] = (worker, part)

    def load(self, worker: Any) -> int:
        return sum(one is worker for one, _ in self.under_way.values())

    def ended(self) -> list[Any]:
        """All ended tasks; waits a second for the first. (Ray returns any of them, not the oldest.)"""
        refs = list(self.under_way)
        self.ray.wait(refs, num_returns=1, timeout=1.0)
        done: list[Any] = self.ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return done

    def replace(self, worker: Any) -> list[Any]:
        """Replace a dead worker, unless workers die while loading; returns the parts that it held."""
        own = [ref for ref, (one, _) in self.under_way.items() if one is worker]
        held = [part for ref in own if (part := self.under_way.pop(ref)[1]) is not None]
        self.unborn += worker not in self.ready
        self.ready = [one for one in self.ready if one is not worker]
        if self.unborn < _LOSSES:
            self.grow()
        elif not self.under_way and not self.ready:
            raise InputError(
                f"{self.unborn} workers died while they loaded the model: is the memory enough? Use "
                "fewer --workers or a smaller --dtype"
            )
        return held


def finished(crew: Crew, missing: Sequence[Any], stop: Stop = lambda: False) -> Iterator[tuple[Any, Any]]:
    """(part, result of the worker's `do`), in the order in which the parts are finished.

    Raises:
        InputError: a worker's own, or three workers died of one part.
    """
    queue = deque(missing)
    losses: Counter[Any] = Counter()
    last = time.monotonic()
    while True:
        stopped = stop()
        while queue and crew.ready and not stopped:
            worker = min(crew.ready, key=crew.load)
            if crew.load(worker) >= AHEAD:
                break
            crew.give(queue.popleft(), worker)
        wanted = [ref for ref, (_, part) in crew.under_way.items() if part is not None]
        if not wanted and (stopped or not queue):
            return
        if wanted or crew.ready:
            last = time.monotonic()
        elif time.monotonic() - last > _PATIENCE:
            warnings.warn(
                "still waiting for a worker: does the cluster have free processors?", stacklevel=2
            )
            last = time.monotonic()
        for ref in crew.ended():
            if ref not in crew.under_way:  # of a worker that has just been replaced
                continue
            worker, part = crew.under_way[ref]
            try:
                result = crew.ray.get(ref)
            except crew.ray.exceptions.RayTaskError as error:
                raise _own(error) from None
            except crew.ray.exceptions.RayError:  # the worker or its result is lost
                held = crew.replace(worker)
                queue.extendleft(reversed(held))
                losses.update(held[:1])  # the part that it was working on
                if held and losses[held[0]] >= _LOSSES:
                    raise InputError(
                        f"part {held[0]} has cost {_LOSSES} workers: is their memory enough? Run the "
                        "same command again with fewer --workers, a sweep with another --batch"
                    ) from None
                continue
            del crew.under_way[ref]
            if part is None:
                crew.ready.append(worker)
                continue
            yield part, result


def wait_for_one(crew: Crew) -> None:
    """Wait until one worker is ready."""
    while not crew.ready:
        for ref in crew.ray.wait(list(crew.under_way), num_returns=1, timeout=_PATIENCE)[0]:
            worker, _ = crew.under_way[ref]
            try:
                crew.ray.get(ref)
            except crew.ray.exceptions.RayTaskError as error:
                raise _own(error) from None
            except crew.ray.exceptions.RayError:
                crew.replace(worker)
                continue
            del crew.under_way[ref]
            crew.ready.append(worker)


def connect(address: str, processors: int) -> Any:
    import logging

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    _on_loopback(address == "local")
    _refuse_closed(address)
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray: pip install 'neurotrace-lens[ray]'") from None
    options: dict[str, Any] = {"address": address}
    if address == "local":
        options |= {"include_dashboard": False, "num_cpus": processors or None}
    for left in reversed(range(_STARTS if address == "local" else 1)):
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, namespace="neurotrace")
            break
        except Exception as error:  # Ray raises a plain Exception for a node that starts too slowly
            line = first_line(error)
            ray.shutdown()
            if left:
                warnings.warn(f"Ray did not start ({line}), trying again", stacklevel=3)
            elif address == "local":
                raise InputError(
                    f"Ray did not start on this machine, tried {_STARTS} times ({line}): is it busy? "
                    "Run the same command again, or without --ray and with --shard"
                ) from None
            else:
                raise InputError(
                    f"no Ray cluster at {address!r} ({line}): expected local, auto, or host:port"
                ) from None
    return ray


def disconnect(ray: Any) -> None:
    """Leave the cluster; what this process starts next listens where Ray likes, again."""
    ray.shutdown()
    _on_loopback(False)


def _on_loopback(only: bool) -> None:
    """Ray's servers of this process listen on the loopback only, or where Ray likes.

    Its one switch for that is meant for Windows and macOS, where all interfaces are behind a question of
    the firewall. It is read when Ray is imported.
    """
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if only:
        os.environ[_SWITCH] = "0"
    elif os.environ.get(_SWITCH) == "0":
        del os.environ[_SWITCH]
    if constants is not None and sys.platform == "linux":
        constants.ENABLE_RAY_CLUSTER = not only


def _refuse_closed(address: str) -> None:
    """Raise if nobody listens at host:port, or no gRPC server as Ray's are; Ray tries for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER) as there:
            there.sendall(_HELLO)
            frame = there.recv(9)
            if frame[3:4] != _SETTINGS:
                raise OSError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster at {address!r} ({first_line(error)}): expected local, auto, or host:port"
        ) from None


def _own(error: Any) -> Exception:
    """The error of a worker, without Ray's traceback if it is the user's mistake."""
    cause = getattr(error, "cause", error)
    return InputError(str(cause)) if isinstance(cause, InputError) else error
