"""The weights' posterior at 30 correlated views, by methods that share nothing with the sampler.

`python tests/support/weights_reference.py > tests/detectors/weights_reference.json` (some ten minutes).
Product: random-walk Metropolis on (w, b) itself; a step below 0 is reflected, which is symmetric because
the steps of different weights are independent. Mixture: Gibbs sampling with the expert that each row
comes from as a latent variable.
"""

from __future__ import annotations

import json

import numpy as np
from arviz_stats.base import array_stats
from scipy.special import log_expit

VIEWS, ROWS = 30, 60


def correlated_views() -> tuple[np.ndarray, np.ndarray]:
    """(logits, y): two views of three share half of their noise, the third is noise, the last a copy."""
    rng = np.random.RandomState(0)  # its numbers are the same in every version of numpy
    y = (rng.rand(ROWS) < 0.5).astype(float)
    tells = np.where(np.arange(VIEWS) % 3 == 0, 0.0, 1.0)
    shared = rng.standard_normal((ROWS, 1))
    own = rng.standard_normal((ROWS, VIEWS))
    logits = (1.2 * y[:, None] - 0.6) * tells + np.sqrt(0.5) * (tells * shared + own)
    logits[:, -1] = logits[:, 1]
    return (logits - logits.mean(axis=0)) / logits.std(axis=0), y


def product(logits, y, *, chains=128, pilot=10_000, steps=60_000, thin=100, seed=1):
    signed = np.column_stack([logits, np.ones(ROWS)]) * (2 * y - 1)[:, None]
    rng = np.random.default_rng(seed)

    def log_density(at):
        return log_expit(at @ signed.T).sum(axis=1) - (at**2).sum(axis=1) / 2

    def walk(at, scale, count):
        kept, density = [], log_density(at)
        for step in range(count):
            new = at + scale * rng.standard_normal(at.shape)
            new[:, :-1] = np.abs(new[:, :-1])
            there = log_density(new)
            moves = np.log(rng.random(chains)) < there - density
            at, density = np.where(moves[:, None], new, at), np.where(moves, there, density)
            if step % thin == 0:
                kept.append(at)
        return np.stack(kept, axis=1)

    first = np.abs(rng.normal(size=(chains, VIEWS + 1)))
    tried = walk(first, np.full(VIEWS + 1, 0.05), pilot)
    late = tried[:, len(tried[0]) // 2 :].reshape(-1, VIEWS + 1)
    return walk(tried[:, -1], late.std(axis=0) * 1.5 / np.sqrt(VIEWS + 1), steps)[:, 50:, :-1]


def mixture(logits, y, *, chains=64, burn=2_000, sweeps=80_000, thin=50, seed=2):
    likelihood = np.exp(log_expit((2 * y - 1)[:, None] * logits))
    rng = np.random.default_rng(seed)
    pi, kept = rng.dirichlet(np.ones(VIEWS), size=chains), []
    for sweep in range(burn + sweeps):
        upto = np.cumsum(pi[:, None] * likelihood, axis=2)
        expert = (rng.random((chains, ROWS, 1)) * upto[..., -1:] > upto).sum(axis=2)
        place = expert + VIEWS * np.arange(chains)[:, None]
        counts = np.bincount(place.ravel(), minlength=chains * VIEWS).reshape(chains, VIEWS)
        g = rng.standard_gamma(1 / VIEWS + counts)
        pi = g / g.sum(axis=1, keepdims=True)
        if sweep >= burn and sweep % thin == 0:
            kept.append(pi)
    return np.stack(kept, axis=1)


def main() -> None:
    logits, y = correlated_views()
    found = {}
    for name, draw in (("product", product), ("mixture", mixture)):
        draws = draw(logits, y)
        found[name] = {
            "mean": draws.mean(axis=(0, 1)).round(6).tolist(),
            "sd": draws.std(axis=(0, 1)).round(6).tolist(),
            "r_hat": round(float(array_stats.rhat(draws, chain_axis=0, draw_axis=1).max()), 4),
            "ess": round(float(array_stats.ess(draws, chain_axis=0, draw_axis=1).min())),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
