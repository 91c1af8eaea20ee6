"""The posterior of the weights of several experts (after BMVAE, Machine Learning 111(12), 2022), from
their out-of-fold logits.

    product   logit P(y = 1) = b + Σ_m w_m ℓ_m,    w_m ~ HalfNormal(1), b ~ Normal(0, 1)
    mixture   P(y = 1) = Σ_m π_m σ(ℓ_m),           π ~ Dirichlet(1/M)

Sampled with emcee. The posteriors have as many dimensions as there are views and cost microseconds a
point. The weight of a noise view lies on the boundary w = 0, where a Laplace approximation is wrong. A
factorised variational approximation (pyro, numpyro) does not show that two copies share one weight. An
ensemble sampler represents both, suits few dimensions and needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_expit, logsumexp, softmax

Array = np.ndarray
WALKERS, BURN, STEPS, KEEP = 4, 400, 400, 200  # walkers: a dimension


@dataclass(frozen=True)
class Draws:
    """Posterior draws of the weights; `intercept` is 0 for a mixture."""

    weights: Float[Array, "draw view"]
    intercept: Float[Array, " draw"]


def product_posterior(
    logits: Float[Array, "row view"], y: Float[Array, " row"], *, seed: int = 0
) -> Draws:
    """Draws of (w, b). Logits come standardised, so that w_m is the spread that view m contributes."""
    sign = 2 * y - 1

    def log_density(points: Float[Array, "point dim"]) -> Float[Array, " point"]:
        w, b = points[:, :-1], points[:, -1]
        inside = (w >= 0).all(axis=1)
        fit = log_expit(sign * (w @ logits.T + b[:, None])).sum(axis=1)
        return np.where(inside, fit - (points**2).sum(axis=1) / 2, -np.inf)

    start = np.append(np.full(logits.shape[1], 0.5), 0.0)
    found = _sample(log_density, start, positive=logits.shape[1], seed=seed)
    return Draws(found[:, :-1], found[:, -1])


def mixture_posterior(
    logits: Float[Array, "row view"], y: Float[Array, " row"], *, seed: int = 0
) -> Draws:
    """Draws of π. Sampled as log Gamma(1/M, 1) variables g, π = softmax(g): no boundary there."""
    views = logits.shape[1]
    fit_of = log_expit((2 * y - 1)[:, None] * logits)  # log p_m(y_i), [row view]

    def log_density(points: Float[Array, "point view"]) -> Float[Array, " point"]:
        log_pi = points - logsumexp(points, axis=1, keepdims=True)
        fit = logsumexp(log_pi[:, None] + fit_of, axis=2).sum(axis=1)
        prior = points.sum(axis=1) / views - np.exp(points).sum(axis=1)
        return fit + prior

    found = _sample(log_density, np.zeros(views), positive=0, seed=seed)
    return Draws(softmax(found, axis=1), np.zeros(len(found)))


def fuse(logits: Float[Array, "row view"], draws: Draws, kind: str) -> Float[Array, " row"]:
    """P(y = 1), averaged over the posterior."""
    if kind == "mixture":
        return expit(logits) @ draws.weights.mean(axis=0)
    return expit(logits @ draws.weights.T + draws.intercept).mean(axis=1)


def _sample(
    log_density: Callable[[Array], Array], start: Array, *, positive: int, seed: int
) -> Float[Array, "draw dim"]:
    import emcee

    rng = np.random.RandomState(seed)
    walkers = WALKERS * max(2, len(start))
    first = start + 0.1 * rng.standard_normal((walkers, len(start)))
    first[:, :positive] = np.abs(first[:, :positive])
    sampler = emcee.EnsembleSampler(walkers, len(start), log_density, vectorize=True)
    state = emcee.State(first, random_state=rng.get_state())
    state = sampler.run_mcmc(state, BURN)
    sampler.reset()
    sampler.run_mcmc(state, STEPS)
    chain = sampler.get_chain(flat=True)
    return chain[rng.choice(len(chain), KEEP, replace=False)]
