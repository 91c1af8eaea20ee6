"""Tiny random models of every family that TransformerLens' bridge takes, built from configs.

Their weights are loud enough that one neuron moves the answer by tenths of a nat and more. Sliding
windows are shorter than the prompts, grouped queries and caps are on where a family has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from generations import boot
from planted import word_tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from neurotrace.core.pairs import PromptPair

WORDS = ["<unk>", *(f"w{number}" for number in range(47))]
VOCABULARY, WIDTH, HIDDEN, DEPTH, HEADS, WINDOW = len(WORDS), 32, 64, 4, 4, 6


class Family(NamedTuple):
    model_type: str
    options: dict[str, Any]
    path: str = "shared"  # the suffix engine's way on it; "none" where it finds no parts to touch
    refused: str = ""  # words of the refusal, where TransformerLens boots it and we don't take it
    before_4: str = ""  # the same, by transformer-lens 3.9 alone


OTHER_LOGITS = "log-probabilities differ"
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
WINDOWED = COMMON | dict(sliding_window=WINDOW)
GPT = dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS, n_positions=64)
FEW = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH)
NO_MLP = FEW | dict(state_size=8)
LATENT = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8)
LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    layer_types=["linear_attention", "full_attention"] * 2,
)
EXPERTS = dict(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=40
)
LOCAL_EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
ERNIE = EXPERTS | dict(moe_num_experts=4, moe_k=2, moe_layer_start_index=1)
ROUTED = EXPERTS | dict(n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1)

FAMILIES = {
    "gpt2": Family("gpt2", GPT | dict(n_inner=HIDDEN)),
    "gpt_neo": Family(
        "gpt_neo",
        dict(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_layers=DEPTH,
            num_heads=HEADS,
            intermediate_size=HIDDEN,
            attention_types=[[["global", "local"], 2]],
            window_size=WINDOW,
            max_position_embeddings=64,
        ),
        "frozen",
    ),
    "gptj": Family("gptj", GPT | dict(rotary_dim=4, n_inner=HIDDEN), "frozen"),
    "neox": Family("gpt_neox", NO_GROUPS | dict(use_parallel_residual=True)),
    "neox_serial": Family("gpt_neox", NO_GROUPS | dict(use_parallel_residual=False)),
    "bloom": Family(
        "bloom",
        dict(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=DEPTH, n_head=HEADS),
        "frozen",
    ),
    "falcon": Family("falcon", FEW | dict(num_attention_heads=HEADS), "frozen"),
    "falcon_alibi": Family(
        "falcon",
        FEW | dict(num_attention_heads=HEADS, alibi=True, parallel_attn=False, bias=True),
        "frozen",
        OTHER_LOGITS,
    ),
    "opt": Family("opt", COMMON | dict(ffn_dim=HIDDEN, word_embed_proj_dim=WIDTH)),
    "opt_post_norm": Family(
        "opt",
        COMMON | dict(ffn_dim=HIDDEN, word_embed_proj_dim=16, do_layer_norm_before=False),
    ),
    "llama": Family("llama", COMMON),
    "llama_tied_biased": Family(
        "llama", COMMON | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "mistral": Family("mistral", WINDOWED),
    "ministral3": Family("ministral3", WINDOWED),
    "qwen2": Family("qwen2", COMMON),
    "qwen2_window": Family("qwen2", WINDOWED | dict(use_sliding_window=True, max_window_layers=2)),
    "qwen3": Family("qwen3", COMMON),
    "qwen3_5": Family("qwen3_5_text", COMMON | LINEAR, "naive"),
    "gemma": Family("gemma", COMMON),
    "gemma2": Family("gemma2", WINDOWED | dict(final_logit_softcapping=30.0, attn_logit_softcapping=20.0)),
    "gemma3": Family("gemma3_text", WINDOWED | dict(sliding_window_pattern=2, query_pre_attn_scalar=8)),
    "gemma4": Family(
        "gemma4_text",
        WINDOWED
        | dict(
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=VOCABULARY,
            global_head_dim=8,
            num_global_key_value_heads=2,
            num_kv_shared_layers=0,
        ),
    ),
    "vaultgemma": Family("vaultgemma", COMMON),
    "phi": Family("phi", NO_GROUPS),
    "phi3": Family("phi3", COMMON),
    "olmo": Family("olmo", COMMON),
    "olmo2": Family("olmo2", COMMON),
    "olmo3": Family("olmo3", WINDOWED),
    "olmo_hybrid": Family("olmo_hybrid", COMMON | LINEAR, "naive"),
    "stablelm": Family("stablelm", COMMON | dict(use_qkv_bias=True)),
    "stablelm_parallel": Family("stablelm", COMMON | dict(use_parallel_residual=True)),
    "granite": Family(
        "granite",
        COMMON
        | dict(
            residual_multiplier=0.6,
            embedding_multiplier=3.0,
            attention_multiplier=0.3,
            logits_scaling=0.5,
        ),
    ),
    "smollm3": Family("smollm3", COMMON | dict(no_rope_layer_interval=2)),
    "cohere": Family("cohere", COMMON | dict(logit_scale=0.5), before_4=OTHER_LOGITS),
    "cohere2": Family(
        "cohere2",
        WINDOWED | dict(sliding_window_pattern=2, logit_scale=0.5),
        before_4=OTHER_LOGITS,
    ),
    "starcoder2": Family("starcoder2", WINDOWED),
    "gpt_bigcode": Family("gpt_bigcode", GPT | dict(n_inner=HIDDEN)),
    "codegen": Family("codegen", GPT | dict(rotary_dim=4, n_inner=HIDDEN), "frozen"),
    "mpt": Family(
        "mpt",
        dict(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            n_layers=DEPTH,
            n_heads=HEADS,
            max_seq_len=64,
            expansion_ratio=2,
        ),
        "frozen",
    ),
    "glm": Family("glm", COMMON),
    "glm4": Family("glm4", COMMON),
    "exaone4": Family("exaone4", WINDOWED),
    "nemotron": Family("nemotron", COMMON),
    "apertus": Family("apertus", COMMON),
    "arcee": Family("arcee", COMMON),
    "bitnet": Family("bitnet", COMMON),
    "ernie4_5": Family("ernie4_5", COMMON),
    "hunyuan": Family("hunyuan_v1_dense", COMMON, before_4=OTHER_LOGITS),
    "jais2": Family("jais2", COMMON),
    "nanochat": Family("nanochat", COMMON),
    "seed_oss": Family("seed_oss", COMMON),
    "modernbert_decoder": Family("modernbert-decoder", COMMON),
    "xglm": Family(
        "xglm",
        dict(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            ffn_dim=HIDDEN,
            num_layers=DEPTH,
            attention_heads=HEADS,
            max_position_embeddings=64,
        ),
        "frozen",
    ),
    "youtu": Family("youtu", NO_GROUPS | LATENT, "frozen", before_4=OTHER_LOGITS),
    "openai_gpt": Family("openai-gpt", GPT, "naive"),
    "lfm2": Family(
        "lfm2",
        COMMON | dict(layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False),
        "naive",
    ),
    "falcon_h1": Family(
        "falcon_h1",
        COMMON
        | dict(
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_d_state=8,
            mamba_n_groups=1,
            mamba_expand=1,
            mamba_chunk_size=8,
        ),
        "naive",
    ),
    "bamba": Family(
        "bamba",
        COMMON
        | dict(
            attn_layer_indices=[1, 3],
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_expand=2,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        "none",
    ),
    "mamba": Family("mamba", NO_MLP, "none", "no dense MLP"),
    "mamba2": Family(
        "mamba2",
        NO_MLP | dict(num_heads=4, head_dim=16, n_groups=1, chunk_size=8),
        "none",
        "no dense MLP",
    ),
    "recurrent_gemma": Family(
        "recurrent_gemma",
        COMMON | dict(lru_width=32, attention_window_size=WINDOW, block_types=["recurrent", "attention"]),
        "none",
        "no dense MLP",
    ),
    "falcon_mamba": Family("falcon_mamba", NO_MLP, "none", "no dense MLP"),
    "rwkv": Family("rwkv", FEW, "none", "no dense MLP"),
    "zamba2": Family(
        "zamba2",
        COMMON
        | dict(
            mamba_d_state=8,
            n_mamba_heads=4,
            mamba_headdim=16,
            chunk_size=8,
            num_mem_blocks=1,
            layers_block_type=["mamba", "hybrid"] * 2,
        ),
        "none",
        "no dense MLP",
    ),
    "hrm_text": Family("hrm_text", COMMON, "none", "no dense MLP"),
    "mixtral": Family("mixtral", COMMON | LOCAL_EXPERTS),
    "qwen2_moe": Family("qwen2_moe", COMMON | EXPERTS),
    "qwen3_moe": Family("qwen3_moe", COMMON | EXPERTS),
    "olmoe": Family("olmoe", COMMON | EXPERTS),
    "gpt_oss": Family("gpt_oss", COMMON | LOCAL_EXPERTS),
    "granitemoe": Family("granitemoe", COMMON | LOCAL_EXPERTS),
    "deepseek_v2": Family("deepseek_v2", NO_GROUPS | LATENT | ROUTED, "frozen", before_4=OTHER_LOGITS),
    "deepseek_v3": Family("deepseek_v3", NO_GROUPS | LATENT | ROUTED, "frozen", before_4=OTHER_LOGITS),
    "ernie4_5_moe": Family("ernie4_5_moe", COMMON | ERNIE),
    "jamba": Family(
        "jamba",
        COMMON | EXPERTS | dict(mamba_d_state=8, attn_layer_period=2, attn_layer_offset=1),
        "naive",
    ),
    "llama4": Family("llama4_text", COMMON | LOCAL_EXPERTS, "none", "a way of their own"),
    "minimax_m2": Family("minimax_m2", COMMON | LOCAL_EXPERTS),
    "glm4_moe": Family("glm4_moe", COMMON | ROUTED),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A tiny random model of one of FAMILIES, its weights scaled until neurons matter."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family.model_type, **family.options)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2 or (parameter.dim() == 3 and key.endswith("_proj")):  # experts
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


# three layers: for tests of one thing on a few kinds of block
_COMMON = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GATED = {**_COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=len(WORDS),
        n_positions=32,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_inner=64,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "neox": lambda: GPTNeoXConfig(**_COMMON, intermediate_size=64),
    "llama": lambda: LlamaConfig(**_GATED),
    "qwen2": lambda: Qwen2Config(**_GATED),
    "gemma2": lambda: Gemma2Config(**_GATED, head_dim=8, query_pre_attn_scalar=8),
    "phi": lambda: PhiConfig(**_COMMON, intermediate_size=64, num_key_value_heads=4),
    "opt": lambda: OPTConfig(**_COMMON, ffn_dim=64, word_embed_proj_dim=32),
}


def family_model(name: str, folder: Path, *, seed: int = 0):
    """A checked bridge over a random model whose effects are tenths of a nat and more."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.15 / parameter.std())
    return boot(model, word_tokenizer(folder, WORDS), name=name)


def random_pairs(count: int = 6) -> list[PromptPair]:
    """Pairs without meaning, of two lengths: for numbers, not for behaviour (encode(check=False))."""
    return [
        PromptPair(
            id=f"p{i}",
            family="noise",
            template=f"t{i % 2}",
            group=f"g{i}",
            memorization=f"w{i + 1} w{i + 2} w{i + 3}" + " w9" * (i % 2) + " w4",
            reasoning=f"w{i + 1} w{i + 2} w{i + 3}" + " w9" * (i % 2) + " w5",
            memorized_answer=f" w{20 + i}",
            reasoned_answer=f" w{30 + i}",
        )
        for i in range(count)
    ]
