"""What a study is asked to try, and how it splits and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.interventions.kinds import Kind, parse_kind
from neurotrace.models.hooks import ModelInfo
from neurotrace.rankers.registry import ranker_of

DEFAULT_METHODS = ("gradient", "two_ended")
DEFAULT_KINDS: tuple[Kind, ...] = (
    "patch", "set", "zero", "mean", "shift", "scale",
    "steer:0.7", "steer:0.85", "steer", "steer:1.5",
)  # fmt: skip


@dataclass(frozen=True)
class StudySettings:
    """The choices of one study; `study` explains each."""

    methods: tuple[str, ...]
    kinds: tuple[Kind, ...]
    ks: tuple[int, ...]
    split: str
    folds: int
    seed: int
    neutral: tuple[str, ...]
    tried_on: int

    def check(self, info: ModelInfo) -> None:
        """`InputError` for unknown names, none at all, or more neurons than half of the model's."""
        if not self.methods or not self.kinds:
            raise InputError("expected at least one method and one intervention")
        for method in self.methods:
            ranker_of(method)
        for kind in self.kinds:
            parse_kind(kind)
        most = info.n_neurons // 2
        for k in self.ks:
            if not 1 <= k <= most:
                raise InputError(f"k={k}: expected 1 to {most}, half of the model's neurons")

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "methods": list(self.methods), "interventions": list(self.kinds), "ks": list(self.ks),
            "neutral_texts": len(self.neutral), "tried_on": self.tried_on,
        }  # fmt: skip


def default_ks(n_neurons: int) -> tuple[int, ...]:
    """Four sizes up to 1 % of the neurons, at most 64 of them: 64 are 0.14 % of SmolLM2-135M's."""
    limit = max(1, min(64, n_neurons // 100))
    largest = 1 << (limit.bit_length() - 1)
    return tuple(k for k in (largest // 8, largest // 4, largest // 2, largest) if k)
