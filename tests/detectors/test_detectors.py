"""Detectors: scikit-learn's contract, frozen and saved; the risks and weights against plain routes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from neurotrace.core.errors import InputError
from neurotrace.detectors import (
    FusedDetector,
    InvariantDetector,
    LinearDetector,
    about_detector,
    judge,
    load_detector,
    save_detector,
)
from neurotrace.detectors.base import Basis
from neurotrace.detectors.judging import auroc_interval, ece
from neurotrace.detectors.risks import irm, shares
from neurotrace.detectors.weights import posterior

QUICK = InvariantDetector(warmup=100, steps=20, divide_steps=5, rate=0.1)
DETECTORS = [LinearDetector(), QUICK, FusedDetector(expert=LinearDetector(C=1.0), draws=800)]


def rows(n=120, features=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features))
    y = (X[:, 0] + 0.5 * X[:, 1] + 0.3 * rng.normal(size=n) > 0).astype(int)
    return X, y


@parametrize_with_checks(DETECTORS)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_works_in_pipelines_and_cross_validation(detector):
    X, y = rows()
    pipeline = make_pipeline(StandardScaler(), clone(detector))
    scores = cross_val_score(
        pipeline, X, y, groups=np.arange(120) // 4, cv=GroupKFold(3), scoring="roc_auc"
    )
    assert scores.mean() > 0.9


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_frozen_after_fitting_and_saved_exactly(detector, tmp_path):
    X, y = rows()
    fitted = clone(detector).fit(X[:80], y[:80])
    alone = np.concatenate([fitted.predict_proba(row[None]) for row in X[80:]])
    np.testing.assert_allclose(fitted.predict_proba(X[80:]), alone, rtol=1e-9)
    save_detector(fitted, tmp_path / "d.safetensors", about={"model": "organism"})
    loaded = load_detector(tmp_path / "d.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X[80:]), fitted.predict_proba(X[80:]))
    np.testing.assert_array_equal(loaded.predict(X[80:]), fitted.predict(X[80:]))
    clone(loaded).fit(X, y)
    assert about_detector(tmp_path / "d.safetensors") == {"model": "organism"}


def test_files_of_the_format_before(tmp_path):
    """Linear and invariant detectors are read; a fused one, of the sampler that was wrong, is refused."""
    X, y = rows()
    for detector in DETECTORS:
        path = tmp_path / f"{type(detector).__name__}.safetensors"
        fitted = clone(detector).fit(X, y)
        save_detector(fitted, path)
        assert path.read_bytes().count(b"neurotrace.detector/2") == 1
        path.write_bytes(path.read_bytes().replace(b"neurotrace.detector/2", b"neurotrace.detector/1"))
        if isinstance(detector, FusedDetector):
            with pytest.raises(InputError, match=r"a FusedDetector of format neurotrace\.detector/1"):
                load_detector(path)
        else:
            np.testing.assert_array_equal(load_detector(path).predict(X), fitted.predict(X))


def test_a_fused_detector_says_how_well_its_posterior_was_sampled():
    X, y = rows()
    fitted = FusedDetector({"signal": (0, 2), "noise": (2, 6)}).fit(X, y)
    table = fitted.to_frame().set_index("view")
    assert (table["r_hat"] < 1.05).all()
    assert (table["ess"] >= 400).all()
    assert table["weight"]["signal"] > table["weight"]["noise"]
    assert "Draws of their weights: 3,200, at least" in fitted._repr_html_()


def test_bad_input_is_named(tmp_path):
    X, y = rows()
    for detector in DETECTORS:
        with pytest.raises(InputError, match="one class: all 120 outcomes are 1"):
            clone(detector).fit(X, np.ones(120, dtype=int))
        with pytest.raises(InputError, match="NaN"):
            clone(detector).fit(np.where(X > 2, np.nan, X), y)
        with pytest.raises(NotFittedError):
            clone(detector).predict_proba(X)
        with pytest.raises(NotFittedError):
            save_detector(clone(detector), tmp_path / "none")
    with pytest.raises(InputError, match=r"penalty='iirm': did you mean 'irm'\? expected one of irm"):
        InvariantDetector("iirm").fit(X, y)
    with pytest.raises(InputError, match=r"environment has shape \(3,\)"):
        clone(QUICK).fit(X, y, environment=[1, 2, 3])
    with pytest.raises(InputError, match="view 'a' is columns 2 to 9 of 6"):
        FusedDetector({"a": (2, 9)}).fit(X, y)
    with pytest.raises(InputError, match="too few to weigh views"):
        FusedDetector().fit(X, (np.arange(120) == 0).astype(int))
    (tmp_path / "other").write_bytes(b"no detector")
    with pytest.raises(InputError, match="as safetensors"):
        load_detector(tmp_path / "other")


def test_more_features_than_rows_lose_nothing():
    """The turned basis gives the very solution of the regression on all features."""
    X, y = rows(n=40, features=300)
    basis = Basis(X)
    ours = LinearDetector(C=3.0).fit(X, y)
    plain = LogisticRegression(C=3.0, tol=1e-10, max_iter=10000)
    plain.fit((X - basis.mean) * basis.scale, y)
    new = rows(n=30, features=300, seed=1)[0]
    expected = plain.decision_function((new - basis.mean) * basis.scale)
    np.testing.assert_allclose(ours.decision_function(new), expected, atol=2e-3)


def test_a_dead_feature_does_nothing():
    X, y = rows()
    dead = np.hstack([X, np.full((len(X), 1), 7.0)])
    fitted = LinearDetector(C=1.0).fit(dead, y)
    far = dead.copy()
    far[:, -1] = 1e6
    np.testing.assert_array_equal(fitted.decision_function(dead), fitted.decision_function(far))


def test_irm_penalty_is_the_gradient_that_its_formula_says():
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(50, generator=generator, dtype=torch.float64)
    y = (torch.rand(50, generator=generator) > 0.5).double()
    member = torch.zeros(50, 2, dtype=torch.float64)
    member[:20, 0] = member[20:, 1] = 1
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    slopes = [
        torch.autograd.grad(loss(w * logit[part], y[part]), w)[0] for part in (slice(0, 20), slice(20, 50))
    ]
    expected = torch.stack(slopes).square().mean()
    torch.testing.assert_close(irm(logit, y, shares(member)), expected)


def test_the_weights_posterior_is_the_one_that_integration_gives():
    """One view: mean and sd of (w, b) on a fine grid."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(40, 1))
    y = (rng.random(40) < 1 / (1 + np.exp(-1.5 * logits[:, 0]))).astype(float)
    draws = posterior("product", logits, y)
    w, b = np.meshgrid(np.linspace(0, 5, 301), np.linspace(-3, 3, 301), indexing="ij")
    z = (2 * y - 1) * (w[..., None] * logits[:, 0] + b[..., None])
    log_density = -np.logaddexp(0, -z).sum(axis=-1) - (w**2 + b**2) / 2
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = (density * w).sum()
    sd = np.sqrt((density * (w - mean) ** 2).sum())
    assert draws.weights.min() >= 0
    assert abs(draws.weights.mean() - mean) < 0.1 * sd
    assert 0.9 < draws.weights.std() / sd < 1.1


