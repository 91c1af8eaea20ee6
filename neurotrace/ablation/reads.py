"""What is read of a pair: L of two first tokens in one pass, or of whole answers in one pass a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.ablation.task import Task
from neurotrace.engine.edits import Run
from neurotrace.engine.metrics import logit_difference, sequence_log_probability

_TOGETHER = 512  # rows whose logits over the vocabulary are made at once


@dataclass(frozen=True)
class Pass:
    """A prompt, with the answer's tokens that are read behind it."""

    ids: Int[Tensor, "1 pos"]
    answer: int  # 0: the memorized one, 1: the reasoned one; first tokens are read of both at once
    tokens: Int[Tensor, " token"]
    whole: bool
    run: Run | None = None

    @property
    def behind(self) -> int:
        """Number of tokens behind the prompt."""
        return len(self.tokens) - 1 if self.whole else 0

    def read(self, logits: Float[Tensor, "row *token vocab"]) -> Float[Tensor, " row"]:
        """L of the two first tokens, or log p of these."""
        if not self.whole:
            return logit_difference(logits, *self.tokens[:, None].expand(-1, len(logits)))
        return sequence_log_probability(logits, self.tokens.expand(len(logits), -1))

    def of(self, engine: Any, hidden: Tensor) -> Float[Tensor, " row"]:
        """The same from the engine's `hidden`."""
        if not self.whole:
            found: Tensor = engine.logit_difference(hidden, *self.tokens)
            return found
        return torch.cat([self.read(engine.logits(part)) for part in hidden.split(_TOGETHER)])


def passes_of(task: Task, row: int, ids: Int[Tensor, "1 pos"]) -> list[Pass]:
    encoded = task.encoded
    one_each = encoded.answers is None or [[len(s) for s in a] for a in encoded.answers[row]] == [[1], [1]]
    if one_each:
        return [Pass(ids, 0, torch.stack([encoded.memorized[row], encoded.reasoned[row]]), whole=False)]
    assert encoded.answers is not None
    asked = [(at, torch.tensor(each)) for at, answer in enumerate(encoded.answers[row]) for each in answer]
    return [Pass(torch.cat([ids, each[None, :-1]], dim=1), at, each, whole=True) for at, each in asked]


def together(passes: Sequence[Pass], read: Sequence[Float[Tensor, " row"]]) -> Float[Tensor, " row"]:
    """L from what each pass reads."""
    if not passes[0].whole:
        return read[0]
    of = []
    for answer in (0, 1):
        own = [log_p.double() for each, log_p in zip(passes, read, strict=True) if each.answer == answer]
        of.append(torch.stack(own).logsumexp(0))
    return (of[0] - of[1]).float()
