"""`neurotrace trust`: a score for each prompt, as JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from neurotrace.cli.console import tell_json
from neurotrace.cli.options import Device, Dtype, Model, Source, TrustRemoteCode
from neurotrace.core.errors import InputError
from neurotrace.core.files import parse_json
from neurotrace.core.process import quiet
from neurotrace.core.prompts import Prompt, prompt_from
from neurotrace.core.records import text_fields


def trust(
    model: Model,
    circuit: Annotated[Path, typer.Option(help="A calibrated circuit: see `neurotrace circuit`.")],
    prompts: Annotated[
        Path, typer.Argument(help="JSON lines with a field `prompt`; -: standard input.")
    ] = Path("-"),
    batch: Annotated[int, typer.Option(help="Number of prompts scored and written together.")] = 16,
    write: Annotated[int, typer.Option(help="Also generate this many tokens, each with its score.")] = 0,
    margin: Annotated[
        bool,
        typer.Option(
            "--margin",
            help="Read the causal margin even where the circuit's study found another signal as good.",
        ),
    ] = False,
    kind: Annotated[
        bool,
        typer.Option("--kind", help="Also abstain on prompts of another kind; one more pass a prompt."),
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Does the model's own answer come from memory or from reasoning? JSON lines in, JSON lines out."""
    if batch < 1 or write < 0:
        raise InputError(f"--batch {batch} --write {write}: expected at least 1, and at least 0")
    if str(prompts) != "-" and not os.path.isfile(prompts):
        raise InputError(f"no file at {str(prompts)!r}: expected JSON lines, or - for standard input")
    quiet()
    from neurotrace.answers.answered import prompt_ids
    from neurotrace.answers.circuit import Circuit
    from neurotrace.answers.margin import monitor
    from neurotrace.answers.trust import trust as score

    read = Circuit.load(circuit)
    loaded = Source(model, device, dtype, trust_remote_code).load()
    read.check(loaded)
    source = sys.stdin.buffer if str(prompts) == "-" else prompts.open("rb")
    with source:
        for part in _parts(source, batch, lambda text: prompt_ids(loaded, [text])):
            scored = [prompt for prompt in part if prompt.perturbs is None]
            for prompt, row in zip(
                scored, score(loaded, part, read, margin=margin, kind=kind).rows(), strict=True
            ):
                if write:
                    written = monitor(loaded, prompt.prompt, read, max_new_tokens=write)
                    row["tokens"] = [asdict(token) for token in written]
                tell_json(row)


def _parts(source: BinaryIO, size: int, check: Callable[[str], object]) -> Iterator[list[Prompt]]:
    """About `size` prompts at a time; a changed version stays with the prompt before it.

    `check` raises InputError for a text that the model cannot take.
    """
    part: list[Prompt] = []
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            prompt = _prompt(line, number)
            _checked(prompt.prompt, number, check)
        except InputError:
            if part:  # prompts before the mistake are scored
                yield part
            raise
        if len(part) >= size and prompt.perturbs is None:
            yield part
            part = []
        part.append(prompt)
    if part:
        yield part


def _checked(text: str, number: int, check: Callable[[str], object]) -> None:
    try:
        check(text)
    except InputError as error:
        raise InputError(f"line {number}: {error}") from None


def _prompt(line: bytes, number: int) -> Prompt:
    """A whole record of a prompt set, or an object with `prompt` and perhaps `id`."""
    try:
        record = parse_json(line)
    except ValueError as error:
        raise InputError(
            f"line {number}: not JSON ({error}); expected an object with a field `prompt`. What is "
            "written above holds"
        ) from None
    wanted = ("id", "prompt")
    if isinstance(record, dict) and not set(record) - set(wanted):
        found = text_fields({"id": str(number), **record}, f"line {number}", wanted)
        return Prompt(found["id"], "", "", "", found["prompt"], "", "")
    return prompt_from(record, f"line {number}")
