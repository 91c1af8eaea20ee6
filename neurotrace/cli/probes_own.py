"""`neurotrace probes draft` and `probes check`: from facts to pairs that a model answers both ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.cli.console import console, tell, tell_json
from neurotrace.cli.options import Device, Dtype, Model, Quiet
from neurotrace.core.errors import InputError
from neurotrace.core.process import bars, quiet

if TYPE_CHECKING:
    from neurotrace.probe_sets.mending import Mended


def draft(
    facts: Annotated[Path, typer.Argument(help="A table with the columns subject and answer.")],
    out: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
    relation: Annotated[
        str | None,
        typer.Option(help="The fact up to its answer: 'the capital of {subject} is the city of'."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw of wrong answers.")] = 0,
) -> None:
    """Write pairs of three families from facts; `probes check` says what a model makes of them."""
    quiet()
    from neurotrace.core.pairs import pair_record
    from neurotrace.core.writing import prepare_file
    from neurotrace.probe_sets.drafting import draft_pairs
    from neurotrace.probe_sets.making import write_rows

    pairs = draft_pairs(facts, relation=relation, seed=seed)
    prepare_file(out, source=facts)
    write_rows(out, [pair_record(pair) for pair in pairs])
    families = len({pair.family for pair in pairs})
    tell(f"{out}: {len(pairs)} pairs, {families} families; next: neurotrace probes check {out} --model M")


def check(
    name: Annotated[str, typer.Argument(help="A file of pairs, a folder, or a set that ships.")],
    model: Model,
    fix: Annotated[
        Path | None, typer.Option(help="Try mends, and write the changed pairs to this .jsonl file.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="With --fix: try the chat template, too.")] = False,
    items: Annotated[int, typer.Option(help="With --fix: pairs of a family that a mend is tried on.")] = 12,
    seed: Annotated[int, typer.Option(help="With --fix: of the draw of items and examples.")] = 0,
    max_pairs: Annotated[int, typer.Option(help="Ask only the first pairs of each family; 0: all.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    silent: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line a failing prompt.")] = False,
) -> None:
    """What a model says instead of each pair's answers, by cause, and what to try."""
    quiet()
    from neurotrace.core.pairs import load_pairs, pair_record
    from neurotrace.core.writing import prepare_file, save_file
    from neurotrace.probe_sets.cards import mended_card
    from neurotrace.probe_sets.diagnosing import diagnose
    from neurotrace.probe_sets.making import write_rows
    from neurotrace.probe_sets.mending import mend_pairs
    from neurotrace.probe_sets.mining import first_of_each_family

    if chat and fix is None:
        raise InputError("--chat goes with --fix: it is one of the mends")
    pairs = load_pairs(name)
    if max_pairs:
        pairs = first_of_each_family(pairs, max_pairs)
    if fix is not None:
        prepare_file(fix, source=name)
    from neurotrace.models.loading import load_model

    loaded = load_model(model, device=device, dtype=dtype)
    if fix is None:
        found = diagnose(loaded, pairs, progress=bars)
    else:
        mended = mend_pairs(loaded, pairs, items=items, chat=chat, seed=seed, progress=bars)
        found = mended.before
    if as_json:
        for row in found.to_frame().to_dict("records"):
            tell_json(row)
    else:
        console().print(found)
    if fix is not None:
        write_rows(fix, [pair_record(pair) for pair in mended.pairs])
        save_file(fix.with_suffix(".md"), mended_card(mended, name, seed))
        if not as_json:
            _show(mended)
            tell(f"{fix}: {len(mended.pairs)} pairs, what was done in {fix.with_suffix('.md')}")


def _show(mended: Mended) -> None:
    for step in mended.steps:
        tell(
            f"{step.family}: {step.mend}: {step.before:.0%} -> {step.after:.0%} of the few"
            f"{', kept' if step.kept else ''}"
        )
        if step.kept:
            tell(f"  {step.example.memorization[-70:]!r} -> {step.example.memorized_answer!r}")
    for family in dict.fromkeys(pair.family for pair in mended.pairs):
        tell(f"{family}: {mended.line(family)}")
