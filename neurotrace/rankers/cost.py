"""What a ranking costs in forward and backward passes: a number that no machine changes."""

from __future__ import annotations

from neurotrace.models.hooks import ModelInfo

_STEPS = {"slimming": 200, "hard_concrete": 400}  # their defaults


def passes(name: str, kind: str, info: ModelInfo, pairs: int) -> float:
    """Forward and backward passes a pair for one direction; reading the donor counts one."""
    reads = 0 if kind == "zero" else 1
    counts: dict[str, float] = {
        "random": 0, "magnitude": 0, "contrast": 2, "pearson": 2, "imprint": 2, "gradient": 2 + reads,
        "relp": 2 + reads, "slope": 2 + reads, "two_ended": 4 + reads, "direct": 1 + reads,
        "log_increase": 1 + reads, "integrated": 2 * 5 * info.n_layers + 1 + reads,
        "exact": info.n_neurons + 1 + reads,
    }  # fmt: skip
    if name in _STEPS:
        # a step is a pass each way over a batch of at most 32 pairs
        return round(2 * _STEPS[name] * min(32, pairs) / pairs, 1)
    return counts[name]
