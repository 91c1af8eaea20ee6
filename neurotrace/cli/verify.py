"""`neurotrace verify`: is a folder as it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurotrace.cli.console import tell
from neurotrace.cli.options import Device, Dtype, Source, TrustRemoteCode
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder that a command has written.")],
    model: Annotated[
        str | None,
        typer.Option(help="Also measure effects anew, of a run's folder, on this model."),
    ] = None,
    rows: Annotated[int, typer.Option(help="With --model: effects to measure, drawn at random.")] = 32,
    seed: Annotated[int, typer.Option(help="With --model: seed of the draw.")] = 0,
    tolerance: Annotated[
        float, typer.Option(help="With --model: largest difference allowed, in nats.")
    ] = 1e-3,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Hash every file, and name each that is changed, missing or not listed; exit code 2 if any is."""
    if rows < 1 or tolerance < 0:
        raise InputError(f"--rows {rows} --tolerance {tolerance:g}: expected at least 1, and at least 0")
    quiet()
    from neurotrace.results.verify import lines, remeasure, verify as check

    found = check(folder)
    for text in lines(found, folder):
        tell(text)
    if found.problems:
        raise InputError(f"{len(found.problems)} files of {folder} are not as they were written")
    tell(f"{found.files} files are as they were written")
    if model is None:
        return
    loaded = Source(model, device, dtype, trust_remote_code).load()
    again = remeasure(loaded, folder, rows=rows, seed=seed)
    told = (
        f"{again.rows} of {again.of} held-out effects of what the folds chose, drawn with seed {seed}: "
        f"largest difference {again.difference:.2g}, other answers {again.answers}"
    )
    if again.difference > tolerance or again.answers:
        raise InputError(f"{told}; expected at most {tolerance:g} nats, on the device and dtype of the run")
    tell(told)
