"""Whole answers under interventions: which one greedy decoding writes, and how probable each one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.decoding.endings import WordEnds
from neurotrace.decoding.sequences import Answer, Judged, judge
from neurotrace.engine.metrics import kl_of
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import Donors, check_finite, logits_under, tops_under
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel

Named = Literal["memorized", "reasoned"]


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
            given = donors(range(len(ids)), nothing)
            return tops_under(self.model, list(ids), interventions, given, wanted, **where)
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
