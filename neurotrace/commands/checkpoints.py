"""`neurotrace checkpoints`: the same measurements along a model's training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from neurotrace.commands.console import quiet


def checkpoints(
    models: Annotated[
        list[str],
        typer.Argument(help="Checkpoints in the order of training, or one folder that holds them."),
    ],
    probes: Annotated[
        list[str], typer.Option(help="Packaged set, .jsonl file or folder (repeatable).")
    ],
    out: Annotated[Path, typer.Option(help="The table, a .csv file.")],
    method: Annotated[str, typer.Option(help="A ranker that is a mean over pairs.")] = "two_ended",
    k: Annotated[int, typer.Option(help="Neurons to patch.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the split and of what is drawn.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
) -> None:
    """When do a behaviour and its neurons appear? Accuracy, flips and stability per checkpoint."""
    from neurotrace.pairs import load_pairs
    from neurotrace.runs import prepare_file, save_file

    if len(models) == 1 and os.path.isdir(models[0]):
        (folder,) = (Path(model) for model in models)
        found = sorted(folder.glob("*/config.json")) + list(folder.glob("config.json"))
        models = [str(path.parent) for path in found]
    pairs = [pair for name in probes for pair in load_pairs(name)]
    prepare_file(out)
    quiet()
    from neurotrace.progress import bars
    from neurotrace.timelines import timeline

    table = timeline(models, pairs, method=method, k=k, seed=seed, device=device, progress=bars)
    save_file(out, table.to_csv(index=False, float_format="%.3f").encode())
    shown = ["checkpoint", "family", "recalls", "reasons", "flips_to_reasoning",
             "flips_to_memorization", "settled_to_reasoning", "settled_to_memorization"]  # fmt: skip
    print(table[shown].round(2).to_string(index=False))
