"""What a folder or a GGUF file gives is the whole model and a causal one, or it is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from families import CONFIGS, FAMILIES, WORDS
from planted import word_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaForCausalLM,
)

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.checks import check_causal

pytestmark = pytest.mark.bridge


def saved(folder, name="llama", **how):
    torch.manual_seed(0)
    word_tokenizer(folder, WORDS)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]())
    model.save_pretrained(folder, **how)
    return model


def edit_weights(folder, change):
    """Apply `change` to the tensors of the one file that holds something for it to do."""
    for file in sorted(folder.glob("*.safetensors")):
        weights = load_file(file)
        save_file(change(weights), file, metadata={"format": "pt"})


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("sharded", [False, True])
def test_a_missing_weight_is_named(tmp_path, sharded):
    saved(tmp_path, **({"max_shard_size": "20KB"} if sharded else {}))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    nt.load_model(str(tmp_path), device="cpu")  # as it was saved
    edit_weights(tmp_path, lambda weights: {k: v for k, v in weights.items() if k != DOWN})
    with pytest.raises(InputError, match=rf"lacks weights.*{DOWN}"):
        nt.load_model(str(tmp_path), device="cpu")


def test_prefixed_names_are_refused(tmp_path):
    saved(tmp_path)
    edit_weights(tmp_path, lambda weights: {f"student.{k}": v for k, v in weights.items()})
    with pytest.raises(InputError, match=r"lacks weights.*lm_head\.weight.* and \d+ more"):
        nt.load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_hidden_layers": 4}, r"lacks weights.*model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"no place for.*model\.layers\.2\."),
        ({"intermediate_size": 48}, r"another shape.*down_proj\.weight \(32, 64\) for \(32, 48\)"),
        ({"attention_bias": True}, r"lacks weights.*q_proj\.bias|lacks weights.*k_proj\.bias"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path, settings, words):
    saved(tmp_path)
    edit_config(tmp_path, **settings)
    with pytest.raises(InputError, match=words):
        nt.load_model(str(tmp_path), device="cpu")


def test_an_extra_weight_is_named_and_old_buffers_pass(tmp_path):
    saved(tmp_path)
    mask = torch.ones(1, 1, 8, 8)
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.attention.bias": mask,
    }
    edit_weights(tmp_path, lambda weights: weights | old)
    nt.load_model(str(tmp_path), device="cpu")
    edit_weights(tmp_path, lambda weights: weights | {"value_head.weight": torch.ones(2)})
    with pytest.raises(InputError, match=r"no place for: value_head\.weight;"):
        nt.load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_tied_weights_are_not_missing(tmp_path, name):
    model = saved(tmp_path, name)
    assert model.config.tie_word_embeddings
    (file,) = tmp_path.glob("*.safetensors")
    assert "lm_head.weight" not in load_file(file)
    nt.load_model(str(tmp_path), device="cpu")


def test_both_of_tied_weights_missing_is_named(tmp_path):
    saved(tmp_path, "gpt2")
    edit_weights(tmp_path, lambda weights: {k: v for k, v in weights.items() if "wte" not in k})
    with pytest.raises(InputError, match=r"lacks weights.*wte\.weight"):
        nt.load_model(str(tmp_path), device="cpu")


def test_a_head_that_is_tied_and_given_differently_is_what_was_given(tmp_path):
    saved(tmp_path, "gpt2")
    head = torch.randn(len(WORDS), 32)
    edit_weights(tmp_path, lambda weights: weights | {"lm_head.weight": head})
    model = nt.load_model(str(tmp_path), device="cpu")
    assert torch.equal(model.unembed.W_U.t(), head)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    saved(tmp_path)

    def damage(weights):
        weights[DOWN][3, 4] = value
        return weights

    edit_weights(tmp_path, damage)
    with pytest.raises(InputError, match=rf"{DOWN} holds NaN or inf"):
        nt.load_model(str(tmp_path), device="cpu")


def test_spread_models_are_checked_as_well(tmp_path):
    saved(tmp_path)
    edit_weights(tmp_path, lambda weights: {k: v for k, v in weights.items() if k != DOWN})
    with pytest.raises(InputError, match=rf"lacks weights.*{DOWN}"):
        nt.load_model(str(tmp_path), device={"": "cpu"})


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path, change=lambda tensors: tensors, blocks=3):
    """A llama as a GGUF file, its tensors changed on the way."""
    import gguf

    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIGS["llama"]())
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*WORDS[:-2], "w", "1"])
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    tensors = {}
    for name, weight in model.state_dict().items():
        stem, _, suffix = name.removeprefix("model.").rpartition(".")
        if stem.startswith("layers."):
            _, layer, rest = stem.split(".", 2)
            stem = f"blk.{layer}.{GGUF_NAMES[rest]}"
        stem = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}.get(stem, stem)
        tensors[f"{stem}.{suffix}"] = weight.numpy()
    for name, weight in change(tensors).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_a_length_that_a_gguf_file_does_not_have_is_refused(tmp_path):
    """The package's reader went on for as many entries as the header says, beyond the file's end."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "whole.gguf"
    write_gguf(path)
    reader = gguf.GGUFReader(path, "r+")
    reader.fields["tokenizer.ggml.tokens"].parts[4][0] = 2**40
    del reader
    with pytest.raises(InputError, match="it ends at byte"):
        nt.load_model(path, device="cpu")


