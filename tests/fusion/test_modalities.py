"""Real modalities: heard in other voices, described with typos, weighed against rivals."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from neurotrace.core.errors import InputError
from neurotrace.fusion import DeepFusion, speech
from neurotrace.fusion.modalities import modalities
from neurotrace.fusion.planted import planted_views
from neurotrace.fusion.rivals import WEIGHINGS, Rival, _balance, network, torch
from neurotrace.fusion.things import DIGITS


def test_spoken_names_differ_by_name_and_voice():
    pytest.importorskip("espeakng_loader", reason="needs the extra `modalities`")
    assert not set(speech.TRAIN_VOICES) & set(speech.TEST_VOICES)
    assert len({speech.spoken("seven", voice).tobytes() for voice in speech.TRAIN_VOICES}) == len(
        speech.TRAIN_VOICES
    )
    train, test = modalities("digits", train=40, test=20, snr=20, vague=0.0, typos=0.0)
    assert train.views["sound"].shape == (40, speech.BANDS, speech.FRAMES)
    assert np.isfinite(train.views["sound"]).all()
    assert all(text in DIGITS[train.names[y]] for text, y in zip(train.texts, train.y, strict=True))
    again, _ = modalities("digits", train=40, test=20, snr=20, vague=0.0, typos=0.0)
    np.testing.assert_array_equal(train.views["sound"], again.views["sound"])
    assert len(test.y) == 20
    with pytest.raises(InputError, match="voice 'xx-nobody' is unknown"):
        speech.spoken("seven", "xx-nobody")


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="things='cats': expected 'digits' or 'clothes'"):
        modalities("cats")
    with pytest.raises(InputError, match="expected Fashion-MNIST; run `make modalities`"):
        modalities("clothes", folder=tmp_path)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech._espeak.cache_clear()
    speech.spoken.cache_clear()
    with pytest.raises(InputError, match="pip install espeakng-loader"):
        modalities("digits", train=10, test=10)


@pytest.mark.parametrize("weighing", WEIGHINGS)
def test_rivals_learn_and_do_without_a_view(weighing):
    drawn = planted_views([0.0, 0.3], rows=400, noise=0.2, seed=0)
    rival = Rival(weighing, folds=2, steps=40).fit(
        {name: view[:300] for name, view in drawn.views.items()}, drawn.y[:300]
    )
    rest = {name: view[300:] for name, view in drawn.views.items()}
    assert rival.score(rest, drawn.y[300:]) > 0.8
    assert rival.score({"view 1": rest["view 1"]}, drawn.y[300:]) > 0.5
    np.testing.assert_allclose(rival.predict_proba(rest).sum(axis=1), 1, rtol=1e-5)


def test_a_joint_product_is_trained_on_all_views_together():
    """Its weak view is worse alone than deep fusion's, which each view's network is trained for."""
    drawn = planted_views([0.0, 0.3], rows=500, noise=0.2, seed=0)
    own = {name: view[:300] for name, view in drawn.views.items()}
    rest = {"view 1": drawn.views["view 1"][300:]}
    fitted = [
        each.fit(own, drawn.y[:300]) for each in (Rival("joint product", folds=2), DeepFusion(folds=2))
    ]
    together, apart = (each.score(rest, drawn.y[300:]) for each in fitted)
    assert together < apart


def test_gradient_balancing_damps_the_network_that_is_ahead():
    torch.manual_seed(0)
    nets = torch.nn.ModuleList([network(4, 8, 3) for _ in range(2)])
    for weight in nets.parameters():
        weight.grad = torch.full_like(weight, 1.0)  # no spread, so no noise is added
    y = torch.zeros(10, dtype=torch.long)
    logits = torch.zeros(10, 2, 3)
    logits[:, 0, 0] = 5.0  # the first network is sure and right
    _balance(nets, logits, y)
    assert all((weight.grad < 0.2).all() for weight in nets[0].parameters())
    assert all((weight.grad == 1).all() for weight in nets[1].parameters())


def test_a_weighing_that_is_unknown_is_named():
    drawn = planted_views([0.0], rows=20)
    with pytest.raises(InputError, match="weighing='best': expected one of equal weights, gradient"):
        Rival("best").fit(drawn.views, drawn.y)
