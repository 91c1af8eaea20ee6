"""Pairs as the paper finds them: an instance asked twice, the second time rephrased.

A rephrased prompt means the same: its sentences or addends have changed places. Where the model gives the
memorized answer to one of the two prompts and the reasoned one to the other, they are a pair. Its prompts
may differ anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from neurotrace.core.pairs import PromptPair
from neurotrace.models.encoding import ask
from neurotrace.paper.stories import Instance

MEMORIZED, REASONED = 0, 1  # as in `Behaviour.answer`; -1: another answer


@dataclass(frozen=True)
class Found:
    """The pairs of one family on one model.

    Attributes:
        pairs: of the instances whose behaviour changes; `template` says whether the training text's order
            is answered from memory ("recalled") or not ("reasoned").
        asked: number of instances with a memorized answer that differs from the reasoned one.
        memorized: share of them answered from memory, (in the training text's order, rephrased).
        reasoned: share answered as the context or the rule says.
    """

    pairs: tuple[PromptPair, ...]
    asked: int
    memorized: tuple[float, float]
    reasoned: tuple[float, float]

    @property
    def changed(self) -> float:
        """Share of the instances whose behaviour changes."""
        return len(self.pairs) / self.asked


def candidates(instances: Sequence[Instance]) -> list[PromptPair]:
    """Each instance with a memorized answer: its training text's prompt, and that rephrased."""
    return [
        PromptPair(
            id=f"{each.family}-{place:04d}",
            family=each.family,
            template="recalled",
            group=each.group,
            memorization=each.prompt(),
            reasoning=each.prompt(rephrased=True),
            memorized_answer=f" {each.memorized}",
            reasoned_answer=f" {each.reasoned}",
        )
        for place, each in enumerate(instances)
        if each.memorized is not None
    ]


def paired(asked: Sequence[PromptPair], first: Sequence[int], second: Sequence[int]) -> Found:
    """Of the candidates those whose behaviour changes.

    Args:
        first: how the model answers each candidate's first prompt: 0 from memory, 1 as reasoned, -1 else.
        second: the same, rephrased.
    """
    pairs = []
    for pair, *said in zip(asked, first, second, strict=True):
        if said == [MEMORIZED, REASONED]:
            pairs.append(pair)
        elif said == [REASONED, MEMORIZED]:
            pairs.append(
                replace(pair, template="reasoned", memorization=pair.reasoning, reasoning=pair.memorization)
            )
    shares = [tuple(list(said).count(way) / len(asked) for said in (first, second)) for way in (0, 1)]
    return Found(tuple(pairs), len(asked), *shares)  # type: ignore[arg-type]


def find_pairs(model: Any, instances: Sequence[Instance]) -> Found:
    """Ask the model every instance that has a memorized answer in both orders.

    Example::

        found = find_pairs(nt.load_model("runs/paper/small-11"), stories.sums())
        found.changed, found.pairs[0].memorization
    """
    asked = ask(model, candidates(instances), check=False)
    said = [seen.answer.tolist() for seen in (asked.on_memorization, asked.on_reasoning)]
    return paired(asked.pairs, *said)
