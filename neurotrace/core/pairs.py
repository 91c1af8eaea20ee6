"""Pairs of prompts as text: read, validate, split. No torch here.

A pair asks for the same thing with two prompts. The model answers the memorization prompt from memory
and the reasoning prompt from what the prompt says. Both answers are written as they follow the prompt
(leading space included). `group` is what the pair is about: splits never share a group.

An answer may be accepted in other words, too: `memorized_also`, `reasoned_also` (aliases, or every member
of a set such as "any year above 1732"). They count where whole answers are read.

Parts of the prompts may have names, `spans`: ``{"subject": "France", "context": ["the map", "the story"]}``
names one text of both prompts and one of each. Something can then be changed at the place of that name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.records import (
    Source,
    is_nan,
    listed,
    read_records,
    read_rows,
    refuse_same_answers,
    short,
    text_fields,
    unique,
)
from neurotrace.core.sides import SIDES


@dataclass(frozen=True)
class Span:
    """A named part of both prompts, as text; what stands last counts if it stands there more than once."""

    name: str
    memorization: str
    reasoning: str


@dataclass(frozen=True)
class PromptPair:
    """One item asked with two prompts. See the module's docstring."""

    id: str
    family: str
    template: str
    group: str
    memorization: str
    reasoning: str
    memorized_answer: str
    reasoned_answer: str
    memorized_also: tuple[str, ...] = ()
    reasoned_also: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Fold:
    """One held-out part: its test pairs share no group (and, where asked, no template) with train."""

    train: tuple[PromptPair, ...]
    test: tuple[PromptPair, ...]


ALSO_FIELDS = ("memorized_also", "reasoned_also")
OPTIONAL_FIELDS = (*ALSO_FIELDS, "spans")
PAIR_FIELDS = tuple(field.name for field in fields(PromptPair) if field.name not in OPTIONAL_FIELDS)
PLACES = ("read", "onward", "all", "last", "end", "cue", "anywhere")  # names that no span may have


def load_pairs(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    split: str | None = None,
) -> list[PromptPair]:
    """Read and validate pairs.

    Args:
        source: the name of a packaged set (``"arithmetic"``); a file (JSON, JSON lines, CSV or TSV,
            Parquet); a folder that holds ``pairs.jsonl`` or a data set; a data set's name on the hub
            (``"owner/name"``); a pandas or polars frame, a `datasets.Dataset`, dicts, `PromptPair`s.
        columns: field of a pair -> the column that holds it, where the two differ. With it, other
            columns may be there, and a table without ids gets `row-1`, `row-2`, ...; without groups
            each row is its own group.
        constants: field -> the same text for every row, for what the table doesn't say.
        split: of a `datasets` data set that has several.

    Raises:
        InputError: naming file, line, field and remedy.

    Example::

        pairs = nt.load_pairs("arithmetic")
        columns = {"memorization": "prompt"}
        pairs = nt.load_pairs("facts.csv", columns=columns, constants={"family": "facts"})
    """
    if columns is None and constants is None:
        return read_records(source, "pairs", pair_from, PAIR_FIELDS, split=split)
    columns, constants = dict(columns or {}), dict(constants or {})
    for name in (*columns, *constants):
        if name not in PAIR_FIELDS:
            raise InputError(f"field {name!r} is unknown; expected one of {', '.join(PAIR_FIELDS)}")
    name, rows = read_rows(source, "pairs", split=split)
    made = (
        (where, pair_from(_renamed(row, where, number, columns, constants), where))
        for number, (where, row) in enumerate(rows, 1)
    )
    return unique(name, "pairs", "the fields " + ", ".join(PAIR_FIELDS), made)


