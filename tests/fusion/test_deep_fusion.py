"""Deep fusion: weights follow what was planted, each view's absence, the posterior against integration.

Larger draws of the same: `python tests/benchmarks/fusion.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.fusion import deep, selector
from neurotrace.fusion.experts import Evidence
from neurotrace.fusion.planted import Planted, planted_views

pytest.importorskip("pyro", reason="needs the extra `fusion`")
ROWS = 600


def halves(planted):
    train = {name: view[:ROWS] for name, view in planted.views.items()}
    test = {name: view[ROWS:] for name, view in planted.views.items()}
    return train, planted.y[:ROWS], test, planted.y[ROWS:]


@pytest.fixture(scope="module")
def spoilt():
    """Three views, each spoilt on its own third of the rows, and one that is always noise."""
    planted = planted_views([0.3, 0.3, 0.4, 1.0], rows=ROWS + 400, noise=0.3, seed=5)
    train, y, test, y_test = halves(planted)
    return nt.DeepFusion(folds=2, steps=150).fit(train, y), planted, test, y_test


def test_weights_follow_what_was_planted():
    planted, found = [], []
    for seed, spoil in enumerate([(0.3, 0.9, 0.6, 0.0), (1.0, 0.15, 0.75, 0.45)]):
        drawn = planted_views(spoil, rows=500, seed=seed)
        weights = nt.DeepFusion(folds=2, steps=100).fit(drawn.views, drawn.y).weights()
        planted += [(1 - each) / (4 - sum(spoil)) for each in spoil]
        found += list(weights["weight"])
        assert (weights["low"] <= weights["weight"]).all()
        assert (weights["weight"] <= weights["high"]).all()
    assert spearmanr(planted, found)[0] >= 0.9


def test_noise_gets_no_weight_and_adds_nothing(spoilt):
    table = spoilt[0].weights().set_index("view")
    assert abs(table.loc["view 3", "weight"]) <= 0.05
    assert table.loc["view 3", "adds_low"] <= 0.0
    assert (table["adds_low"].drop("view 3") > 0.02).all()


def test_each_inputs_weights_tell_which_view_was_spoilt(spoilt):
    fusion, planted, test, _ = spoilt
    table = fusion.input_weights(test)
    for place in range(3):
        own = table[table["view"] == f"view {place}"]
        assert roc_auc_score(planted.spoilt[ROWS:, place], -own["strength"]) >= 0.9
    np.testing.assert_allclose(table.groupby("row")["weight"].sum(), 1, atol=1e-9)


def test_a_copy_adds_nothing(spoilt):
    fusion, planted, test, y_test = spoilt
    copied = dict(planted.views) | {"copy": planted.views["view 0"]}
    again = nt.DeepFusion(folds=2, steps=150).fit(
        {n: v[:ROWS] for n, v in copied.items()}, planted.y[:ROWS]
    )
    weights = again.weights().set_index("view")["weight"]
    alone = fusion.weights().set_index("view")["weight"]
    assert weights["view 0"] + weights["copy"] == pytest.approx(alone["view 0"], abs=0.1)
    p = fusion.predict_proba(test)
    p_copied = again.predict_proba({n: v[ROWS:] for n, v in copied.items()})
    assert np.mean(p_copied.argmax(1) == y_test) == pytest.approx(np.mean(p.argmax(1) == y_test), abs=0.025)
    assert log_loss(y_test, p_copied) == pytest.approx(log_loss(y_test, p), abs=0.05)
    agreement = again.agreement().loc["view 0"]
    assert agreement["copy"] > 0.8 > agreement["view 1"] + 0.2


def test_the_mixture_believes_the_better_view_more():
    planted = planted_views([0.2, 0.5, 1.0], rows=ROWS + 200, seed=1)
    train, y, test, y_test = halves(planted)
    fusion = nt.DeepFusion("mixture", folds=2, steps=150).fit(train, y)
    strong, weak, noise = fusion.weights()["weight"]
    assert strong > weak > noise
    assert noise <= 0.05
    assert fusion.score(test, y_test) > 0.75


def test_views_may_be_missing_and_are_decoded_from_the_others():
    """Three views of one latent, each missing on a third of the training rows."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=700)
    latent = np.eye(3)[y] + 0.3 * rng.normal(size=(700, 3))
    views = {name: (latent @ rng.normal(size=(3, 10))).reshape(700, 2, 5) for name in "abc"}
    gaps = {name: view.copy() for name, view in views.items()}
    for place, name in enumerate("abc"):
        gaps[name][np.arange(700) % 3 == place] = np.nan
    fusion = nt.DeepFusion(folds=2, decoding=1.0, steps=150).fit(
        {n: v[:ROWS] for n, v in gaps.items()}, y[:ROWS]
    )
    rest = {name: view[ROWS:] for name, view in views.items()}
    for name in "abc":
        others = {other: view for other, view in rest.items() if other != name}
        assert fusion.score(others, y[ROWS:]) > 0.85
        weights = fusion.input_weights(others)
        assert (weights.loc[weights["view"] == name, "weight"] == 0).all()
        error = ((fusion.reconstruct(others, name) - rest[name]) ** 2).mean()
        assert error < 0.5 * ((rest[name] - rest[name].mean(axis=0)) ** 2).mean()
    nothing = fusion.predict_proba({"a": np.full((2, 2, 5), np.nan)})
    np.testing.assert_allclose(nothing, 1 / 3, atol=0.15)


