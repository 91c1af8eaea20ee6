"""`neurotrace checkpoints`: measurements at the checkpoints of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.cli.console import tell
from neurotrace.cli.options import Device, Dtype, Quiet, TrustRemoteCode, pairs_of
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet

if TYPE_CHECKING:
    pass

FORMAT = "neurotrace.checkpoints/1"
FILES = ("checkpoints.csv", "checkpoints.html")


def checkpoints(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A folder that holds the checkpoints, a model on the hub, or each checkpoint in the "
            "order of training."
        ),
    ],
    probes: Annotated[
        list[str],
        typer.Option(help="Packaged set, file (.jsonl, .csv, .parquet) or folder (repeatable)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table and the figure.")],
    which: Annotated[
        str,
        typer.Option(
            help="Of one model: all in its folder, or names separated by commas, of sub-folders or of "
            "a hub model's revisions: step1000,step2000."
        ),
    ] = "all",
    method: Annotated[str, typer.Option(help="A ranker that is a mean over pairs.")] = "two_ended",
    k: Annotated[int, typer.Option(help="Neurons to patch.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the split and of what is drawn.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the table.")] = False,
) -> None:
    """When do a behaviour and its neurons appear? Accuracy, flips and stability per checkpoint."""
    from neurotrace.core.records import probe_names

    if slips := [name for name in models if name in probe_names() and not Path(name).exists()]:
        raise InputError(f"{slips[0]} is a set of prompts, no model: --probes goes before each set")
    pairs = pairs_of(probes)
    from neurotrace.core.writing import hold_folder, prepare_folder, save_file
    from neurotrace.folders.sealing import sealing
    from neurotrace.folders.units import Units

    if len(models) > 1 and which != "all":
        raise InputError(f"--which {which} of {len(models)} models: expected one model to look in")
    hold_folder(prepare_folder(out, FILES, overwrite=overwrite))
    quiet()
    from neurotrace.core.process import bars, command_line
    from neurotrace.plots.style import save_figure
    from neurotrace.plots.timeline import plot_timeline
    from neurotrace.studies.timeline import checkpoints_of, timeline

    table = timeline(
        checkpoints_of(models[0], which) if len(models) == 1 else models,
        pairs,
        method=method,
        k=k,
        seed=seed,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        units=Units(out, overwrite=overwrite),
        progress=bars,
    )
    with sealing(out, FILES, {"format": FORMAT, "command": command_line(), "seed": seed}):
        save_file(out / FILES[0], table.to_csv(index=False, float_format="%.3f"))
        save_figure(plot_timeline(table), out / FILES[1])
    shown = [
        "checkpoint",
        "family",
        "recalls",
        "reasons",
        "flips_to_reasoning",
        "flips_to_memorization",
        "settled_to_reasoning",
        "settled_to_memorization",
    ]
    tell(table[shown].round(2).to_string(index=False))
    tell(f"table and figure: {out}")
