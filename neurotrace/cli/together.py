"""`--shard` and `--ray` of `run`, `rank` and `circuit`: their units of work by several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.console import tell
from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    from neurotrace.folders.units import Units

Shard = Annotated[
    str,
    typer.Option(
        help="i/n: only the i-th of n shares of the work, beside other processes with the same --out. When "
        "all are finished, the same command without --shard writes the result."
    ),
]
Ray = Annotated[str | None, typer.Option(help="local: on workers of this machine; or a cluster's address.")]
Workers = Annotated[int, typer.Option(help="Number of Ray workers; 0: as many as fit.")]

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
        if self.workers and self.ray is None:
            raise InputError(f"--workers {self.workers} goes with --ray local or --ray ADDRESS")
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
            prepare: a Ray worker calls it once, and what it returns for each part.
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

        if self.ray is None:
            yield Units(out, overwrite=overwrite, shard=self.shard)
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


ALONE = Together()


class _Worker:
    """A process on a node: the command's study, whose named units it makes in the shared folder."""

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
