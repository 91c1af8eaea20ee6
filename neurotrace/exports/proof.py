"""The law of an export: under it the model answers as under our hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.display import percent
from neurotrace.core.pairs import PromptPair
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.interventions.damage import neutral_ids, neutral_texts
from neurotrace.interventions.donors import donor_values
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import logits_under
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.protocol import HookedModel

# prompts and their donor runs' values, for those who take any -> logits at the last position
Answers = Callable[[Int[Tensor, "prompt pos"], Tensor | None], Float[Tensor, "prompt vocab"]]

TOLERANCE = 1e-5  # of the largest logit, in float32
_HALF = 2e-2  # in half precision


@dataclass(frozen=True)
class Proof:
    """How far an exported form is from our hooks, on the same prompts.

    Attributes:
        difference: the largest of a logit, over prompts and tokens.
        relative: the same as a share of the largest logit.
        tolerance: what `relative` may be at most.
        flips: share of pairs whose answer flips, under our hooks; None: there were no pairs.
        equal_flips: whether the same pairs flip under the exported form.
        read_flips: of the same pairs at the read position alone, as a study measures them.
    """

    prompts: int
    positions: str
    difference: float
    relative: float
    tolerance: float
    flips: float | None = None
    equal_flips: bool | None = None
    read_flips: float | None = None

    @property
    def holds(self) -> bool:
        return self.relative <= self.tolerance and self.equal_flips is not False

    def __str__(self) -> str:
        said = (
            f"logits of {self.prompts} prompts within {self.difference:.1g} of ours, "
            f"{self.relative:.1g} of the largest"
        )
        if self.flips is None:
            return said
        same = "the same pairs" if self.equal_flips else "other pairs"
        beside = f", {percent(self.read_flips)} at the read position alone"
        return f"{said}; {percent(self.flips)} flip, {same}{beside if self.positions == 'all' else ''}"

    def record(self) -> dict[str, Any]:
        """For the JSON beside the exported form."""
        return asdict(self) | {"holds": self.holds}


def prove(
    model: HookedModel,
    intervention: Intervention,
    exported: Answers,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    *,
    last: bool = False,
) -> Proof:
    """Compare on the pairs' prompts, or on the neutral texts where there are none.

    Args:
        exported: the form, as a function of prompts of equal length.
        last: it changes the last position alone; else all positions.
    """
    tolerance = TOLERANCE if next(model.parameters()).dtype == torch.float32 else _HALF
    where: Any = "read" if last else "all"
    apart, size = 0.0, 1.0

    def compare(ours: Tensor, theirs: Tensor) -> None:
        nonlocal apart, size
        apart = max(apart, float((ours - theirs).abs().max()))
        size = max(size, float(ours.abs().max()))

    if not len(pairs):
        prompts = neutral_ids(model, neutral_texts(model))
        for _, ids in by_length(prompts, 8):
            _, changed = logits_under(model, ids, [intervention], [None], positions=where)
            compare(next(changed), exported(ids, None))
        return Proof(len(prompts), where, apart, apart / size, tolerance)
    encoded = encode(model, pairs)
    refuse_whole(encoded, "an export's proof")
    same, flips, read = True, 0, 0
    wanted = encoded.reasoned if intervention.donor == "reasoning" else encoded.memorized
    for rows, ids in by_length(encoded.ids(intervention.recipient), 8):
        donors = donor_values(model, encoded, [intervention], rows, "read", None)
        _, changed = logits_under(model, ids, [intervention], donors, positions=where)
        _, at_read = logits_under(model, ids, [intervention], donors, positions="read")
        logits, other = next(changed), exported(ids, donors[0])
        compare(logits, other)
        flipped, also, at_last = (
            each.argmax(-1) == wanted[rows] for each in (logits, other, next(at_read))
        )
        same = same and bool((flipped == also).all())
        flips, read = flips + int(flipped.sum()), read + int(at_last.sum())
    n = len(encoded)
    return Proof(n, where, apart, apart / size, tolerance, flips / n, same, read / n)
