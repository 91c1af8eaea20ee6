"""The posterior of the weights of several experts (after BMVAE, Machine Learning 111(12), 2022), from
their out-of-fold logits.

    product   logit P(y = 1) = b + Σ_m w_m ℓ_m,    w_m ~ HalfNormal(1), b ~ Normal(0, 1)
    mixture   P(y = 1) = Σ_m π_m σ(ℓ_m),           π ~ Dirichlet(1/M)

Neither is sampled as it stands: a view that is noise lies on the boundary w = 0 or π = 0. Both priors
are made of Gamma variables g, w = sqrt(2 g) with g ~ Gamma(1/2), π = g / Σ g with g ~ Gamma(1/M). Each g
is a monotone function of a standard normal variable x, and x is what is sampled: no boundary, no
constraint, and the scale of the prior is 1 whatever M is. The sampler is mici's dynamic Hamiltonian Monte
Carlo (no-U-turn, multinomial); the diagnostics are ArviZ's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_expit, ndtr, softmax

from neurotrace.core.errors import InputError

Array = np.ndarray
Kind = Literal["product", "mixture"]
Map = Callable[[Array], Array]
# points x -> log-likelihood of each, and its gradient
LogLikelihood = Callable[
    [Float[Array, "chain dim"]], tuple[Float[Array, " chain"], Float[Array, "chain dim"]]
]

CHAINS, WARM_UP = 16, 100  # warm-up: iterations, at least
DRAWS = 3200  # from all chains together
R_HAT, ESS = 1.05, 400.0  # bounds of a converged posterior
_DEPTH = 10  # of the trajectory's tree: at most 2^10 gradients an iteration
_FAR = 9.0  # standard deviations of x that are told apart


@dataclass(frozen=True)
class Draws:
    """Posterior draws of the weights, and how far they can be trusted.

    `intercept` is 0 for a mixture. `r_hat` and `ess` are those of each view's weight.
    """

    weights: Float[Array, "draw view"]
    intercept: Float[Array, " draw"]
    r_hat: Float[Array, " view"]
    ess: Float[Array, " view"]


def posterior(
    kind: Kind,
    logits: Float[Array, "row view"],
    y: Float[Array, " row"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Draws:
    """Draws of the weights of a product or a mixture.

    Args:
        logits: of each expert; for a product standardised, so that w_m is what view m contributes.
        y: outcomes, 0 or 1.
        draws: if these have not converged, twice and then four times as many are drawn.

    Raises:
        InputError: not converged after that, or `draws` too few for any diagnostic.
    """
    find = {"product": product_posterior, "mixture": mixture_posterior}[kind]
    for count in (draws, 2 * draws, 4 * draws):
        found, settled = find(logits, y, draws=count, seed=seed)
        if settled:
            return found
    raise InputError(
        f"the posterior of {logits.shape[1]} views' weights has not converged in {4 * draws:,} draws: "
        f"expected R-hat at most {R_HAT} and at least {ESS:.0f} effective draws, got "
        f"{found.r_hat.max():.2f} and {found.ess.min():.0f}; raise draws={draws} or give fewer views"
    )


def product_posterior(
    logits: Float[Array, "row view"],
    y: Float[Array, " row"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Draws, bool]:
    """(Draws of (w, b), whether they have converged)."""
    signed = np.column_stack([logits, np.ones(len(y))]) * (2 * y - 1)[:, None]
    log_g, slope = _gamma_of_normal(0.5)

    def weights(x: Array) -> Array:
        return np.exp((np.log(2) + log_g(x)) / 2)  # sqrt(2 g)

    def log_likelihood(x: Array) -> tuple[Array, Array]:
        w = weights(x[:, :-1])
        z = np.column_stack([w, x[:, -1]]) @ signed.T  # [chain, row]
        small = np.exp(-np.abs(z))
        gradient = np.where(z > 0, small, 1) / (1 + small) @ signed  # σ(-z)
        gradient[:, :-1] *= w * slope(x[:, :-1]) / 2
        return (np.minimum(z, 0) - np.log1p(small)).sum(axis=1), gradient  # log σ(z)

    x = sample(log_likelihood, logits.shape[1] + 1, draws=draws, seed=seed)
    return _draws(weights(x[..., :-1]), x[..., -1])


def mixture_posterior(
    logits: Float[Array, "row view"],
    y: Float[Array, " row"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Draws, bool]:
    """(Draws of π, whether they have converged)."""
    rows, views = logits.shape
    log_g, slope = _gamma_of_normal(1 / views)
    fit = log_expit((2 * y - 1)[:, None] * logits)  # log p_m(y_i)
    best = fit.max(axis=1, keepdims=True)
    likelihood = np.exp(fit - best)  # as a factor of the best view's: no underflow

    def log_likelihood(x: Array) -> tuple[Array, Array]:
        pi = softmax(log_g(x), axis=1)
        total = pi @ likelihood.T + 1e-300  # [chain, row]
        gradient = pi * ((1 / total) @ likelihood - rows)
        return np.log(total).sum(axis=1), gradient * slope(x)

    x = sample(log_likelihood, views, draws=draws, seed=seed)
    return _draws(softmax(log_g(x), axis=-1), np.zeros(x.shape[:2]))


def fuse(
    logits: Float[Array, "row view"],
    weights: Float[Array, "draw view"],
    intercept: Float[Array, " draw"],
    kind: Kind,
) -> Float[Array, " row"]:
    """P(y = 1), averaged over the posterior."""
    if kind == "mixture":
        return expit(logits) @ weights.mean(axis=0)
    return expit(logits @ weights.T + intercept).mean(axis=1)


def _draws(
    weights: Float[Array, "chain draw view"], intercept: Float[Array, "chain draw"]
) -> tuple[Draws, bool]:
    r_hat, ess = diagnose(np.dstack([weights, intercept]))
    views = weights.shape[2]
    found = Draws(weights.reshape(-1, views), intercept.ravel(), r_hat[:views], ess[:views])
    return found, converged(r_hat, ess)


@cache
def _gamma_of_normal(shape: float) -> tuple[Map, Map]:
    """(log g of x, its derivative): g ~ Gamma(shape, 1) where x ~ Normal(0, 1), a spline of the quantiles.

    log g and not g: with a small shape g underflows.
    """
    from scipy.interpolate import CubicSpline
    from scipy.stats import loggamma

    x = np.linspace(-_FAR, _FAR, 1801)
    law = loggamma(shape)
    spline = CubicSpline(x, np.where(x < 0, law.ppf(ndtr(x)), law.isf(ndtr(-x))))
    slope = spline.derivative()
    return lambda at: spline(np.clip(at, -_FAR, _FAR)), lambda at: slope(np.clip(at, -_FAR, _FAR))


def sample(
    log_likelihood: LogLikelihood, dim: int, *, draws: int = DRAWS, seed: int = 0
) -> Float[Array, "chain draw dim"]:
    """Draws x from N(x; 0, 1) · likelihood(x), `draws` of them from `CHAINS` chains.

    Chains start from the prior. All chains together are one point of `CHAINS` · `dim` coordinates, whose
    density is the product of theirs. So they are independent in the distribution that is sampled,
    share trajectory lengths and the step size, and one vectorised gradient moves all of them: single
    chains of this library take five times as long.

    Args:
        log_likelihood: vectorised over chains.
        draws: rounded down to a multiple of `CHAINS`; warm-up is half as long, at least `WARM_UP`
            iterations, and not returned.
        seed: the same draws for the same seed.

    Raises:
        InputError: fewer than 4 draws a chain.
    """
    from mici.adapters import DualAveragingStepSizeAdapter
    from mici.integrators import LeapfrogIntegrator
    from mici.samplers import DynamicMultinomialHMC
    from mici.stagers import WarmUpStager
    from mici.systems import EuclideanMetricSystem

    each = draws // CHAINS
    if each < 4:
        raise InputError(f"draws={draws}: expected at least {4 * CHAINS}")

    def slope(x: Float[Array, " all"]) -> tuple[Float[Array, " all"], float]:
        """Gradient and value of the negative log density."""
        value, gradient = log_likelihood(x.reshape(CHAINS, dim))
        return x - gradient.ravel(), float(x @ x / 2 - value.sum())

    system = EuclideanMetricSystem(
        neg_log_dens=lambda x: slope(x)[1], grad_neg_log_dens=slope
    )  # identity metric: the prior's
    rng = np.random.default_rng(seed)
    sampler = DynamicMultinomialHMC(system, LeapfrogIntegrator(system), rng, max_tree_depth=_DEPTH)
    found = sampler.sample_chains(
        max(WARM_UP, each // 2),
        each,
        [rng.standard_normal(CHAINS * dim)],
        adapters=[DualAveragingStepSizeAdapter()],
        stager=WarmUpStager(),
        n_worker=1,
        trace_funcs=[lambda state: {"x": state.pos}],
        display_progress=False,
    )
    chain = np.asarray(found.traces["x"][0])
    return np.ascontiguousarray(chain.reshape(each, CHAINS, dim).swapaxes(0, 1))


def diagnose(
    draws: Float[Array, "chain draw dim"],
) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """Rank-normalised split R-hat and bulk effective sample size (Vehtari et al. 2021) of each number.

    A number that is the same in all draws has R-hat 1 and counts every draw.
    """
    from arviz_stats.base import array_stats

    r_hat = np.ones(draws.shape[2])
    ess = np.full(draws.shape[2], float(draws.shape[0] * draws.shape[1]))
    moves = np.ptp(draws, axis=(0, 1)) > 0
    if moves.any():
        r_hat[moves] = array_stats.rhat(draws[..., moves], chain_axis=0, draw_axis=1)
        ess[moves] = array_stats.ess(draws[..., moves], chain_axis=0, draw_axis=1)
    return r_hat, ess


def converged(r_hat: Float[Array, " dim"], ess: Float[Array, " dim"]) -> bool:
    """R-hat at most 1.05 and at least 400 effective draws, in every number.

    Not the 1.01 that is usual for four chains: here 32 half-chains are compared, and with 400 effective
    draws among them R-hat is sqrt(1 + 32 / 400) = 1.04 where nothing is wrong.
    """
    return bool((r_hat <= R_HAT).all() and (ess >= ESS).all())
