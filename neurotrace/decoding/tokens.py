"""Prompts and answers of pairs as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.sides import SIDES
from neurotrace.decoding.sequences import Answer
from neurotrace.decoding.unknown import unknown_token, unknown_word


@dataclass(frozen=True)
class Dropped:
    """A pair that cannot be studied on the model, and the reason."""

    pair: PromptPair
    reason: str  # "same first token" | "too long" | "no memorized answer" | ...
    detail: str


@dataclass(frozen=True)
class Tokens:
    """Token ids of the two prompts, and the accepted sequences of the memorized and reasoned answer."""

    prompts: tuple[list[int], list[int]]
    answers: tuple[Answer, Answer]


def tokens_of(tokenizer: Any, pair: PromptPair, limit: int, *, whole: bool) -> Dropped | Tokens:
    """The pair's token ids, or why it can't be studied.

    Args:
        limit: the most tokens that the model takes; 0: any number.
        whole: answers are read whole; otherwise by the first token of the first named form alone.
    """
    prompts = [tokenizer(getattr(pair, side)).input_ids for side in SIDES]
    unknown = unknown_token(tokenizer)
    answers: list[Answer] = []
    named = (pair.memorized_answer, *pair.memorized_also), (pair.reasoned_answer, *pair.reasoned_also)
    for side, prompt, forms in zip(SIDES, prompts, named, strict=True):
        if limit and len(prompt) > limit:
            return Dropped(pair, "too long", f"{side}: {len(prompt)} tokens, the model takes {limit}")
        found: list[tuple[int, ...]] = []
        for answer in forms if whole else forms[:1]:
            # the answer as it is split behind this side's prompt
            joined = tokenizer(getattr(pair, side) + answer).input_ids
            if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
                return Dropped(
                    pair,
                    "answer merges with the prompt",
                    f"{side}: {answer!r} changes the tokens of the prompt before it",
                )
            if unknown is not None and unknown in joined:
                text = getattr(pair, side) if unknown in prompt else answer
                return Dropped(pair, "unknown word", f"{side}: {unknown_word(tokenizer, text)}")
            found.append(tuple(joined[len(prompt) :]))
        longest = len(prompt) + max(map(len, found))
        if whole and limit and longest > limit:
            why = f"{side}: {longest} tokens with its answer, the model takes {limit}"
            return Dropped(pair, "too long", why)
        answers.append(tuple(dict.fromkeys(found)) if whole else (found[0][:1],))
    both = f"{pair.memorized_answer!r} and {pair.reasoned_answer!r}"
    if set(answers[0]) & set(answers[1]):
        if not whole:
            why = f"{both} begin with the same token: read them whole (answers='whole', --answers whole)"
            return Dropped(pair, "same first token", why)
        return Dropped(pair, "same answer", f"{both} are the same tokens")
    return Tokens((prompts[0], prompts[1]), (answers[0], answers[1]))


def refuse_whole(encoded: Any, what: str) -> None:
    """InputError for encoded pairs whose answers are read whole."""
    if encoded.answers is not None:
        raise InputError(f"{what} reads an answer's first token alone: encode pairs with answers='first'")


class Words:
    """Token ids as text, each decoded once."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.known: dict[int, str] = {}

    def __call__(self, tokens: Int[Tensor, " row"]) -> list[str]:
        found = []
        for token in tokens.tolist():
            if token not in self.known:
                self.known[token] = self.tokenizer.decode([token])
            found.append(self.known[token])
        return found
