"""Formats whose records are facts: what the model knows, and another answer that a context states.

    mquake             `requested_rewrite` (several), `questions`, `answer`, `new_answer`
    counterfact        `requested_rewrite` with prompt, subject, target_true, target_new; or these flat
    comp-mech          `base_prompt`, and `prompt`, which holds its context already
    easyedit           `prompt, subject, ground_truth, target_new`
    known-facts        ROME's known_1000: `subject, attribute, template`; no wrong answer
    lre                relations: `samples` of `subject` and `object` with `prompt_templates`
    pararel            `sub_label, obj_label` and patterns, `[X] was born in [Y].`
    function-vectors   `input, output`: a list of examples

Where a file names no wrong answer, it is the right one of another record of the same relation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.records import short
from neurotrace.probe_sets.making import slug
from neurotrace.probe_sets.rows import (
    Fact,
    Format,
    Made,
    Options,
    Row,
    facts_in_contexts,
    filled,
    follows,
    id_of,
    refuse_stated,
    wrong_answers,
)

_SHOTS = 3


def counterfact(rows: Sequence[Row], options: Options) -> Made:
    """Family is the relation, group the subject. Each record fills every template."""

    def fact(number: int, row: Row) -> Fact:
        rewrite = _rewrite(row)
        if "base_prompt" in row:
            raise InputError(
                f"{row.where}: 'base_prompt' beside 'prompt': the prompt holds its context already; import "
                "it as comp-mech"
            )
        missing = [
            name
            for name in ("subject", "prompt", "target_true", "target_new")
            if name not in rewrite.cells and not (name == "target_new" and "target_false" in rewrite.cells)
        ]
        if missing:
            raise InputError(
                f"{row.where}: no {missing[0]!r}; expected requested_rewrite with subject, prompt, "
                "target_true and target_new"
            )
        other = "target_new" if "target_new" in rewrite.cells else "target_false"
        true, new = (rewrite.texts(name, sets=options.sets) for name in ("target_true", other))
        subject = rewrite.text("subject")
        relation = rewrite.label("relation_id", rewrite.label("relation", "counterfact"))
        prompt = filled(row, rewrite.text("prompt"), subject)
        return Fact(row, id_of(row, number, subject, "case_id"), relation, subject, prompt, true, new)

    yield from facts_in_contexts((fact(n, row) for n, row in enumerate(rows, 1)), options)


def easyedit(rows: Sequence[Row], options: Options) -> Made:
    def fact(number: int, row: Row) -> Fact:
        subject = row.text("subject")
        family = row.label("relation_id", options.family)
        prompt = filled(row, row.text("prompt"), subject)
        true, new = (row.texts(name, sets=options.sets) for name in ("ground_truth", "target_new"))
        return Fact(row, id_of(row, number, subject, "case_id"), family, subject, prompt, true, new)

    yield from facts_in_contexts((fact(n, row) for n, row in enumerate(rows, 1)), options)


def known_facts(rows: Sequence[Row], options: Options) -> Made:
    facts: list[Fact] = []
    for _, own in _by(rows, lambda row: row.label("relation_id", "known-facts")):
        facts += _with_wrong(
            (
                Fact(
                    row,
                    id_of(row, number, row.text("subject"), "known_id"),
                    row.label("relation_id", "known-facts"),
                    row.text("subject"),
                    filled(row, row.text("template"), row.text("subject")),
                    row.texts("attribute", sets=options.sets),
                    "",
                )
                for number, row in own
            ),
            "the relation",
        )
    yield from facts_in_contexts(_some(facts), options)


def lre(rows: Sequence[Row], options: Options) -> Made:
    """Every sample in every prompt template of its relation."""
    for relation in rows:
        name = relation.label("name", options.family)
        prompts = _list(relation, "prompt_templates")
        samples = _list(relation, "samples")
        facts: list[Fact] = []
        for place, prompt in enumerate(prompts, 1):
            ask = Row(relation.where, {"prompt": prompt}).text("prompt")
            own = []
            for number, sample in enumerate(samples, 1):
                if not isinstance(sample, Mapping):
                    raise InputError(
                        f"{relation.where}: sample {number} is {short(sample)}; expected an object"
                    )
                row = Row(f"{relation.where}, sample {number}", sample)
                subject = row.text("subject")
                own.append(
                    Fact(
                        row,
                        f"{slug(name)}-{number}-{slug(subject)}-{place}",
                        slug(name),
                        subject,
                        filled(row, ask, subject),
                        row.texts("object", sets=options.sets),
                        "",
                    )
                )
            facts += _with_wrong(own, f"the relation {name!r}")
        yield from _named_apart(facts_in_contexts(_some(facts), options), len(prompts))


def pararel(rows: Sequence[Row], options: Options) -> Made:
    """Every subject in every pattern that ends with the object."""
    if not any("sub_label" in row for row in rows):
        raise InputError(
            f"{rows[0].where}: patterns without subjects; expected the file of subjects and objects "
            "(sub_label, obj_label) and this one as patterns= (--patterns)"
        )
    own = [str(row.cells["pattern"]) for row in rows if "pattern" in row]
    patterns = list(dict.fromkeys(own or options.patterns))
    if not patterns:
        raise InputError(
            f"{rows[0].where}: subjects without patterns; expected patterns= (--patterns FILE), lines of "
            "'[X] was born in [Y].'"
        )
    usable = [pattern for pattern in patterns if _causal(pattern)]
    if not usable:
        raise InputError(
            f"no pattern of {len(patterns)} ends with [Y] and names [X] before, {patterns[0]!r} say: a "
            "model that reads from left to right can't be asked by them"
        )
    if len(usable) < len(patterns):
        warnings.warn(
            f"{len(patterns) - len(usable)} of {len(patterns)} patterns don't end with [Y]: left out",
            stacklevel=2,
        )
    facts: list[Fact] = []
    for place, pattern in enumerate(usable, 1):
        numbered = (
            (number, row)
            for number, row in enumerate(rows, 1)
            if row.cells.get("pattern", pattern) == pattern
        )
        facts += _with_wrong(
            (
                Fact(
                    row,
                    f"{number}-{slug(row.text('sub_label'))}-{place}",
                    row.label("predicate_id", options.family),
                    row.text("sub_label"),
                    _causal(pattern).replace("[X]", row.text("sub_label")),
                    row.texts("obj_label", sets=options.sets),
                    "",
                )
                for number, row in numbered
            ),
            "the relation",
        )
    yield from _named_apart(facts_in_contexts(_some(facts), options), len(usable))


def comp_mech(rows: Sequence[Row], options: Options) -> Made:
    """The question alone asks memory; behind its context, the context."""
    for number, row in enumerate(rows, 1):
        question, prompt = row.text("base_prompt").rstrip(), row.text("prompt").rstrip()
        true, new = (row.texts(name, sets=options.sets) for name in ("target_true", "target_new"))
        if new.strip() not in prompt:
            raise InputError(
                f"{row.where}: the new answer {new.strip()!r} is not in the prompt; expected a context "
                f"that states it, got {short(prompt)}"
            )
        subject = row.label("subject", question)
        yield (
            row.where,
            {
                "id": f"{options.family}-{id_of(row, number, subject, 'id')}",
                "family": options.family,
                "template": row.label("relation", "context"),
                "group": subject,
                "memorization": question,
                "reasoning": prompt,
                "memorized_answer": follows(question, true),
                "reasoned_answer": follows(prompt, new),
            },
        )


def function_vectors(rows: Sequence[Row], options: Options) -> Made:
    """Four examples and the question, of which the reasoning prompt states another answer to the item.

    The other examples are of other items, the same on both sides.
    """
    if len(rows) < _SHOTS + 2:
        raise InputError(
            f"{len(rows)} examples, expected at least {_SHOTS + 2}: {_SHOTS + 1} stand in a prompt"
        )
    inputs = [row.texts("input").strip() for row in rows]
    outputs = [row.texts("output", sets=options.sets).strip() for row in rows]
    for number, (row, new) in enumerate(zip(rows, wrong_answers(rows, outputs, "the list"), strict=True)):
        if new is None:
            continue
        others = [
            (inputs[place], outputs[place])
            for place in ((number + step) % len(rows) for step in range(1, len(rows)))
            if inputs[place] != inputs[number] and outputs[place] not in (outputs[number], new)
        ][: _SHOTS + 1]
        if len(others) < _SHOTS + 1:
            continue
        shots, spare = others[:_SHOTS], others[_SHOTS]
        sides = [
            "\n\n".join(f"Q: {a}\nA: {b}" for a, b in [*shots[:1], example, *shots[1:]])
            + f"\n\nQ: {inputs[number]}\nA:"
            for example in (spare, (inputs[number], new))
        ]
        yield (
            row.where,
            {
                "id": f"{options.family}-{id_of(row, number + 1, inputs[number])}",
                "family": options.family,
                "template": "examples",
                "group": inputs[number],
                "memorization": sides[0],
                "reasoning": sides[1],
                "memorized_answer": f" {outputs[number]}",
                "reasoned_answer": f" {new}",
            },
        )


def mquake(rows: Sequence[Row], options: Options) -> Made:
    """The edits stated, then a question that takes several of them; three wordings of each question."""
    template = "In this story, {fact} In [real life|the story]: {question} Answer:"
    for number, row in enumerate(rows, 1):
        edits = [
            Row(row.where, each) for each in _list(row, "requested_rewrite") if isinstance(each, Mapping)
        ]
        if not edits:
            raise InputError(f"{row.where}: 'requested_rewrite' holds no edit")
        stated = " ".join(
            f"{filled(row, edit.text('prompt'), edit.text('subject'))} {edit.texts('target_new').strip()}."
            for edit in edits
        )
        questions = [
            Row(row.where, {"questions": each}).text("questions") for each in _list(row, "questions")
        ]
        hops = len(row.cells.get("single_hops") or edits)
        for place, question in enumerate(questions, 1):
            refuse_stated(row, question, row.texts("new_answer").strip())
            sides = [
                template.replace("[real life|the story]", side).format(fact=stated, question=question)
                for side in ("real life", "the story")
            ]
            yield (
                row.where,
                {
                    "id": f"{id_of(row, number, edits[0].text('subject'), 'case_id')}-{place}",
                    "family": f"{options.family}-{hops}-hop",
                    "template": f"question-{place}",
                    "group": edits[0].text("subject"),
                    "memorization": sides[0],
                    "reasoning": sides[1],
                    "memorized_answer": f" {row.texts('answer').strip()}",
                    "reasoned_answer": f" {row.texts('new_answer').strip()}",
                },
            )


def _rewrite(row: Row) -> Row:
    found = row.cells.get("requested_rewrite", row.cells)
    if isinstance(found, (list, tuple)):
        raise InputError(
            f"{row.where}: 'requested_rewrite' is a list of {len(found)} edits; import it as mquake"
        )
    if not isinstance(found, Mapping):
        raise InputError(f"{row.where}: 'requested_rewrite' is {short(found)}; expected an object")
    return Row(row.where, found)


def _causal(pattern: str) -> str:
    """``[X] was born in [Y].`` -> ``[X] was born in``; empty: the object isn't at the end."""
    before, found, after = pattern.strip().rpartition("[Y]")
    fits = found and not after.strip(" .!") and "[X]" in before and "[Y]" not in before
    return before.strip() if fits else ""


