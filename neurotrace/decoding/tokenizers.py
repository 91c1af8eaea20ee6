"""Tokenizers by name, and what they put before a prompt."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from neurotrace import organism
from neurotrace.core.errors import InputError, first_line


def with_bos(tokenizer: Any, bos: bool | None) -> Any:
    """A copy of the tokenizer whose prompts begin with its BOS token, or with nothing; None: as it is.

    Raises:
        InputError: it has no BOS token; it is not a fast tokenizer, and does not do what is asked.

    Example::

        tokenizer = with_bos(tokenizer, True)
        assert tokenizer("").input_ids == [tokenizer.bos_token_id]
    """
    if bos is None:
        return tokenizer
    wanted = [tokenizer.bos_token_id] if bos else []
    if bos and tokenizer.bos_token_id is None:
        raise InputError("bos=True: the tokenizer has no BOS token")
    if list(tokenizer("").input_ids) == wanted:
        return tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"bos={bos}: {type(tokenizer).__name__} is no fast tokenizer; set it yourself")
    from tokenizers.processors import TemplateProcessing

    changed = copy.deepcopy(tokenizer)
    first = f"{tokenizer.bos_token} " if bos else ""
    special = [(tokenizer.bos_token, tokenizer.bos_token_id)] if bos else []
    changed.backend_tokenizer.post_processor = TemplateProcessing(f"{first}$A", None, special)
    if list(changed("").input_ids) != wanted:
        raise InputError(
            f"bos={bos}: {type(tokenizer).__name__} begins prompts its own way; set it yourself"
        )
    return changed


def split_revision(source: str) -> tuple[str, str]:
    """Split a hub model's ``name@revision``; default revision: main. An existing path is not split."""
    name, at, revision = source.rpartition("@")
    if not at or os.path.exists(source):
        return source, "main"
    if os.path.exists(name) or name in organism.NAMES or not revision:
        raise InputError(
            f"{source!r}: only a model on the hub has revisions; of a folder name the sub-folder"
        )
    return name, revision


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a built-in model, a folder, a hub name or a ``.gguf`` file. Its code never runs.

    Raises:
        InputError: nothing there, or no tokenizer that can be read.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    path, revision = split_revision(source)
    options: dict[str, Any] = {"revision": revision}
    if path in organism.NAMES:
        path = str(organism.folder(path))
    elif source.endswith(".gguf"):
        if not os.path.isfile(source):
            raise InputError(f"no file at {source!r}: expected a .gguf file")
        path, options = str(Path(source).parent), {"gguf_file": Path(source).name}
    elif os.path.isfile(path):
        raise InputError(f"tokenizer {source}: expected its folder, a hub name or a .gguf file")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
    except Exception as error:  # files that don't fit, a hub out of reach: many kinds
        raise InputError(f"tokenizer {source}: can't be loaded: {first_line(error)}") from None
    finally:
        logging.set_verbosity(level)
