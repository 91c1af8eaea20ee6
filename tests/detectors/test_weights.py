"""The posterior of the views' weights: against long independent runs, and refused where not converged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from weights_reference import correlated_views

from neurotrace.core.errors import InputError
from neurotrace.detectors import FusedDetector
from neurotrace.detectors.weights import converged, diagnose, posterior, sample

REFERENCE = json.loads((Path(__file__).parent / "weights_reference.json").read_text("utf-8"))
DRAWS = {"product": 6400, "mixture": 16000}


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_thirty_correlated_views_against_a_long_independent_run(kind):
    """Posterior means within .1 posterior sd, sds within 10 %.

    A view of a mixture that hardly counts has weight 0 in most draws and a long tail: its sd within 20 %.
    """
    mean, sd = (np.array(REFERENCE[kind][name]) for name in ("mean", "sd"))
    logits, y = correlated_views()
    found = posterior(kind, logits, y, draws=DRAWS[kind])
    assert found.weights.shape == (DRAWS[kind], 30)
    assert np.abs((found.weights.mean(axis=0) - mean) / sd).max() < 0.1
    off = np.abs(found.weights.std(axis=0) / sd - 1)
    counts = mean > 1 / 30
    assert off[counts].max() < 0.1
    assert off.max() < (0.1 if kind == "product" else 0.2)
    assert found.r_hat.max() < 1.03
    assert found.ess.min() > 400
    # an exact copy: one posterior for both
    assert mean[1] == pytest.approx(mean[29], abs=0.05 * sd[1])


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_sixty_views_converge(kind):
    logits, y = correlated_views()
    noise = np.random.RandomState(1).standard_normal(logits.shape)
    found = posterior(kind, np.hstack([logits, noise]), y)
    assert len(found.weights) <= 6400
    assert found.r_hat.shape == found.ess.shape == (60,)


def test_a_posterior_that_has_not_converged_is_refused():
    logits, y = correlated_views()
    with pytest.raises(InputError, match="not converged in 256 draws: expected R-hat") as told:
        posterior("product", logits, y, draws=64)
    assert "raise draws=64" in str(told.value)
    with pytest.raises(InputError, match="draws=63: expected at least 64"):
        posterior("product", logits, y, draws=63)
    detector = FusedDetector({"a": (0, 15), "b": (15, 30)}, draws=64)
    with pytest.raises(InputError, match="2 views' weights has not converged"):
        detector.fit(logits, y)


def test_more_are_drawn_where_the_first_do_not_suffice():
    logits, y = correlated_views()
    assert len(posterior("product", logits[:, :3], y, draws=320).weights) == 640


@pytest.mark.parametrize("kind", ["product", "mixture"])
def test_a_seed_gives_the_same_draws(kind):
    logits, y = correlated_views()
    one, other, third = (posterior(kind, logits[:, :4], y, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.weights, other.weights)
    assert (one.weights != third.weights).any()


def test_without_data_the_prior_is_drawn():
    """Half-normal weights; a Dirichlet(1/3): its mean 1/3, its variance 2/9 / (1 + 1)."""
    empty = np.zeros((2, 3)), np.array([0.0, 1.0])
    product = posterior("product", *empty, draws=16000).weights
    assert np.abs(product.mean(axis=0) - np.sqrt(2 / np.pi)).max() < 0.03
    assert np.abs(product.std(axis=0) - np.sqrt(1 - 2 / np.pi)).max() < 0.03
    mixture = posterior("mixture", *empty, draws=16000).weights
    assert np.abs(mixture.mean(axis=0) - 1 / 3).max() < 0.03
    assert np.abs(mixture.std(axis=0) - 1 / 3).max() < 0.03


def test_diagnostics_see_chains_that_differ_and_chains_that_crawl():
    rng = np.random.default_rng(0)
    good = rng.normal(size=(16, 200, 1))
    apart = good + (np.arange(16) % 2)[:, None, None]
    crawl = np.cumsum(good, axis=1)
    r_hat, ess = diagnose(np.dstack([good, apart, crawl, np.full_like(good, 0.5)]))
    assert converged(r_hat[[0]], ess[[0]])
    assert not converged(r_hat[[1]], ess[[1]])
    assert not converged(r_hat[[2]], ess[[2]])
    assert r_hat[1] > 1.1
    assert ess[2] < 100
    assert (r_hat[3], ess[3]) == (1.0, 3200.0)


def test_a_narrow_likelihood_is_found_from_the_prior():
    """A normal likelihood of sd .05 at 2: the posterior is known."""

    def log_likelihood(x):
        return -((x - 2) ** 2).sum(axis=1) / (2 * 0.05**2), -(x - 2) / 0.05**2

    x = sample(log_likelihood, 5).reshape(-1, 5)
    sd = 1 / np.sqrt(1 + 1 / 0.05**2)
    assert np.abs(x.mean(axis=0) - 2 * (sd / 0.05) ** 2).max() < 0.1 * sd
    assert np.abs(x.std(axis=0) / sd - 1).max() < 0.1
