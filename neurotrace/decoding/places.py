"""Which tokens of a pair's two prompts correspond, and at which of them something is patched.

Tokens that both prompts share in the same order correspond, one by one. Where the prompts differ, the
tokens of the two spans correspond from the spans' ends; a longer span's first tokens have no counterpart
and are never patched. Before the first difference the model computes the same in both prompts, so that
nothing is patched there, either.

A pair may name parts of its prompts (`PromptPair.spans`). The tokens of such a part correspond from its
end, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.records import short
from neurotrace.core.sides import SIDES, Side

Prompts = Sequence[Int[Tensor, " pos"]]

Where = Literal["last", "end", "cue", "anywhere"] | str  # or the name of a span
_NAMES = ("last", "end", "cue", "anywhere")


@dataclass(frozen=True)
class Places:
    """Positions in both prompts of each pair, ascending, counted from the prompt's end.

    Attributes:
        name: `last`, the last token; `cue`, the tokens that differ; `anywhere`, every token from the first
            difference on; `end`, those of the last few tokens before which no token lacks a counterpart;
            or the name of the pairs' spans.
        at: for each side and pair its positions, negative; as many on both sides.
        unmatched: the most tokens of a pair, both prompts taken together, that have no counterpart.
    """

    name: Where
    at: dict[Side, tuple[tuple[int, ...], ...]]
    unmatched: int = 0

    @property
    def width(self) -> int:
        """The most places of a pair."""
        return max((len(each) for each in self.at["reasoning"]), default=0)

    @property
    def least(self) -> int:
        """The fewest places of a pair."""
        return min((len(each) for each in self.at["reasoning"]), default=0)


def places_named(tokenizer: Any, pairs: Any, name: Where, at_most: int = 1) -> Places:
    """The places of that name in encoded pairs, which may be the name of a span.

    Raises:
        InputError: a pair lacks a span of that name; or the tokenizer does not say where its tokens stand.
    """
    if name in _NAMES:
        return places_of(pairs.memorization, pairs.reasoning, name, at_most)
    found: dict[Side, list[tuple[int, ...]]] = {side: [] for side in SIDES}
    unmatched = 0
    for row, pair in enumerate(pairs.pairs):
        span = next((each for each in pair.spans if each.name == name), None)
        if span is None:
            known = ", ".join(each.name for each in pair.spans) or "none"
            raise InputError(
                f"{pair.id}: no place and no span is called {name!r} (its spans: {known}): 'last', 'cue', "
                "'anywhere', or what the pair's field 'spans' names"
            )
        own, other = (
            tokens_at(tokenizer, getattr(pair, side), getattr(span, side), pairs.ids(side)[row].tolist())
            for side in SIDES
        )
        count = min(len(own), len(other))
        unmatched = max(unmatched, len(own) + len(other) - 2 * count)
        for side, each in zip(SIDES, (own, other), strict=True):
            found[side].append(each[-count:])
    return Places(name, {side: tuple(each) for side, each in found.items()}, unmatched)


def tokens_at(tokenizer: Any, prompt: str, text: str, ids: Sequence[int]) -> tuple[int, ...]:
    """Positions, counted from the prompt's end, of the tokens that the text's last occurrence touches."""
    try:
        read = tokenizer(prompt, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(
            "spans need a tokenizer that says where its tokens stand in the text: load a fast one"
        ) from None
    if list(read.input_ids) != list(ids) or text not in prompt:
        raise InputError(f"{short(prompt)}: the span {short(text)} belongs to another prompt or tokenizer")
    first = prompt.rindex(text)
    inside = (
        at - len(ids)
        for at, (start, end) in enumerate(read.offset_mapping)
        if start < first + len(text) and end > first
    )
    return tuple(inside)


def places_of(memorization: Prompts, reasoning: Prompts, name: Where, at_most: int = 1) -> Places:
    """The places of that name in each pair's two prompts; see `Places`.

    Args:
        memorization, reasoning: token ids, a prompt of each side for every pair.
        at_most: of `end`, the number of tokens; fewer where the first difference is nearer.

    Example::

        encoded = nt.encode(model, pairs)  # "recall 31 + 28 =", "think 31 + 28 ="
        places_of(encoded.memorization, encoded.reasoning, "cue").at["reasoning"][0]  # (-7,)
    """
    if name == "last":
        return Places(name, {side: ((-1,),) * len(reasoning) for side in SIDES})
    found: dict[Side, list[tuple[int, ...]]] = {side: [] for side in SIDES}
    unmatched = 0
    for first, second in zip(memorization, reasoning, strict=True):
        both = corresponding(first.tolist(), second.tolist())
        unmatched = max(unmatched, len(first) + len(second) - 2 * len(both))
        differ = [int(a) != int(b) for a, b in zip(first, second, strict=False)]
        same = differ.index(True) if True in differ else len(differ)  # tokens before the first difference
        kept = [(a, b) for a, b in both if max(a, b) >= same]
        if name == "cue":
            kept = [(a, b) for a, b in kept if first[a] != second[b]]
        elif name == "end":
            last = [(len(first) - n, len(second) - n) for n in range(1, 1 + min(at_most, len(kept)))]
            whole = [each == own for each, own in zip(kept[::-1], last, strict=False)]
            count = whole.index(False) if False in whole else len(whole)
            kept = kept[len(kept) - count :]
        found["memorization"].append(tuple(a - len(first) for a, _ in kept))
        found["reasoning"].append(tuple(b - len(second) for _, b in kept))
    return Places(name, {side: tuple(each) for side, each in found.items()}, unmatched)


def in_both(places: Places, ids: Sequence[str]) -> list[tuple[tuple[int, ...], list[int]]]:
    """(places, rows of the pairs that have just these), counted from the end of both prompts.

    Raises:
        InputError: a pair has none, or others in one prompt than in the other; it is named by its id.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, (own, other) in enumerate(zip(places.at["memorization"], places.at["reasoning"], strict=True)):
        if not own or own != other:
            raise InputError(
                f"{ids[row]}: positions={places.name!r} are the places {own} and {other} from the end of "
                "its two prompts, and the same ones are needed in both (nt.locate takes others, too)"
            )
        alike.setdefault(own, []).append(row)
    return list(alike.items())


def spans_of(pairs: Sequence[PromptPair]) -> list[str]:
    """Names of the spans that every pair has, in the first pair's order."""
    names = [{span.name for span in pair.spans} for pair in pairs]
    return [span.name for span in (pairs[0].spans if pairs else ()) if all(span.name in n for n in names)]


def corresponding(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (in the first, in the second) of tokens that correspond, ascending."""
    found: list[tuple[int, int]] = []
    for _, a, a_end, b, b_end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        count = min(a_end - a, b_end - b)
        found += zip(range(a_end - count, a_end), range(b_end - count, b_end), strict=True)
    return found


def in_tail(at: Sequence[tuple[int, ...]], width: int) -> tuple[int, Int[Tensor, "row place"]]:
    """(number of last tokens that hold all places, each row's places counted from their start).

    Rows are aligned at their last place; one with fewer places begins with the number of last tokens, which
    stands for none.
    """
    read = max((-each[0] for each in at if each), default=1)
    rows = [[read] * (width - len(each)) + [place + read for place in each] for each in at]
    return read, torch.tensor(rows, dtype=torch.long).reshape(len(at), width)
