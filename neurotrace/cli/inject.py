"""`neurotrace inject`: train facts into a few neurons, and test whether rankers find them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace import organism
from neurotrace.cli.console import tell
from neurotrace.cli.options import Device, Model, Quiet, TrustRemoteCode
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet

_FEWEST = 8  # minimum number of trained neurons: with fewer no fact could be taught


def inject(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder; the same command resumes.")],
    facts: Annotated[
        str | None,
        typer.Option(
            help="A packaged set or a .jsonl file. Default: facts-organism for the built-in models, else "
            "facts-english."
        ),
    ] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of neurons that are trained (repeatable). Default: 0.01, 0.001, where that is "
            f"{_FEWEST} neurons or more."
        ),
    ] = None,
    methods: Annotated[str, typer.Option(help="all, or names separated by commas.")] = "all",
    max_facts: Annotated[int, typer.Option(help="Maximum number of facts; 0: all.")] = 0,
    steps: Annotated[
        int, typer.Option(help="Training steps after which a fact is skipped as not teachable.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the trained neurons.")] = 0,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
) -> None:
    """Recall@k of every ranker over injected facts; writes recall.csv. Resumes."""
    quiet()
    from neurotrace.core.process import bars
    from neurotrace.models.hooks import inspect_model
    from neurotrace.models.loading import load_model
    from neurotrace.studies.injection import load_facts
    from neurotrace.studies.injection_study import METHODS, injection_study

    if max_facts < 0:
        raise InputError(f"--max-facts {max_facts}: expected 0 (all) or more")
    if steps < 1:
        raise InputError(f"--steps {steps}: expected at least 1")
    usual = "facts-organism" if model in organism.NAMES else "facts-english"
    taught = load_facts(facts or usual)[: max_facts or None]
    loaded = load_model(model, device=device, trust_remote_code=trust_remote_code)
    neurons = inspect_model(loaded).n_neurons
    fractions = fraction or [
        each for each in (0.01, 0.001) if round(each * neurons) >= _FEWEST or each == 0.01
    ]
    found = injection_study(
        loaded,
        taught,
        out,
        fractions=fractions,
        seed=seed,
        steps=steps,
        progress=bars,
        methods=METHODS if methods == "all" else [name.strip() for name in methods.split(",")],
    )
    tell(found.drop(columns=["tried", "skipped"]).round(3).to_string(index=False))
    for share, own in found.groupby("fraction", sort=False):
        row = own.iloc[0]
        rest = f", skipped: {', '.join(row['skipped'].split())}" if row["skipped"] else ""
        tell(f"fraction {share:g}: {row['facts']} of {row['tried']} facts taught{rest}")
