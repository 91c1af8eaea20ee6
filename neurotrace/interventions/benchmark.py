"""Side effects on a benchmark: multiple-choice accuracy before and under interventions.

The model's choice is the one with the highest log-likelihood after the question and a space, all its
tokens together, as `acc` in lm-evaluation-harness. An intervention acts at the question's last token and
at each token of the choice; a patch writes the mean of its donor class, as there is no donor run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from neurotrace.core import statistics
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.prompts import Item
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.continuing import likelihoods
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.origins import context_length, tokenizer_of
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Benchmark:
    """Which items are answered rightly: by the unchanged model, and under each intervention."""

    before: Bool[np.ndarray, " item"]
    after: tuple[Bool[np.ndarray, " item"], ...]
    interventions: tuple[Intervention, ...]

    def record(self) -> dict[str, Any]:
        """Accuracies and the changes of accuracy with 95 % intervals over items: JSON types."""
        rows = range(len(self.before))
        return {
            "items": len(self.before),
            "before": float(self.before.mean()),
            "before_ci": statistics.rate_interval(self.before, rows),
            "after": [
                {
                    "family": str(each.provenance.get("family", "")),
                    "direction": str(each.direction),
                    "accuracy": float(right.mean()),
                    "accuracy_ci": statistics.rate_interval(right, rows),
                    "change": float(right.mean() - self.before.mean()),
                    "change_ci": statistics.mean_interval(right * 1.0 - self.before, rows),
                }
                for each, right in zip(self.interventions, self.after, strict=True)
            ],
        }


def item_ids(model: HookedModel, items: Sequence[Item]) -> list[list[tuple[list[int], list[int]]]]:
    """For each item the token ids of its question and of each choice.

    Raises:
        InputError: an item that is longer than the model takes; a choice without tokens, or one that merges
            with the question's last token.
    """
    tokenizer, limit = tokenizer_of(model), context_length(model)
    found = []
    for item in items:
        question = item.question.rstrip()
        context = tokenizer(question).input_ids
        asked = []
        for choice in item.choices:
            whole = tokenizer(f"{question} {choice.strip()}").input_ids
            asked.append((context, whole[len(context) :]))
            if not context or len(whole) <= len(context) or len(whole) > (limit or len(whole)):
                bound = f" and {limit} at most" if limit else ""
                raise InputError(
                    f"item {item.id}: {len(context)} tokens, {len(whole)} with the choice {choice!r}: "
                    f"expected at least one of each{bound}"
                )
            if whole[: len(context)] != context:
                raise InputError(
                    f"item {item.id}: {choice!r} changes the tokens of the question before it, so "
                    "that it has no likelihood after the question: end the question with another sign"
                )
        found.append(asked)
    return found


@takes_turns
def benchmark(
    model: HookedModel,
    items: Sequence[Item],
    interventions: Sequence[Intervention],
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Benchmark:
    """Answer every item, unchanged and under each intervention.

    Raises:
        InputError: as `item_ids`; a patch that carries no mean of its donor class.
    """
    asked = item_ids(model, items)
    flat = [request for of_item in asked for request in of_item]
    right = []
    for change in (None, *interventions):
        found = iter(likelihoods(model, flat, change, batch_size=batch_size, progress=progress))
        chosen = [int(np.argmax([next(found).log_probability for _ in item.choices])) for item in items]
        right.append(np.array([a == i.answer for a, i in zip(chosen, items, strict=True)]))
    return Benchmark(right[0], tuple(right[1:]), tuple(interventions))
