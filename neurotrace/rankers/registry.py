"""Every ranker by its name: its cost, and how it ranks from the data that a study has read.

All lists of rankers (of `run`, `rank`, `inject` and `overlap`) are queries of `RANKERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from neurotrace.core.errors import InputError, one_of
from neurotrace.core.scores import Scores
from neurotrace.models.hooks import ModelInfo
from neurotrace.rankers import exact as exactly, gradient as gradients, two_ended as ends
from neurotrace.rankers.contrast import (
    contrast,
    contrast_from_evidence,
    pearson,
    pearson_from_evidence,
)
from neurotrace.rankers.direct import direct
from neurotrace.rankers.hard_concrete import hard_concrete
from neurotrace.rankers.imprint import imprint
from neurotrace.rankers.integrated import integrated
from neurotrace.rankers.log_increase import log_increase
from neurotrace.rankers.magnitude import magnitude
from neurotrace.rankers.random import random_scores
from neurotrace.rankers.relp import relp
from neurotrace.rankers.screened import CANDIDATES, screened
from neurotrace.rankers.slimming import slimming
from neurotrace.rankers.slope import slope
from neurotrace.rankers.training import Training


def _unknown(info: ModelInfo, pairs: int, reads: int) -> float:
    return math.nan


def _learning(steps: int) -> Callable[[ModelInfo, int, int], float]:
    """A step is a pass each way over a batch of at most 32 pairs."""
    return lambda info, pairs, reads: round(2 * steps * min(32, pairs) / pairs, 1)


@dataclass(frozen=True)
class Ranker:
    """A method.

    Attributes:
        function: ``(model, pairs, *, donor, kind, progress) -> Scores``.
        passes: (model, pairs, 1 if the donor run is read else 0) -> forward and backward passes a pair
            for one direction. The number does not depend on the machine.
        from_evidence: the same scores from what a study has read; None: `function` is called.
        mean_over_pairs: whether a score is a mean over pairs, so that groups of pairs can be resampled.
        learned: whether it is found by gradient descent over all neurons at once.
        compared: whether ``rank --methods all`` and ``inject --methods all`` have it.
        kinds: interventions that ``rank --methods all`` ranks for beside `patch`.
    """

    function: Callable[..., Scores]
    passes: Callable[[ModelInfo, int, int], float] = _unknown
    from_evidence: Callable[[Training], Scores] | None = None
    mean_over_pairs: bool = True
    learned: bool = False
    compared: tuple[str, ...] = ("rank", "inject")
    kinds: tuple[str, ...] = ()


RANKERS: dict[str, Ranker] = {
    "gradient": Ranker(
        gradients.gradient, lambda m, n, reads: 2 + reads, gradients.from_evidence, kinds=("mean",)
    ),
    "two_ended": Ranker(
        ends.two_ended,
        lambda m, n, reads: 4 + reads,
        ends.from_evidence,
        compared=("rank",),
    ),
    "contrast": Ranker(contrast, lambda m, n, reads: 2, contrast_from_evidence),
    "pearson": Ranker(
        pearson,
        lambda m, n, reads: 2,
        pearson_from_evidence,
        mean_over_pairs=False,
        compared=("rank",),
    ),
    "direct": Ranker(direct, lambda m, n, reads: 1 + reads),
    "integrated": Ranker(integrated, lambda m, n, reads: 2 * 5 * m.n_layers + 1 + reads),
    "relp": Ranker(relp, lambda m, n, reads: 2 + reads),
    "log_increase": Ranker(log_increase, lambda m, n, reads: 1 + reads),
    "slimming": Ranker(slimming, _learning(200), mean_over_pairs=False, learned=True),
    "hard_concrete": Ranker(hard_concrete, _learning(400), mean_over_pairs=False, learned=True),
    "magnitude": Ranker(magnitude, lambda m, n, reads: 0),
    "exact": Ranker(
        exactly.exact, lambda m, n, reads: m.n_neurons + 1 + reads, exactly.from_evidence, kinds=("mean",)
    ),
    "screened": Ranker(screened, lambda m, n, reads: min(CANDIDATES, m.n_neurons) + 2 + reads, compared=()),
    "slope": Ranker(slope, lambda m, n, reads: 2 + reads, compared=("inject",)),
    "imprint": Ranker(imprint, lambda m, n, reads: 2, compared=("inject",)),
    "random": Ranker(random_scores, lambda m, n, reads: 0, mean_over_pairs=False),
}


def register_ranker(name: str, ranker: Ranker) -> None:
    """Add a ranker, so that `nt.study`, `nt.compare` and ``--method`` know it.

    Example::

        register_ranker("mine", Ranker(my_function))

    Raises:
        InputError: the name is taken, or has a colon or a comma in it.
    """
    if name in RANKERS or not name or set(name) & set(":,"):
        raise InputError(f"ranker {name!r}: expected a new name without a colon or comma")
    RANKERS[name] = ranker


def ranker_of(name: str) -> Ranker:
    """The ranker of this name; `InputError` for an unknown one."""
    if name not in RANKERS:
        raise InputError(f"method {name!r}: {one_of(name, RANKERS)}")
    return RANKERS[name]


def compared_by(command: str) -> tuple[str, ...]:
    """The rankers that ``--methods all`` stands for; after their names, those for other kinds."""
    names = [name for name, ranker in RANKERS.items() if command in ranker.compared]
    more = [f"{name}:{kind}" for name in names for kind in RANKERS[name].kinds]
    return (*names, *(more if command == "rank" else ()))


def passes(name: str, kind: str, info: ModelInfo, pairs: int) -> float:
    """Forward and backward passes a pair for one direction; reading the donor counts one."""
    return ranker_of(name).passes(info, pairs, 0 if kind == "zero" else 1)


def rank(training: Training, method: str) -> Scores:
    """The ranking of `method` from training pairs."""
    ranker = ranker_of(method)
    if ranker.from_evidence is not None:
        return ranker.from_evidence(training)
    return ranker.function(
        training.model, training.pairs, donor=training.direction.donor, kind=training.kind
    )
