"""`neurotrace compare`: two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import console, tell_json
from neurotrace.core.files import parse_json
from neurotrace.core.process import quiet


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of `neurotrace run`.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line a row.")] = False,
) -> None:
    """The same neurons? The same flips? With what chance would give beside each."""
    quiet()

    from neurotrace.core.errors import reading
    from neurotrace.results.comparing import compare_runs
    from neurotrace.results.reading import load_run

    with reading(f"{first} or {second}"):
        found = compare_runs(load_run(first), load_run(second))
    if as_json:
        for row in parse_json(found.to_frame().to_json(orient="records")):
            tell_json(row)
    else:
        console().print(found)
