"""`neurotrace overlap`: do memory and reasoning, and do task families, share their neurons?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import console
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
from neurotrace.core.process import quiet

_WIDTH = 120


def overlap(
    model: Model,
    probes: Probes,
    more_probes: MoreProbes = None,
    intervention: Annotated[
        str,
        typer.Option(
            help="zero: the neurons that support each answer; patch: those that flip one into the other."
        ),
    ] = "zero",
    method: Annotated[str, typer.Option(help="A ranker that is a mean over pairs.")] = "gradient",
    k: Annotated[int, typer.Option(help="Number of neurons in each top; 0: 1 % of all, at most 64.")] = 0,
    max_pairs: Annotated[int, typer.Option(help="Maximum number of pairs of a family; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of random draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the table to this .csv file.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
) -> None:
    """Jaccard's index of the tops, within and across families, against chance, with an interval."""
    from neurotrace.core.display import View, frame_table, to_rich
    from neurotrace.core.pairs import sample_pairs
    from neurotrace.core.writing import prepare_file, save_file

    pairs = pairs_of(named(probes, more_probes))
    if out is not None:
        prepare_file(out)
    families = list(dict.fromkeys(pair.family for pair in pairs))
    quiet()
    from neurotrace.core.process import bars
    from neurotrace.core.sides import SIDES
    from neurotrace.rankers.registry import ranker_of
    from neurotrace.studies.overlap import overlap as compare
    from neurotrace.studies.significance import GroupScores, group_scores

    ranker = ranker_of(method)
    loaded = Source(model, device, dtype, trust_remote_code).load()
    # zeroing neurons that support the memorized answer lowers L on its prompt
    held = intervention in ("zero", "mean")
    names = ("memory", "reasoning") if held else ("to reasoning", "to memory")
    grouped: dict[str, GroupScores] = {}
    for family in families:
        own = [pair for pair in pairs if pair.family == family]
        own = sample_pairs(own, max_pairs, seed=seed) if max_pairs else own
        for name, donor in zip(names, SIDES[::-1], strict=True):
            grouped[f"{family}: {name}"] = group_scores(
                ranker.function,
                loaded,
                own,
                donor=donor,
                kind=intervention,
                progress=bars,
            )
    neurons = next(iter(grouped.values())).scores.n_neurons
    found = compare(grouped, k=k or max(1, min(64, neurons // 100)), seed=seed)
    if out is not None:
        save_file(out, found.to_csv(index=False, float_format="%.4g"))
    shown = found.round(3).assign(p=[f"{p:.2g}" for p in found["p"]])  # rounded, a small p reads 0
    table = frame_table(shown, limit=len(shown))
    what = f"Shared neurons of each two tops (Jaccard), with a 95 % interval, beside chance: {intervention}"
    terminal = console()
    terminal.width = max(terminal.width, _WIDTH)  # a row stays a line in a file
    terminal.print(to_rich(View(what, (table,))))