def _list(row: Row, name: str) -> list[Any]:
    found = row.cells.get(name)
    if not isinstance(found, (list, tuple)) or not found:
        raise InputError(f"{row.where}: {name!r} is {short(found)}; expected a list that is not empty")
    return list(found)


def _by(rows: Sequence[Row], key: Any) -> Iterator[tuple[str, list[tuple[int, Row]]]]:
    """(key, [(number in the file, row)]), in order of the keys."""
    numbered = sorted(enumerate(rows, 1), key=lambda each: str(key(each[1])))
    for name, own in groupby(numbered, key=lambda each: str(key(each[1]))):
        yield name, list(own)


def _with_wrong(facts: Iterable[Fact], what: str) -> list[Fact]:
    """The facts of one relation, each with another's answer as the new one; else it is left out."""
    given = list(facts)
    answers = [fact.true.strip() for fact in given]
    if len(set(answers)) < 2:
        return []
    others = wrong_answers([fact.row for fact in given], answers, what)
    return [replace(fact, new=new) for fact, new in zip(given, others, strict=True) if new]


def _some(facts: list[Fact]) -> list[Fact]:
    if not facts:
        raise InputError(
            "no relation has two different answers, of which one could stand as the wrong one to the "
            "other's question; add facts, or wrong answers of your own as easyedit's 'target_new'"
        )
    return facts


def _named_apart(made: Made, wordings: int) -> Made:
    """Wordings of the question are templates, too: the fact's id ends with the wording's number."""
    for where, record in made:
        if wordings > 1:
            place = record["id"].removesuffix(f"-{record['template']}").rpartition("-")[2]
            record = record | {"template": f"{record['template']}-{place}"}
        yield where, record


FORMATS = (
    Format("mquake", mquake, ({"requested_rewrite", "questions", "answer", "new_answer"},)),
    Format("comp-mech", comp_mech, ({"base_prompt", "prompt", "target_true", "target_new"},)),
    Format(
        "counterfact",
        counterfact,
        (
            {"requested_rewrite"},
            {"prompt", "subject", "target_true", "target_new"},
            {"prompt", "subject", "target_true", "target_false"},
        ),
    ),
    Format("easyedit", easyedit, ({"prompt", "subject", "ground_truth", "target_new"},)),
    Format("known-facts", known_facts, ({"subject", "attribute", "template"},)),
    Format("lre", lre, ({"samples", "prompt_templates"},)),
    Format("pararel", pararel, ({"sub_label", "obj_label"}, {"pattern"})),
    Format("function-vectors", function_vectors, ({"input", "output"},)),
)
