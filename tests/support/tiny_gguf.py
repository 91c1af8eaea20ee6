"""A tiny random Llama as a GGUF file, quantized where its rows are long enough."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

DIGITS = [str(digit) for digit in range(10)]
WORDS = ["<unk>", "w", *DIGITS, *(f"w{digit}" for digit in DIGITS)]
WIDTH, HIDDEN, DEPTH, HEADS = 32, 64, 3, 4
Q8 = gguf.GGMLQuantizationType.Q8_0


def write_tiny_gguf(path: Path, *, seed: int = 0) -> Path:
    """Three layers of 64 neurons; the projections are Q8_0, norms and embeddings float32."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(DEPTH)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges([f"w {digit}" for digit in DIGITS])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)

    def add(name: str, rows: int, columns: int, *, quantized: bool = True) -> None:
        values = (draw.normal(size=(rows, columns)) * 1.5 * columns**-0.5).astype(np.float32)
        if quantized:
            writer.add_tensor(name, gguf.quants.quantize(values, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(WORDS), WIDTH, quantized=False)
    add("output.weight", len(WORDS), WIDTH, quantized=False)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    for layer in range(DEPTH):
        block = f"blk.{layer}"
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // 2, WIDTH),
            ("attn_v", WIDTH // 2, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", HIDDEN, WIDTH),
            ("ffn_up", HIDDEN, WIDTH),
            ("ffn_down", WIDTH, HIDDEN),
        ):
            add(f"{block}.{name}.weight", rows, columns)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
