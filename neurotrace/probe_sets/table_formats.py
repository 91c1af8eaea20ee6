"""Formats whose rows hold both prompts, or one prompt and its two answers.

mib            MIB: `prompt, choices, answerKey` and a counterfactual of that form
greater-than   EAP-IG: `clean, corrupted, label`, a year whose every later one is right
clean-corrupt  EAP-IG: `clean, corrupted` with token ids (`correct_idx, incorrect_idx`) or text
               (`clean_answer, corrupted_answer`)
memotrap       Inverse scaling: `prompt, classes, answer_index`, an instruction against a saying
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.records import listed, short
from neurotrace.probe_sets.rows import Format, Made, Options, Row, follows

_CLEAN = (
    "which side the clean prompt is: pass clean='memorization' or 'reasoning' (--clean memorization or "
    "--clean reasoning)"
)


def clean_corrupt(rows: Sequence[Row], options: Options) -> Made:
    """Every row is a group of its own unless the table has a column `group` (and `template`)."""
    decoder = _Decoder(options.tokenizer)
    made = []
    for number, row in enumerate(rows, 1):
        for name in ("clean", "corrupted"):
            if name not in row.cells:
                raise InputError(
                    f"{row.where}: no columns 'clean' and 'corrupted'; it has "
                    f"{', '.join(map(str, row.cells))}"
                )
        prompts = row.text("clean"), row.text("corrupted")
        if "clean_answer" in row.cells and "corrupted_answer" in row.cells:
            answers = tuple(
                row.texts(name, sets=options.sets) for name in ("clean_answer", "corrupted_answer")
            )
        elif "correct_idx" in row.cells and "incorrect_idx" in row.cells:
            answers = decoder.answers(row, prompts, options.sets)
        else:
            raise InputError(
                f"{row.where}: no named answers; expected columns clean_answer and corrupted_answer "
                "(text) or correct_idx and incorrect_idx (token ids)"
            )
        made.append((row.where, _sides(row, number, prompts, (answers[0], answers[1]), options)))
    decoder.judge()
    yield from made


def greater_than(rows: Sequence[Row], options: Options) -> Made:
    """Of the later years, all right, the next one stands for them: with ``sets="first"`` alone."""
    for number, row in enumerate(rows, 1):
        prompts = row.text("clean"), row.text("corrupted")
        years = [re.findall(r"(\d\d)(\d\d)\D", prompt) for prompt in prompts]
        label = row.number("label")
        if not all(years) or int(years[0][-1][1]) != label:
            raise InputError(
                f"{row.where}: 'label' is {label}; expected the last two digits of the year in 'clean'"
            )
        if options.sets != "first":
            raise InputError(
                f"{row.where}: every year after {years[0][-1][0]}{label:02d} is right, a set of answers; a "
                "pair holds one: pass sets='first' (--sets first) to let the next year stand for them"
            )
        start = int(years[1][-1][1])
        if not start < label < 99:
            raise InputError(
                f"{row.where}: the years end in {label:02d} and, corrupted, {start:02d}; expected the "
                "corrupted one to be earlier, and one to be left after the other"
            )
        answers = f"{label + 1:02d}", f"{start + 1:02d}"
        yield row.where, _sides(row, number, prompts, answers, options)


def mib(rows: Sequence[Row], options: Options) -> Made:
    for number, row in enumerate(rows, 1):
        name = options.counterfactual or _counterfactual(row)
        other = row.cells.get(name)
        try:
            if not isinstance(other, Mapping):
                raise KeyError(name)
            changed = Row(f"{row.where}, {name}", other)
            prompts = row.text("prompt"), changed.text("prompt")
            answers = _choice(row), _choice(changed)
        except KeyError as error:
            raise InputError(
                f"{row.where}: not a row of MIB's (no {error}); expected prompt, choices, answerKey, and "
                f"the same three in {name!r}"
            ) from None
        yield row.where, _sides(row, number, prompts, answers, options)


def memotrap(rows: Sequence[Row], options: Options) -> Made:
    """The saying alone asks memory; behind an instruction that names another end, the instruction."""
    for number, row in enumerate(rows, 1):
        prompt = row.text("prompt")
        classes = row.cells.get("classes")
        answers = listed(classes) if isinstance(classes, str) else classes
        if (
            not isinstance(answers, (list, tuple))
            or len(answers) != 2
            or not all(isinstance(each, str) and each.strip() for each in answers)
        ):
            raise InputError(f"{row.where}: 'classes' is {short(classes)}; expected a list of two answers")
        right = row.number("answer_index")
        if right not in (0, 1):
            raise InputError(f"{row.where}: 'answer_index' is {right}; expected 0 or 1")
        instructed, known = answers[right], answers[1 - right]
        found = re.fullmatch(r"(.*?[\"”“]\W*?:)\s*(\S.*)", prompt, re.S)
        if found is None or instructed.strip(" .,;!?\n").lower() not in found[1].lower():
            raise InputError(
                f"{row.where}: expected an instruction that names {instructed.strip()!r} in quotes, a "
                f"colon and a saying; got {short(prompt)}. Name both prompts as columns instead: "
                "memorization=..., reasoning=..."
            )
        yield (
            row.where,
            {
                "id": f"{options.family}-{number}",
                "family": options.family,
                "template": row.label("template", "quote"),
                "group": row.label("group", found[2].strip()),
                "memorization": found[2].rstrip(),
                "reasoning": prompt.rstrip(),
                "memorized_answer": follows(found[2].rstrip(), known),
                "reasoned_answer": follows(prompt.rstrip(), instructed),
            },
        )


def _sides(
    row: Row, number: int, prompts: tuple[str, str], answers: tuple[str, str], options: Options
) -> dict[str, Any]:
    """A pair of (clean, corrupted); which of them is the memorization prompt, has to be said."""
    if options.clean is None:
        raise InputError(f"the file doesn't say {_CLEAN}")
    recall, think = (0, 1) if options.clean == "memorization" else (1, 0)
    return {
        "id": f"{options.family}-{number}",
        "family": options.family,
        "template": row.label("template", "imported"),
        "group": row.label("group", f"row-{number}"),
        "memorization": prompts[recall],
        "reasoning": prompts[think],
        "memorized_answer": answers[recall],
        "reasoned_answer": answers[think],
    }


def _counterfactual(row: Row) -> str:
    names = [name for name, value in row.cells.items() if isinstance(value, Mapping) and "prompt" in value]
    if len(names) == 1:
        return str(names[0])
    raise InputError(
        f"{row.where}: which column holds the changed prompt? Pass counterfactual= (--counterfactual), one "
        f"of {', '.join(map(str, names)) or 'none that is here'}"
    )


def _choice(row: Row) -> str:
    """The right one of MIB's choices: texts, or labels (A, B, ...) where the prompt lists the texts."""
    choices, key = row.cells["choices"], row.cells["answerKey"]
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    options = list(labels if labels is not None else choices)
    named = isinstance(key, str) and key in options
    place = options.index(key) if named else row.number("answerKey")
    if not 0 <= place < len(options):
        raise InputError(f"{row.where}: 'answerKey' is {key!r}; expected one of {len(options)} choices")
    answer = Row(row.where, {"choices": options[place]}).texts("choices")
    return follows(row.text("prompt"), answer) if labels is not None else answer


