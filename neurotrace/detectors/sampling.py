"""Draws from a posterior with a standard normal prior, and whether they have converged.

The sampler is mici's dynamic Hamiltonian Monte Carlo (no-U-turn, multinomial). Diagnostics are ArviZ's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from neurotrace.core.errors import InputError

Array = np.ndarray
# points x -> log-likelihood of each, and its gradient
LogLikelihood = Callable[
    [Float[Array, "chain dim"]], tuple[Float[Array, " chain"], Float[Array, "chain dim"]]
]

CHAINS, WARM_UP = 16, 100  # warm-up: iterations, at least
DRAWS = 3200  # from all chains together
R_HAT, ESS = 1.05, 400.0  # bounds of a converged posterior
_DEPTH = 10  # of the trajectory's tree: at most 2^10 gradients an iteration


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
        max(WARM_UP, each // 2), each, [rng.standard_normal(CHAINS * dim)],
        adapters=[DualAveragingStepSizeAdapter()], stager=WarmUpStager(), n_worker=1,
        trace_funcs=[lambda state: {"x": state.pos}], display_progress=False,
    )  # fmt: skip
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
