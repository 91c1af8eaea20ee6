"""The suffix engine against the slow, obvious way: full passes with hooks, over many architectures.

The slow way here is written anew (`slow`), so that it shares no code with the engine's own.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from neurotrace import suffix
from neurotrace.suffix import Edit

VOCABULARY, WIDTH, HIDDEN, DEPTH, HEADS, LENGTH, WINDOW = 96, 32, 64, 4, 4, 14, 6
COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
NO_GROUPS = COMMON | dict(num_key_value_heads=HEADS)

# name: (model_type, options, the path it must take)
FAMILIES: dict[str, tuple[str, dict, str]] = {
    "gpt2": (
        "gpt2",
        dict(vocab_size=96, n_embd=32, n_layer=4, n_head=4, n_positions=64, n_inner=64),
        "shared",
    ),
    "gpt_neo": (
        "gpt_neo",
        dict(
            vocab_size=96,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            intermediate_size=64,
            attention_types=[[["global", "local"], 2]],
            window_size=WINDOW,
            max_position_embeddings=64,
        ),
        "frozen",
    ),
    "gptj": (
        "gptj",
        dict(
            vocab_size=96, n_embd=32, n_layer=4, n_head=4, rotary_dim=4, n_positions=64, n_inner=64
        ),
        "frozen",
    ),
    "neox_parallel": ("gpt_neox", NO_GROUPS | dict(use_parallel_residual=True), "shared"),
    "neox_serial": ("gpt_neox", NO_GROUPS | dict(use_parallel_residual=False), "shared"),
    "bloom": ("bloom", dict(vocab_size=96, hidden_size=32, n_layer=4, n_head=4), "frozen"),
    "falcon": (
        "falcon",
        dict(vocab_size=96, hidden_size=32, num_hidden_layers=4, num_attention_heads=4),
        "frozen",
    ),
    "falcon_alibi": (
        "falcon",
        dict(
            vocab_size=96,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            alibi=True,
            parallel_attn=False,
            bias=True,
        ),
        "frozen",
    ),
    "opt": ("opt", COMMON | dict(ffn_dim=64, word_embed_proj_dim=32), "shared"),
    "opt_post_norm": (
        "opt",
        COMMON | dict(ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False),
        "shared",
    ),
    "llama": ("llama", COMMON, "shared"),
    "llama_tied_biased": (
        "llama",
        COMMON | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
        "shared",
    ),
    "mistral_window": ("mistral", COMMON | dict(sliding_window=WINDOW), "shared"),
    "qwen2": ("qwen2", COMMON, "shared"),
    "qwen2_window": (
        "qwen2",
        COMMON | dict(sliding_window=WINDOW, use_sliding_window=True, max_window_layers=2),
        "shared",
    ),
    "qwen3": ("qwen3", COMMON, "shared"),
    "gemma": ("gemma", COMMON, "shared"),
    "gemma2": (
        "gemma2",
        COMMON
        | dict(sliding_window=WINDOW, final_logit_softcapping=30.0, attn_logit_softcapping=20.0),
        "shared",
    ),
    "gemma3": (
        "gemma3_text",
        COMMON | dict(sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=8),
        "shared",
    ),
    "phi": ("phi", NO_GROUPS, "shared"),
    "phi3": ("phi3", COMMON, "shared"),
    "olmo2": ("olmo2", COMMON, "shared"),
    "stablelm": ("stablelm", COMMON | dict(use_qkv_bias=True), "shared"),
    "stablelm_parallel": ("stablelm", COMMON | dict(use_parallel_residual=True), "shared"),
    "granite": (
        "granite",
        COMMON
        | dict(
            residual_multiplier=0.6,
            embedding_multiplier=3.0,
            attention_multiplier=0.3,
            logits_scaling=0.5,
        ),
        "shared",
    ),
    "smollm3": ("smollm3", COMMON | dict(no_rope_layer_interval=2), "shared"),
    "cohere": ("cohere", COMMON | dict(logit_scale=0.5), "shared"),
    "cohere2": (
        "cohere2",
        COMMON | dict(sliding_window=WINDOW, sliding_window_pattern=2),
        "shared",
    ),
    "starcoder2": ("starcoder2", COMMON | dict(sliding_window=WINDOW), "shared"),
    "gpt_bigcode": (
        "gpt_bigcode",
        dict(vocab_size=96, n_embd=32, n_layer=4, n_head=4, n_positions=64, n_inner=64),
        "shared",
    ),
    "mpt": (
        "mpt",
        dict(vocab_size=96, d_model=32, n_layers=4, n_heads=4, max_seq_len=64, expansion_ratio=2),
        "frozen",
    ),
    "glm4": ("glm4", COMMON, "shared"),
    "exaone4": ("exaone4", COMMON | dict(sliding_window=WINDOW), "shared"),
    "nemotron": ("nemotron", COMMON, "shared"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A tiny random model of one family, its weights scaled until neurons matter."""
    model_type, options, _ = FAMILIES[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def slow(model: nn.Module, ids: torch.Tensor, edits: list[Edit], positions: list[int]):
    """Full passes, one a row: final logits [row, vocabulary]."""
    parts = suffix.find_parts(model)
    rows = []
    for edit in edits:

        def hook(layer):
            chosen = edit.layers == layer
            index, by, to = edit.indices[chosen], edit.scale[chosen], edit.offset[chosen]

            def change(module, args):
                x = args[0].clone()
                flat = x.view(len(ids), -1) if x.dim() == 2 else x[0]
                for p in positions:
                    flat[p, index] = by * flat[p, index] + to
                return (x,)

            return change

        handles = [
            parts.projections[layer].register_forward_pre_hook(hook(layer))
            for layer in set(edit.layers.tolist())
        ]
        try:
            with torch.no_grad():
                rows.append(model(ids[None]).logits[0, -1])
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(rows)


def prompt(seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def engines():
    made = {}

    def get(name):
        if name not in made:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = build(name)
                made[name] = (model, suffix.engine(model))
            assert (FAMILIES[name][2] == "shared") == (
                not any("suffix engine" in str(w.message) for w in caught)
            )
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_single_equals_full_passes(name, engines, record_property):
    model, engine = engines(name)
    record_property("path", f"{engine.path}{'' if engine.widen else ' (not widened)'}")
    assert engine.path == FAMILIES[name][2], engine.reason
    ids = prompt()
    run = engine.clean(ids)
    clean = engine.logits(run.hidden)
    index = torch.tensor([0, 7, 21, 40, 63])
    largest = 0.0
    for layer in range(DEPTH):
        values = torch.tensor([0.0, 0.0, 2.0, -1.0, 3.0])
        got = engine.logits(engine.single(run, layer, index, values))
        edits = [
            Edit.set([layer], [i], float(v)) for i, v in zip(index.tolist(), values, strict=True)
        ]
        want = slow(model, ids, edits, [LENGTH - 1])
        assert (got - want).abs().max() < 1e-4
        largest = max(largest, float((want - clean).abs().max()))
    assert 0.1 < largest < 40, largest


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("positions", [None, [4, -2], "all"], ids=["read", "list", "all"])
def test_sets_equal_full_passes(name, positions, engines):
    model, engine = engines(name)
    two = torch.stack([prompt(1), prompt(2)])
    run = engine.clean(two, positions)
    where = {None: [-1], "all": list(range(LENGTH))}.get(positions if positions != [4, -2] else 0)
    where = where or [4, -2]
    generator = torch.Generator().manual_seed(5)
    edits = []
    for _ in range(4):
        n = 6
        layers = torch.tensor([0, 1, 1, 2, 3, 3])
        indices = torch.randperm(32, generator=generator)[:n]
        scale = torch.tensor([0.0, 1.0, 0.5, 0.0, -1.0, 1.0])
        edits.append(Edit(layers, indices, scale, torch.randn(n, generator=generator)))
    got = engine.logits(engine.sets(run, edits))
    want = torch.cat([slow(model, two[0], edits[:2], where), slow(model, two[1], edits[2:], where)])
    assert (got - want).abs().max() < 1e-4
