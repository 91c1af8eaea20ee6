"""Which tokens of a pair's two prompts correspond, and at which of them something is patched.

Tokens that both prompts share in the same order correspond, one by one. Where the prompts differ, the
tokens of the two spans correspond from the spans' ends; a longer span's first tokens have no counterpart
and are never patched. Before the first difference the model computes the same in both prompts, so that
nothing is patched there, either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.sides import SIDES, Side

Prompts = Sequence[Int[Tensor, " pos"]]

Where = Literal["last", "end", "cue", "anywhere"] | str  # or the name of a span
NAMES = ("last", "end", "cue", "anywhere")


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
