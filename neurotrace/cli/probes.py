"""`neurotrace probes`: prompt sets, packaged and your own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from neurotrace.cli.console import console, plain, tell, tell_json
from neurotrace.cli.options import Device, Dtype, Model, Quiet
from neurotrace.core.display import line
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet
from neurotrace.probe_sets.importing import FORMAT_NAMES

app = typer.Typer(no_args_is_help=True, help="The sets of pairs that ship, and your own.")

_Names = Annotated[list[str] | None, typer.Argument(help="Names of sets that ship.")]
_Sets = Annotated[list[str] | None, typer.Argument(help="Sets that ship, files of pairs or folders.")]
_All = Annotated[bool, typer.Option("--all", help="Every set that ships.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the packaged sets with their pairs, families, templates and groups."""
    from neurotrace.core.pairs import load_pairs
    from neurotrace.core.records import probe_names

    rows = []
    for name in probe_names():
        pairs = load_pairs(name)
        rows.append(
            {
                "name": name,
                "pairs": len(pairs),
                "families": len({pair.family for pair in pairs}),
                "templates": len({(pair.family, pair.template) for pair in pairs}),
                "groups": len({(pair.family, pair.group) for pair in pairs}),
                "about": _title(name),
            }
        )
    _print_rows(rows, as_json)
    if not as_json:
        tell(f"Prompts, for circuit and detect: {', '.join(probe_names('prompts'))}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A set that ships, a file of pairs or a folder.")],
    as_json: _Json = False,
) -> None:
    """One pair of each template, both prompts and both answers."""
    from neurotrace.core.pairs import load_pairs, pair_record

    first: dict[tuple[str, str], Any] = {}
    for pair in load_pairs(name):
        first.setdefault((pair.family, pair.template), pair)
    if as_json:
        tell_json([pair_record(pair) for pair in first.values()])
        return
    for (family, template), pair in first.items():
        tell(line(f"{family} / {template} (group {pair.group})"))
        tell(f"  memorization  {pair.memorization!r} -> {pair.memorized_answer!r}")
        tell(f"  reasoning     {pair.reasoning!r} -> {pair.reasoned_answer!r}")


@app.command()
def validate(
    names: _Sets = None,
    every: _All = False,
    model: Annotated[
        str | None,
        typer.Option(help="Also measure this model's share of correct pairs, by template."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --model: write the shares into the cards.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    as_json: _Json = False,
) -> None:
    """Check prompt sets. Exit code 1 if a check fails.

    Checks: pairs are valid and minimal; the card has the required words and figures of the current
    pairs; build.py writes the same bytes. A path is checked as pairs only.
    """
    from neurotrace.core.pairs import load_pairs
    from neurotrace.core.records import probe_names
    from neurotrace.probe_sets.checking import check_pairs, check_set, set_folder

    wanted = _wanted(names, every)
    if write and model is None:
        raise InputError("--write goes with --model: whose shares are to be written?")
    ships = set(probe_names())
    shares = _measure(wanted, model, device, dtype, write, as_json) if model else []
    rows, bad = [], []
    for name in wanted:
        wrong = check_set(set_folder(name)) if name in ships else check_pairs(load_pairs(name))
        bad += [f"{name}: {each}" for each in wrong]
        rows.append({"name": name, "problems": len(wrong), "first": wrong[0] if wrong else ""})
    if as_json:
        tell_json({"sets": rows, "problems": bad, "shares": shares})
    else:
        for row in rows:
            tell(f"{row['name']}: {'ok' if not row['problems'] else row['first']}")
        for each in bad[:20]:
            tell(f"  {line(each)}")
    if bad:
        raise typer.Exit(1)


@app.command()
def mine(
    model: Model,
    out: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
    names: _Sets = None,
    every: _All = False,
    at_most: Annotated[
        int,
        typer.Option(help="Stop asking a family at this many correct pairs; 0: ask all."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the order of asking, with --at-most.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away what another call has left unfinished.")
    ] = False,
    silent: Quiet = False,
    as_json: _Json = False,
) -> None:
    """Write the pairs that this model answers both ways; `run --probes FILE` takes them."""
    from neurotrace.core.pairs import load_pairs, pair_record
    from neurotrace.core.writing import prepare_file, remove, sweep_up
    from neurotrace.folders.units import Units
    from neurotrace.probe_sets.making import write_rows

    candidates = [pair for name in _wanted(names, every) for pair in load_pairs(name)]
    if not os.path.isdir(out.parent):
        raise InputError(f"--out {out}: no folder {out.parent}")
    prepare_file(out)
    loaded = _load(model, device, dtype)
    from neurotrace.core.process import bars
    from neurotrace.probe_sets.mining import mine_pairs

    kept = out.with_name(f"{out.name}.unfinished")
    mined = mine_pairs(
        loaded,
        candidates,
        max_pairs=at_most or None,
        seed=seed,
        units=Units(kept, overwrite=overwrite),
        progress=bars,
    )
    if not mined.pairs:
        remove(kept)
        reasons = ", ".join(f"{count} {reason}" for reason, count in mined.reasons().items())
        raise InputError(f"none of {len(candidates)} candidates is answered correctly ({reasons})")
    sweep_up(out.parent, [out.name])
    write_rows(out, [pair_record(pair) for pair in mined.pairs])
    remove(kept)
    _print_rows(_shares(mined), as_json)
    if not as_json:
        tell(f"{out}: {len(mined.pairs)} pairs")


@app.command()
def build(
    names: _Names = None,
    every: _All = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the sets' folders; default: in place.")
    ] = None,
) -> None:
    """Build sets again from their build.py, bit for bit."""
    from neurotrace.probe_sets.checking import build_set, set_folder

    for name in _wanted(names, every):
        folder = set_folder(name)
        for path in build_set(folder, folder if out is None else out / name):
            tell(str(path))


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="The file, a folder of data, or a data set's name on the hub.")
    ],
    out: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=...]...", help="Further columns or constants."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(FORMAT_NAMES)}; default: known by its columns."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Which column holds a field: memorization=prompt (several are fine)."),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option(help="A field that is the same in every row: family=sums (several are fine)."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set that has several.")] = None,
    clean: Annotated[
        str | None,
        typer.Option(help="Clean and corrupted prompts: the clean one's side, memorization or reasoning."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Built-in model, folder, hub name or .gguf: reads answers given as token ids."),
    ] = None,
    counterfactual: Annotated[
        str | None, typer.Option(help="mib: the column with the changed prompt.")
    ] = None,
    sets: Annotated[
        str, typer.Option(help="Answers that are sets: refuse, or first (it stands for the set).")
    ] = "refuse",
    patterns: Annotated[
        Path | None, typer.Option(help="pararel: the file of patterns, [X] was born in [Y].")
    ] = None,
    family: Annotated[str, typer.Option(help="Name of the family, where the file has none.")] = "imported",
) -> None:
    """Turn a file of another tool's into pairs."""
    quiet()
    from neurotrace.core.pairs import load_pairs, pair_record
    from neurotrace.core.writing import prepare_file
    from neurotrace.probe_sets.importing import format_of, import_pairs
    from neurotrace.probe_sets.making import write_rows

    words = [source, *(more or [])]  # --columns a=b c=d FILE is fine, too
    source = next((word for word in words if "=" not in word), source)
    words.remove(source)
    fixed = _named("--constants", constants or [])
    named = _named("--columns", [*(columns or []), *words])
    if named or fixed:
        if form is not None:
            raise InputError(f"--format {form} goes without --columns: the format knows its columns")
        pairs = load_pairs(source, columns=named, constants=fixed, split=split)
    else:
        form = form or format_of(source, split=split)
        pairs = import_pairs(
            source,
            form,
            split=split,
            patterns=patterns or (),
            clean=clean,
            sets=sets,
            family=family,
            counterfactual=counterfactual,
            tokenizer=tokenizer and _tokenizer(tokenizer),
        )
    prepare_file(out, source=source)
    write_rows(out, [pair_record(pair) for pair in pairs])
    tell(f"{out}: {len(pairs)} pairs{f', read as {form}' if form else ''}")


