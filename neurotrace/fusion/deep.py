"""Deep fusion: several views of one input, each with its own network, weighted by Bayesian inference.

After BMVAE (Machine Learning 111(12), 2022). `experts.py` trains the networks, `selector.py` infers how
far each view is to be believed, for each input and overall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import cohen_kappa_score
from sklearn.utils.validation import check_is_fitted

from neurotrace.core.errors import InputError
from neurotrace.fusion.experts import COMPRESSION, LATENT, Evidence, Experts, require_pyro, trained
from neurotrace.fusion.reading import Scale, folds_of, outcomes, read
from neurotrace.fusion.selector import KINDS, Kind, alone, infer, overall, pooled, probabilities, weigh

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Views = Mapping[str, Any]
WEIGHED = 600  # rows that the weights are inferred from, at most


class DeepFusion(ClassifierMixin, BaseEstimator):
    """A classifier on views of any shape, any of which may be missing.

    Args:
        kind: "product" adds up what the views say, "mixture" believes one view an input.
        latent, hidden: dimensions of the shared latent, units of each network's hidden layer.
        steps: of training, per fold.
        compression: β, the price of information in the latent; it keeps experts from over-confidence.
        decoding: share of the decoders in the objective; 0 for none. `reconstruct` needs them.
        folds: networks are trained on all folds but one and weighed on that one; predictions pool
            them. `groups` given to `fit` stay whole.
        draws: from the posterior of the weights.
        seed: for folds, networks and draws.

    A view is an array with a row an input; NaN marks a missing row, and a name left out at prediction a
    view that is missing for all rows. After `fit`: `classes_`, `names_`, `draws_` and `ess_`, the effective
    number of draws.
    """

    def __init__(
        self,
        kind: Kind = "product",
        latent: int = LATENT,
        hidden: int = 32,
        steps: int = 250,
        compression: float = COMPRESSION,
        decoding: float = 0.0,
        folds: int = 3,
        draws: int = 800,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.latent = latent
        self.hidden = hidden
        self.steps = steps
        self.compression = compression
        self.decoding = decoding
        self.folds = folds
        self.draws = draws
        self.seed = seed

    def fit(self, views: Views, y: Any, groups: Any = None) -> DeepFusion:
        """Train the networks and infer the weights.

        Args:
            views: name -> array [row, ...]; NaN where a row lacks the view.
            y: outcomes, two classes or more.
            groups: rows with equal groups stay in one fold.

        Raises:
            InputError: Pyro is missing, views that don't match, too few rows of a class, or a posterior
                that has not converged.
        """
        require_pyro()
        if self.kind not in KINDS:
            raise InputError(f"kind={self.kind!r}: expected 'product' or 'mixture'")
        self.classes_, places = outcomes(y)
        self.names_ = list(views)
        arrays, there = read(views, self.names_, len(places))
        self.shapes_ = [array.shape[1:] for array in arrays]
        parts = folds_of(places, groups, self.folds, self.seed)
        self.members_, held_out, order = [], [], []
        for number, (own, other) in enumerate(parts):
            scale = Scale(arrays, there, own)
            experts = trained(
                scale.widths,
                len(self.classes_),
                scale.tensors(arrays, there, own),
                there[own],
                places[own],
                latent=self.latent,
                hidden=self.hidden,
                steps=self.steps,
                compression=self.compression,
                decoding=self.decoding,
                seed=self.seed * 1000 + number,
            )
            self.members_.append((scale, experts))
            held_out.append(self._evidence(scale, experts, arrays, there, other))
            order.append(other)
        self.evidence_ = joined(held_out)
        self.outcomes_ = places[np.concatenate(order)]
        self.draws_, self.ess_ = self._infer(self.evidence_, self.outcomes_)
        self.partial_: dict[tuple[bool, ...], Array] = {}
        return self

    def predict_proba(self, views: Views) -> Float[Array, "row class"]:
        """P(class), averaged over posterior draws and pooled over the folds' networks (`selector.pooled`).

        Rows that lack views are judged by weights that were inferred without these views: one view may have
        had little weight only because another one knew the same. That takes a second a set of views.
        """
        said = self._said(views)
        found = np.zeros_like(said[0].intercept)
        for rows, draws in self._patterns(said[0]):
            each = [probabilities(self.kind, rows_of(part, rows), draws).mean(axis=0) for part in said]
            found[rows] = pooled(each)
        return found

    def predict(self, views: Views) -> Array:
        """The likeliest class."""
        return self.classes_[self.predict_proba(views).argmax(axis=1)]

    def input_weights(self, views: Views) -> pd.DataFrame:
        """Rows (row, view, weight, low, high, strength): whom the fusion believes on which input.

        A row's weights sum to one; the interval holds 95 % of posterior draws and networks. The strength
        is not relative to the other views, so it is what tells a spoilt view: see `selector.weigh`.
        """
        import pandas as pd

        said = self._said(views)
        shape = (len(said) * len(self._few()), *said[0].precision.shape)
        weight, strength = np.zeros(shape), np.zeros(shape)
        for at, draws in self._patterns(said[0]):
            each = [weigh(self.kind, rows_of(part, at), draws) for part in said]
            weight[:, at], strength[:, at] = (np.concatenate([e[n] for e in each]) for n in (0, 1))
        low, high = np.quantile(weight, [0.025, 0.975], axis=0)
        rows, count = low.shape
        return pd.DataFrame(
            {
                "row": np.repeat(np.arange(rows), count),
                "view": np.tile(self.names_, rows),
                "weight": weight.mean(axis=0).ravel(),
                "low": low.ravel(),
                "high": high.ravel(),
                "strength": strength.mean(axis=0).ravel(),
            }
        )

    def weights(self) -> pd.DataFrame:
        """Rows (view, weight, low, high, adds, adds_low, adds_high).

        Weight: the view's share over all training rows, each judged by networks that did not see it, and
        its 95 % credible interval. Adds: what the log-likelihood of the outcome loses, in nats a row, when
        the view is taken away and the other weights stay, and its 95 % interval over rows.
        """
        import pandas as pd

        check_is_fitted(self)
        share = overall(self.kind, self.evidence_, self._few(100))
        low, high = np.quantile(share, [0.025, 0.975], axis=0)
        rows = np.arange(len(self.outcomes_))

        def fit(evidence: Evidence) -> Float[Array, " row"]:
            p = probabilities(self.kind, evidence, self._few()).mean(axis=0)
            return np.log(np.clip(p[rows, self.outcomes_], 1e-12, 1))

        whole = fit(self.evidence_)
        lost = np.stack([whole - fit(without(self.evidence_, m)) for m in range(len(self.names_))])
        error = 1.96 * lost.std(axis=1) / np.sqrt(len(rows))
        return pd.DataFrame(
            {
                "view": self.names_,
                "weight": share.mean(axis=0),
                "low": low,
                "high": high,
                "adds": lost.mean(axis=1),
                "adds_low": lost.mean(axis=1) - error,
                "adds_high": lost.mean(axis=1) + error,
            }
        )

    def agreement(self) -> pd.DataFrame:
        """Cohen's κ between the answers of each two experts, on rows that they were not trained on."""
        import pandas as pd

        check_is_fitted(self)
        said = alone(self.evidence_).argmax(axis=2).T
        there = self.evidence_.precision.T > 0
        found = np.eye(len(said))
        for a in range(len(said)):
            for b in range(a):
                both = there[a] & there[b]
                kappa = cohen_kappa_score(said[a][both], said[b][both]) if both.any() else np.nan
                found[a, b] = found[b, a] = kappa
        return pd.DataFrame(found, index=self.names_, columns=self.names_)

    def reconstruct(self, views: Views, name: str) -> Float[Array, "row ..."]:
        """The view `name` as decoded from the views that are there.

        Raises:
            InputError: an unknown view, or a fit without decoders.
        """
        check_is_fitted(self)
        if name not in self.names_ or not self.decoding:
            raise InputError(
                f"{name!r} can't be decoded: expected one of {', '.join(self.names_)} and a fit with "
                "decoding= above 0"
            )
        place = self.names_.index(name)
        arrays, there = read(views, self.names_, None, self.shapes_)
        found = []
        for scale, experts in self.members_:
            latent = experts.latent(scale.tensors(arrays, there), torch.from_numpy(there))
            with torch.no_grad():
                found.append(scale.back(experts.decoders[place](latent).double().numpy(), place))
        return np.mean(found, axis=0).reshape(-1, *self.shapes_[place])

    def _infer(self, evidence: Evidence, y: Array) -> tuple[Float[Array, "draw dim"], float]:
        picked = np.random.default_rng(self.seed).permutation(len(y))[:WEIGHED]
        return infer(self.kind, rows_of(evidence, picked), y[picked], draws=self.draws, seed=self.seed)

    def _few(self, count: int = 50, draws: Array | None = None) -> Float[Array, "draw dim"]:
        """Draws, evenly thinned."""
        check_is_fitted(self)
        draws = self.draws_ if draws is None else draws
        return draws[np.linspace(0, len(draws) - 1, min(count, len(draws))).astype(int)]

    def _patterns(self, evidence: Evidence) -> list[tuple[Array, Float[Array, "draw dim"]]]:
        """(rows that have the same views, draws of the weights of these views)."""
        patterns, number = np.unique(evidence.precision > 0, axis=0, return_inverse=True)
        found = []
        for place, pattern in enumerate(patterns):
            key, draws = tuple(map(bool, pattern)), self.draws_
            if any(key) and not all(key):
                if key not in self.partial_:
                    have = np.flatnonzero((self.evidence_.precision[:, pattern] > 0).all(axis=1))
                    only, y = masked(rows_of(self.evidence_, have), pattern), self.outcomes_[have]
                    self.partial_[key] = self._infer(only, y)[0] if len(np.unique(y)) > 1 else draws
                draws = self.partial_[key]
            found.append((np.flatnonzero(number.ravel() == place), self._few(draws=draws)))
        return found

    def _said(self, views: Views) -> list[Evidence]:
        check_is_fitted(self)
        arrays, there = read(views, self.names_, None, self.shapes_)
        return [self._evidence(scale, experts, arrays, there) for scale, experts in self.members_]

    @staticmethod
    def _evidence(
        scale: Scale, experts: Experts, arrays: list[Array], there: Array, rows: Any = slice(None)
    ) -> Evidence:
        return experts.evidence(scale.tensors(arrays, there, rows), torch.from_numpy(there[rows]))


def joined(parts: list[Evidence]) -> Evidence:
    """Evidence of several sets of rows as one."""
    return Evidence(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.precision for part in parts]),
        np.concatenate([part.intercept for part in parts]),
    )


def rows_of(evidence: Evidence, rows: Array) -> Evidence:
    return Evidence(evidence.logits[rows], evidence.precision[rows], evidence.intercept[rows])


def without(evidence: Evidence, view: int) -> Evidence:
    """The same with one view missing."""
    return masked(evidence, np.arange(evidence.precision.shape[1]) != view)


def masked(evidence: Evidence, keep: Bool[Array, " view"]) -> Evidence:
    """The same with the other views missing."""
    return Evidence(evidence.logits * keep[:, None], evidence.precision * keep, evidence.intercept)
