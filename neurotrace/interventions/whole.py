"""Answers under interventions, by first token or whole: does the model give them, how probable are they?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Direction, spoken
from neurotrace.decoding.endings import WordEnds
from neurotrace.decoding.sequences import Answer, Judged, judge
from neurotrace.engine.metrics import kl_of
from neurotrace.interventions.donors import donor_values, donors_of, of_each_prompt
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import (
    Donors,
    Positions,
    check_finite,
    logits_under,
    mixes,
    tops_under,
)
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Site, inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel

Named = Literal["memorized", "reasoned"]


Asked = tuple[Sequence[int], Sequence[Intervention]]  # rows of pairs, and what is done to each of them
_ROWS_AT_ONCE = 1536
_LOGITS_AT_ONCE = 2**26  # numbers, over rows and vocabulary, held at the same time


class Reader:
    """Reads the answers of `encoded` under interventions, by first token or whole as they were encoded."""

    def __init__(self, model: HookedModel, encoded: EncodedPairs) -> None:
        self.model, self.encoded = model, encoded
        self.ends = WordEnds(tokenizer_of(model)) if encoded.answers is not None else None

    def writes(
        self,
        places: Sequence[int],
        ids: Int[Tensor, "prompt pos"],
        interventions: Sequence[Intervention],
        donors: Donors,
        named: Named,
        **where: Any,
    ) -> Bool[Tensor, "intervention prompt"]:
        """Whether the model gives this answer under each intervention.

        Args:
            places: of the pairs whose prompts are `ids`.
            donors: `donors_of`; or whatever else stands in for the donors' values.
            where: `positions` of `logits_under`.
        """
        if self.encoded.answers is None:
            wanted = (self.encoded.memorized if named == "memorized" else self.encoded.reasoned)[
                list(places)
            ]
            nothing = torch.zeros(len(ids), 0, dtype=torch.long)
            values = of_each_prompt(donors(range(len(ids)), nothing), len(ids))
            each = [interventions] * len(ids)
            return tops_under(self.model, list(ids), each, values, wanted, **where).t()
        side = 0 if named == "memorized" else 1
        wanted_only = [(each[side],) for each in self._answers(places)]
        judged = self._judge(wanted_only, ids, interventions, donors, where)
        return judged.wrote[0, 1:]

    def judged(
        self,
        places: Sequence[int],
        ids: Int[Tensor, "prompt pos"],
        interventions: Sequence[Intervention],
        donors: Donors,
        likely: int,
        **where: Any,
    ) -> Judged:
        """Both whole answers: run 0 is the unchanged model, then each intervention."""
        every = self._answers(places)
        return self._judge(every, ids, interventions, donors, where, likely=likely, distance=kl_of)

    def _answers(self, places: Sequence[int]) -> list[tuple[Answer, Answer]]:
        assert self.encoded.answers is not None
        return [self.encoded.answers[place] for place in places]

    def _judge(
        self,
        answers: Sequence[Sequence[Answer]],
        ids: Tensor,
        interventions: Sequence[Intervention],
        donors: Donors,
        where: dict[str, Any],
        **how: Any,
    ) -> Judged:
        assert self.ends is not None

        def run(
            rows: list[int], tokens: Int[Tensor, "row token"]
        ) -> Iterator[tuple[int, Float[Tensor, "row position vocab"]]]:
            given = donors(rows, tokens)
            joined = torch.cat([ids[rows], tokens], dim=1)
            clean, changed = logits_under(
                self.model, joined, interventions, given, behind=tokens.shape[1], **where
            )
            yield 0, clean if tokens.shape[1] else clean[:, None]
            for number, (each, logits) in enumerate(zip(interventions, changed, strict=True), 1):
                yield number, check_finite(each, logits if tokens.shape[1] else logits[:, None])

        return judge(answers, run, 1 + len(interventions), self.ends, **how)


def flipped(
    model: HookedModel,
    encoded: EncodedPairs,
    asked: Sequence[Asked],
    *,
    activations: Activations,
    positions: Positions = "read",
    progress: Progress = None,
) -> list[Bool[Tensor, "intervention pair"]]:
    """Whether each intervention makes the model give the other named answer; `measure`'s `answers`.

    Nothing else is read from the logits, which for large vocabularies costs as much as several layers.

    Args:
        asked: (rows of `encoded`, interventions); all of one direction. Those with equally many
            interventions run together.
        activations: those of exactly these pairs, from which patches take their values.
        positions: see `measure`.

    Returns:
        For each of `asked` a row for each intervention, a column for each pair.
    """
    found = [torch.zeros(len(own), len(rows), dtype=torch.bool) for rows, own in asked]
    direction = asked[0][1][0].direction
    named: Named = "reasoned" if direction is Direction.TO_REASONING else "memorized"
    label = f"intervening ({spoken(direction)})"
    if encoded.answers is not None:
        for answers, (rows, own) in zip(found, asked, strict=True):
            part = encoded.at(rows)
            at = Activations(activations.values[:, list(rows)], part.pairs)
            reader = Reader(model, part)
            for places, ids in over(progress, batches_of(model, part, own), label):
                donors = donors_of(model, part, own, places, positions, at)
                answers[:, places] = reader.writes(places, ids, own, donors, named, positions=positions)
        return found
    wanted = encoded.memorized if named == "memorized" else encoded.reasoned
    prompts = encoded.ids(direction.recipient)
    batches = []
    for count in sorted({len(own) for _, own in asked}):
        every = [
            (number, place)
            for number, (rows, own) in enumerate(asked)
            if len(own) == count
            for place in range(len(rows))
        ]
        size = max(1, min(32, _ROWS_AT_ONCE // count))
        batches += [every[start : start + size] for start in range(0, len(every), size)]
    for batch in over(progress, batches, label):
        rows = [asked[number][0][place] for number, place in batch]
        applied = [asked[number][1] for number, _ in batch]
        given: list[list[Tensor | None]] = []
        for number, same in groupby(batch, itemgetter(0)):
            of = [asked[number][0][place] for _, place in same]
            values = donor_values(model, encoded, asked[number][1], of, positions, activations)
            given += of_each_prompt(values, len(of))
        some = [prompts[row] for row in rows]
        tops = tops_under(model, some, applied, given, wanted[rows], positions=positions)
        for (number, place), answers in zip(batch, tops, strict=True):
            found[number][:, place] = answers
    return found


def batches_of(
    model: HookedModel, encoded: EncodedPairs, interventions: Sequence[Intervention]
) -> list[tuple[list[int], Int[Tensor, "prompt pos"]]]:
    """Batches of recipient prompts of one length, small enough for every intervention's logits at once."""
    prompts = encoded.ids(interventions[0].recipient)
    return list(by_length(prompts, _at_once(model, encoded, interventions)))


def mixed_batches(
    model: HookedModel,
    encoded: EncodedPairs,
    interventions: Sequence[Intervention],
    positions: Positions,
    site: Site,
) -> Sequence[tuple[list[int], Int[Tensor, "prompt pos"] | list[Int[Tensor, " pos"]]]]:
    """`batches_of`; where the engine runs prompts of several lengths together, batches of any lengths.

    Each pass reads all weights, and these are fewer.
    """
    prompts = encoded.ids(interventions[0].recipient)
    if not mixes(model, prompts, positions, site):
        return batches_of(model, encoded, interventions)
    size = _at_once(model, encoded, interventions)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [(batch, [prompts[row] for row in batch]) for batch in batches]


def _at_once(model: HookedModel, encoded: EncodedPairs, interventions: Sequence[Intervention]) -> int:
    """How many prompts run together."""
    longest = max((len(s) for each in encoded.answers or () for a in each for s in a), default=0)
    rows = max(64, _LOGITS_AT_ONCE // (inspect_model(model).d_vocab * (1 + longest)))
    return max(1, min(32, rows // len(interventions)))
