"""A model whose last blocks stay on disk gives the numbers of the one that is in memory."""

from __future__ import annotations

import pytest
import torch
from families import CONFIGS, WORDS, random_pairs
from planted import word_tokenizer
from transformers import AutoModelForCausalLM

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import forward, w_out
from neurotrace.models.origins import twin
from neurotrace.models.sites import unembedding
from neurotrace.rankers.registry import RANKERS

pytestmark = pytest.mark.bridge
QUICK = {"integrated": {"steps": 2}, "slimming": {"steps": 2}, "hard_concrete": {"steps": 2}}
# where the model keeps what; embeddings here, the last two blocks and what follows on disk
PLACES = {
    "llama": ("model.embed_tokens", "model.layers", ("model.norm", "model.rotary_emb", "lm_head")),
    "phi": (
        "model.embed_tokens",
        "model.layers",
        ("model.final_layernorm", "model.rotary_emb", "lm_head"),
    ),
}


@pytest.fixture(scope="module", params=PLACES)
def both(request, tmp_path_factory):
    """(in memory, with two blocks of three and the unembedding on disk)."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param]())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    word_tokenizer(folder, WORDS).save_pretrained(folder)
    first, blocks, last = PLACES[request.param]
    where = {first: "cpu", f"{blocks}.0": "cpu", f"{blocks}.1": "disk", f"{blocks}.2": "disk"}
    where |= dict.fromkeys(last, "disk")
    return nt.load_model(str(folder), device="cpu"), nt.load_model(str(folder), device=where)


def test_weights_stay_away_and_are_the_same_when_read(both):
    here, away = both
    lying = {name for name, parameter in away.named_parameters() if parameter.is_meta}
    assert any(".1." in name for name in lying)
    assert not any(".0." in name for name in lying)
    ids = torch.arange(1, 9)[None].repeat(2, 1)
    assert torch.equal(forward(here, ids), forward(away, ids))
    assert torch.equal(unembedding(here), unembedding(away))
    for layer in range(3):
        assert torch.equal(w_out(here, layer), w_out(away, layer))
    assert twin(here) is not None
    assert twin(away) is None
    assert lying == {name for name, parameter in away.named_parameters() if parameter.is_meta}


@pytest.mark.parametrize("name", RANKERS)
def test_rankers(both, name):
    here, away = both
    pairs = encode(here, random_pairs(4), check=False)
    rank = RANKERS[name].function
    options = QUICK.get(name, {})
    expected = rank(here, pairs, **options).value
    if name in ("relp", "imprint"):  # they read transformers' own modules
        with pytest.raises(InputError, match=r"RelP|imprint"):
            rank(away, pairs, **options)
        return
    found = rank(away, pairs, **options).value
    some = name == "screened"  # the same candidates are measured, the others are NaN
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, equal_nan=some)


def test_effects_and_activations(both):
    here, away = both
    pairs = encode(here, random_pairs(4), check=False)
    torch.testing.assert_close(nt.collect(away, pairs).values, nt.collect(here, pairs).values)
    top = nt.gradient(here, pairs).top(5, direction="to_reasoning")
    shifts = [
        nt.measure(model, pairs, [nt.patch(top, donor="reasoning")]).to_frame() for model in (here, away)
    ]
    column = "effect" if "effect" in shifts[0] else shifts[0].select_dtypes("float").columns[0]
    assert shifts[0][column].to_numpy() == pytest.approx(shifts[1][column].to_numpy(), abs=1e-4)


def test_one_place_is_no_spreading(tmp_path):
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    model.save_pretrained(tmp_path)
    word_tokenizer(tmp_path, WORDS).save_pretrained(tmp_path)
    assert twin(nt.load_model(str(tmp_path), device="auto")) is not None


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(InputError, match=f"device='{device}': expected auto, cpu"):
        nt.load_model("organism", device=device)


def test_a_gguf_file_is_not_spread(tmp_path):
    with pytest.raises(InputError, match="GGUF"):
        nt.load_model(str(tmp_path / "model.gguf"), device="auto")