def _named(option: str, words: list[str]) -> dict[str, str]:
    """``field=value`` words as a dict."""
    found = {}
    for word in words:
        field, sign, value = word.partition("=")
        if not sign or not value:
            raise InputError(f"{option} {word}: expected FIELD=..., memorization=prompt say")
        found[field] = value
    return found


def _wanted(names: list[str] | None, every: bool) -> list[str]:
    from neurotrace.core.records import probe_names

    if bool(names) == every:
        raise InputError(f"name sets ({', '.join(probe_names())}) or pass --all")
    return probe_names() if every else list(names or [])


def _measure(
    names: list[str], model: str, device: str | None, dtype: str | None, write: bool, as_json: bool
) -> list[dict[str, Any]]:
    from neurotrace.core.pairs import load_pairs
    from neurotrace.probe_sets.cards import behaviour_table, digest, write_behaviour
    from neurotrace.probe_sets.checking import set_folder

    candidates = {name: load_pairs(name) for name in names}
    folders = {name: set_folder(name) for name in names} if write else {}
    loaded = _load(model, device, dtype)
    from neurotrace.core.process import bars
    from neurotrace.models.hooks import inspect_model
    from neurotrace.probe_sets.mining import mine_pairs

    info = inspect_model(loaded)
    found = []
    for name, pairs in candidates.items():
        mined = mine_pairs(loaded, pairs, progress=bars)
        found += _shares(mined)
        if write:
            kind = str(info.dtype).removeprefix("torch.")
            folder = folders[name]
            write_behaviour(folder, behaviour_table(mined, model=info.name, dtype=kind, of=digest(folder)))
    if not as_json:
        _print_rows(found, as_json)
    return found


def _load(model: str, device: str | None, dtype: str | None) -> Any:
    quiet()
    from neurotrace.models.loading import load_model

    return load_model(model, device=device, dtype=dtype)


def _tokenizer(source: str) -> Any:
    from neurotrace.decoding.tokenizers import load_tokenizer

    return load_tokenizer(source)


def _shares(mined: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = mined.shares().round(3).to_dict("records")
    return rows


def _title(name: str) -> str:
    from neurotrace.core.records import probes_folder

    card = probes_folder() / name / "README.md"
    lines = card.read_text("utf-8").splitlines() if card.is_file() else [""]
    return lines[0].lstrip("# ").partition(": ")[2]


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        tell_json(rows)
        return
    from rich.table import Table

    table = Table()
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(plain(str(value)) for value in row.values()))
    console().print(table)
