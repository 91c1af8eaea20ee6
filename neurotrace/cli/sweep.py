"""`neurotrace sweep`: exact effects of every neuron × pair, resumable and in shards."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.console import ENDING, console, plain, say, tell, tell_json
from neurotrace.cli.options import Device, Dtype, MoreProbes, Quiet, TrustRemoteCode
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet

if TYPE_CHECKING:
    from neurotrace.sweeps.asked import Sweep
    from neurotrace.sweeps.cells import Status
    from neurotrace.sweeps.driver import Outcome

_NAMED = 10  # number of marked cells named on the terminal; all are in the table


def sweep(
    out: Annotated[str, typer.Option(help="Folder for the run: a path, or a URL for fsspec.")],
    more_probes: MoreProbes = None,
    model: Annotated[
        str | None, typer.Option(help="Built-in model, hub name, local folder or .gguf file.")
    ] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(help="Packaged set, file (.jsonl, .csv, .parquet) or folder (repeatable)."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="patch, set, zero, mean, shift, scale or steer; shift:2. Default: zero."),
    ] = None,
    donor: Annotated[
        str | None, typer.Option(help="reasoning (default): the memorization prompt is changed.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="read (default: the last token), all, or places: -2,-1.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. 0-5,8. Default: all.")] = None,
    neurons: Annotated[
        Path | None, typer.Option(help="File of neurons, L3.N771, one a line. Default: all.")
    ] = None,
    max_pairs: Annotated[int | None, typer.Option(help="Maximum number of pairs, drawn at random.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of that draw.")] = None,
    precision: Annotated[str | None, typer.Option(help="exact (default) or fast.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    batch: Annotated[int | None, typer.Option(help="Maximum number of tokens in one pass.")] = None,
    part_rows: Annotated[int | None, typer.Option(help="Rows of one file.")] = None,
    spec: Annotated[
        str | None, typer.Option(help="YAML file of sweeps: models, probes, modes, seeds.")
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n shares of the work.")] = "1/1",
    ray: Annotated[
        str | None, typer.Option(help="local: on workers of this machine; or a cluster's address.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of Ray workers; 0: as many as fit.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the sweep in --out with its own settings.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the estimated cost; load no weights.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure the exact effect of every neuron on every pair. Run it again to resume."""
    given = {
        "model": model,
        "probes": [*(probes or []), *(more_probes or [])] or None,
        "mode": mode,
        "donor": donor,
        "positions": positions,
        "layers": layers,
        "neurons": str(neurons) if neurons else None,
        "max_pairs": max_pairs,
        "seed": seed,
        "precision": precision,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "batch": batch,
        "part_rows": part_rows,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if out.startswith("memory:"):
        raise InputError(f"--out {out}: what is in memory is gone when the command ends; name a folder")
    if workers and ray is None:
        raise InputError(f"--workers {workers} goes with --ray local or --ray ADDRESS")
    if spec is not None:
        if ray is not None:
            raise InputError("--ray goes with one sweep, --spec with --shard: leave one out")
        if named:
            raise InputError(f"--{next(iter(named)).replace('_', '-')} goes into {spec}, not here")
        return _cells(spec, out, shard, trust_remote_code, dry_run=dry_run, as_json=as_json)
    asked = _known(out, named) if resume else _asked(named)
    from neurotrace.sweeps.asked import pairs_of

    pairs_of(asked)  # they are checked before torch is loaded
    if dry_run:
        return _estimate(asked, shard, as_json)
    if resume and _finished(out, shard, as_json):
        return
    quiet()
    from neurotrace.core.process import bars
    from neurotrace.sweeps.cluster import sweep_on_ray
    from neurotrace.sweeps.driver import sweep as sweep_here

    run = partial(sweep_on_ray, address=ray, workers=workers) if ray else sweep_here
    with finishing() as stop:
        outcome = run(
            asked, out, shard=shard, trust_remote_code=trust_remote_code, progress=bars, stop=stop
        )
    _tell(outcome, out, shard, as_json)
    if not outcome.complete:
        sys.exit(say(f"stopped; go on with: {_again(out, shard)} (parts that are done are kept)", 130))


@contextmanager
def finishing() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT, SIGTERM and SIGHUP let the current part finish; a second one exits at once.

    Yields a function that tells whether one came. Before its first call, a signal exits at once.
    """
    came: list[int] = []
    begun: list[bool] = []

    def note(number: int, _: Any) -> None:
        if came or not begun:
            raise KeyboardInterrupt
        came.append(number)
        tell("neurotrace: finishing this part; once more to exit at once", error=True)

    def stop() -> bool:
        begun.append(True)
        return bool(came)

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cells(spec: str, out: str, shard: str, trust: bool, *, dry_run: bool, as_json: bool) -> None:
    from neurotrace.core.process import bars
    from neurotrace.sweeps.cells import read_cells, run_cells, status

    cells = read_cells(spec)
    if dry_run:
        found = [status(cell, out, shard) for cell in cells]
    else:
        quiet()
        with finishing() as stop:
            found = run_cells(cells, out, shard=shard, trust_remote_code=trust, progress=bars, stop=stop)
    if as_json:
        tell_json([one.__dict__ for one in found])
    else:
        _table(found)
    failed = [one for one in found if one.state == "failed"]
    if failed:
        sys.exit(say(f"{len(failed)} of {len(cells)} failed: {failed[0].name}: {failed[0].note}", 2))
    if len(found) < len(cells) or any(one.state == "partly" for one in found if not dry_run):
        sys.exit(say("stopped; run the same command again to resume", 130))


def _table(found: list[Status]) -> None:
    from rich.table import Table

    table = Table()
    for name in ("folder", "state", "parts"):
        table.add_column(name, overflow="fold")
    for one in found:
        parts = f"{one.done} of {one.parts}" if one.parts else ""
        more = f" ({one.note})" if one.note else ""
        table.add_row(one.name, plain(one.state + more), parts)
    console().print(table)


def _estimate(asked: Sweep, shard: str, as_json: bool) -> None:
    quiet()
    from neurotrace.cli.console import show, tell, tell_json
    from neurotrace.folders.shards import parse_shard
    from neurotrace.sweeps.estimate import estimate

    found = estimate(asked, parse_shard(shard))
    if as_json:
        tell_json(found.__dict__ | {"cost": found.cost.__dict__})
        return
    tell(f"at most {found.pairs} pairs × {found.neurons} neurons, in {found.parts} parts")
    tell(f"rate of a large multiplication here: {found.gflops:.0f} GFLOP/s")
    show([(f"shard {shard}", found.cost)])


def _asked(named: dict[str, Any]) -> Sweep:
    from neurotrace.sweeps.asked import Sweep

    for name in ("model", "probes"):
        if name not in named:
            raise InputError(f"--{name} is missing: expected --model, --probes and --out, or --resume")
    return Sweep(**named)


def _known(out: str, named: dict[str, Any]) -> Sweep:
    from neurotrace.sweeps.driver import known_sweep

    asked = known_sweep(out)[1].asked
    record = asked.record()
    for name, value in named.items():
        if record[name] != value:
            raise InputError(
                f"--{name.replace('_', '-')} is {value!r}, the sweep in {out} was started with "
                f"{record[name]!r}: leave it out, or name another folder"
            )
    return asked


def _finished(out: str, shard: str, as_json: bool) -> bool:
    """Whether the shard is already complete, checked without loading the model."""
    from neurotrace.folders.shards import parse_shard
    from neurotrace.sweeps.driver import Outcome
    from neurotrace.sweeps.reading import open_run

    run = open_run(out)
    own = run.layout.of_shard(parse_shard(shard))
    if not set(own) <= set(run.parts):
        return False
    _tell(Outcome(0, len(own), len(own)), out, shard, as_json)
    return True


def _tell(outcome: Outcome, out: str, shard: str, as_json: bool) -> None:
    if as_json:
        tell_json({**outcome.__dict__, "out": out, "shard": shard})
        return
    share = "" if shard == "1/1" else f" of shard {shard}"
    tell(f"{outcome.done} of {outcome.parts} parts{share} are done, {outcome.computed} of them now")
    if outcome.short:
        tell("memory ran short: passes were made smaller, the column batch says where")
    for cell in outcome.marked[:_NAMED]:
        say(f"not finite, marked and left out of means: {cell}", 0)
    if len(outcome.marked) > _NAMED:
        say(f"and {len(outcome.marked) - _NAMED} cells more: see the column mark", 0)
    if outcome.complete:
        tell(f"read them with neurotrace.open_run({out!r})")


def _again(out: str, shard: str) -> str:
    import shlex

    share = [] if shard == "1/1" else ["--shard", shard]
    return shlex.join(["neurotrace", "sweep", "--out", out, "--resume", *share])
