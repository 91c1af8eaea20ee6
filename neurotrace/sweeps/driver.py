"""The loop over the missing parts of one shard.

Order of a start: lock, manifest (written by the first, compared by all others), broken parts set aside,
leftovers of interrupted writes removed, and then each missing part computed and written. No other state
is kept, so an interruption cannot leave an inconsistent state.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError
from neurotrace.core.process import over
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.shards import Shard, parse_shard
from neurotrace.models.protocol import HookedModel
from neurotrace.sweeps.asked import Sweep, pairs_of
from neurotrace.sweeps.folders import Folder, open_folder
from neurotrace.sweeps.locks import LOCKS, locked
from neurotrace.sweeps.manifest import Manifest, read_manifest, refuse_other, write_manifest
from neurotrace.sweeps.parts import PARTS, present, set_aside, sweep_up, write_part

if TYPE_CHECKING:
    from neurotrace.sweeps.work import Work

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """The result of a call of `sweep`.

    Attributes:
        computed: parts that this call wrote.
        done, parts: number of complete parts of this shard, and of all its parts.
        marked: cells whose effect is not finite, as ``"L3.N771 on pair p7: not a number"``, in `computed`.
        short: whether memory ran out and passes were made smaller.
    """

    computed: int
    done: int
    parts: int
    marked: tuple[str, ...] = ()
    short: bool = False

    @property
    def complete(self) -> bool:
        return self.done == self.parts


@takes_turns
def sweep(
    asked: Sweep,
    out: str | Path,
    *,
    shard: str = "1/1",
    model: HookedModel | None = None,
    trust_remote_code: bool = False,
    progress: Any = None,
    stop: Stop = lambda: False,
) -> Outcome:
    """Measure every cell that `out` does not hold yet. Call it again after any interruption.

    Args:
        out: the run's folder, a path or a URL that fsspec knows.
        shard: ``"i/n"``: only the i-th of n shares of the parts. Shares may run anywhere at the same
            time, into one folder or into several (`open_run` joins them).
        model: the model that `asked` names, already loaded.
        trust_remote_code: run code that comes with the model. Never taken from a manifest.
        stop: called before each part; True stops.

    Raises:
        InputError: the folder holds another sweep (the message names the difference), is being written
            by another process, cannot be written, or the model, pairs or settings are invalid.

    Example::

        asked = nt.Sweep("organism", ("arithmetic",), mode="zero")
        nt.sweep(asked, "runs/grid")
    """
    from neurotrace.sweeps.work import open_work

    mine = parse_shard(shard)
    folder = open_folder(out)
    known = read_manifest(folder)
    folder.make(PARTS, LOCKS)
    with locked(folder, mine) as alive:
        if known and not asked.threads:
            asked = replace(asked, threads=known.asked.threads)
        if model is None:
            model = load(asked, trust_remote_code=trust_remote_code)
        work = open_work(asked, model, progress=progress)
        agree(folder, work.manifest)
        missing, total = what_is_missing(folder, work.manifest, mine)
        return _compute(work, folder, missing, total, alive, progress, stop)


def load(asked: Sweep, *, trust_remote_code: bool = False) -> Any:
    """Load the requested model; everything else is checked before its weights are read."""
    from neurotrace.interventions.kinds import parse_kind
    from neurotrace.models.loading import load_model

    pairs_of(asked)
    parse_kind(asked.mode)
    return load_model(
        asked.model,
        device=asked.device or None,
        dtype=asked.dtype or None,
        trust_remote_code=trust_remote_code,
    )


def agree(folder: Folder, manifest: Manifest) -> None:
    """Write the manifest, or raise if the folder's manifest differs."""
    known = read_manifest(folder)
    if known is None:
        write_manifest(folder, manifest)
        known = read_manifest(folder)  # another shard may have been faster
    assert known is not None
    refuse_other(known.content, manifest.content, folder)


def what_is_missing(folder: Folder, manifest: Manifest, shard: Shard) -> tuple[list[int], int]:
    """(missing parts of the shard, number of its parts); broken files are moved away."""
    own = manifest.layout.of_shard(shard)
    whole, broken = present(folder, manifest)
    for name, why in broken.items():
        warnings.warn(f"{name}: {why}; set aside and computed again", stacklevel=3)
        set_aside(folder, name)
    missing = [part for part in own if part not in whole]
    sweep_up(folder, missing)
    return missing, len(own)


def _compute(
    work: Work,
    folder: Folder,
    missing: Sequence[int],
    total: int,
    alive: Callable[[], None],
    progress: Any,
    stop: Stop,
) -> Outcome:
    marked: list[str] = []
    computed = 0
    for part in over(progress, missing, "sweeping parts"):
        if stop():
            break
        marked += do_part(work, folder, part)
        alive()
        computed += 1
    done = total - len(missing) + computed
    return Outcome(computed, done, total, tuple(marked), work.task.batch.held is not None)


def do_part(work: Work, folder: Folder, part: int) -> list[str]:
    """Compute and write one part; names its marked cells."""
    from neurotrace.sweeps.work import compute

    start = time.perf_counter()
    table = compute(work, part)
    write_part(folder, work.manifest, part, table, seconds=time.perf_counter() - start)
    return marked_cells(table)


def marked_cells(table: Any) -> list[str]:
    """``"L3.N771 on pair p7: not a number"`` for each cell with a mark."""
    import pyarrow.compute as pc

    bad = table.filter(pc.is_valid(table["mark"])).select(["layer", "neuron", "pair", "mark"])
    return [
        f"L{row['layer']}.N{row['neuron']} on pair {row['pair']}: {row['mark']}" for row in bad.to_pylist()
    ]


def known_sweep(out: str | Path) -> tuple[Folder, Manifest]:
    """The folder and its manifest.

    Raises:
        InputError: there is none.
    """
    folder = open_folder(out)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{out}: no sweep in it (no manifest.json); nothing to resume")
    return folder, manifest
