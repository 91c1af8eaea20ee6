"""`neurotrace card`: one finding of a run as a page to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import tell
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet


def card(
    run: Annotated[Path, typer.Argument(help="Folder of `neurotrace run`.")],
    out: Annotated[Path, typer.Option(help="The page to write.")],
    family: Annotated[str | None, typer.Option(help="Of these pairs.")] = None,
    direction: Annotated[str | None, typer.Option(help="to_reasoning or to_memorization.")] = None,
    png: Annotated[
        bool, typer.Option("--png", help="Also draw it, as FILE.png beside the page (extra: images).")
    ] = False,
) -> None:
    """Write a claim card: what flips, controls, side effects, hashes, in one file without scripts."""
    quiet()
    if png and out.suffix == ".png":
        raise InputError(f"--out {out}: expected the page's name; --png draws it beside the page")
    from neurotrace.core.writing import save_file
    from neurotrace.plots.image import draw_page
    from neurotrace.results.card import LIMIT, claim_card
    from neurotrace.results.reading import load_run

    page = claim_card(load_run(run), family=family, direction=direction)
    files = {out: page.encode("utf-8", "replace")}
    if png:
        files[out.with_suffix(".png")] = draw_page(page, LIMIT)
    for path, content in files.items():
        save_file(path, content)
        tell(f"card: {path} ({len(content) / 1000:.0f} kB)")