class _Decoder:
    """Token ids as text, each in its place behind its prompt, and whether they can be this tokenizer's.

    Ids of another tokenizer decode to something, too: to pieces of words, of which some begin with a
    space and some don't, and which the tokenizer itself would not write behind these prompts.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.answers_seen = 0
        self.strange: list[str] = []  # answers that the tokenizer would cut otherwise
        self.spaced: list[str] = []
        self.bare: list[str] = []
        self.absent: list[str] = []  # right answers that don't occur in their prompts
        self.copied = False  # the table is of a task whose answers stand in the prompt
        self.known: dict[str, list[int]] = {}

    def answers(self, row: Row, prompts: tuple[str, str], sets: str) -> tuple[str, str]:
        if self.tokenizer is None:
            raise InputError(
                "correct_idx and incorrect_idx are token ids: pass their tokenizer (tokenizer=, or "
                "--tokenizer)"
            )
        ids = [self._ids(row, name, sets) for name in ("correct_idx", "incorrect_idx")]
        first = [
            next((each for each in own if each not in other or len(own) == 1), own[0])
            for own, other in (ids, ids[::-1])
        ]
        right = self._decoded(row, "correct_idx", prompts[0], first[0])
        wrong = self._decoded(row, "incorrect_idx", prompts[1], first[1])
        if right.strip() not in prompts[0]:
            self.absent.append(f"{right!r} ({row.where})")
        self.copied |= "corrupted_hard" in row.cells  # IOI's own column: a name of the prompt's
        return right, wrong

    def judge(self) -> None:
        """Raises where the answers of the whole table can't be this tokenizer's."""
        few = self.spaced if len(self.spaced) < len(self.bare) else self.bare
        count = self.answers_seen
        why = ""
        absent = f"{len(self.absent)} of {count // 2} right answers, {', '.join(self.absent[:2])}"
        if len(self.strange) > 0.2 * count:
            why = f"{len(self.strange)} of {count} answers, {self.strange[0]}, can't follow their prompts"
        elif len(few) > 0.1 * count:
            why = f"some answers begin a word ({self.spaced[0]}) and some don't ({self.bare[0]})"
        elif self.copied and self.absent:
            why = f"{absent}, don't occur in their prompts, where IOI's do"
        if not why and self.absent:
            warnings.warn(
                f"{absent}, don't occur in their prompts; if they should, the ids are of another tokenizer",
                stacklevel=2,
            )
        if why:
            raise InputError(
                f"correct_idx and incorrect_idx are ids of another tokenizer: read with this one, {why}; "
                "name the tokenizer that made them, or give clean_answer and corrupted_answer as text"
            )

    def _ids(self, row: Row, name: str, sets: str) -> list[int]:
        value = row.cells[name]
        items = listed(value) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            return [self._id(row, name)]
        if len(items) != 1 and sets != "first":
            raise InputError(
                f"{row.where}: {value!r} is not one token's id but a set of {len(items)}; a pair holds one "
                "answer: pass sets='first' (--sets first) to let the first stand for all"
            )
        if not items:
            raise InputError(f"{row.where}: {name!r} is empty; expected a token's id")
        return [self._id(Row(row.where, {name: each}), name) for each in items]

    def _id(self, row: Row, name: str) -> int:
        try:
            found = row.number(name)
        except InputError:
            found = -1
        if found < 0:
            raise InputError(
                f"{row.where}: {name!r} is {short(row.cells[name])}, which is not one token's id"
            )
        count = len(self.tokenizer)
        if found >= count:
            raise InputError(
                f"{row.where}: {name!r} is {found}, and this tokenizer has {count} tokens: it is not the "
                "one that made the ids"
            )
        return found

    def _decoded(self, row: Row, name: str, prompt: str, number: int) -> str:
        before = self.known.setdefault(prompt, list(self.tokenizer(prompt).input_ids))
        start, whole = (self._text(ids) for ids in (before, [*before, number]))
        text = whole.removeprefix(start) if whole.startswith(start) else self._text([number])
        special = number in getattr(self.tokenizer, "all_special_ids", ())
        if special or not text.strip() or not text.isprintable() or "\ufffd" in text:
            raise InputError(
                f"{row.where}: {name!r} is {number}, in this tokenizer {text!r}, which is no answer: "
                "another tokenizer made the ids, or it is half a character"
            )
        self.answers_seen += 1
        told = f"{text!r} after {prompt[-20:]!r} ({row.where})"
        (self.spaced if text[:1].isspace() else self.bare).append(told)
        if list(self.tokenizer(prompt + text).input_ids) != [*before, number]:
            self.strange.append(told)
        return text

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


FORMATS = (
    Format("memotrap", memotrap, ({"prompt", "classes", "answer_index"},)),
    Format("mib", mib, ({"prompt", "choices", "answerKey"},)),
    Format("greater-than", greater_than, ({"clean", "corrupted", "label"},)),
    Format("clean-corrupt", clean_corrupt, ({"clean", "corrupted"},)),
)
