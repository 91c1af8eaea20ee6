"""Single prompts whose outcome, memory or reasoning, varies from item to item. No torch here.

The words of a pair name the behaviour; the words of these prompts do not, and the outcome is measured for
each model. A prompt may be the changed version of another one (`perturbs` names it). A reasoned answer
stays right after the change. An answer from memory does not: nothing is memorized about the new version.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.records import (
    Source,
    read_records,
    read_rows,
    refuse_same_answers,
    short,
    text_fields,
    unique,
)


@dataclass(frozen=True)
class Prompt:
    """One prompt with the memorized and the reasoned answer; see the module's docstring."""

    id: str
    family: str
    template: str
    group: str
    prompt: str
    memorized_answer: str
    reasoned_answer: str
    perturbs: str | None = None  # id of the prompt that this one is a changed version of
    perturbation: str | None = None  # what was changed, e.g. "swap"


PROMPT_FIELDS = tuple(field.name for field in fields(Prompt))


def load_prompts(source: Source) -> list[Prompt]:
    """Read and validate prompts.

    Args:
        source: as in `load_pairs`; of a folder, its ``prompts.jsonl``.

    Raises:
        InputError: naming file, line, field and remedy.

    Example::

        prompts = nt.load_prompts("arithmetic")
    """
    return read_records(source, "prompts", prompt_from, PROMPT_FIELDS)


def prompts_of(pairs: Iterable[PromptPair | Prompt]) -> list[Prompt]:
    """The two prompts of every pair, as single ones; prompts as they are.

    Example::

        prompts = nt.prompts_of(nt.load_pairs("arithmetic"))
    """
    found: list[Prompt] = []
    for pair in pairs:
        if isinstance(pair, Prompt):
            found.append(pair)
            continue
        shared = pair.family, pair.template, pair.group
        answers = pair.memorized_answer, pair.reasoned_answer
        for side, text in (("memorization", pair.memorization), ("reasoning", pair.reasoning)):
            found.append(Prompt(f"{pair.id}/{side}", *shared, text, *answers))
    return found


def originals(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are not a changed version of another."""
    return [prompt for prompt in prompts if prompt.perturbs is None]


def of_groups(prompts: Sequence[Prompt], count: int, *, seed: int = 0) -> list[Prompt]:
    """The prompts of at most `count` groups, drawn at random, in their order; 0: all.

    A changed version has the group of its original, so it stays with it.
    """
    groups = sorted({prompt.group for prompt in prompts})
    if count <= 0 or count >= len(groups):
        return list(prompts)
    drawn = set(random.Random(seed).sample(groups, count))
    return [prompt for prompt in prompts if prompt.group in drawn]


def prompt_from(record: Any, where: str) -> Prompt:
    """The prompt of the JSON line at `where`."""
    prompt = Prompt(**text_fields(record, where, PROMPT_FIELDS, ("perturbs", "perturbation")))
    refuse_same_answers(prompt.memorized_answer, prompt.reasoned_answer, where)
    return prompt


@dataclass(frozen=True)
class Item:
    """A multiple-choice question of a benchmark."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int  # place of the right choice


def load_items(source: Source) -> list[Item]:
    """Read and validate multiple-choice items: question, choices, answer (the place of the right choice).

    Args:
        source: as in `load_pairs`; an `id` is the row's number where it has none.

    Raises:
        InputError: naming file, line, field and remedy.
    """
    name, rows = read_rows(source, "items")
    made = ((where, _item(row, where, number)) for number, (where, row) in enumerate(rows, 1))
    return unique(name, "items", "the fields question, choices, answer", made)


def _item(row: Any, where: str, number: int) -> Item:
    given = row if isinstance(row, dict) else {}
    question, choices, answer = (given.get(name) for name in ("question", "choices", "answer"))
    choices = list(choices) if isinstance(choices, (list, tuple)) else choices
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: question: expected a text, got {short(question)}")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f"{where}: choices: expected a list of texts, got {short(choices)}")
    if len(set(choices)) != len(choices) or len(choices) < 2:
        raise InputError(f"{where}: choices: expected two or more that differ, got {short(choices)}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise InputError(
            f"{where}: answer: expected the place of a choice, 0 to {len(choices) - 1}, got {short(answer)}"
        )
    return Item(str(given.get("id", number)), question, tuple(choices), answer)
