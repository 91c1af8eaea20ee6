"""A folder with config.json, safetensors weights and the tokenizer, for whatever reads those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from neurotrace.core.writing import filling, write_folder
from neurotrace.exports.weights import edited
from neurotrace.interventions.intervention import Intervention


def write_checkpoint(module: nn.Module, tokenizer: Any, intervention: Intervention, folder: Path) -> None:
    """The edited model and its tokenizer.

    Raises:
        InputError: no weight edit can express the intervention; the folder can't be written.
    """
    made: Any = edited(module, intervention)

    def fill(new: Path) -> None:
        made.save_pretrained(new)
        tokenizer.save_pretrained(new)

    with filling(folder), _without_bars():
        write_folder(folder, fill)


def read_checkpoint(folder: Path, like: nn.Module) -> nn.Module:
    """The folder's model, read by transformers alone, with the attention code and dtype of another."""
    from transformers import AutoModelForCausalLM

    outer: Any = like
    with _without_bars():
        found: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=next(like.parameters()).dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=getattr(outer.config, "_attn_implementation", None),
        )
    return found.to(next(like.parameters()).device).eval()


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