def test_gguf_files_are_whole(tmp_path):
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "whole.gguf")
    nt.load_model(str(tmp_path / "whole.gguf"), device="cpu")
    freqs = {"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    nt.load_model(write_gguf(tmp_path / "freqs.gguf", lambda t: t | freqs), device="cpu")


@pytest.mark.parametrize(
    ("change", "blocks", "words"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "blk.1.ffn_down.weight"},
            3,
            rf"lacks weights.*{DOWN}",
        ),
        (lambda t: {f"x.{k}": v for k, v in t.items()}, 3, "lacks weights"),
        (lambda t: t, 4, r"lacks weights.*model\.layers\.3"),
        (lambda t: t, 2, r"no place for: blk\.2\."),
        (
            lambda t: t | {"blk.1.ffn_extra.weight": np.ones(3, dtype=np.float32)},
            3,
            r"no place for: blk\.1\.ffn_extra\.weight;",
        ),
        (
            lambda t: t | {"blk.1.ffn_down.weight": np.ones((32, 48), dtype=np.float32)},
            3,
            rf"another shape.*{DOWN}",
        ),
        (
            lambda t: t | {"blk.1.ffn_down.weight": np.full((32, 64), np.nan, dtype=np.float32)},
            3,
            rf"{DOWN} holds NaN",
        ),
    ],
)
def test_what_a_gguf_file_lacks_or_has_too_much_is_named(tmp_path, change, blocks, words):
    pytest.importorskip("gguf")
    with pytest.raises(InputError, match=words):
        nt.load_model(write_gguf(tmp_path / "odd.gguf", change, blocks), device="cpu")


def test_an_encoder_is_refused(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    word_tokenizer(tmp_path, WORDS)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"changing a token .* reads both ways"):
        nt.load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_reads_both_ways_is_refused(tmp_path, dtype):
    tokenizer = word_tokenizer(tmp_path, WORDS)
    for both_ways in (False, True):
        torch.manual_seed(0)
        options = FAMILIES["gemma3"].options | {"use_bidirectional_attention": both_ways}
        config = AutoConfig.for_model("gemma3_text", **options)
        model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
        if not both_ways:
            nt.load_model(model, tokenizer, name="decoder")
            continue
        with pytest.raises(InputError, match=r"decoder: changing a token .* reads both ways"):
            nt.load_model(model, tokenizer, name="decoder")


def test_a_leak_of_one_later_token_is_found():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 8, generator=generator)

    def logits_of(ids, leak=0.0):
        value = table[ids]
        return value.cumsum(dim=1) + leak * torch.roll(value, -1, dims=1)

    def prefixed(ids):
        value = logits_of(ids)
        value[:, :3] = value[:, 2:3]
        return value

    check_causal("fine", logits_of, 50)
    with pytest.raises(InputError, match="reads both ways"):
        check_causal("leaky", lambda ids: logits_of(ids, 1e-3), 50)
    with pytest.raises(InputError, match="prefix language model"):
        check_causal("prefixed", prefixed, 50)
    with pytest.raises(InputError, match="reads both ways"):
        check_causal("broken", lambda ids: logits_of(ids) * float("nan"), 50)
