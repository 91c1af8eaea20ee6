"""A row of somebody's file, and what becomes of it: cells read without guessing, facts put into contexts.

What a cell can't mean is refused with the line that it stands in: an empty cell, a list, a number where
text is needed, a prompt that already holds the context into which it would be put.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.records import is_nan, listed, no_text, short
from neurotrace.probe_sets.making import Item, rows, slug

# {fact} is the relation's prompt with its subject, {new} the counterfactual answer
CONTEXTS = {
    "story": "In this story, {fact} {new}. In [real life|the story], {fact}",
    "game": "In the video game, {fact} {new}. In [real life|the game], {fact}",
    "series": "In the TV series, {fact} {new}. In the [real world|series], {fact}",
    "rumour": "Someone spread a rumour: {fact} {new}. According to the [encyclopedia|rumour], {fact}",
}
QUESTIONS = {
    "story": "In this story: {fact} Answer: {new}. In [real life|the story]: {fact} Answer:",
    "game": "In the video game: {fact} Answer: {new}. In [real life|the game]: {fact} Answer:",
    "series": "In the TV series: {fact} Answer: {new}. In the [real world|series]: {fact} Answer:",
    "rumour": "A rumour says: {fact} Answer: {new}. In the [encyclopedia|rumour]: {fact} Answer:",
}
_PLACEHOLDERS = ("<|endoftext|>", "</s>", "<unk>", "[MASK]")


@dataclass(frozen=True)
class Options:
    """What a file doesn't say about itself.

    clean           the side that the clean prompt is: ``"memorization"`` or ``"reasoning"``
    tokenizer       the one that made the token ids
    counterfactual  for MIB's rows, the column with the changed prompt
    family          the pairs' family, where the file names no relation
    sets            what to do with an answer that is a set: ``"refuse"``, or ``"first"`` of it
    contexts        name -> template for facts, in place of `CONTEXTS` and `QUESTIONS`
    patterns        ParaRel's patterns, ``"[X] was born in [Y]."``
    """

    clean: str | None = None
    tokenizer: Any = None
    counterfactual: str | None = None
    family: str = "imported"
    sets: str = "refuse"
    contexts: Mapping[str, str] | None = None
    patterns: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.clean not in (None, "memorization", "reasoning"):
            raise InputError(f"clean={self.clean!r}: expected the side, 'memorization' or 'reasoning'")
        if self.sets not in ("refuse", "first"):
            raise InputError(f"sets={self.sets!r}: expected 'refuse' or 'first'")


@dataclass(frozen=True)
class Row:
    """A record with the place where it stands; every reader raises `InputError` that names it."""

    where: str
    cells: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        value = self.cells.get(name)
        return not (value is None or is_nan(value) or (isinstance(value, str) and not value.strip()))

    def text(self, name: str) -> str:
        """A cell that must be text, as it stands."""
        value = self._cell(name)
        if (kind := no_text(value)) is not None:
            raise InputError(f"{self.where}: {name!r} is {kind}; expected text that is not empty")
        return str(value)

    def texts(self, name: str, *, sets: str = "refuse") -> str:
        """An answer: text, CounterFact's ``{"str": text}``, or a list, of which one is meant.

        Args:
            sets: ``"first"``: of several the first; ``"refuse"``.
        """
        value = self._cell(name)
        if isinstance(value, Mapping) and "str" in value:
            value = value["str"]
        items = listed(value) if isinstance(value, str) else value
        if isinstance(items, (list, tuple)):
            if len(items) > 1 and sets != "first":
                raise InputError(
                    f"{self.where}: {name!r} is a set of {len(items)} answers, {short(items)}; a pair "
                    "holds one: pass sets='first' (--sets first) to let the first stand for all"
                )
            value = items[0] if items else None
        if (kind := no_text(value)) is not None:
            raise InputError(f"{self.where}: {name!r} is {kind}; expected an answer as text")
        text = str(value)
        if text.strip() in _PLACEHOLDERS:
            raise InputError(f"{self.where}: {name!r} is {text!r}, which stands for no answer")
        return text

    def number(self, name: str) -> int:
        """A whole number, also one that a CSV holds as text."""
        value = self._cell(name)
        if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
            value = int(value)
        if type(value) is not int:
            raise InputError(f"{self.where}: {name!r} is {short(value)}; expected a whole number")
        return value

    def label(self, name: str, default: str) -> str:
        """An id or a name: text, or a number that serves as one."""
        if name not in self:
            return default
        value = self.cells[name]
        return str(value) if type(value) is int else self.text(name).strip()

    def _cell(self, name: str) -> Any:
        if name not in self.cells:
            raise InputError(
                f"{self.where}: no column {name!r}; it has {short(', '.join(map(str, self.cells)), 200)}"
            )
        return self.cells[name]


@dataclass(frozen=True)
class Fact:
    """A sentence without its end, the true end and another one."""

    row: Row
    id: str
    family: str
    subject: str
    prompt: str  # ends where the answer follows
    true: str
    new: str


Made = Iterator[tuple[str, dict[str, Any]]]  # (where, a record of PAIR_FIELDS)


@dataclass(frozen=True)
class Format:
    """A layout of somebody's files.

    Attributes:
        make: (rows, options) -> the pairs' records, each with its row's place.
        columns: a record that has all of one of these is taken for it.
    """

    name: str
    make: Callable[[Sequence[Row], Options], Made]
    columns: tuple[Set[str], ...]


def facts_in_contexts(facts: Iterable[Fact], options: Options) -> Made:
    """Each fact in every template: the new answer stated, then the question. The group is the subject."""
    for fact in facts:
        true, new = fact.true.strip(), fact.new.strip()
        refuse_stated(fact.row, fact.prompt, new, fact.subject)
        contexts = options.contexts or (QUESTIONS if fact.prompt.endswith("?") else CONTEXTS)
        item = Item(
            id=fact.id,
            group=fact.subject,
            memorized=f" {true}",
            reasoned=f" {new}",
            words={"fact": fact.prompt, "new": new},
        )
        for record in rows(fact.family, contexts, [item]):
            yield fact.row.where, record


def filled(row: Row, prompt: str, subject: str) -> str:
    """The prompt with its subject in the place of ``{}``; as it is where it names the subject."""
    if "{}" in prompt:
        return prompt.replace("{}", subject).strip()
    if subject in prompt:
        return prompt.strip()
    raise InputError(
        f"{row.where}: the prompt {short(prompt)} has neither {{}} nor the subject {subject!r}"
    )


def refuse_stated(row: Row, prompt: str, new: str, subject: str = "") -> None:
    """A prompt that holds the context already must not be put into another one."""
    before, found, after = prompt.rpartition(new)
    asked = re.sub(r"^\W+|\W+$", "", after)
    repeated = bool(found and asked) and asked in before
    rest = prompt.replace(subject, " ") if subject else prompt
    stated = len(new) > 2 and re.search(rf"(?<!\w){re.escape(new)}(?!\w)", rest)
    if repeated or stated:
        raise InputError(
            f"{row.where}: the prompt states the answer {new!r} already, so it holds its context: import "
            "it as comp-mech (with 'base_prompt', the question alone), or name both prompts' columns: "
            "memorization=..., reasoning=..."
        )


def wrong_answers(rows_: Sequence[Row], answers: Sequence[str], what: str) -> list[str | None]:
    """For each row another row's answer: the next in the list that neither begins with the other.

    None where all rows of the relation have the same answer.
    """
    distinct = list(dict.fromkeys(answers))
    found: list[str | None] = []
    for number, answer in enumerate(answers):
        place = distinct.index(answer)
        turn = 1 + number % max(1, len(distinct) - 1)
        others = [*distinct[place + turn :], *distinct[: place + turn]]
        fits = (
            each
            for each in others
            if not each.lower().startswith(answer.lower()) and not answer.lower().startswith(each.lower())
        )
        found.append(next(fits, None))
    if answers and not any(found):
        raise InputError(
            f"{rows_[0].where}: {what} has one answer, {short(answers[0])}; expected at least two, so that "
            "one can stand as the wrong answer to another's question"
        )
    return found


def follows(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: after a space, unless it or the prompt brings its own."""
    return answer if answer[:1].isspace() or prompt[-1:].isspace() else f" {answer}"


def id_of(row: Row, number: int, subject: str, *columns: str) -> str:
    """`7-danielle-darrieux`: the file's own number where it has one."""
    own = next((row.label(name, "") for name in columns if name in row), str(number))
    return f"{own}-{slug(subject)}".rstrip("-")
