"""What a tokenizer has no token for."""

from __future__ import annotations

from typing import Any


def unknown_token(tokenizer: Any) -> int | None:
    """The id of the unknown token, if the tokenizer has one that serves for nothing else."""
    found = getattr(tokenizer, "unk_token_id", None)
    ends = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos"))
    return None if found in ends else found


def unknown_word(tokenizer: Any, text: str) -> str:
    """A sentence that names the first word of the text that the tokenizer has no token for."""
    unknown = unknown_token(tokenizer)
    strange = (word for word in text.split() if unknown in tokenizer(word).input_ids)
    return f"the tokenizer has no token for {next(strange, text)!r}"
