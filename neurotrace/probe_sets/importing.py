"""Pairs from files of the field, as `PromptPair`s: `import_pairs`, and a registry of formats.

A format is known by its columns; `FORMATS` lists them, the first one that fits is taken. To add one: a
function from rows to records in `table_formats` (both prompts are there) or `fact_formats` (facts that
are put into contexts), and a line in that file's FORMATS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurotrace.core.errors import InputError, one_of
from neurotrace.core.pairs import PAIR_FIELDS, PromptPair, load_pairs, pair_from
from neurotrace.core.records import Source, read_rows, short, unique
from neurotrace.probe_sets import fact_formats, table_formats
from neurotrace.probe_sets.rows import Format, Options, Row

FORMATS: tuple[Format, ...] = (*fact_formats.FORMATS, *table_formats.FORMATS)
FORMAT_NAMES = tuple(each.name for each in FORMATS)


def import_pairs(
    source: Source,
    format: str | None = None,
    *,
    split: str | None = None,
    patterns: str | Path | Sequence[str] = (),
    **options: Any,
) -> list[PromptPair]:
    """Pairs from a file or table of a known layout.

    Args:
        source: whatever `load_pairs` reads.
        format: its name, one of `FORMAT_NAMES`; None: known by its columns.
        split: of a `datasets` data set that has several.
        patterns: ParaRel's: a file of them, or the patterns. Default: the file of the same name in
            ``pattern_data/graphs_json``, as ParaRel keeps it.
        options: `clean`, `tokenizer`, `counterfactual`, `family`, `sets`, `contexts`: see `rows.Options`.

    Raises:
        InputError: an unknown layout; a record that can't be read, with its line; answers that are ids
            of another tokenizer.

    Example::

        pairs = nt.import_pairs("ioi.csv", clean="reasoning", tokenizer="gpt2")
    """
    if format is not None and format not in FORMAT_NAMES:
        raise InputError(f"format {format!r} is unknown: {one_of(format, FORMAT_NAMES)}")
    name, found = read_rows(source, "records", split=split)
    rows = [_row(where, record) for where, record in found]
    if not rows:
        raise InputError(f"{name}: no records in it; expected at least one")
    layout = _layout(format, rows[0])
    if layout.name == "pararel":
        options["patterns"] = _patterns(patterns, source)
    made = layout.make(rows, Options(**options))
    wanted = "the fields " + ", ".join(PAIR_FIELDS)
    pairs = ((where, pair_from(record, where)) for where, record in made)
    return unique(name, "pairs", wanted, pairs)


def format_of(source: Source, *, split: str | None = None) -> str | None:
    """The name of the format that the first record's columns fit; None: of none."""
    _, found = read_rows(source, "records", split=split)
    for where, record in found:
        return next((each.name for each in FORMATS if _fits(each, _row(where, record))), None)
    return None


def import_table(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
) -> list[PromptPair]:
    """Pairs from a table with other column names: `load_pairs` with `columns=`, as it was before that.

    Args:
        columns: field of a pair -> the column that holds it, where the two differ.
        constants: field -> the same text for every row, for what the table doesn't say.

    Example::

        columns = {"memorization": "plain", "reasoning": "context"}
        pairs = nt.import_table("my.csv", columns=columns)
    """
    return load_pairs(source, columns=columns or {}, constants=constants)


def import_clean_corrupt(
    source: Source,
    *,
    clean: str,
    tokenizer: Any = None,
    counterfactual: str | None = None,
    family: str = "imported",
) -> list[PromptPair]:
    """Pairs from a table of clean and corrupted prompts; every row is a group of its own unless the
    table has a column `group` (and likewise `template`).

    Args:
        source: a CSV file, or rows (a `datasets.Dataset`, a list of dicts).
        clean: the side that the clean prompt is, ``"memorization"`` or ``"reasoning"``.
        tokenizer: the one that made `correct_idx` and `incorrect_idx`, to read them as text.
        counterfactual: for MIB's rows, the column that holds the corrupted prompt.

    Example::

        pairs = nt.import_clean_corrupt("ioi.csv", clean="reasoning", tokenizer="gpt2")
    """
    return import_pairs(
        source,
        "mib" if counterfactual is not None else "clean-corrupt",
        clean=clean,
        tokenizer=tokenizer,
        counterfactual=counterfactual,
        family=family,
    )


def import_counterfact(source: Source, *, templates: Mapping[str, str] | None = None) -> list[PromptPair]:
    """Pairs from CounterFact: the new target stated in a context, the true one in the weights.

    Family is the relation, group the subject. Each record fills every template.

    Args:
        source: the JSON or JSON lines file, or its records.
        templates: name -> template; ``{fact}`` and ``{new}`` are filled in, of ``[a|b]`` the
            memorization prompt has a, the reasoning prompt b.

    Example::

        pairs = nt.import_counterfact("counterfact.json")
    """
    return import_pairs(source, "counterfact", contexts=templates)


def _row(where: str, record: Any) -> Row:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: expected an object with named values, got {short(record)}")
    if not record:
        raise InputError(f"{where}: an empty object; expected a JSON list of objects, or lines of them")
    return Row(where, record)


def _fits(layout: Format, row: Row) -> bool:
    return any(columns <= set(row.cells) for columns in layout.columns)


def _layout(name: str | None, row: Row) -> Format:
    for each in FORMATS:
        if each.name == name or (name is None and _fits(each, row)):
            return each
    raise InputError(
        f"{row.where}: no known layout has the columns {short(', '.join(map(str, row.cells)), 200)}; name "
        f"the format ({', '.join(FORMAT_NAMES)}), or say which column is which: columns= (--columns)"
    )


def _patterns(given: str | Path | Sequence[str], source: Any) -> Sequence[str]:
    """ParaRel's patterns: given, of a file, or of the file where ParaRel keeps them."""
    if not given and isinstance(source, (str, Path)):
        path = Path(source)
        beside = path.parent.parent / "pattern_data" / "graphs_json" / path.name
        given = beside if os.path.isfile(beside) else ()
    if not isinstance(given, (str, Path)):
        return given
    _, found = read_rows(given, "patterns")
    return [_row(where, record).text("pattern") for where, record in found]
