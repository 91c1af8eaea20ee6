"""The places of a pair's two prompts by name: those of `places.py`, and parts that pairs name themselves.

A pair may name parts of its prompts (`PromptPair.spans`). The tokens of such a part correspond from its
end, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.records import short
from neurotrace.core.sides import SIDES, Side
from neurotrace.decoding.places import NAMES, Places, Where, places_of


def places_named(tokenizer: Any, pairs: Any, name: Where, at_most: int = 1) -> Places:
    """The places of that name in encoded pairs, which may be the name of a span.

    Raises:
        InputError: a pair lacks a span of that name; or the tokenizer does not say where its tokens stand.
    """
    if name in NAMES:
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


def spans_of(pairs: Sequence[PromptPair]) -> list[str]:
    """Names of the spans that every pair has, in the first pair's order."""
    names = [{span.name for span in pair.spans} for pair in pairs]
    return [span.name for span in (pairs[0].spans if pairs else ()) if all(span.name in n for n in names)]