def _renamed(
    row: Any, where: str, number: int, columns: Mapping[str, str], constants: Mapping[str, str]
) -> dict[str, Any]:
    """The row's values under the names of the fields."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object with named columns, got {short(row)}")
    record: dict[str, Any] = {"id": f"row-{number}", "group": f"row-{number}"}
    record |= {name: row[name] for name in OPTIONAL_FIELDS if name in row}
    for field in PAIR_FIELDS:
        column = columns.get(field, field)
        if field in constants:
            record[field] = constants[field]
        elif column in row:
            record[field] = row[column]
        elif field in columns:
            raise InputError(
                f"{where}: no column {column!r} for {field!r}; it has {', '.join(map(str, row))}"
            )
        if field in ("id", "group", "template") and type(record.get(field)) is int:
            record[field] = str(record[field])  # a label that happens to be a number
        text = record.get(field)
        items = listed(text) if field.endswith("_answer") and isinstance(text, str) else None
        if items is not None:
            raise InputError(
                f"{where}: field {field!r} is a list of {len(items)}, {short(text)}; expected one "
                "answer's text"
            )
    return record


def split_pairs(
    pairs: Sequence[PromptPair],
    *,
    by: str = "group",
    test_share: float = 0.5,
    seed: int = 0,
) -> tuple[list[PromptPair], list[PromptPair]]:
    """Split into (train, test) so that no value of the field `by` occurs on both sides.

    Args:
        by: ``"group"``, ``"template"`` or ``"family"``.
        test_share: share of the *values* of `by` within each family that go to the test side.

    Raises:
        InputError: when a side would be empty.

    Example::

        train, test = nt.split_pairs(nt.load_pairs("arithmetic"), seed=0)
    """
    if by not in ("group", "template", "family"):
        raise InputError(f"by={by!r}: expected 'group', 'template' or 'family'")
    values: dict[str, list[str]] = {}
    for pair in pairs:
        key = "" if by == "family" else pair.family
        bucket = values.setdefault(key, [])
        if (value := getattr(pair, by)) not in bucket:
            bucket.append(value)
    held_out: set[tuple[str, str]] = set()
    for key, bucket in values.items():
        shuffled = sorted(bucket)
        random.Random(f"{seed}/{key}").shuffle(shuffled)
        count = min(max(round(test_share * len(shuffled)), 1), len(shuffled) - 1)
        held_out |= {(key, value) for value in shuffled[:count]}
    train: list[PromptPair] = []
    test: list[PromptPair] = []
    for pair in pairs:
        key = "" if by == "family" else pair.family
        (test if (key, getattr(pair, by)) in held_out else train).append(pair)
    if not train or not test:
        raise InputError(
            f"{len(pairs)} pairs with too few values of {by!r} to split: "
            f"each family needs at least two; add pairs or split by another field"
        )
    return train, test


def unsplittable(pairs: Sequence[PromptPair], split: str = "group") -> dict[str, str]:
    """Family -> why it can't be split into training and held-out pairs, of those that can't."""
    found = {}
    for family in dict.fromkeys(pair.family for pair in pairs):
        own = [pair for pair in pairs if pair.family == family]
        for field in split.split("+"):
            if len({getattr(pair, field) for pair in own}) < 2:
                count = "1 pair" if len(own) == 1 else f"{len(own)} pairs"
                found[family] = f"{count} of one {field}, expected at least two {field}s"
                break
    return found


def fold_pairs(
    pairs: Sequence[PromptPair], *, split: str = "group", folds: int = 5, seed: int = 0
) -> list[Fold]:
    """Cross-validation folds: every pair is in exactly one test part.

    With ``split="group"`` fold i holds out a share of the groups. With ``split="group+template"`` a
    fold holds out one share of the groups *and* one share of the templates: its test pairs have both
    unseen, its training pairs have neither. Each family is folded separately, so that it is in every
    fold if it has enough groups.

    Example::

        for fold in nt.fold_pairs(nt.load_pairs("arithmetic"), folds=3):
            print(len(fold.train), len(fold.test))
    """
    if split not in ("group", "group+template"):
        raise InputError(f"split={split!r}: expected 'group' or 'group+template'")
    groups = _deal([(pair.family, pair.group) for pair in pairs], folds, seed)
    cells: list[tuple[int, int]]
    if split == "group":
        templates = {(pair.family, pair.template): 0 for pair in pairs}
        cells = [(fold, -1) for fold in range(folds)]
    else:
        templates = _deal([(pair.family, pair.template) for pair in pairs], folds, seed)
        if max(templates.values()) < 1:
            raise InputError(
                "split='group+template' with one template in each family: "
                "add pairs of a second template or use split='group'"
            )
        cells = [(fold, part) for fold in range(folds) for part in range(folds)]
    found = []
    for group_fold, template_fold in cells:
        train: list[PromptPair] = []
        test: list[PromptPair] = []
        for pair in pairs:
            own_group = groups[pair.family, pair.group] == group_fold
            own_template = templates[pair.family, pair.template] == template_fold
            if template_fold < 0:
                (test if own_group else train).append(pair)
            elif own_group and own_template:
                test.append(pair)
            elif not own_group and not own_template:
                train.append(pair)
        if test and train:
            found.append(Fold(tuple(train), tuple(test)))
    if not found:
        raise InputError(
            f"{len(pairs)} pairs, {len(groups)} groups: they can't be folded by {split!r}: "
            "each family needs at least two groups; add pairs about something else"
        )
    return found


def sample_pairs(pairs: Sequence[PromptPair], count: int, *, seed: int = 0) -> list[PromptPair]:
    """At most `count` pairs, drawn at random, in their original order."""
    if count < 1:
        raise InputError(f"{count} pairs asked for: expected at least 1")
    drawn = random.Random(seed).sample(range(len(pairs)), min(count, len(pairs)))
    return [pairs[place] for place in sorted(drawn)]


def pair_record(pair: PromptPair, *, optional: Iterable[str] = ()) -> dict[str, Any]:
    """The pair as a plain dict, its JSON line; optional fields if it has some, or where they are named."""
    record = asdict(pair)
    for name in ALSO_FIELDS:
        record[name] = list(record[name])
    record["spans"] = {each.name: [each.memorization, each.reasoning] for each in pair.spans}
    return {name: v for name, v in record.items() if v or name not in OPTIONAL_FIELDS or name in optional}


def pair_again(record: Mapping[str, Any]) -> PromptPair:
    """The pair of which `pair_record` made this; nothing is checked again."""
    own: dict[str, Any] = dict(record)
    for name in ALSO_FIELDS:
        own[name] = tuple(own.get(name, ()))
    own["spans"] = tuple(Span(name, *both) for name, both in own.get("spans", {}).items())
    return PromptPair(**own)


def pair_records(pairs: Sequence[PromptPair]) -> list[dict[str, Any]]:
    """The pairs as rows of one table: all with the same keys."""
    answers = ALSO_FIELDS if any(pair.memorized_also or pair.reasoned_also for pair in pairs) else ()
    spans = ("spans",) if any(pair.spans for pair in pairs) else ()
    return [pair_record(pair, optional=(*answers, *spans)) for pair in pairs]


def _deal(keys: Iterable[tuple[str, str]], folds: int, seed: int) -> dict[tuple[str, str], int]:
    """Each distinct (family, value) -> a fold, dealt in shuffled order family by family."""
    dealt: dict[tuple[str, str], int] = {}
    distinct = sorted(set(keys))
    for family in sorted({family for family, _ in distinct}):
        own = [key for key in distinct if key[0] == family]
        random.Random(f"{seed}/{family}").shuffle(own)
        dealt |= {key: place % folds for place, key in enumerate(own)}
    return dealt


def pair_from(record: Any, where: str) -> PromptPair:
    """The pair of one row that stands at `where`."""
    given = dict(record) if isinstance(record, Mapping) else record
    optional = {
        name: given.pop(name, None) if isinstance(given, dict) else None for name in OPTIONAL_FIELDS
    }
    memorized, reasoned = (_accepted(optional[name], name, where) for name in ALSO_FIELDS)
    texts = text_fields(given, where, PAIR_FIELDS)
    spans = _spans(optional["spans"], texts, where)
    pair = PromptPair(**texts, memorized_also=memorized, reasoned_also=reasoned, spans=spans)
    for each in (pair.memorized_answer, *memorized):
        refuse_same_answers(each, each if each in (pair.reasoned_answer, *reasoned) else "", where)
    return pair


def _spans(value: Any, texts: Mapping[str, str], where: str) -> tuple[Span, ...]:
    """Named parts of both prompts: an object of names, or nothing."""
    if value is None or is_nan(value):
        return ()
    if isinstance(value, list | tuple) and all(isinstance(each, Mapping) for each in value):  # by `asdict`
        value = {each.get("name"): [each.get(side) for side in SIDES] for each in value}
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where}: field 'spans' is {short(value)}; expected names and texts of the prompts, such as "
            '{"subject": "France"} or {"context": ["in memorization", "in reasoning"]}'
        )
    found = []
    for name, given in value.items():
        if given is None:  # of a table in which other rows have it
            continue
        if not isinstance(name, str) or not name.isidentifier() or name in PLACES:
            raise InputError(f"{where}: a span is called {short(name)}; expected a word, not {PLACES}")
        given = given.tolist() if type(given).__name__ == "ndarray" else given
        both = (given, given) if isinstance(given, str) else given
        if not isinstance(both, list | tuple) or len(both) != 2:
            raise InputError(f"{where}: span {name!r} is {short(given)}; expected one text or two")
        for side, text in zip(SIDES, both, strict=True):
            if not isinstance(text, str) or not text.strip() or text not in texts[side]:
                raise InputError(
                    f"{where}: span {name!r}, {short(text)}, is no part of the {side} prompt "
                    f"{short(texts[side])}: write it as it stands there"
                )
        found.append(Span(name, *both))
    return tuple(found)


def _accepted(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Further accepted answers: a list of texts, or nothing."""
    if value is None or is_nan(value):
        return ()
    if type(value).__name__ == "ndarray":
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: field {name!r} is {short(value)}; expected a list of texts")
    return tuple(text_fields({name: each}, where, (name,))[name] for each in value)
