"""Other ways to weigh views, each with the networks of `experts.Experts`, trained on the same rows for as
long: what deep fusion is compared with.

    equal weights       networks trained together on the mean of their logits (late fusion)
    gradient balancing  the same, each network's gradient damped where it is ahead (after OGM-GE, CVPR 2022)
    average             networks trained apart, the mean of their probabilities
    inverse variance    networks trained apart, probabilities weighted by 1 / mean squared error, held-out
    plain product       networks trained apart, the sum of their log-probabilities
    joint product       a Gaussian a view over a shared latent, weighted by its inverse variance and trained
                        together as one product of experts, as in MVAE (Wu and Goodman, NeurIPS 2018)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.fusion.experts import BATCH, DECAY, RATE, network, trained
from neurotrace.fusion.reading import Scale, folds_of, outcomes, read
from neurotrace.fusion.selector import pooled

Array = np.ndarray
Weighing = Literal[
    "equal weights", "gradient balancing", "joint product", "average", "inverse variance", "plain product"
]
WEIGHINGS: tuple[Weighing, ...] = get_args(Weighing)
_DAMPING = 0.5  # α of OGM-GE


class Rival(ClassifierMixin, BaseEstimator):
    """A classifier on views, with `DeepFusion`'s `fit` and `predict_proba`.

    Args:
        weighing: one of `WEIGHINGS`.
        hidden, steps, folds, seed: as in `DeepFusion`; a network a fold, pooled.
    """

    def __init__(
        self,
        weighing: Weighing = "equal weights",
        hidden: int = 32,
        steps: int = 250,
        folds: int = 3,
        seed: int = 0,
    ) -> None:
        self.weighing = weighing
        self.hidden = hidden
        self.steps = steps
        self.folds = folds
        self.seed = seed

    def fit(self, views: Mapping[str, Any], y: Any, groups: Any = None) -> Rival:
        """Train one network a view and fold; `views` and `groups` as in `DeepFusion.fit`."""
        if self.weighing not in WEIGHINGS:
            raise InputError(f"weighing={self.weighing!r}: expected one of {', '.join(WEIGHINGS)}")
        self.classes_, places = outcomes(y)
        self.names_ = list(views)
        arrays, there = read(views, self.names_, len(places))
        self.shapes_ = [array.shape[1:] for array in arrays]
        self.members_: list[tuple[Scale, Any, Any]] = []
        for number, (own, other) in enumerate(folds_of(places, groups, self.folds, self.seed)):
            scale = Scale(arrays, there, own)
            if self.weighing == "joint product":
                experts = trained(
                    scale.widths,
                    len(self.classes_),
                    scale.tensors(arrays, there, own),
                    there[own],
                    places[own],
                    hidden=self.hidden,
                    steps=self.steps,
                    parts=False,
                    seed=self.seed * 1000 + number,
                )
                self.members_.append((scale, experts, None))
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed * 1000 + number)
                nets = nn.ModuleList([network(w, self.hidden, len(self.classes_)) for w in scale.widths])
                self._train(
                    nets, scale.tensors(arrays, there, own), there[own], torch.from_numpy(places[own])
                )
            with torch.no_grad():
                p = _logits(nets, scale.tensors(arrays, there, other)).softmax(dim=-1).numpy()
            truth = np.eye(len(self.classes_))[places[other]]
            error = ((p - truth[:, None]) ** 2).mean(axis=(0, 2))
            self.members_.append((scale, nets, 1 / error))
        return self

    def predict_proba(self, views: Mapping[str, Any]) -> Float[Array, "row class"]:
        """P(class), pooled over the folds' networks as in `DeepFusion`; missing views have no say."""
        arrays, there = read(views, self.names_, None, self.shapes_)
        found = []
        for scale, nets, precision in self.members_:
            if precision is None:
                mean = nets.latent(scale.tensors(arrays, there), torch.from_numpy(there))
                found.append(nets.head(mean).detach().double().softmax(dim=-1).numpy())
                continue
            with torch.no_grad():
                logits = _logits(nets, scale.tensors(arrays, there)).double()
            use = torch.from_numpy(there[..., None] * 1.0)
            if self.weighing in ("equal weights", "gradient balancing"):
                p = _late(logits, use).softmax(dim=-1)
            elif self.weighing == "plain product":
                p = (logits.log_softmax(dim=-1) * use).sum(dim=1).softmax(dim=-1)
            else:
                weight = use * (
                    torch.from_numpy(precision)[:, None] if self.weighing == "inverse variance" else 1
                )
                p = (logits.softmax(dim=-1) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)
            found.append(p.numpy())
        return pooled(found)

    def predict(self, views: Mapping[str, Any]) -> Array:
        """The likeliest class."""
        return self.classes_[self.predict_proba(views).argmax(axis=1)]

    def _train(
        self, nets: nn.ModuleList, views: list[Tensor], there: Array, y: Int[Tensor, " row"]
    ) -> None:
        optimiser = torch.optim.AdamW(nets.parameters(), lr=RATE, weight_decay=DECAY)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        use = torch.from_numpy(there[..., None]).float()
        for _ in range(self.steps):
            part = torch.randperm(len(y))[:BATCH]
            logits = _logits(nets, [view[part] for view in views])
            if self.weighing in ("equal weights", "gradient balancing"):
                loss = F.cross_entropy(_late(logits, use[part]), y[part])
            else:
                each = -logits.log_softmax(dim=-1).gather(
                    2, y[part][:, None, None].expand_as(logits[..., :1])
                )
                loss = (each * use[part]).sum() / len(part)
            optimiser.zero_grad()
            loss.backward()
            if self.weighing == "gradient balancing":
                _balance(nets, logits.detach(), y[part])
            optimiser.step()
            slower.step()


def _balance(nets: nn.ModuleList, logits: Tensor, y: Tensor) -> None:
    """OGM-GE: a network whose score is ρ > 1 times the others' has its gradient multiplied by
    1 - tanh(α ρ), with Gaussian noise of the gradient's own standard deviation.
    """
    score = logits.softmax(dim=-1).gather(2, y[:, None, None].expand_as(logits[..., :1])).sum(dim=(0, 2))
    for place, net in enumerate(nets):
        ratio = score[place] / ((score.sum() - score[place]) / max(1, len(nets) - 1)).clamp(min=1e-9)
        if ratio > 1:
            for weight in net.parameters():
                if weight.grad is not None:
                    noise = torch.randn_like(weight) * weight.grad.std(unbiased=False)
                    weight.grad = weight.grad * (1 - torch.tanh(_DAMPING * ratio)) + noise


def _late(logits: Float[Tensor, "row view class"], use: Float[Tensor, "row view 1"]) -> Tensor:
    return (logits * use).sum(dim=1) / use.sum(dim=1).clamp(min=1)


def _logits(nets: nn.ModuleList, views: list[Tensor]) -> Float[Tensor, "row view class"]:
    return torch.stack([net(x) for net, x in zip(nets, views, strict=True)], dim=1)