def test_an_over_confident_expert_is_curbed():
    """A wide view of noise, which its network learns by heart; weights of one take its word."""
    rng = np.random.default_rng(0)
    planted = planted_views([0.3], rows=ROWS + 300, seed=2)
    views = planted.views | {"heart": 3 * rng.normal(size=(ROWS + 300, 300)).astype(np.float32)}
    train, y, test, y_test = halves(Planted(views, planted.y, planted.spoilt))
    fusion = nt.DeepFusion(folds=2, hidden=64, steps=200, compression=0.001).fit(train, y)
    believed = fusion.predict_proba(test)
    fusion.draws_ = np.tile(np.array([0.475, 0.475, 0.0]), (50, 1))  # w = 1, κ = 1
    credulous = fusion.predict_proba(test)
    assert selector.half_normal(selector.torch.tensor(0.475)) == pytest.approx(1, abs=0.01)
    assert log_loss(y_test, believed) < log_loss(y_test, credulous) - 0.05


@pytest.mark.parametrize("sampler", ["importance", "hamiltonian"])
def test_the_posterior_is_the_one_that_integration_gives(sampler, monkeypatch):
    """One view, two numbers: mean and sd of w and κ on a fine grid."""
    if sampler == "hamiltonian":  # what is drawn where importance sampling leaves too few draws
        monkeypatch.setattr(selector, "sample", lambda *_, **__: (None, 1.0))
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(60, 1, 2))
    logits -= logits.mean(axis=2, keepdims=True)
    gap = 3 * (logits[:, 0, 1] - logits[:, 0, 0]) / 2
    y = (rng.random(60) < 1 / (1 + np.exp(-gap))).astype(int)
    evidence = Evidence(logits * 3, np.full((60, 1), 0.8), np.zeros((60, 2)))
    draws, ess = selector.infer("product", evidence, y, draws=1000, seed=0)
    assert ess > 800
    x = np.stack(np.meshgrid(np.linspace(-5, 5, 201), np.linspace(-5, 5, 201)), axis=-1).reshape(-1, 2)
    log_p = np.log(selector.probabilities("product", evidence, x)[:, np.arange(60), y]).sum(axis=1)
    density = np.exp(log_p - (x**2).sum(axis=1) / 2 - log_p.max())
    density /= density.sum()
    mean = density @ x
    sd = np.sqrt(density @ (x - mean) ** 2)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.1 * sd.min())
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.1)


