"""`neurotrace replicate`: published recipes beside this package's own, on the same held-out groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.asked import behaving
from neurotrace.cli.console import console, tell, tell_json
from neurotrace.cli.options import Device, Dtype, Model, Quiet, Source, TrustRemoteCode, pairs_of
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet
from neurotrace.organism import NAMES

_WIDTH = 110


def replicate(
    model: Model,
    probes: Annotated[
        list[str], typer.Option(help="Packaged set, file (.jsonl, .csv, .parquet) or folder (repeatable).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table, the verdicts and the page.")],
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            help="ours, nmd, nmd-dims, knowledge, cna, h-neurons, lirefs, ircan. Default: all that the "
            "model allows."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the held-out groups.")] = 5,
    split: Annotated[str, typer.Option(help="group or group+template.")] = "group",
    max_pairs: Annotated[int, typer.Option(help="Maximum number of pairs, drawn at random; 0: all.")] = 0,
    at_most: Annotated[
        int,
        typer.Option(
            help="Stop asking a family at this many correctly answered pairs, in random order; 0: ask all."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of folds, draws and controls.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print recipes.json.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder.")] = False,
) -> None:
    """Published recipes for finding neurons, proved on held-out pairs: causal, not causal, undecided."""
    from neurotrace.core.writing import hold_folder, prepare_folder
    from neurotrace.folders.units import Units

    if folds < 2 or at_most < 0:
        raise InputError(f"--folds {folds} --at-most {at_most}: expected 2 or more, and 0 or more")
    pairs = pairs_of(probes, max_pairs, seed)
    if model in NAMES:  # so small that a second thread only waits
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    quiet()
    from neurotrace.core.process import bars, command_line
    from neurotrace.interventions.damage import neutral_texts
    from neurotrace.models.origins import keeping_runs
    from neurotrace.recipes.folder import FILES, save_replication, summary
    from neurotrace.recipes.replicate import replicate as replicated
    from neurotrace.recipes.table import recipe_of

    for name in recipes or ():
        recipe_of(name)
    hold_folder(prepare_folder(out, FILES, overwrite=overwrite))
    loaded = Source(model, device, dtype, trust_remote_code).load()
    with keeping_runs(loaded):  # what is asked is studied, too
        found = replicated(
            loaded,
            behaving(loaded, pairs, model, at_most, seed),
            recipes or None,
            folds=folds,
            split=split,
            seed=seed,
            neutral=neutral_texts(loaded),
            units=Units(out, overwrite=overwrite),
            progress=bars,
        )
    save_replication(found, out, model=loaded, probes=probes, command=command_line(), overwrite=True)
    if as_json:
        tell_json(summary(found))
        return
    terminal = console()
    terminal.width = max(terminal.width, _WIDTH)  # a row stays a line in a file
    terminal.print(found)
    tell(f"table, verdicts and page: {out}")
