"""`neurotrace locate`: by which units, and at which tokens, is the answer decided?"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from neurotrace.cli.console import console, tell
from neurotrace.cli.options import (
    Answers,
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
    reading_of,
)
from neurotrace.core.process import quiet
from neurotrace.core.sides import SIDES
from neurotrace.locating.deciding import DECIDED
from neurotrace.locating.families import PAIRS, TEXTS

FORMAT = "neurotrace.locate/1"
FILES = ("sites.csv", "decided.csv", DECIDED)


def locate(
    model: Model,
    probes: Probes,
    out: Annotated[Path, typer.Option(help="Folder for the table and the figures.")],
    more_probes: MoreProbes = None,
    heads: Annotated[int, typer.Option(help="Attention heads to patch together.")] = 8,
    places: Annotated[
        int,
        typer.Option(
            help="Last tokens at each of which the outputs of every block are patched, as far as both "
            "prompts' tokens correspond."
        ),
    ] = 6,
    at_most: Annotated[
        int,
        typer.Option(help="Maximum number of correctly answered pairs of each family; 0: all."),
    ] = PAIRS,
    answers: Answers = "first",
    decide_only: Annotated[
        bool,
        typer.Option(
            "--decide-only", help="Patch only what decided.csv needs, without the map of blocks and tokens."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the controls.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder.")] = False,
) -> None:
    """By which units, and at which tokens, is the answer decided? Patches them on held-out pairs."""
    from neurotrace.core.errors import InputError
    from neurotrace.core.writing import hold_folder, noted, prepare_folder, save_file, write_atomically
    from neurotrace.folders.sealing import sealing

    pairs = pairs_of(named(probes, more_probes))
    if min(heads, places) < 1 or at_most < 0:
        raise InputError(
            f"--heads {heads} --places {places} --at-most {at_most}: expected at least 1, 1 and 0"
        )
    reading = reading_of(answers)
    files = [
        *FILES,
        *(_figure(*each) for each in product({pair.family for pair in pairs}, SIDES, ("", "-tokens"))),
    ]
    hold_folder(prepare_folder(out, files, overwrite=overwrite))
    quiet()
    import pandas as pd

    from neurotrace.core.process import bars, command_line
    from neurotrace.folders.units import Units
    from neurotrace.interventions.damage import neutral_texts
    from neurotrace.interventions.targets import routed
    from neurotrace.locating.deciding import in_words
    from neurotrace.locating.families import decided_families
    from neurotrace.models.encoding import nothing_left
    from neurotrace.models.identity import model_identity, model_record, pairs_hash, surroundings
    from neurotrace.plots.sites import plot_located, plot_places
    from neurotrace.plots.style import save_figure
    from neurotrace.probe_sets.mining import mine_pairs
    from neurotrace.studies.selection import without_small_families

    loaded = Source(model, device, dtype, trust_remote_code).load()
    mined = mine_pairs(loaded, pairs, max_pairs=at_most or None, answers=reading, seed=seed, progress=bars)
    asked = without_small_families(mined.encoded)
    if not len(asked):
        raise nothing_left(model, asked)
    neutral = neutral_texts(loaded)[:TEXTS]
    how: dict[str, Any] = {"heads": heads, "places": places, "everywhere": not decide_only, "seed": seed}
    units = Units(out, overwrite=overwrite)
    units.begin(
        {"command": "locate", **model_identity(loaded), **how, "texts": neutral, **routed(loaded)}
        | {"record": model_record(loaded), "surroundings": surroundings(loaded)}
        | {"pairs_sha256": pairs_hash(asked), "answers": answers}
    )
    tables, decisions, figures = [], [], {}
    for family, both, decided in decided_families(
        loaded, asked, neutral=neutral, units=units, progress=bars, **how
    ):
        for located in both:
            console().print(located)
            if not decide_only:
                figures[_figure(family, located.donor)] = plot_located(located)
                figures[_figure(family, located.donor, "-tokens")] = plot_places(located)
            tables.append(located.table.assign(family=family, donor=located.donor))
        decisions.append(decided)
        tell(f"{family}: {in_words(decided)}")
    record = {"format": FORMAT, **model_identity(loaded), "command": command_line(), "seed": seed}
    with sealing(out, files, record):
        for name, figure in figures.items():
            save_figure(figure, out / name)
        for name, frames in zip(FILES, (tables, decisions), strict=False):
            save_file(out / name, pd.concat(frames).to_csv(index=False, float_format="%.4f"))
        write_atomically(out / DECIDED, noted(pd.concat(decisions, ignore_index=True), record))
    tell(f"tables and figures: {out}")


def _figure(family: str, donor: str, of: str = "") -> str:
    return f"{re.sub('[^A-Za-z0-9]+', '-', family)}-to-{donor}{of}.html"
