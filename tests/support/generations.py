"""The two generations of TransformerLens: the tests' models as either class.

With `NEUROTRACE_MODELS=HookedTransformer` (needs transformer-lens before 4; `make test-tl39`) fixtures
are of that class where its loader knows the family; else they are bridges.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch import nn

from neurotrace.models import loading
from neurotrace.models.hooks import inspect_model

KIND = os.environ.get("NEUROTRACE_MODELS", "TransformerBridge")
LOADABLE = ("gpt2", "neox", "llama", "qwen2", "opt", "planted")  # by HookedTransformer's loader


def boot(model: nn.Module, tokenizer: Any, *, name: str) -> Any:
    """A checked model of the class that the tests run on."""
    if KIND == "TransformerBridge" or name not in LOADABLE:
        return loading.boot(model, tokenizer, name=name)
    return hooked_transformer(model, tokenizer)


def hooked_transformer(model: Any, tokenizer: Any) -> Any:
    """The same weights as a `HookedTransformer`, unprocessed.

    Its loader reads a config from a folder and weights from the model; it takes no local folder by
    itself, and a GPT-2's MLP for four times as wide as the model.
    """
    import transformer_lens.loading_from_pretrained as loading
    from transformer_lens import HookedTransformer

    config = model.config
    config.architectures = [type(model).__name__]
    config.n_ctx = getattr(config, "max_position_embeddings", None)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        cfg = loading.get_pretrained_model_config(folder, device="cpu", dtype=torch.float32)
        cfg.d_mlp = getattr(config, "n_inner", None) or cfg.d_mlp
        made = HookedTransformer(cfg, tokenizer)
        state = loading.get_pretrained_state_dict(folder, cfg, model)
    plain = {name: False for name in ("fold_ln", "center_writing_weights", "center_unembed")}
    made.load_and_process_state_dict(state, fold_value_biases=False, **plain)
    made.eval()
    inspect_model(made)
    return made
