"""Pairs in the field's formats, as `PromptPair`s.

    clean/corrupt tables   EAP-IG's CSV (`clean, corrupted, correct_idx, incorrect_idx`), the same with
                           answers as text (`clean_answer, corrupted_answer`), and MIB's rows
                           (`prompt, choices, answerKey` and a counterfactual of that form)
    CounterFact            `requested_rewrite` with prompt, subject, target_true, target_new
    any other table        a `datasets.Dataset` or list of dicts, its columns named by you

The field uses "clean" both ways round, so which side the clean prompt is has to be said.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json
from neurotrace.core.pairs import PAIR_FIELDS, PromptPair, load_pairs
from neurotrace.core.records import Source
from neurotrace.probe_sets.making import Item, rows, slug

# {fact} is the relation's prompt with its subject, {new} the counterfactual answer
COUNTERFACT_TEMPLATES = {
    "story": "In this story, {fact} {new}. In [real life|the story], {fact}",
    "game": "In the video game, {fact} {new}. In [real life|the game], {fact}",
    "series": "In the TV series, {fact} {new}. In the [real world|series], {fact}",
    "rumour": "Someone spread a rumour: {fact} {new}. According to the [encyclopedia|rumour], {fact}",
}


def import_table(
    source: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
) -> list[PromptPair]:
    """Pairs from a `datasets.Dataset` or a list of dicts with other column names.

    Args:
        columns: field of a pair -> the column that holds it, where the two differ.
        constants: field -> the same text for every row, for what the table doesn't say.

    A table without ids gets `row-1`, `row-2`, ...; without groups each row is its own group.
    """
    columns, constants = dict(columns or {}), dict(constants or {})
    for name in (*columns, *constants):
        if name not in PAIR_FIELDS:
            raise InputError(f"field {name!r} is unknown; expected one of {', '.join(PAIR_FIELDS)}")
    made = []
    for number, row in enumerate(source, 1):
        record: dict[str, Any] = {"id": f"row-{number}", "group": f"row-{number}"}
        for field in PAIR_FIELDS:
            column = columns.get(field, field)
            if field in constants:
                record[field] = constants[field]
            elif column in row:
                record[field] = row[column]
            elif field in columns:
                raise InputError(
                    f"row {number}: no column {column!r} for {field!r}; it has {', '.join(row)}"
                )
        made.append(record)
    return load_pairs(made)


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
    """
    if clean not in ("memorization", "reasoning"):
        raise InputError(f"clean={clean!r}: expected the side, 'memorization' or 'reasoning'")
    made = []
    for number, row in enumerate(_csv(source) if isinstance(source, (str, Path)) else source, 1):
        where = f"row {number}"
        prompts, answers = _sides(row, where, tokenizer, counterfactual)
        recall, think = (0, 1) if clean == "memorization" else (1, 0)
        made.append(
            {
                "id": f"{family}-{number}",
                "family": family,
                "template": str(row.get("template") or "imported"),
                "group": str(row.get("group") or f"row-{number}"),
                "memorization": prompts[recall],
                "reasoning": prompts[think],
                "memorized_answer": answers[recall],
                "reasoned_answer": answers[think],
            }
        )
    return load_pairs(made)


def import_counterfact(
    source: Source, *, templates: Mapping[str, str] | None = None
) -> list[PromptPair]:
    """Pairs from CounterFact: the new target stated in a context, the true one in the weights.

    Family is the relation, group the subject. Each record fills every template.

    Args:
        source: the JSON file, or its records.
        templates: name -> template; ``{fact}`` and ``{new}`` are filled in, of ``[a|b]`` the
            memorization prompt has a, the reasoning prompt b.
    """
    records = _json(source) if isinstance(source, (str, Path)) else source
    made: list[dict[str, str]] = []
    for number, record in enumerate(records, 1):
        rewrite = record.get("requested_rewrite", record)
        try:
            subject, prompt = str(rewrite["subject"]), str(rewrite["prompt"])
            true, new = (_target(rewrite[name]) for name in ("target_true", "target_new"))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"record {number}: no {error}; expected requested_rewrite with subject, prompt, "
                "target_true and target_new"
            ) from None
        item = Item(
            id=f"{record.get('case_id', number)}-{slug(subject)}", group=subject,
            memorized=f" {true}", reasoned=f" {new}",
            words={"fact": prompt.replace("{}", subject), "new": new},
        )  # fmt: skip
        relation = str(rewrite.get("relation_id") or "counterfact")
        made += rows(relation, templates or COUNTERFACT_TEMPLATES, [item])
    return load_pairs(made)


def _target(value: Any) -> str:
    return str(value["str"] if isinstance(value, Mapping) else value).strip()


def _sides(
    row: Mapping[str, Any], where: str, tokenizer: Any, counterfactual: str | None
) -> tuple[tuple[str, str], tuple[str, str]]:
    """((clean prompt, corrupted prompt), (answer to the clean one, to the corrupted one))"""
    if counterfactual is not None:
        try:
            both = (row, row[counterfactual])
            prompts = tuple(str(each["prompt"]) for each in both)
            answers = tuple(str(each["choices"][int(each["answerKey"])]) for each in both)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{where}: not a row of MIB's ({type(error).__name__}: {error}); expected prompt, "
                f"choices, answerKey, and the same three in {counterfactual!r}"
            ) from None
        return (prompts[0], prompts[1]), (answers[0], answers[1])
    if "clean" not in row or "corrupted" not in row:
        raise InputError(
            f"{where}: no columns 'clean' and 'corrupted'; it has {', '.join(map(str, row))}"
        )
    prompts = (str(row["clean"]), str(row["corrupted"]))
    if "clean_answer" in row and "corrupted_answer" in row:
        return prompts, (str(row["clean_answer"]), str(row["corrupted_answer"]))
    if "correct_idx" not in row or "incorrect_idx" not in row:
        raise InputError(
            f"{where}: no named answers; expected columns clean_answer and corrupted_answer (text) or "
            "correct_idx and incorrect_idx (token ids)"
        )
    if tokenizer is None:
        raise InputError("correct_idx and incorrect_idx are token ids: pass their tokenizer")
    return prompts, (
        _decoded(tokenizer, row["correct_idx"], where),
        _decoded(tokenizer, row["incorrect_idx"], where),
    )


def _decoded(tokenizer: Any, value: Any, where: str) -> str:
    try:
        text: str = tokenizer.decode([int(value)])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {value!r} is not one token's id") from None
    return text


def _csv(path: str | Path) -> Sequence[Mapping[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as a UTF-8 CSV file ({error})") from None


def _json(path: str | Path) -> Sequence[Mapping[str, Any]]:
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path}: expected a JSON list of objects, as CounterFact's")
    return found
