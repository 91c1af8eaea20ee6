"""`neurotrace detect`: detectors of memory, and their transfer between tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.cli.console import console, plain
from neurotrace.cli.options import (
    Device,
    Dtype,
    Model,
    MoreProbes,
    Quiet,
    Source,
    TrustRemoteCode,
    named,
)
from neurotrace.core.process import quiet
from neurotrace.core.writing import hold_folder

if TYPE_CHECKING:
    from neurotrace.answers.detection import Detection


def detect(
    model: Model,
    probes: Annotated[
        list[str],
        typer.Option(help="Packaged set, file of prompts or folder; several are fine."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the chosen detector.")],
    more_probes: MoreProbes = None,
    by: Annotated[str, typer.Option(help="What to train and test across: family or template.")] = "family",
    depths: Annotated[int, typer.Option(help="Number of blocks at which each site is read.")] = 8,
    k: Annotated[
        int,
        typer.Option(help="Neurons of either kind in a circuit; 0: 0.11 % of all, at least 4."),
    ] = 0,
    folds: Annotated[int, typer.Option(help="Folds of the held-out groups.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of folds and random draws.")] = 0,
    max_prompts: Annotated[int, typer.Option(help="Maximum number of prompts of each task; 0: all.")] = 0,
    margin: Annotated[
        bool, typer.Option("--margin/--no-margin", help="Also evaluate the causal margin (slow).")
    ] = True,
    draws: Annotated[
        int, typer.Option(help="Draws from the posterior of the fused views' weights.")
    ] = 3200,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the tables.")] = False,
) -> None:
    """Train detectors on each task, test them on every other; write detectors.parquet."""
    from neurotrace.core.errors import InputError
    from neurotrace.core.process import command_line
    from neurotrace.core.prompts import load_prompts
    from neurotrace.results.tables import prepare_detection, save_detection

    prompts = [prompt for name in named(probes, more_probes) for prompt in load_prompts(name)]
    for name, number, least in (
        ("depths", depths, 1),
        ("folds", folds, 2),
        ("k", k, 0),
        ("draws", draws, 64),
    ):
        if number < least:
            raise InputError(f"--{name} {number}: expected at least {least}")
    if by not in ("family", "template"):
        raise InputError(f"--by {by}: expected family or template")
    hold_folder(prepare_detection(out, overwrite=overwrite))
    quiet()
    from neurotrace.answers.detection import detect as run
    from neurotrace.core.process import bars
    from neurotrace.folders.units import Units

    loaded = Source(model, device, dtype, trust_remote_code).load()
    found = run(
        loaded,
        prompts,
        by=by,
        depths=depths,
        k=k or None,
        folds=folds,
        seed=seed,
        max_prompts=max_prompts,
        margin=margin,
        draws=draws,
        units=Units(out, overwrite=overwrite),
        progress=bars,
    )
    save_detection(found, out, model=loaded, command=command_line())
    _show(found, out)


def _show(found: Detection, out: Path) -> None:
    from rich.table import Table

    from neurotrace.answers.detection import summary

    table = Table(title="AUROC for “from memory” on groups not seen in training, mean over tasks")
    for name in ("detector", "view"):
        table.add_column(name)
    for name in ("own task", "another task", "all other tasks", "worst"):
        table.add_column(name, justify="right")
    for row in summary(found.table).to_dict("records"):
        numbers = (row[name] for name in ("own", "another", "others", "worst"))
        cells = ["–" if number != number else f"{number:.2f}" for number in numbers]
        table.add_row(plain(row["detector"]), plain(row["view"]), *cells)
    terminal = console()
    counts = ", ".join(f"{u} {n['memory']}/{n['reasoning']}" for u, n in found.outcomes.items())
    terminal.print(plain(f"answered from memory/by reasoning: {counts}"))
    terminal.print(table)
    chosen = f"{found.about['detector']} on {', '.join(found.about['views'])}"
    terminal.print(plain(f"chosen: {chosen}"))
    terminal.print(plain(f"tables and figures: {out}"))
