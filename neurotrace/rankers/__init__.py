"""Rankers: one file a method, one signature, `(model, pairs, *, donor, intervention, ...) -> Scores`.

What a ranking predicts is the intervention named in it: the effect on L of doing it to one neuron of
the recipient run. The random ranking is a ranker too: whatever is claimed stands beside it.

May import: ablation and below; never sweeps.
To add one: a file with its function, and a row of `RANKERS` in registry.py.
"""

from neurotrace.rankers.contrast import contrast, pearson
from neurotrace.rankers.direct import direct
from neurotrace.rankers.exact import exact
from neurotrace.rankers.gradient import gradient
from neurotrace.rankers.hard_concrete import hard_concrete
from neurotrace.rankers.integrated import integrated
from neurotrace.rankers.log_increase import log_increase
from neurotrace.rankers.magnitude import magnitude
from neurotrace.rankers.random import random_scores
from neurotrace.rankers.relp import relp
from neurotrace.rankers.slimming import slimming
from neurotrace.rankers.slope import slope
from neurotrace.rankers.two_ended import two_ended

__all__ = [
    "contrast", "direct", "exact", "gradient", "hard_concrete", "integrated", "log_increase",
    "magnitude", "pearson", "random_scores", "relp", "slimming", "slope", "two_ended",
]  # fmt: skip
