"""Sanity checks on data where each idea must work: `python -m neurotrace.detectors` prints both tables.

Invariance: coloured digits, the colour's meaning reversed at test. ERM, known environments and
generated ones. Balance: the same digit in a strong, a weak, a noise and a copied view. Bayesian weights
against plain averaging and a plain product of the same experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from sklearn.metrics import log_loss

from neurotrace.detectors.digits import coloured_digits, digit_views
from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.judging import ece

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("erm", "irm known", "vrex known", "groupdro known", "irm generated", "vrex generated")


def prove_invariance(seeds: Iterable[int], methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Accuracy on the training environments and on the reversed test set, a row a seed and method.

    "grey" is trained on the same digits without colour: the score of a perfect method.
    """
    import pandas as pd

    rows = []
    for seed in seeds:
        train, test = coloured_digits(seed)
        grey = [part.X[:, :64] + part.X[:, 64:] for part in (train, test)]
        clear = InvariantDetector("none", seed=seed).fit(grey[0], train.y)
        rows.append((seed, "grey", clear.score(grey[0], train.y), clear.score(grey[1], test.y)))
        for method in methods:
            penalty, _, environments = method.partition(" ")
            detector = InvariantDetector("none" if penalty == "erm" else penalty, seed=seed)  # type: ignore[arg-type]
            known = train.environment if environments == "known" else None
            detector.fit(train.X, train.y, environment=known)
            rows.append(
                (seed, method, detector.score(train.X, train.y), detector.score(test.X, test.y))
            )
    return pd.DataFrame(rows, columns=["seed", "method", "train", "reversed_test"])


def prove_balance(seeds: Iterable[int]) -> pd.DataFrame:
    """Accuracy, log-loss, ECE and the weight of each view on held-out digits, with and without the copy.

    "average" is the mean of the experts' probabilities, "plain product" the sum of their logits.
    """
    import pandas as pd

    rows = []
    for seed in seeds:
        for copy in (False, True):
            views, train, test = digit_views(seed, copy=copy)
            columns = {name: (part.start, part.stop) for name, part in views.items()}
            fitted = {
                kind: FusedDetector(columns, kind, seed=seed).fit(*train)  # type: ignore[arg-type]
                for kind in ("mixture", "product")
            }
            experts = np.column_stack([
                expert.decision_function(test[0][:, views[name]])
                for name, expert in zip(views, fitted["product"].experts_, strict=True)
            ])  # fmt: skip
            judged: dict[str, tuple[np.ndarray, dict[str, float]]] = {
                "average": (expit(experts).mean(axis=1), {}),
                "plain product": (expit(experts.sum(axis=1)), {}),
            } | {
                f"bayesian {kind}": (
                    detector.predict_proba(test[0])[:, 1],
                    {name: mean for name, (mean, _) in detector.weights().items()}
                    | {f"{name} sd": sd for name, (_, sd) in detector.weights().items()},
                )
                for kind, detector in fitted.items()
            }
            for method, (p, weights) in judged.items():
                rows.append(
                    {
                        "seed": seed, "with_copy": copy, "method": method,
                        "accuracy": float(np.mean((p > 0.5) == (test[1] == 1))),
                        "log_loss": log_loss(test[1], p), "ece": ece(p, test[1]),
                    } | weights
                )  # fmt: skip
    return pd.DataFrame(rows)
