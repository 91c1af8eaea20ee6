"""A first set of pairs from a table of facts: three questions, each in two wordings.

context      a story says something else: real life or the story is asked
rule         a rule says something else: habit or the rule is asked
closed book  the plain question, or the question after a supposition

The wrong answer is the table's own, or another true answer of the same relation. `diagnose` says what a
model makes of the draft, `mend_pairs` changes it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair, pair_from
from neurotrace.core.records import Source, read_rows, short
from neurotrace.probe_sets.making import Item, rows, slug

# {s} the fact's sentence up to the answer, {S} the same with a capital, {wrong} with its space
TEMPLATES: Mapping[str, Mapping[str, str]] = {
    "context": {
        "story": "In this story, {s}{wrong}. In [real life|the story], {s}",
        "game": "In the video game, {s}{wrong}. In [real life|the game], {s}",
    },
    "rule": {
        "must-say": "Rule of the game: {s}{wrong}. [In real life|By this rule], {s}",
        "play": "In our play we say that {s}{wrong}. In [reality|the play], {s}",
    },
    "closed-book": {
        "suppose": "[It is well known that|Suppose that {s}{wrong}. In that case,] {s}",
        "imagine": "[Everybody knows that|Imagine that {s}{wrong}. Then] {s}",
    },
}
_RELATION = "{subject} is"


@dataclass(frozen=True)
class _Fact:
    where: str
    subject: str
    answer: str
    wrong: str
    relation: str


def draft_pairs(facts: Source, *, relation: str | None = None, seed: int = 0) -> list[PromptPair]:
    """Pairs of three families from facts: in each, memory says the answer and the prompt another one.

    Args:
        facts: rows or a file with the columns `subject` and `answer`; optionally `wrong` (what the
            prompt says instead) and `relation`.
        relation: the fact's sentence up to its answer, ``"the capital of {subject} is the city of"``
            say, where the table has no column of it. End it so that only the answer can follow.
        seed: of the draw of wrong answers.

    Raises:
        InputError: a column is missing or empty; a relation without ``{subject}``; a relation whose facts
            have no second answer to be drawn.

    Example::

        facts = [{"subject": "France", "answer": "Paris"}, {"subject": "Peru", "answer": "Lima"}]
        pairs = nt.draft_pairs(facts, relation="the capital of {subject} is the city of")
    """
    name, found = read_rows(facts, "facts")
    given = [_fact(where, row, relation) for where, row in found]
    if not given:
        raise InputError(f"{name}: no facts in it; expected the columns subject and answer")
    made = []
    for number, (fact, wrong) in enumerate(zip(given, _wrong(given, seed), strict=True), 1):
        s = fact.relation.replace("{subject}", fact.subject)
        words = {"s": s, "wrong": f" {wrong}"}
        about = f"{number}-{slug(fact.subject)}".strip("-")
        item = Item(about, fact.subject, f" {fact.answer}", f" {wrong}", words)
        for family, templates in TEMPLATES.items():
            made += [pair_from(row, fact.where) for row in rows(family, templates, [item])]
    return made


def _fact(where: str, row: object, relation: str | None) -> _Fact:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected columns subject and answer, got {short(row)}")
    texts = {}
    for column in ("subject", "answer", "wrong", "relation"):
        texts[column] = str(row.get(column) or "").strip()
        if not texts[column] and column in ("subject", "answer"):
            has = ", ".join(map(str, row))
            raise InputError(f"{where}: no {column}: expected the columns subject and answer, got {has}")
    own = texts["relation"] or relation or _RELATION
    if "{subject}" not in own:
        raise InputError(f"relation {own!r}: expected {{subject}} in it: 'the capital of {{subject}} is'")
    return _Fact(where, texts["subject"], texts["answer"], texts["wrong"], own.strip())


def _wrong(facts: list[_Fact], seed: int) -> list[str]:
    """Of each fact: its own, or an answer of its relation that begins otherwise, the least used first."""
    answers: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        answers[fact.relation].append(fact.answer)
    used: Counter[tuple[str, str]] = Counter()
    drawn = random.Random(seed)
    chosen = []
    for fact in facts:
        free = [a for a in sorted(set(answers[fact.relation])) if a.split()[0] != fact.answer.split()[0]]
        if not fact.wrong and not free:
            raise InputError(
                f"{fact.where}: no other answer of {fact.relation!r} to draw a wrong one from: add facts "
                "of it, or a column wrong"
            )
        if not fact.wrong:
            drawn.shuffle(free)
        wrong = fact.wrong or min(free, key=lambda each: used[fact.relation, each])
        used[fact.relation, wrong] += 1
        chosen.append(wrong)
    return chosen
