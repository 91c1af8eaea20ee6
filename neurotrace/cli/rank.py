"""`neurotrace rank`: rankers side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.console import console, plain
from neurotrace.cli.options import (
    Device,
    Dtype,
    Model,
    MoreProbes,
    Probes,
    Quiet,
    Source,
    TrustRemoteCode,
    named,
    pairs_of,
)
from neurotrace.cli.together import Ray, Shard, Together, Workers
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet
from neurotrace.core.writing import hold_folder

if TYPE_CHECKING:
    from neurotrace.core.pairs import PromptPair
    from neurotrace.studies.comparison import Comparison


def rank(
    model: Model,
    probes: Probes,
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
    more_probes: MoreProbes = None,
    methods: Annotated[
        str,
        typer.Option(help="all, or names separated by commas; gradient:mean ranks for mean ablation."),
    ] = "all",
    truth: Annotated[
        Path | None,
        typer.Option(help="JSON list of neurons known to decide. Organisms: default their planted ones."),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            help="Neurons to patch (repeatable; the first is the table's). Default: as many as are "
            "true, else 1 % of all, at most 64."
        ),
    ] = None,
    all_positions: Annotated[
        bool, typer.Option("--all-positions", help="Also count flips by patches at all positions.")
    ] = False,
    train_pairs: Annotated[int, typer.Option(help="Maximum number of pairs of a family to rank on.")] = 64,
    exact_neurons: Annotated[
        int, typer.Option(help="Maximum number of neurons measured exactly, drawn at random.")
    ] = 4096,
    curve_pairs: Annotated[int, typer.Option(help="Pairs for necessity and sufficiency; 0: none.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the split and of random draws.")] = 0,
    max_pairs: Annotated[int, typer.Option(help="Maximum number of pairs; 0: all.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    shard: Shard = "1/1",
    ray: Ray = None,
    workers: Workers = 0,
    silent: Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the tables.")] = False,
) -> None:
    """Compare rankers by exact effects, known neurons and held-out flips; write rankers.parquet."""
    from neurotrace.core.pairs import sample_pairs
    from neurotrace.core.process import command_line
    from neurotrace.results.tables import known_truth, prepare_tables, read_truth, save_tables

    pairs = pairs_of(named(probes, more_probes))
    if max_pairs:
        pairs = sample_pairs(pairs, max_pairs, seed=seed)
    known = read_truth(truth) if truth else known_truth(model)
    for name, number in (("train-pairs", train_pairs), ("exact-neurons", exact_neurons)):
        if number < 1:
            raise InputError(f"--{name} {number}: expected at least 1")
    together = Together(shard, ray, workers)
    hold_folder(prepare_tables(out, overwrite=overwrite), shared=together.shared)
    quiet()
    prepare = partial(
        _study_of,
        Source(model, device, dtype, trust_remote_code),
        pairs,
        None if methods == "all" else [each.strip() for each in methods.split(",")],
        truth=known,
        ks=k or (),
        positions=("read", "all") if all_positions else ("read",),
        train_pairs=train_pairs,
        exact_neurons=exact_neurons,
        curve_pairs=curve_pairs,
        seed=seed,
    )
    found = together.result(prepare(), out, overwrite=overwrite, prepare=prepare)
    if found is None:
        return
    save_tables(found, out, command=command_line(), seed=seed)
    _show(found, out)


def _study_of(
    source: Source, pairs: list[PromptPair], methods: list[str] | None, **settings: Any
) -> partial[Comparison]:
    """The comparison, to be called with `units`; on a Ray worker, too."""
    from neurotrace.studies.comparison import ALL, compare

    return partial(compare, source.load(), pairs, methods or ALL, **settings)


def _show(found: Comparison, out: Path) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"Rankers on {found.model.name}, top {found.k} of {found.model.n_neurons}",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("family", "ranker"):
        table.add_column(name, no_wrap=True)
    columns = {
        "spearman": "ρ patch",
        "top1_overlap": "top 1 %",
        "recall_truth": "truth",
        "flips_to_reasoning": "→ reasoning",
        "flips_to_memorization": "→ memory",
        "seconds": "seconds",
    }
    for name in columns.values():
        table.add_column(name, justify="right")
    for row in found.rankers.to_dict("records"):
        cells = ["–" if row[name] != row[name] else f"{row[name]:.2f}" for name in columns]
        table.add_row(plain(row["family"]), row["ranker"], *cells)
    terminal = console()
    terminal.print(table)
    terminal.print(plain(f"tables and report: {out}"))
