"""Pairs changed so that a model answers them both ways: mends tried in turn, each kept if it helps.

A mend changes all pairs of a family alike. Whether it helps is measured on a few pairs; what all pairs
give before and after is measured on all. `mend_pairs` keeps ids, groups and families.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.engine.turns import takes_turns
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.probe_sets.chat import chat_pairs
from neurotrace.probe_sets.diagnosing import Diagnosis, diagnose

FEW = 10  # pairs of a family, below which a study says little
_SHOTS = 4
_RULE = "Answer with one word or number."
Change = Callable[[Sequence[PromptPair], Sequence[PromptPair]], list[PromptPair]]
"""(pairs, all pairs of the family) -> the pairs, changed."""


@dataclass(frozen=True)
class Step:
    """A mend of one family that was tried on a few pairs.

    Attributes:
        before, after: share of those pairs that behaves without and with it.
        example: a pair as it changes it.
    """

    family: str
    mend: str
    before: float
    after: float
    kept: bool
    example: PromptPair


@dataclass(frozen=True)
class Mended:
    """The changed pairs, what was tried, and the diagnosis of all pairs before and after."""

    pairs: tuple[PromptPair, ...]
    steps: tuple[Step, ...]
    before: Diagnosis
    after: Diagnosis

    def line(self, family: str) -> str:
        """Of the family: how many of all pairs behave before and after."""
        counts = [sum(p.family == family for p in each.behaving) for each in (self.before, self.after)]
        every = sum(pair.family == family for pair in self.pairs)
        few = "" if counts[1] >= FEW else f"; fewer than {FEW} are too few to study: add items"
        return f"{counts[0]} of {every} pairs behaved, {counts[1]} do now{few}"


@takes_turns
def mend_pairs(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    *,
    items: int = 12,
    chat: bool = False,
    seed: int = 0,
    progress: Progress = None,
) -> Mended:
    """Try changes of the prompts family by family, and keep each that makes more pairs behave.

    In turn: the space at the border of prompt and answer, in the prompt, in the answer, in neither; what
    both answers begin with, moved into the prompts; a stated form of the answer; four examples of other
    groups, answered as the side's pairs are; the model's own next word, if it is the same everywhere.

    Args:
        items: pairs of a family that a change is tried on.
        chat: also try the prompts as a user's message, through the chat template.
        seed: of the draw of items and examples.

    Raises:
        InputError: `items` below 2; `chat` with a tokenizer without a chat template.

    Example::

        mended = nt.mend_pairs(model, nt.load_pairs("capitals")[:8], items=4)
        mended.after.share >= mended.before.share
    """
    if items < 2:
        raise InputError(f"items={items}: expected at least 2")
    before = diagnose(model, pairs, progress=progress)
    made: dict[str, PromptPair] = {}
    steps: list[Step] = []
    for family in dict.fromkeys(pair.family for pair in pairs):
        own = [pair for pair in pairs if pair.family == family]
        found, tried = _mend_family(model, own, items, chat, seed)
        made |= {pair.id: pair for pair in found}
        steps += tried
    after = diagnose(model, [made[pair.id] for pair in pairs], progress=progress)
    return Mended(after.pairs, tuple(steps), before, after)


def _mend_family(
    model: HookedModel, own: list[PromptPair], items: int, chat: bool, seed: int
) -> tuple[list[PromptPair], list[Step]]:
    """Changes apply in this order whatever was tried: texts first, the chat template over them last."""
    few = random.Random(seed).sample(own, min(items, len(own)))
    texts: list[tuple[str, Change]] = [
        ("the space in the answer", lambda these, _: [_space(pair, "", " ") for pair in these]),
        ("the space in the prompt", lambda these, _: [_space(pair, " ", "") for pair in these]),
        ("no space", lambda these, _: [_space(pair, "", "") for pair in these]),
        ("the shared beginning in the prompt", lambda these, _: [_shared(model, p) for p in these]),
        ("a stated form", lambda these, _: [_both(p, lambda text: f"{_RULE}\n{text}") for p in these]),
        ("examples", lambda these, every: [_examples(pair, every, seed) for pair in these]),
    ]
    over: tuple[str, Change] = ("chat template", lambda these, _: chat_pairs(model, these))
    kept: list[tuple[str, Change]] = []
    found = diagnose(model, few)
    steps: list[Step] = []

    def attempt(name: str, change: Change) -> None:
        nonlocal kept, found
        if found.share == 1:
            return
        wish = [*(each for each in kept if each[0] != over[0]), (name, change)]
        wish += [each for each in kept if each[0] == over[0] and name != over[0]]
        tried = diagnose(model, _apply(wish, few, own))
        better = (tried.share, tried.sides) > (found.share, found.sides)
        if tried.pairs != found.pairs:
            steps.append(Step(own[0].family, name, found.share, tried.share, better, tried.pairs[0]))
        if better:
            kept, found = wish, tried

    for name, change in texts:
        attempt(name, change)
        if name == "no space" and (word := _next_word(found)):
            attempt(f"{word!r} at the end", _ending(word))
    if chat:
        attempt(*over)
    return _apply(kept, own, own), steps


def _apply(
    changes: Sequence[tuple[str, Change]], pairs: Sequence[PromptPair], every: Sequence[PromptPair]
) -> list[PromptPair]:
    """Each change in turn, of the pairs and of all pairs that examples are drawn from."""
    pairs, every = list(pairs), list(every)
    for _, change in changes:
        pairs, every = change(pairs, every), change(every, every)
    return pairs


def _both(pair: PromptPair, change: Callable[[str], str]) -> PromptPair:
    return replace(pair, memorization=change(pair.memorization), reasoning=change(pair.reasoning))


def _space(pair: PromptPair, before: str, after: str) -> PromptPair:
    """`before` ends the prompts, `after` begins the answers."""
    return replace(
        _both(pair, lambda text: text.rstrip(" ") + before),
        memorized_answer=after + pair.memorized_answer.lstrip(" "),
        reasoned_answer=after + pair.reasoned_answer.lstrip(" "),
        memorized_also=tuple(after + each.lstrip(" ") for each in pair.memorized_also),
        reasoned_also=tuple(after + each.lstrip(" ") for each in pair.reasoned_also),
    )


def _shared(model: HookedModel, pair: PromptPair) -> PromptPair:
    """What the two answers' tokens have in common goes to the end of the prompts."""
    tokenizer: Any = tokenizer_of(model)
    answers = (pair.memorized_answer, pair.reasoned_answer)
    rows = [tokenizer(answer, add_special_tokens=False).input_ids for answer in answers]
    same = next((at for at, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), min(map(len, rows)))
    text = tokenizer.decode(rows[0][:same])
    if not same or any(not each.startswith(text) or len(each) == len(text) for each in answers):
        return pair
    return replace(
        _both(pair, lambda prompt: prompt + text),
        memorized_answer=answers[0][len(text) :],
        reasoned_answer=answers[1][len(text) :],
        memorized_also=tuple(a[len(text) :] for a in pair.memorized_also if a.startswith(text)),
        reasoned_also=tuple(a[len(text) :] for a in pair.reasoned_also if a.startswith(text)),
    )


