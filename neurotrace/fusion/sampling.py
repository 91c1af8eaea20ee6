"""Adaptive importance sampling of a few numbers, Hamiltonian sampling of more, and how good it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax
from torch import Tensor

from neurotrace.detectors.weights import converged, diagnose, sample as chained

Array = np.ndarray
Density = Callable[[Float[Tensor, "draw dim"]], Float[Tensor, " draw"]]
ROUNDS = 4
_FREEDOM = 5


def sample(
    log_density: Density,
    dim: int,
    *,
    draws: int,
    proposed: int,
    seed: int,
) -> tuple[Float[Array, "draw dim"], float]:
    """Draws by adaptive importance sampling, and the effective sample size behind them.

    The proposal is a Student t with 5 degrees of freedom, at first about the mode, as wide as the
    curvature there says; then fitted to its weighted draws, `ROUNDS` times. The last round's, `proposed`
    in number, are resampled in proportion to their weights.
    """
    rng = np.random.default_rng(seed)
    mean, cov = _mode(log_density, dim)
    for number in range(ROUNDS + 1):
        count = proposed if number == ROUNDS else draws
        root = np.linalg.cholesky(cov)
        z = rng.standard_normal((count, dim)) / np.sqrt(rng.chisquare(_FREEDOM, (count, 1)) / _FREEDOM)
        x = mean + z @ root.T
        likely = -(_FREEDOM + dim) / 2 * np.log1p((z**2).sum(axis=1) / _FREEDOM)
        with torch.no_grad():
            parts = torch.from_numpy(x).split(200)
            reached = torch.cat([log_density(part) for part in parts]).numpy()
        weight = softmax(reached - likely)
        ess = float(1 / (weight**2).sum())
        mean = weight @ x
        cov = (x - mean).T @ ((x - mean) * weight[:, None]) * max(1.0, 1 + 2 * dim / ess)
        cov += 1e-6 * np.eye(dim)
    at = np.searchsorted(np.cumsum(weight), (np.arange(draws) + rng.random()) / draws)
    return x[rng.permutation(np.minimum(at, count - 1))], ess


def hamiltonian(
    log_density: Density, dim: int, *, draws: int, seed: int, curved: bool
) -> tuple[Float[Array, "draw dim"], float]:
    """Draws by the sampler of `detectors.weights`, and the smallest effective sample size; 0 where its
    chains have not converged.

    Args:
        curved: moves in coordinates in which the curvature at the mode is 1, so that directions in which
            the density is narrow don't shorten all steps.
    """
    mean, cov = _mode(log_density, dim) if curved else (np.zeros(dim), np.eye(dim))
    root = torch.from_numpy(np.linalg.cholesky(cov))
    centre = torch.from_numpy(mean)

    def beyond_prior(u: Float[Array, "chain dim"]) -> tuple[Array, Array]:
        """log density over that of N(u; 0, 1), from which the sampler takes its chains, and its slope."""
        at = torch.from_numpy(u).requires_grad_()
        value = log_density(centre + at @ root.T) + (at**2).sum(dim=1) / 2
        (slope,) = torch.autograd.grad(value.sum(), at)
        return value.detach().numpy(), slope.numpy()

    chains = chained(beyond_prior, dim, draws=4 * draws, seed=seed)
    r_hat, ess = diagnose(chains)
    x = mean + chains.reshape(-1, dim) @ root.numpy().T
    picked = np.random.default_rng(seed).permutation(len(x))[:draws]
    return x[picked], float(ess.min()) if converged(r_hat, ess) else 0.0


def _mode(log_density: Density, dim: int) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """(mode, inverse curvature there)."""
    at = torch.zeros(1, dim, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([at], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -log_density(at).sum()
        value.backward()
        return value

    optimiser.step(loss)
    curved = torch.autograd.functional.hessian(lambda x: -log_density(x[None]).sum(), at.detach()[0])
    size, axes = torch.linalg.eigh((curved + curved.T) / 2)
    cov = (axes / size.clamp(min=0.5)) @ axes.T  # the prior's own curvature is 1
    return at.detach()[0].numpy(), cov.numpy()
