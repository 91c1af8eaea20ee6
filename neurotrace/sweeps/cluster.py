"""The same parts on workers of a Ray cluster: each worker loads the model once and receives part by part.

A worker writes its parts itself, so `out` must be one place for all nodes. If the driver dies, the next
call resumes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.process import over
from neurotrace.folders.shards import parse_shard
from neurotrace.sweeps.asked import Sweep
from neurotrace.sweeps.crew import Crew, Stop, connect, disconnect, finished, wait_for_one
from neurotrace.sweeps.driver import Outcome, agree, do_part, load, what_is_missing
from neurotrace.sweeps.folders import Folder, open_folder
from neurotrace.sweeps.locks import LOCKS, locked
from neurotrace.sweeps.manifest import read_manifest
from neurotrace.sweeps.parts import PARTS, part_file


class Worker:
    """The process on a node: the model, and the parts assigned to it."""

    def __init__(self, asked: dict[str, Any], url: str, trust_remote_code: bool) -> None:
        self.asked, self.folder, self.trust = Sweep(**asked), open_folder(url), trust_remote_code

    def start(self) -> int:
        """Load the model and check it against the folder's manifest; returns its threads."""
        from neurotrace.core.process import quiet
        from neurotrace.sweeps.work import open_work

        quiet()
        model = load(self.asked, trust_remote_code=self.trust)
        self.work = open_work(self.asked, model)
        agree(self.folder, self.work.manifest)
        return self.work.manifest.asked.threads

    def do(self, part: int) -> tuple[list[str], bool]:
        """(cells that are not finite, whether memory ran short)."""
        marked = do_part(self.work, self.folder, part)
        return marked, self.work.task.batch.held is not None


def sweep_on_ray(
    asked: Sweep,
    out: str | Path,
    *,
    address: str,
    workers: int = 0,
    shard: str = "1/1",
    trust_remote_code: bool = False,
    progress: Any = None,
    stop: Stop = lambda: False,
) -> Outcome:
    """`sweep`, on the workers of a cluster.

    Args:
        address: ``"local"`` starts a cluster on this machine; else the address of a running one.
        workers: number of workers; 0: one for each `threads` processors of the cluster.

    Raises:
        InputError: as for `sweep`; Ray is not installed or not reachable; `out` is not one place for
            all nodes; three workers died of one part.

    Example::

        asked = nt.Sweep("organism", ("arithmetic",), mode="zero")
        nt.sweep_on_ray(asked, "runs/grid", address="local", workers=2)
    """
    mine = parse_shard(shard)
    if workers < 0:
        raise InputError(f"workers is {workers}: expected a number from 0")
    folder = open_folder(out)
    if folder.local:  # workers start in another folder
        folder = open_folder(folder.path)
    known = read_manifest(folder)
    folder.make(PARTS, LOCKS)
    if known and not asked.threads:
        asked = replace(asked, threads=known.asked.threads)
    threads = asked.threads or 1
    ray = connect(address, workers * threads)
    try:
        with locked(folder, mine) as alive:
            count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
            remote = ray.remote(num_cpus=threads, max_restarts=0)(Worker)
            record = asked.record() | {"threads": threads}
            crew = Crew(ray, lambda: remote.remote(record, folder.url, trust_remote_code))
            for _ in range(count):
                crew.grow()
            wait_for_one(crew)
            manifest = read_manifest(folder)
            if manifest is None:
                raise _not_shared(folder)
            missing, total = what_is_missing(folder, manifest, mine)
            marked: list[str] = []
            short, computed = False, 0
            done = finished(crew, missing, stop)
            bar = over(progress, missing, "sweeping parts")
            for _, (part, (cells, less)) in zip(bar, done, strict=False):
                if not folder.fs.exists(folder.file(part_file(part))):
                    raise _not_shared(folder)
                marked, short, computed = marked + cells, short or less, computed + 1
                alive()
            return Outcome(computed, total - len(missing) + computed, total, tuple(marked), short)
    finally:
        disconnect(ray)


def _not_shared(folder: Folder) -> InputError:
    return InputError(
        f"a worker wrote to {folder.url}, and it isn't there from here: --out must be one place for "
        "all nodes, a shared folder or a URL that fsspec knows"
    )
