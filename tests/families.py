"""Tiny random models of several architectures, built from configs; weights loud enough to matter."""

from __future__ import annotations

from pathlib import Path

import torch
from planted import word_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from neurotrace.models import hook
from neurotrace.pairs import PromptPair

WORDS = ["<unk>", *(f"w{number}" for number in range(47))]
_COMMON = {
    "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_GATED = {**_COMMON, "intermediate_size": 64, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=32, n_layer=3, n_head=4, n_inner=64,
        bos_token_id=0, eos_token_id=0,
    ),
    "neox": lambda: GPTNeoXConfig(**_COMMON, intermediate_size=64),
    "llama": lambda: LlamaConfig(**_GATED),
    "qwen2": lambda: Qwen2Config(**_GATED),
    "gemma2": lambda: Gemma2Config(**_GATED, head_dim=8, query_pre_attn_scalar=8),
    "phi": lambda: PhiConfig(**_COMMON, intermediate_size=64, num_key_value_heads=4),
    "opt": lambda: OPTConfig(**_COMMON, ffn_dim=64, word_embed_proj_dim=32),
}  # fmt: skip


def family_model(name: str, folder: Path, *, seed: int = 0):
    """A checked bridge over a random model whose effects are tenths of a nat and more."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.15 / parameter.std())
    return hook(model, word_tokenizer(folder, WORDS), name=name)


def random_pairs(count: int = 6) -> list[PromptPair]:
    """Pairs without meaning, of two lengths: for numbers, not for behaviour (encode(check=False))."""
    return [
        PromptPair(
            id=f"p{i}", family="noise", template=f"t{i % 2}", group=f"g{i}",
            memorization=f"w{i + 1} w{i + 2} w{i + 3}" + " w9" * (i % 2) + " w4",
            reasoning=f"w{i + 1} w{i + 2} w{i + 3}" + " w9" * (i % 2) + " w5",
            memorized_answer=f" w{20 + i}", reasoned_answer=f" w{30 + i}",
        )
        for i in range(count)
    ]  # fmt: skip