def _ending(word: str) -> Change:
    return lambda these, _: [_both(pair, lambda text: text + word) for pair in these]


def _next_word(found: Diagnosis) -> str:
    """What follows most of the prompts that leave more open than the answer; empty: there is none."""
    open_ended = ("open ending", "no answer begun")
    says = Counter(each.says[0][0] for each in found.failures if each.cause in open_ended and each.says)
    said, count = says.most_common(1)[0] if says else ("", 0)
    return said if said.strip() and count >= len(found.pairs) / 2 else ""


def _examples(pair: PromptPair, every: Sequence[PromptPair], seed: int) -> PromptPair:
    """Other groups' pairs of the same template before it, with answers as unlike as there are."""
    others = [p for p in every if p.group != pair.group and p.template == pair.template]
    random.Random(f"{seed}/{pair.id}").shuffle(others)
    taken: list[PromptPair] = []
    seen: Counter[str] = Counter()
    groups: set[str] = set()
    while len(taken) < _SHOTS and (free := [p for p in others if p.group not in groups]):
        best = min(free, key=lambda p: seen[p.memorized_answer] + seen[p.reasoned_answer])
        taken.append(best)
        groups.add(best.group)
        seen.update((best.memorized_answer, best.reasoned_answer))
    gap = "\n\n" if any("\n" in p.memorization + p.reasoning for p in (*taken, pair)) else "\n"
    return replace(
        pair,
        memorization=gap.join([*(p.memorization + p.memorized_answer for p in taken), pair.memorization]),
        reasoning=gap.join([*(p.reasoning + p.reasoned_answer for p in taken), pair.reasoning]),
    )
