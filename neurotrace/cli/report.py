"""`neurotrace report`: write a run's page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import tell
from neurotrace.core.display import line
from neurotrace.core.process import quiet


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of `neurotrace run`.")],
    out: Annotated[Path | None, typer.Option(help="The page. Default: report.html in the folder.")] = None,
) -> None:
    """Write the report again from a run's folder, without the model."""
    quiet()
    from neurotrace.core.writing import save_file
    from neurotrace.folders.sealing import list_again
    from neurotrace.results.reading import load_run
    from neurotrace.results.report import write_report

    page = out or folder / "report.html"
    run = load_run(folder)
    save_file(page, write_report(run))
    if page.resolve() == (folder / "report.html").resolve():
        list_again(folder, "report.html")
    for reason in run.left_out:
        tell(f"not shown: {line(reason)}", error=True)
    tell(f"report: {page}")
