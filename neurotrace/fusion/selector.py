"""The posterior of the views' weights, from what the experts say of rows that they were not trained on.

    product   p(y | x) = softmax(b + κ Σ_m w_m e_m(x) / (1 + Σ_m w_m Λ_m(x)))
              w_m ~ HalfNormal(1), log κ ~ Normal(0, 1/2)
    mixture   p(y | x) = Σ_m π_m(x) p_m(y | x),   π_m(x) ∝ exp(3 θ_m - κ_m H_m(x))
              θ_m ~ Normal(0, 1), κ_m ~ HalfNormal(1) · 3, H_m the entropy of expert m's answer

e_m and Λ_m are `Evidence`. The mixture's π(x) is the distribution of a latent selector: which view to
believe for this input. An expert that was over-confident on its training rows is found out here, on
others, and loses weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import softmax
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.fusion.experts import Evidence
from neurotrace.fusion.sampling import hamiltonian, sample

Array = np.ndarray
Kind = Literal["product", "mixture"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST = 200  # effective draws
_SPREAD = 3.0


def infer(
    kind: Kind, evidence: Evidence, y: Int[Array, " row"], *, draws: int, seed: int
) -> tuple[Float[Array, "draw dim"], float]:
    """(draws of the selector's parameters, effective sample size of what they were drawn from).

    By importance sampling, which takes a second. Where that leaves fewer than `LEAST` effective draws, as
    for a mixture of ten views, by Hamiltonian Monte Carlo, which takes half a minute.

    Raises:
        InputError: too few effective draws by either.
    """
    parts = [torch.from_numpy(part) for part in _parts(kind, evidence)]
    target = torch.from_numpy(y)
    views = evidence.precision.shape[1]
    dim = views + 1 if kind == "product" else 2 * views

    def log_density(x: Tensor) -> Float[Tensor, " draw"]:
        log_p = _log_p(kind, x, *parts)
        fit = log_p.gather(2, target[None, :, None].expand(len(x), -1, 1)).sum(dim=(1, 2))
        return fit - (x**2).sum(dim=1) / 2

    found, ess = sample(log_density, dim, draws=draws, proposed=4 * draws, seed=seed)
    if ess < LEAST:
        # a mixture's mode is sharper than the rest, so its curvature there is no guide
        found, ess = hamiltonian(log_density, dim, draws=draws, seed=seed, curved=kind == "product")
    if ess < LEAST:
        raise InputError(
            f"the posterior of {views} views' weights was sampled badly: expected at least {LEAST} "
            f"effective draws, got {ess:.0f}; raise draws={draws} or give fewer views"
        )
    return found, ess


def pooled(said: Sequence[Float[Array, "row class"]]) -> Float[Array, "row class"]:
    """P(class) of several networks together: the normalised mean of their log-probabilities.

    A mean of probabilities is less sure than networks that are calibrated each; this logarithmic opinion
    pool (Genest and Zidek, Statistical Science 1(1), 1986) is as sure as they are.
    """
    return softmax(np.log(np.clip(np.stack(said), 1e-12, 1)).mean(axis=0), axis=-1)


def probabilities(
    kind: Kind, evidence: Evidence, draws: Float[Array, "draw dim"]
) -> Float[Array, "draw row class"]:
    """p(y | x) by each draw."""
    parts = [torch.from_numpy(part) for part in _parts(kind, evidence)]
    return _log_p(kind, torch.from_numpy(draws), *parts).exp().numpy()


def weigh(
    kind: Kind, evidence: Evidence, draws: Float[Array, "draw dim"]
) -> tuple[Float[Array, "draw row view"], Float[Array, "draw row view"]]:
    """(weight, strength) of each view for each row by each draw.

    Weights sum to one over the views. Mixture: π_m(x), and as strength π_m(x) times the nats by which the
    expert's entropy lies below the largest possible. Product: with c_m the view's part of the fused
    logits c, the weight is c_m·c / ‖c‖² and the strength c_m·c / ‖c‖. Both are negative where the view
    speaks against the others.
    """
    parts = [torch.from_numpy(part) for part in _parts(kind, evidence)]
    at = torch.from_numpy(draws)
    if kind == "mixture":
        pi = _selector(at, *parts[1:]).exp().numpy()
        return pi, pi * (np.log(evidence.logits.shape[2]) - parts[1].numpy())
    given = _given(at, *parts[:2])
    total = given.sum(dim=2, keepdim=True)
    along = (given * total).sum(dim=-1)
    size = total.norm(dim=-1).clamp(min=1e-9)
    return (along / size**2).numpy(), (along / size).numpy()


def overall(kind: Kind, evidence: Evidence, draws: Float[Array, "draw dim"]) -> Float[Array, "draw view"]:
    """Each view's weight over all rows by each draw; of a product Σ_i c_im·c_i / Σ_i ‖c_i‖²."""
    if kind == "mixture":
        return weigh(kind, evidence, draws)[0].mean(axis=1)
    parts = [torch.from_numpy(part) for part in _parts(kind, evidence)]
    given = _given(torch.from_numpy(draws), *parts[:2])
    total = given.sum(dim=2, keepdim=True)
    return ((given * total).sum(dim=(1, 3)) / (total**2).sum(dim=(1, 2, 3))[:, None]).numpy()


def alone(evidence: Evidence) -> Float[Array, "row view class"]:
    """p_m(y | x): each expert's answer."""
    single = evidence.logits / (1 + evidence.precision[..., None]) + evidence.intercept[:, None]
    return torch.softmax(torch.from_numpy(single), dim=-1).numpy()


def half_normal(x: Tensor) -> Tensor:
    """HalfNormal(1) where x is Normal(0, 1)."""
    return -torch.special.ndtri(torch.special.ndtr(-x.clamp(-8, 8)) / 2)


def _parts(kind: Kind, evidence: Evidence) -> tuple[Array, ...]:
    if kind == "product":
        return evidence.logits, evidence.precision, evidence.intercept
    p = alone(evidence)
    entropy = -(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=2)
    return np.log(np.clip(p, 1e-12, 1)), entropy, evidence.precision > 0


def _log_p(kind: Kind, x: Tensor, *parts: Tensor) -> Float[Tensor, "draw row class"]:
    if kind == "mixture":
        return torch.logsumexp(_selector(x, *parts[1:])[..., None] + parts[0], dim=2)
    views = parts[1].shape[1]
    total = torch.einsum("dv,rvk->drk", half_normal(x[:, :views]), parts[0])
    total = total / (1 + half_normal(x[:, :views]) @ parts[1].T)[..., None]
    return torch.log_softmax(torch.exp(x[:, -1] / 2)[:, None, None] * total + parts[2], dim=-1)


def _selector(x: Tensor, entropy: Tensor, there: Tensor) -> Float[Tensor, "draw row view"]:
    views = entropy.shape[1]
    score = _SPREAD * (x[:, None, :views] - half_normal(x[:, None, views:]) * entropy)
    score = score.masked_fill(~there, -1e9)
    return torch.log_softmax(score, dim=-1)


def _given(x: Tensor, logits: Tensor, precision: Tensor) -> Float[Tensor, "draw row view class"]:
    """What each view adds to the fused logits."""
    w = half_normal(x[:, : precision.shape[1]])
    return w[:, None, :, None] * logits / (1 + w @ precision.T)[..., None, None]
