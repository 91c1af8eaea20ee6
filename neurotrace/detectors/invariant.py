"""A detector that may only use what predicts equally well in every environment.

Known environments (task, template, …) are given to `fit`; without them they are generated, by the
alternation of EDNIL: learn by ERM, then round after round divide the rows among environments
(`environments.py`) and go on learning with a penalty on relying on what differs (`risks.py`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from neurotrace.core.display import Cell
from neurotrace.core.errors import InputError
from neurotrace.detectors.base import Array, Basis, Detector, weights_frame, weights_rows
from neurotrace.detectors.environments import EnvironmentHeads
from neurotrace.detectors.risks import PENALTIES, Penalty, dro_weights, irm, risks, shares, vrex

if TYPE_CHECKING:
    import pandas as pd

# so strong that the penalty decides: on coloured digits less leaves the colour in (seeds 0 and 1)
STRENGTH: dict[Penalty, float] = {"irm": 1e5, "vrex": 1e5, "groupdro": 0.01, "none": 0.0}


class InvariantDetector(Detector):
    """Invariant classifier on any features, full-batch Adam.

    Args:
        penalty: "irm", "vrex", "groupdro", or "none" for plain ERM, which ignores environments.
        strength: λ of the penalty (η of GroupDRO) once it is on; None: `STRENGTH`.
        hidden: units of one hidden ReLU layer; 0 for a linear detector.
        warmup: ERM steps before the penalty, or the first generated environments, come in.
        steps: steps with the penalty on, over all rounds.
        count, rounds, divide_steps, temperature, balance, preserve: of generated environments: how
            many heads, how often they divide anew and for how many steps, and τ, β, γ.
        rate, l2, seed: of Adam.
    """

    FITTED = ("classes_", "n_features_in_", "coefs_", "intercepts_", "environments_")

    def __init__(
        self,
        penalty: Penalty = "vrex",
        strength: float | None = None,
        hidden: int = 0,
        warmup: int = 300,
        steps: int = 500,
        count: int = 2,
        rounds: int = 5,
        divide_steps: int = 100,
        temperature: float = 0.2,
        balance: float = 3.0,
        preserve: float = 5.0,
        rate: float = 0.01,
        l2: float = 1e-3,
        seed: int = 0,
    ) -> None:
        self.penalty = penalty
        self.strength = strength
        self.hidden = hidden
        self.warmup = warmup
        self.steps = steps
        self.count = count
        self.rounds = rounds
        self.divide_steps = divide_steps
        self.temperature = temperature
        self.balance = balance
        self.preserve = preserve
        self.rate = rate
        self.l2 = l2
        self.seed = seed

    def fit(self, X: Any, y: Any, environment: Any = None) -> InvariantDetector:
        """Learn from rows X with outcomes y.

        Args:
            environment: a label a row; None generates environments.

        After it `environments_` holds the number of each row's environment, -1 for plain ERM.
        """
        if self.penalty not in PENALTIES:
            raise InputError(f"penalty={self.penalty!r}: expected one of {', '.join(PENALTIES)}")
        X, outcome = self._read(X, y)
        basis = Basis(X)
        # unit variance a feature, which is what Adam's step size is for
        gain = np.sqrt(X.shape[1] if basis.axes is None else basis.axes.shape[1])
        Z = torch.from_numpy(basis.turn(X).astype(np.float64) * gain)
        net = _Net(Z.shape[1], self.hidden, self.rate, self.l2, self.seed)
        y_ = torch.from_numpy(outcome)
        everyone = torch.ones(len(y_), 1, dtype=torch.float64)
        strength = STRENGTH[self.penalty] if self.strength is None else self.strength
        if self.penalty == "none":
            net.train(Z, y_, everyone, "none", 0, self.warmup + self.steps)
            self.environments_ = np.full(len(y_), -1)
        elif environment is not None:
            self.environments_ = _numbers(environment, len(y_))
            net.train(Z, y_, everyone, "none", 0, self.warmup)
            member = _one_hot(self.environments_)
            net.train(Z, y_, member, self.penalty, strength, self.steps)
        else:
            self.environments_ = self._generate(net, Z, y_, everyone, strength)
        layers = net.layers()
        first = basis.unfold(layers[0][0] * gain, layers[0][1])
        self.coefs_ = [first[0], *(coef for coef, _ in layers[1:])]
        self.intercepts_ = [first[1], *(bias for _, bias in layers[1:])]
        return self

    def decision_function(self, X: Any) -> Array:
        h = self._check(X)
        for place, (coef, bias) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            h = (np.maximum(h, 0) if place else h) @ coef + bias
        return h[:, 0]

    def to_frame(self) -> pd.DataFrame:
        """Rows (feature, weight), the heaviest first; of a hidden layer the norm of what each feature
        feeds it."""
        check_is_fitted(self)
        first = self.coefs_[0]
        return weights_frame(
            first[:, 0] if len(self.coefs_) == 1 else np.linalg.norm(first, axis=1)
        )

    def _learnt(self) -> tuple[str, tuple[str, ...], list[tuple[Cell, ...]]]:
        sizes = np.bincount(self.environments_[self.environments_ >= 0])
        within = f" over environments of {', '.join(map(str, sizes))} rows" if len(sizes) else ""
        what = f"Penalty {self.penalty}{within}; {self.hidden or 'no'} hidden units."
        name = "norm of the weights" if self.hidden else "weight in the log-odds"
        return what, ("feature", name), weights_rows(self.to_frame())

    def _generate(
        self, net: _Net, Z: Tensor, y: Tensor, everyone: Tensor, strength: float
    ) -> Array:
        net.train(Z, y, everyone, "none", 0, self.warmup)
        heads = EnvironmentHeads(
            Z.shape[1], self.count, temperature=self.temperature, balance=self.balance,
            rate=self.rate, seed=self.seed,
        )  # fmt: skip
        found = torch.zeros(len(y), dtype=torch.long)
        for number in range(self.rounds):
            # the first division knows no invariant model to preserve: γ is 0
            found = heads.divide(
                Z, y, net.loss(Z, y), steps=self.divide_steps,
                preserve=self.preserve if number else 0.0,
            )  # fmt: skip
            member = _one_hot(np.unique(found.numpy(), return_inverse=True)[1])
            net.train(Z, y, member, self.penalty, strength, self.steps // self.rounds)
        return np.unique(found.numpy(), return_inverse=True)[1]


class _Net:
    """One or two linear maps and their optimiser."""

    def __init__(self, features: int, hidden: int, rate: float, l2: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        widths = [features, hidden, 1] if hidden else [features, 1]
        self.weights = []
        self.biases = []
        for wide, out in pairwise(widths):
            start = torch.randn(wide, out, generator=generator, dtype=torch.float64)
            self.weights.append((start * (2 / wide) ** 0.5 * (1 if hidden else 0)).requires_grad_())
            self.biases.append(torch.zeros(out, dtype=torch.float64, requires_grad=True))
        self.rate, self.l2 = rate, l2

    def logit(self, Z: Tensor) -> Tensor:
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            Z = (torch.relu(Z) if place else Z) @ weight + bias
        return Z[:, 0]

    def loss(self, Z: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return F.binary_cross_entropy_with_logits(self.logit(Z), y, reduction="none")

    def train(
        self, Z: Tensor, y: Tensor, member: Tensor, penalty: Penalty, strength: float, steps: int
    ) -> None:
        # a new optimiser a phase: the moments of the last phase's loss say nothing about this one's
        optimiser = torch.optim.Adam([*self.weights, *self.biases], lr=self.rate)
        share = shares(member)
        share = share[:, share.sum(dim=0) > 0]
        q = torch.full((share.shape[1],), 1 / share.shape[1], dtype=torch.float64)
        for _ in range(steps):
            logit = self.logit(Z)
            risk = risks(logit, y, share)
            loss = risk.mean() + self.l2 * sum((weight**2).sum() for weight in self.weights)
            if penalty == "groupdro":
                q = dro_weights(q, risk, strength)
                loss = loss - risk.mean() + q @ risk
            elif penalty != "none":
                loss = loss + strength * (irm(logit, y, share) if penalty == "irm" else vrex(risk))
                loss = loss / max(1.0, strength)  # Adam's moments, not its step, see the scale
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def layers(self) -> list[tuple[Array, Array]]:
        return [
            (weight.detach().numpy(), bias.detach().numpy())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]


def _numbers(environment: Any, rows: int) -> Array:
    given = np.asarray(environment)
    if given.shape != (rows,):
        raise InputError(
            f"environment has shape {given.shape}, expected a label for each of {rows} rows"
        )
    return np.unique(given, return_inverse=True)[1]


def _one_hot(numbers: Array) -> Tensor:
    return F.one_hot(torch.from_numpy(numbers)).double()
