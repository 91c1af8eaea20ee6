"""Pairs of prompts as text: read, validate, split. No torch here.

A pair asks for the same thing twice: the memorization prompt has the model recall, the reasoning
prompt has it apply what the prompt says. Both answers are named, written as they follow the prompt
(leading space included). `group` is what the pair is about: splits never share a group.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from neurotrace.errors import InputError


@dataclass(frozen=True)
class PromptPair:
    """One item asked twice. All fields are text; see the module's docstring."""

    id: str
    family: str
    template: str
    group: str
    memorization: str
    reasoning: str
    memorized_answer: str
    reasoned_answer: str


@dataclass(frozen=True)
class Fold:
    """One held-out part: its test pairs share no group (and, where asked, no template) with train."""

    train: tuple[PromptPair, ...]
    test: tuple[PromptPair, ...]


PAIR_FIELDS = tuple(field.name for field in fields(PromptPair))


def probes_folder() -> Path:
    """Where the packaged probes lie: inside an installed wheel, beside the package in a clone."""
    here = Path(__file__).parent
    inside = here / "probes"
    return inside if inside.is_dir() else here.parent / "probes"


def probe_names() -> list[str]:
    """Names of the pair sets that ship with the package."""
    return sorted(path.parent.name for path in probes_folder().glob("*/pairs.jsonl"))


def load_pairs(source: str | Path | Iterable[Mapping[str, Any]]) -> list[PromptPair]:
    """Read and validate pairs.

    Args:
        source: the name of a packaged set (``"arithmetic"``), the path of a ``.jsonl`` file or of a
            folder that holds ``pairs.jsonl``, a `datasets.Dataset`, or a list of dicts.

    Raises:
        InputError: naming file, line, field and remedy.
    """
    if isinstance(source, (str, Path)):
        path = _pairs_file(source)
        records: Iterator[tuple[str, Any]] = _lines(path)
        name = str(path)
    else:
        records = ((f"pair {number}", record) for number, record in enumerate(source, 1))
        name = "the given pairs"
    pairs = [_pair(record, f"{name}, {where}") for where, record in records]
    if not pairs:
        raise InputError(f"{name}: no pairs in it; wanted at least one JSON line with {_wanted()}")
    _refuse_repeated_ids(pairs, name)
    return pairs


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
    """
    if by not in ("group", "template", "family"):
        raise InputError(f"by={by!r}: wanted 'group', 'template' or 'family'")
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


def fold_pairs(
    pairs: Sequence[PromptPair], *, split: str = "group", folds: int = 5, seed: int = 0
) -> list[Fold]:
    """Cross-validation folds: every pair is in exactly one test part.

    With ``split="group"`` fold i holds out a share of the groups. With ``split="group+template"``
    a fold holds out one share of the groups *and* one share of the templates: its test pairs have
    both unseen, its training pairs have neither. Families are folded apart, so that each is in
    every fold where it has groups enough.
    """
    if split not in ("group", "group+template"):
        raise InputError(f"split={split!r}: wanted 'group' or 'group+template'")
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
            f"{len(pairs)} pairs of {len(groups)} groups can't be folded by {split!r}: "
            "each family needs at least two groups; add pairs about something else"
        )
    return found


def sample_pairs(pairs: Sequence[PromptPair], count: int, *, seed: int = 0) -> list[PromptPair]:
    """At most `count` pairs, drawn at random, in their old order."""
    if count < 1:
        raise InputError(f"{count} pairs asked for: wanted at least 1")
    drawn = random.Random(seed).sample(range(len(pairs)), min(count, len(pairs)))
    return [pairs[place] for place in sorted(drawn)]


def pair_record(pair: PromptPair) -> dict[str, str]:
    """The pair as a plain dict, its JSON line."""
    return asdict(pair)


def _deal(keys: Iterable[tuple[str, str]], folds: int, seed: int) -> dict[tuple[str, str], int]:
    """Each distinct (family, value) -> a fold, dealt in shuffled order family by family."""
    dealt: dict[tuple[str, str], int] = {}
    distinct = sorted(set(keys))
    for family in sorted({family for family, _ in distinct}):
        own = [key for key in distinct if key[0] == family]
        random.Random(f"{seed}/{family}").shuffle(own)
        dealt |= {key: place % folds for place, key in enumerate(own)}
    return dealt


def _pairs_file(source: str | Path) -> Path:
    packaged = probes_folder() / str(source) / "pairs.jsonl"
    path = Path(source)
    if path.is_dir():
        path = path / "pairs.jsonl"
    if path.is_file():
        return path
    if isinstance(source, str) and packaged.is_file():
        return packaged
    raise InputError(
        f"no pairs at {str(source)!r}: wanted a .jsonl file, a folder with pairs.jsonl, "
        f"or one of the packaged sets {', '.join(probe_names())}"
    )


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    # split on "\n" alone: str.splitlines would cut a JSON string at U+2028
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(
                    f"{path}, line {number}: not JSON ({error}); wanted one object a line with "
                    f"{_wanted()}"
                ) from None


def _pair(record: Any, where: str) -> PromptPair:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: came {_short(record)}, wanted a JSON object with {_wanted()}")
    missing = [name for name in PAIR_FIELDS if name not in record]
    if missing:
        raise InputError(f"{where}: field {missing[0]!r} is missing; wanted {_wanted()}")
    unknown = sorted(str(name) for name in record if name not in PAIR_FIELDS)
    if unknown:
        raise InputError(f"{where}: field {_short(unknown[0])} is unknown; wanted {_wanted()}")
    for name in PAIR_FIELDS:
        value = record[name]
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{where}: field {name!r} is {_short(value)}; wanted text that is not empty"
            )
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise InputError(f"{where}: field {name!r} holds half a surrogate pair; remove it")
    pair = PromptPair(**{name: record[name] for name in PAIR_FIELDS})
    if pair.memorized_answer == pair.reasoned_answer:
        raise InputError(
            f"{where}: both answers are {_short(pair.memorized_answer)}; a flip needs two different "
            "answers: remove the pair or name another answer"
        )
    return pair


def _refuse_repeated_ids(pairs: Sequence[PromptPair], name: str) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise InputError(f"{name}: the id {_short(pair.id)} occurs twice; ids must be unique")
        seen.add(pair.id)


def _wanted() -> str:
    return "the fields " + ", ".join(PAIR_FIELDS)


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
