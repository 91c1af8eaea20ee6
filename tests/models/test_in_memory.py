"""Models that a user already has, and folders that are no model: each loads, or says its own reason."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from families import CONFIGS, WORDS
from planted import word_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

import neurotrace as nt
from neurotrace.core.errors import InputError

pytestmark = pytest.mark.bridge
IDS = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.fixture
def made(tmp_path):
    """(transformers model, tokenizer) that nobody hooked yet."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval(), word_tokenizer(tmp_path, WORDS)


def logits(model):
    with torch.no_grad():
        found = model(IDS)
    return getattr(found, "logits", found)


def test_a_model_in_memory_is_hooked_and_stays_as_it_was(made):
    model, tokenizer = made
    before, kinds = logits(model), [type(each) for each in model.modules()]
    model.train()
    loaded = nt.load_model(model, tokenizer)
    torch.testing.assert_close(logits(loaded), before)
    assert [type(each) for each in model.modules()] == kinds
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    own = {p.data_ptr() for p in model.parameters()}
    assert {
        p.data_ptr() for p in loaded.original_model.parameters()
    } <= own  # no second copy of the weights
    assert nt.load_model(loaded) is loaded
    with pytest.raises(InputError, match=r"nt\.load_model\(model, tokenizer\)"):
        nt.load_model(model)


def test_hooks_of_the_user_stay_and_are_said(made):
    model, tokenizer = made
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out * 0)
    before = logits(model)
    with pytest.warns(UserWarning, match=r"hooks of yours \(on model\.layers\.0\.mlp\)"):
        loaded = nt.load_model(model, tokenizer)
    torch.testing.assert_close(logits(loaded), before)


def adapted(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["down_proj"], r=2, init_lora_weights=False)
    return peft.get_peft_model(copy.deepcopy(model), config).eval()


def test_a_peft_model_is_merged_into_a_copy(made):
    model, tokenizer = made
    whole = adapted(model)
    before = logits(whole)
    assert not torch.allclose(before, logits(model))
    with pytest.warns(UserWarning, match="adapter was merged into a copy"):
        loaded = nt.load_model(whole, tokenizer)
    torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(whole), before)  # not merged itself


def test_an_adapter_folder_is_merged_into_its_base(made, tmp_path):
    model, tokenizer = made
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    whole = adapted(base)
    whole.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="an adapter, merged into"):
        loaded = nt.load_model(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logits(loaded), logits(whole), rtol=1e-4, atol=1e-5)


def test_an_adapter_folder_says_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    monkeypatch.setattr("neurotrace.models.origins.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"an adapter of owner/base, not a model: pip install peft"):
        nt.load_model(str(tmp_path))
    monkeypatch.setattr("neurotrace.models.origins.find_spec", lambda _: True)
    with pytest.raises(InputError, match=r"without adapter_model\.safetensors; pickles"):
        nt.load_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="without the name of its base"):
        nt.load_model(str(tmp_path))


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "gptq", "awq"])
def test_quantized_models_are_refused_by_name(made, tmp_path, method):
    model, tokenizer = made
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=rf"quantized with {method}.*plain weights"):
        nt.load_model(str(tmp_path), device="cpu")
    model.config.quantization_config = {"quant_method": method}
    with pytest.raises(InputError, match=f"quantized with {method}"):
        nt.load_model(model, tokenizer)


def test_packed_weights_in_memory_are_refused_by_name(made):
    model, tokenizer = made
    weight = torch.zeros(4, 4, dtype=torch.uint8)
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.down_proj\.weight is quantized .*uint8"):
        nt.load_model(model, tokenizer)


def encoder_decoder():
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    return T5ForConditionalGeneration(config)


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def encoder():
    return BertForMaskedLM(BertConfig(vocab_size=len(WORDS), **SIZES))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (encoder_decoder, "sequence-to-sequence model"),
        (encoder, "BertForMaskedLM does not predict the next token"),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(make, words, tmp_path):
    tokenizer = word_tokenizer(tmp_path, WORDS)
    model = make()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        nt.load_model(str(tmp_path), device="cpu")
    with pytest.raises(InputError, match=words):
        nt.load_model(model, tokenizer)


def test_a_model_without_a_head_is_refused_by_name(made):
    model, tokenizer = made
    with pytest.raises(InputError, match="LlamaModel has no head that predicts"):
        nt.load_model(model.model, tokenizer)


def test_a_folder_without_a_tokenizer_takes_one(made, tmp_path):
    model, tokenizer = made
    folder = tmp_path / "bare"
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"no tokenizer in it: copy tokenizer\.json"):
        nt.load_model(str(folder), device="cpu")
    loaded = nt.load_model(str(folder), tokenizer, device="cpu")
    torch.testing.assert_close(logits(loaded), logits(model))


@pytest.mark.parametrize("keep", [0.5, 0.999, 0.0])
def test_a_truncated_file_is_named(made, tmp_path, keep):
    model, _ = made
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=rf"{shard.name}: cut off or damaged .*again") as caught:
        nt.load_model(str(tmp_path), device="cpu")
    assert "built-in" not in str(caught.value)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name} is missing, which its index names"):
        nt.load_model(str(tmp_path), device="cpu")


def test_a_name_that_is_nowhere_still_lists_the_sources():
    with pytest.raises(InputError, match="Wanted one of the built-in models"):
        nt.load_model("owner/no-such-model", device="cpu")
