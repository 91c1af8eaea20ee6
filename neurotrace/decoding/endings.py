"""Where a word ends, by the text of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WordEnds:
    """Whether the word ends between two tokens, by their text."""

    tokenizer: Any
    known: dict[tuple[int, int], bool] = field(default_factory=dict)

    def __call__(self, last: int, following: int) -> bool:
        key = last, following
        if key not in self.known:
            before, both = (self.tokenizer.decode(list(ids)) for ids in ((last,), key))
            rest = both[len(before) :] if both.startswith(before) else both
            # after a sign, a letter begins a new word
            self.known[key] = not (rest[:1].isalnum() and before[-1:].isalnum())
        return self.known[key]