def test_what_is_wrong_is_named(monkeypatch):
    planted = planted_views([0.2, 0.5], rows=60, seed=0)
    fusion = nt.DeepFusion()
    with pytest.raises(InputError, match="kind='sum': expected 'product' or 'mixture'"):
        nt.DeepFusion("sum").fit(planted.views, planted.y)
    with pytest.raises(InputError, match=r"view 'view 1' has shape \(59, 12\): expected 60 rows"):
        fusion.fit(planted.views | {"view 1": planted.views["view 1"][1:]}, planted.y)
    with pytest.raises(InputError, match="all 60 outcomes are alike"):
        fusion.fit(planted.views, np.ones(60))
    with pytest.raises(InputError, match="too few for folds=3"):
        fusion.fit(planted.views, np.arange(60) == 0)
    with pytest.raises(InputError, match="'view 0' has infinite values"):
        fusion.fit(planted.views | {"view 0": np.full((60, 2), np.inf)}, planted.y)
    fitted = nt.DeepFusion(steps=5, folds=2, draws=200).fit(planted.views, planted.y)
    assert fitted.predict(planted.views).shape == (60,)
    with pytest.raises(InputError, match="views 'sound': expected some of view 0, view 1"):
        fitted.predict({"sound": planted.views["view 0"]})
    with pytest.raises(InputError, match="decoding= above 0"):
        fitted.reconstruct(planted.views, "view 0")
    monkeypatch.setitem(sys.modules, "pyro", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'neurotrace-lens\[fusion\]'$"):
        fusion.fit(planted.views, planted.y)


def test_the_same_seed_gives_the_same_fit():
    planted = planted_views([0.2, 0.5], rows=100, seed=0)
    fusion = nt.DeepFusion(steps=20, folds=2, draws=200)
    twice = [fusion.fit(planted.views, planted.y).predict_proba(planted.views) for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_missing_evidence_is_no_evidence(spoilt):
    fusion, *_ = spoilt
    less = deep.without(fusion.evidence_, 0)
    weight, strength = selector.weigh("product", less, fusion._few())
    assert (weight[:, :, 0] == 0).all()
    assert (strength[:, :, 0] == 0).all()


def test_the_figure_shows_each_view(spoilt):
    fusion, *_ = spoilt
    figure = nt.plot_fusion(fusion.weights(), fusion.agreement())
    assert list(figure.data[0].y) == fusion.names_
    np.testing.assert_allclose(figure.data[0].x, fusion.weights()["weight"])
    assert figure.data[2].z.shape == (4, 4)


def test_the_block_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "fusion.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    exec(compile(block, "fusion.md", "exec"), {})


def test_a_view_that_another_one_covers_is_believed_where_it_is_alone():
    """The whole knows all that the part knows, so beside it the part has little weight."""
    planted = planted_views([0.3, 0.3], rows=ROWS + 400, noise=0.3, seed=3)
    part = planted.views["view 0"]
    views = {"part": part, "whole": np.hstack([part, part, planted.views["view 1"]])}
    fusion = nt.DeepFusion(folds=2, steps=150).fit(
        {n: v[:ROWS] for n, v in views.items()}, planted.y[:ROWS]
    )
    y, alone = planted.y[ROWS:], {"part": part[ROWS:]}
    believed = log_loss(y, fusion.predict_proba(alone))
    strength = fusion.input_weights(alone)["strength"].sum()
    fusion.partial_ = {(True, False): fusion.draws_}
    as_beside = log_loss(y, fusion.predict_proba(alone))
    assert believed < as_beside - 0.05
    assert strength > fusion.input_weights(alone)["strength"].sum()


def test_networks_that_agree_are_as_sure_together_and_one_that_is_not_counts_by_its_logarithm():
    sure = np.array([[0.9, 0.1]])
    np.testing.assert_allclose(selector.pooled([sure, sure, sure]), sure)
    odds = selector.pooled([sure, np.array([[0.5, 0.5]])])
    np.testing.assert_allclose(odds[0, 0] / odds[0, 1], 3.0)  # the geometric mean of 9 and 1
    assert selector.pooled([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])])[0, 0] == pytest.approx(0.5)
