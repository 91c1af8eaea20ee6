"""A score is a prediction: do the intervention and compare. And a planted neuron must be found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from families import family_model, random_pairs
from planted import PLANTED
from scipy.stats import spearmanr

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.encoding import encode

DONORS = {"reasoning": "to_reasoning", "memorization": "to_memorization"}
RANKERS = [
    nt.contrast,
    nt.pearson,
    nt.gradient,
    nt.two_ended,
    nt.integrated,
    nt.direct,
    nt.exact,
    nt.screened,
    nt.log_increase,
    nt.slimming,
    nt.hard_concrete,
    pytest.param(nt.relp, marks=pytest.mark.bridge),
]


@pytest.mark.parametrize("ranker", RANKERS, ids=lambda r: r.__name__)
@pytest.mark.parametrize("donor", DONORS)
def test_every_ranker_puts_the_planted_neuron_first(model, encoded, ranker, donor):
    scores = ranker(model, encoded, donor=donor)
    assert scores.rank_of(PLANTED, direction=DONORS[donor]) == 1


def test_random_does_not_find_it(model, encoded):
    ranks = [
        nt.random_scores(model, encoded, seed=seed).rank_of(PLANTED, direction="to_reasoning")
        for seed in range(20)
    ]
    assert sum(ranks) / len(ranks) > 12  # of 48: a fair draw has mean 24.5, sd 3.1 over 20 draws


def test_swapping_sides_negates_contrast(model, pairs):
    swapped = [
        replace(
            pair,
            memorization=pair.reasoning,
            reasoning=pair.memorization,
            memorized_answer=pair.reasoned_answer,
            reasoned_answer=pair.memorized_answer,
        )
        for pair in pairs
    ]
    one, other = nt.contrast(model, pairs), nt.contrast(model, swapped)
    assert torch.allclose(one.value, -other.value)
    rho, other_rho = nt.pearson(model, pairs).value, nt.pearson(model, swapped).value
    assert torch.allclose(rho.nan_to_num(), -other_rho.nan_to_num(), atol=1e-5)


def test_pearson_is_pearson(model, encoded):
    values = nt.collect(model, encoded).values
    labels = torch.cat([torch.zeros(len(encoded)), torch.ones(len(encoded))])
    rho = nt.pearson(model, encoded).value
    for layer, unit in [(0, 3), (1, 5), (1, 11)]:
        flat = torch.cat([values[0, :, layer, unit], values[1, :, layer, unit]])
        expected = torch.corrcoef(torch.stack([flat, labels]))[0, 1]
        assert rho[layer, unit] == pytest.approx(float(expected), abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("kind", ["patch", "set", "zero", "mean", "shift"])
def test_exact_equals_measuring_one_by_one(name, kind, tmp_path):
    model = family_model(name, tmp_path)
    encoded = encode(model, random_pairs(3), check=False)
    reference = nt.moments(model, encoded)
    neurons = [nt.Neuron(0, 3), nt.Neuron(1, 60), nt.Neuron(2, 7)]
    scores = nt.exact(model, encoded, kind=kind, neurons=neurons, reference=reference)
    from neurotrace.interventions.intervention import make

    for neuron in neurons:
        one = make(kind, [neuron], reference, direction="to_reasoning")
        frame = nt.measure(model, encoded, [one]).to_frame()
        measured = (frame["L_after"] - frame["L_before"]).mean()
        assert float(scores.value[neuron.layer, neuron.index]) == pytest.approx(measured, abs=1e-4)
    assert int((~scores.value.isnan()).sum()) == 3


def test_exact_by_engine_equals_exact_by_hooks(tmp_path):
    model = family_model("llama", tmp_path)
    encoded = encode(model, random_pairs(2), check=False)
    fast = nt.exact(model, encoded)
    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        slow = nt.exact(model, encoded)  # a user's hook: the twin steps back, full passes remain
    assert torch.allclose(fast.value, slow.value, atol=1e-4)
    assert float(fast.value.abs().max()) > 0.05


def test_integrated_gradients_are_complete(tmp_path):
    """A layer's scores add up to the effect of patching the whole layer."""
    model = family_model("gpt2", tmp_path)
    encoded = encode(model, random_pairs(3), check=False)
    scores = nt.integrated(model, encoded, steps=40, layers=[1])
    everything = [nt.Neuron(1, unit) for unit in range(64)]
    frame = nt.measure(model, encoded, [nt.patch(everything, donor="reasoning")]).to_frame()
    effect = (frame["L_after"] - frame["L_before"]).mean()
    assert float(scores.value[1].sum()) == pytest.approx(effect, rel=0.02, abs=1e-3)
    assert scores.value[0].isnan().all()


def test_direct_is_exact_in_the_last_layer_and_only_there(tmp_path):
    """Behind the last MLP stand only the final norm and the unembedding."""
    model = family_model("gpt2", tmp_path)
    encoded = encode(model, random_pairs(3), check=False)
    direct, full = nt.direct(model, encoded), nt.gradient(model, encoded)
    assert torch.allclose(direct.value[-1], full.value[-1], atol=1e-4)
    assert spearmanr(direct.value[0], full.value[0]).statistic < 0.99


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_size_and_pair_order_do_not_matter(tmp_path, batch_size):
    model = family_model("qwen2", tmp_path)
    pairs = random_pairs(5)
    base = nt.gradient(model, encode(model, pairs, check=False), batch_size=16)
    other = nt.gradient(model, encode(model, pairs[::-1], check=False), batch_size=batch_size)
    assert torch.allclose(base.value, other.value, atol=1e-5 * float(base.value.abs().max()) + 1e-6)


def test_unknown_words_are_refused(model, encoded):
    with pytest.raises(InputError, match="expected 'memorization' or 'reasoning'"):
        nt.gradient(model, encoded, donor="clean")
    with pytest.raises(InputError, match="rank for it with"):
        nt.gradient(model, encoded, kind="steer")
    with pytest.raises(InputError, match="expected one of patch"):
        nt.gradient(model, encoded, kind="resample")
    with pytest.raises(InputError, match="neurons is empty"):
        nt.exact(model, encoded, neurons=[])
    with pytest.raises(InputError, match="outside the model"):
        nt.exact(model, encoded, neurons=[nt.Neuron(9, 0)])


def test_slope_is_the_effect_of_a_small_unit_written(tmp_path):
    model = family_model("llama", tmp_path)
    encoded = encode(model, random_pairs(1), check=False)
    scores, seen = nt.slope(model, encoded), nt.collect(model, encoded).values
    way = (seen[1] - seen[0])[0].sign()
    for neuron in scores.top(4, direction="to_reasoning"):
        norm = model.blocks[neuron.layer].mlp.W_out[neuron.index].detach().norm()
        small = float(1e-2 * way[neuron.layer, neuron.index] / norm)
        own = float(seen[0, 0, neuron.layer, neuron.index])
        step = replace(nt.zero([neuron], direction="to_reasoning"), offset=torch.tensor([own + small]))
        frame = nt.measure(model, encoded, [step]).to_frame()
        measured = (frame["L_after"] - frame["L_before"]).mean() / 1e-2
        predicted = float(scores.value[neuron.layer, neuron.index])
        assert measured == pytest.approx(predicted, rel=0.1, abs=1e-2)
