"""torch's inference mode and autocast around a call: the same numbers, usable afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from families import CONFIGS, WORDS, random_pairs
from planted import planted_model, planted_pairs, word_tokenizer
from transformers import AutoModelForCausalLM

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.origins import engine_of
from neurotrace.rankers.registry import RANKERS

pytestmark = pytest.mark.bridge

MODES = {
    "inference": lambda: torch.inference_mode(),
    "no_grad": lambda: torch.no_grad(),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
QUICK = {
    "integrated": {"steps": 2, "layers": [1]},
    "slimming": {"steps": 2},
    "hard_concrete": {"steps": 2},
}


def test_autocast_changes_the_models_own_numbers(model):
    ids = torch.tensor([[1, 7, 9, 2]])
    plain = model(ids)
    with MODES["autocast"]():
        rounded = model(ids).float()
    assert (rounded - plain).abs().max() > 1e-4


def numbers(found):
    """What a result holds, as arrays."""
    if isinstance(found, torch.Tensor):
        return [found.detach().float().numpy()]
    if isinstance(found, pd.DataFrame):
        return [found[name].to_numpy(float) for name in found.select_dtypes("number").columns]
    if isinstance(found, list | tuple):
        return [each for part in found for each in numbers(part)]
    return [np.array([float(found)])] if isinstance(found, float | int) else []


def calls(model):
    pairs = planted_pairs()
    encoded = nt.encode(model, pairs)
    neurons = [nt.Neuron(1, 5), nt.Neuron(0, 3)]
    patch = nt.patch(neurons, donor="reasoning")
    reference = nt.reference(model, encoded)
    found = {
        "encode": lambda: nt.encode(model, pairs).on_reasoning.logit_difference,
        "collect": lambda: nt.collect(model, encoded).values,
        "moments": lambda: nt.moments(model, encoded).mean,
        "reference": lambda: nt.reference(model, encoded).slope,
        "measure": lambda: nt.measure(model, encoded, [patch]).to_frame(),
        "steer": lambda: nt.measure(
            model, encoded, [nt.steer(neurons, reference, direction="to_reasoning")]
        ).to_frame(),
        "all positions": lambda: nt.measure(
            model, encoded, [nt.zero(neurons, direction="to_reasoning")], positions="all"
        ).to_frame(),
        "residual": lambda: nt.locate(model, encoded, encoded).table,
        "ablate": lambda: nt.ablate(model, encoded, neurons).value,
        "ablate_sets": lambda: nt.ablate_sets(model, encoded, neurons, [1, 2]).to_frame(),
        "greedy_set": lambda: nt.greedy_set(model, encoded, neurons, k=2).to_frame(),
        "generate": lambda: [
            float(len(nt.generate(model, "the item3 recall", patch, donor_prompt="the item3 think")))
        ],
        "group_scores": lambda: nt.assess(
            nt.group_scores(nt.gradient, model, encoded), k=2, flips=50, resamples=20
        ).to_frame(),
    }
    for name, ranker in RANKERS.items():
        found[name] = lambda name=name, ranker=ranker: (
            ranker.function(model, encoded, **QUICK.get(name, {})).value
        )
    return found


CALLS = [
    "encode",
    "collect",
    "moments",
    "reference",
    "measure",
    "steer",
    "all positions",
    "residual",
    "ablate",
    "ablate_sets",
    "greedy_set",
    "generate",
    "group_scores",
    *RANKERS,
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_model(tmp_path_factory.mktemp("planted"))


def test_names_are_the_calls(planted):
    assert list(calls(planted)) == CALLS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_the_same(planted, name, mode):
    call = calls(planted)[name]
    expected = numbers(call())
    assert expected
    with MODES[mode]():
        found = numbers(call())
    for one, other in zip(expected, found, strict=True):
        assert np.allclose(one, other, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("twin", [True, False])
def test_all_of_it_in_the_mode_and_used_behind_it(tmp_path, mode, twin):
    """Loaded, encoded and proved inside; differentiated outside."""
    torch.manual_seed(0)
    word_tokenizer(tmp_path, WORDS)
    AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(tmp_path)
    found = []
    for inside in (nullcontext, MODES[mode]):
        with inside():
            model = nt.load_model(str(tmp_path), device="cpu")
            if not twin:
                model.__dict__["_neurotrace_origin"].twin = None
            encoded = nt.encode(model, random_pairs(4), check=False)
            reference = nt.reference(model, encoded)
            assert (engine_of(model) is not None) == twin
        scores = nt.gradient(model, encoded)
        kind = nt.set_to_mean(scores.top(3, direction="to_reasoning"), reference, donor="reasoning")
        table = nt.measure(model, encoded, [kind]).to_frame()
        found.append((scores.value, torch.tensor(table["L_after"].to_numpy())))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_weights_made_in_inference_mode_are_refused_by_name(tmp_path):
    tokenizer = word_tokenizer(tmp_path, WORDS)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    with pytest.raises(InputError, match=r"embed_tokens\.weight was made in torch\.inference_mode"):
        nt.load_model(model, tokenizer, name="tiny")