def test_the_interval_of_a_mean_over_strata():
    """Two strata in which a score is perfect, though not across them."""
    rng = np.random.default_rng(0)
    y, strata = rng.integers(2, size=200), np.repeat([0, 1], 100)
    score = y - 9 * strata
    assert auroc_interval(score, y, np.arange(200), strata=strata) == (1.0, 1.0)
    low, high = auroc_interval(rng.random(200), y, np.arange(200), strata=strata)
    assert 0.3 < low < 0.5 < high < 0.7


def test_auroc_interval_and_ece():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    score = 1 / (1 + np.exp(-(y + rng.normal(size=200))))
    found = judge(score, y, np.arange(200) // 2)
    assert found.auroc == roc_auc_score(y, score)
    assert found.auroc_lo < found.auroc < found.auroc_hi
    assert 0.05 < found.auroc_hi - found.auroc_lo < 0.25
    # one group in many copies is one observation: its interval is as wide as the single group's
    wide = auroc_interval(np.tile(score[:20], 10), np.tile(y[:20], 10), np.tile(np.arange(20), 10))
    one = auroc_interval(score[:20], y[:20], np.arange(20))
    assert wide == one
    assert np.isnan(auroc_interval(score, np.ones(200), np.arange(200))).all()
    assert ece(np.full(100, 0.75), (np.arange(100) % 4 > 0).astype(int)) == 0
    assert ece(np.full(100, 0.95), np.zeros(100, dtype=int)) == pytest.approx(0.95)
