"""`neurotrace export`: what a run found, for other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.cli.console import console, plain
from neurotrace.cli.options import Device, Dtype, Source, TrustRemoteCode
from neurotrace.core.errors import InputError, reading
from neurotrace.core.process import quiet
from neurotrace.organism import NAMES

if TYPE_CHECKING:
    from neurotrace.core.pairs import PromptPair
    from neurotrace.interventions.intervention import Intervention


def export(
    run: Annotated[
        Path,
        typer.Argument(help="Folder of `neurotrace run`, or a file of its folder interventions."),
    ],
    to: Annotated[str, typer.Option(help="hooks, checkpoint, gguf, vector or json.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written.")],
    model: Annotated[
        str | None,
        typer.Option(help="The run's model: built-in, hub name, folder or .gguf file. Default: its name."),
    ] = None,
    family: Annotated[str | None, typer.Option(help="Of these pairs.")] = None,
    direction: Annotated[str | None, typer.Option(help="to_reasoning or to_memorization.")] = None,
    fold: Annotated[str, typer.Option(help="A fold's number; all: what was made from all pairs.")] = "all",
    stand_in: Annotated[
        bool,
        typer.Option("--stand-in", help="Of a patch: write the donor class's mean for its values."),
    ] = False,
    max_pairs: Annotated[int, typer.Option(help="Compare on at most so many pairs.")] = 64,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export.")] = False,
) -> None:
    """Write an intervention for another program; the model's logits under it are compared with ours."""
    quiet()

    from neurotrace.exports.export import export as write

    found, pairs = _found(run, family, direction, fold)
    change = found.without_donor() if stand_in else found
    name = model or str(found.provenance.get("model", ""))
    if not (model or name in NAMES or os.path.exists(name)):
        raise InputError(f"the run's model is called {name!r}: name its folder or file with --model")
    made = write(
        Source(name, device, dtype, trust_remote_code).load(),
        change,
        to,
        out,
        pairs=pairs[:: max(1, len(pairs) // max(1, max_pairs))][:max_pairs],
        source=name,
        overwrite=overwrite,
    )
    terminal = console()
    terminal.print(plain(f"{change}: {made.form} in {made.folder}"))
    for form, proof in made.proofs.items():
        terminal.print(plain(f"{form}: {proof}"))


def _found(
    run: Path, family: str | None, direction: str | None, fold: str
) -> tuple[Intervention, list[PromptPair]]:
    """The intervention, and the pairs to compare on: held-out ones, where a fold left any out."""
    if run.suffix == ".safetensors":
        from neurotrace.interventions.intervention import Intervention

        return Intervention.load(run), []
    from neurotrace.results.reading import load_run

    number = int(fold) if fold.isdigit() else fold
    with reading(run):
        loaded = load_run(run)
        found = loaded.intervention(family=family, direction=direction, fold=number)
        own = [pair for pair in loaded.pairs if pair.family == found.provenance["family"]]
        return found, loaded.held_out(found) or own
