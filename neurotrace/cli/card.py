"""`neurotrace card`: one finding of a run as a page to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import tell
from neurotrace.core.process import quiet


def card(
    run: Annotated[Path, typer.Argument(help="Folder of `neurotrace run`.")],
    out: Annotated[Path, typer.Option(help="The page to write.")],
    family: Annotated[str | None, typer.Option(help="Of these pairs.")] = None,
    direction: Annotated[str | None, typer.Option(help="to_reasoning or to_memorization.")] = None,
) -> None:
    """Write a claim card: what flips, controls, side effects, hashes, in one file without scripts."""
    quiet()
    from neurotrace.core.writing import save_file
    from neurotrace.results.card import claim_card
    from neurotrace.results.reading import load_run

    page = claim_card(load_run(run), family=family, direction=direction).encode("utf-8", "replace")
    save_file(out, page)
    tell(f"card: {out} ({len(page) / 1000:.0f} kB)")
