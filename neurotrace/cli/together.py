"""`--shard`, `--workers`, `--ray` of `run`, `rank`, `circuit`: their units of work by several processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.console import tell
from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    from neurotrace.folders.units import Farm, Units

Shard = Annotated[
    str,
    typer.Option(
        help="i/n: only the i-th of n shares of the work, beside other processes with the same --out. When "
        "all are finished, the same command without --shard writes the result."
    ),
]
Ray = Annotated[str | None, typer.Option(help="local: on workers of this machine; or a cluster's address.")]
Workers = Annotated[
    int,
    typer.Option(
        help="Processes that share the work and this machine's cores; with --ray, Ray workers. 0: this "
        "process alone, with --ray as many as fit."
    ),
]

Study = Callable[..., Any]  # takes `units` and `progress`


@dataclass(frozen=True)
class Together:
    """How a command's work is divided."""

    shard: str = "1/1"
    ray: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if self.shared and self.ray is not None:
            raise InputError("--ray divides the work itself: leave out --shard")
        if self.shared and self.workers:
            raise InputError("--workers divides the work itself: leave out --shard")
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: expected a number from 0")

    @property
    def shared(self) -> bool:
        from neurotrace.folders.shards import parse_shard

        return parse_shard(self.shard).count > 1

    def result(self, study: Study, out: Path, *, overwrite: bool, prepare: Callable[[], Study]) -> Any:
        """What the study returns; None, when this process has said that the rest is not its own.

        Args:
            study: is called here.
            prepare: a worker calls it once, and what it returns for each part.
        """
        from neurotrace.core.process import bars
        from neurotrace.folders.units import Waiting

        with self._units(out, overwrite, prepare) as units:
            try:
                found = study(units=units, progress=bars)
            except Waiting as waiting:
                tell(f"shard {self.shard}: {waiting}")
                return None
        if self.shared:
            tell("all shards are finished: the same command without --shard writes the result")
            return None
        return found

    @contextmanager
    def _units(self, out: Path, overwrite: bool, prepare: Callable[[], Study]) -> Iterator[Units]:
        from neurotrace.folders.units import Units

        if self.ray is None and self.workers < 2:
            yield Units(out, overwrite=overwrite, shard=self.shard)
            return
        if self.ray is None:
            yield Units(out, overwrite=overwrite, farm=self._processes(out, prepare))
            return
        import torch

        from neurotrace.sweeps.crew import Crew, connect, disconnect, finished, wait_for_one

        threads = torch.get_num_threads()
        ray = connect(self.ray, self.workers * threads)
        try:
            count = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
            remote = ray.remote(num_cpus=threads, max_restarts=0)(_Worker)
            place = str(out.absolute())
            crew = Crew(ray, lambda: remote.remote(prepare, place, os.getcwd(), threads))

            def farm(names: list[str]) -> None:
                from neurotrace.core.process import bars, over

                while len(crew.under_way) + len(crew.ready) < min(count, len(names)):
                    crew.grow()
                if not crew.ready:
                    wait_for_one(crew)
                for _ in zip(over(bars, names, "part"), finished(crew, names), strict=False):
                    pass

            yield Units(out, overwrite=overwrite, farm=farm)
        finally:
            disconnect(ray)

    def _processes(self, out: Path, prepare: Callable[[], Study]) -> Farm:
        """Has parts made by processes of this machine; what a process that died left, this one makes."""
        import torch

        count = self.workers
        threads = max(1, torch.get_num_threads() // count)
        torch.set_num_threads(threads)  # the bits of a part depend on it
        made_by = partial(_Worker, prepare, str(out.absolute()), os.getcwd(), threads)

        def farm(names: list[str]) -> None:
            from concurrent.futures import ProcessPoolExecutor, as_completed
            from concurrent.futures.process import BrokenProcessPool
            from multiprocessing import active_children, get_context

            from neurotrace.core.process import bars, over

            pool = ProcessPoolExecutor(
                min(count, len(names)), get_context("spawn"), initializer=_begin, initargs=(made_by,)
            )
            try:
                work = [pool.submit(_do, name) for name in names]
                for _, done in zip(over(bars, names, "part"), as_completed(work), strict=False):
                    done.result()
            except BrokenProcessPool:
                warnings.warn("a worker process died; this one makes what is missing", stacklevel=2)
            except BaseException:
                for each in active_children():
                    each.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

        return farm


ALONE = Together()


class _Worker:
    """Another process: the command's study, whose named units it makes in the shared folder."""

    def __init__(self, prepare: Callable[[], Study], out: str, home: str, threads: int) -> None:
        self.prepare, self.out, self.home, self.threads = prepare, out, home, threads

    def start(self) -> None:
        """Load what the study needs, with as many threads as the driver."""
        import torch

        from neurotrace.core.process import quiet

        quiet()
        for place in (self.home, self.out):
            if not os.path.isdir(place):
                raise InputError(f"a worker finds no folder {place}: expected one place for all nodes")
        os.chdir(self.home)
        torch.set_num_threads(self.threads)
        self.study = self.prepare()

    def do(self, name: str) -> None:
        from neurotrace.folders.units import Units, Waiting

        try:
            self.study(units=Units(self.out, only=frozenset([name])))
        except Waiting:  # the others are other workers'
            return


_here: list[_Worker] = []  # in a process of a pool, its worker


def _begin(made_by: Callable[[], _Worker]) -> None:
    import signal
    from multiprocessing import parent_process
    from threading import Thread

    from neurotrace.core.process import bars

    def with_the_parent() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    Thread(target=with_the_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the parent, too, which says so
    bars.silent = True  # the parent shows the parts
    worker = made_by()
    worker.start()
    _here.append(worker)


def _do(name: str) -> None:
    _here[0].do(name)
