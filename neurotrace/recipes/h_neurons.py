"""H-Neurons: a sparse logistic regression on each neuron's contribution to its MLP's output.

    CETT_i = |a_i| * ||w_i|| / (||MLP output|| + 1e-8)

with w_i what the neuron writes. L1-penalized logistic regression tells the two behaviours by it; neurons
with a weight towards a behaviour are its neurons. They are multiplied by alpha in [0, 3].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import SIDES
from neurotrace.interventions.kinds import parse_kind
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import Point
from neurotrace.models.sites import read_sites
from neurotrace.rankers.training import Training
from neurotrace.recipes.base import Rank, Recipe, by_neurons
from neurotrace.studies.selection import Ground, StudySettings

_SCREENED = 4096  # features of the regression, those whose classes differ most
_PENALTY = 0.1  # scikit-learn's C


def _prepare(ground: Ground, settings: StudySettings, progress: Progress) -> Rank:
    table = _contributions(ground)
    known: dict[tuple[int, ...], Tensor] = {}

    def rank(training: Training) -> Scores:
        rows = tuple(training.rows)
        if rows not in known:
            known[rows] = _weights(table[:, list(rows)])
        to, (_, strength) = training.direction, parse_kind(training.kind)
        # weights are towards memory: suppress the recipient's neurons, or amplify the donor's
        side = to.recipient if strength < 1 else to.donor
        wanted = known[rows] if side == "memorization" else -known[rows]
        unit = "weight of the regression"
        return Scores("h-neurons", to.sign * wanted, unit, provenance=training.record())

    return rank


def _contributions(ground: Ground) -> Float[Tensor, "side pair layer neuron"]:
    """CETT of every neuron at the prompt's last token."""
    values = ground.evidence.activations.values
    points: list[Point] = [("mlp", layer) for layer in range(values.shape[2])]
    sums = torch.empty(values.shape[:3])
    for place, side in enumerate(SIDES):
        for rows, ids in by_length(ground.own.ids(side), 32):
            read = read_sites(ground.model, ids, points)
            sums[place, rows] = torch.stack([read[point].norm(dim=1) for point in points], dim=1)
    norms = ground.evidence.norms  # pair (or one), layer, neuron
    return values.abs() * norms / (sums[..., None] + 1e-8)


def _weights(table: Float[Tensor, "side pair layer neuron"]) -> Float[Tensor, "layer neuron"]:
    """Weights towards memory; neurons without one follow far behind, by the difference of the classes."""
    from inspect import signature

    from sklearn.linear_model import LogisticRegression

    flat: Any = table.flatten(2).flatten(0, 1).numpy()
    y = np.repeat([1, 0], table.shape[1])
    spread = flat.std(axis=0)
    apart = (flat[y == 1].mean(axis=0) - flat[y == 0].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    some = np.argsort(-np.abs(apart), kind="stable")[:_SCREENED]
    x = (flat[:, some] - flat[:, some].mean(axis=0)) / np.where(spread[some] > 0, spread[some], 1.0)
    # since scikit-learn 1.8 the penalty is named by its share
    old = signature(LogisticRegression).parameters["penalty"].default != "deprecated"
    lasso: dict[str, Any] = {"penalty": "l1"} if old else {"l1_ratio": 1.0}
    fit = LogisticRegression(C=_PENALTY, solver="liblinear", random_state=0, **lasso).fit(x, y)
    weights = apart * 1e-6
    weights[some] += fit.coef_[0]
    return torch.from_numpy(weights).float().view(table.shape[2:])


H_NEURONS = Recipe(
    "h-neurons",
    "H-Neurons",
    "Gao et al., arXiv 2512.01797",
    "L1 logistic regression on each neuron's contribution (CETT); those with a weight are multiplied by α.",
    (
        "The classes are the two behaviours, not hallucinated and faithful answers.",
        "CETT is read at the prompt's last token, not averaged over answer tokens.",
        f"Standardized features, the {_SCREENED:,} whose classes differ most; C is {_PENALTY}.",
        "α is chosen on training pairs out of 0, 2 and 3; sizes up to 1 % are tried; where fewer neurons "
        "have a weight, those whose classes differ most follow.",
    ),
    by_neurons("h-neurons", ("scale:0", "scale", "scale:3"), prepare=_prepare, shares=(0.001,)),
)
