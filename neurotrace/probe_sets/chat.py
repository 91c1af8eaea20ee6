"""Pairs rendered through the chat template of a tokenizer.

The prompt is either the user's message (the model replies to it) or the beginning of the model's own
reply to a request. The model is still read at the last token, and answers are what follows it; at the
start of a reply they lose their leading space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.engine.turns import takes_turns
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel

REQUEST = "Continue the text that I begin, with one word."


@takes_turns
def chat_pairs(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    *,
    role: str = "user",
    system: str | None = None,
    request: str = REQUEST,
) -> list[PromptPair]:
    """The pairs with both prompts rendered through the chat template.

    Args:
        role: whose message the prompt is. ``"user"``: the model's reply begins behind it.
            ``"assistant"``: the user's message is `request`, and the prompt begins the model's reply.
        system: the system message; None: the template's default.

    Raises:
        InputError: the tokenizer has no chat template, or the template refuses the messages.

    Example::

        pairs = nt.chat_pairs(model, nt.load_pairs("capitals"), system="Answer with one word.")
    """
    render = _Renderer(model, role, system, request)
    return [
        replace(
            pair,
            memorization=render(pair.memorization),
            reasoning=render(pair.reasoning),
            memorized_answer=render.answer(pair.memorized_answer),
            reasoned_answer=render.answer(pair.reasoned_answer),
        )
        for pair in pairs
    ]


def chat_record(
    model: HookedModel, *, role: str = "user", system: str | None = None, request: str = REQUEST
) -> dict[str, Any]:
    """The record of the rendering for a manifest: enough to repeat it with another tokenizer."""
    return {
        "role": role,
        "system": system,
        "request": request if role == "assistant" else None,
        "template": tokenizer_of(model).chat_template,
        "rendered": _Renderer(model, role, system, request)("PROMPT"),
    }


class _Renderer:
    def __init__(self, model: HookedModel, role: str, system: str | None, request: str):
        if role not in ("user", "assistant"):
            raise InputError(f"role={role!r}: expected 'user' or 'assistant'")
        self.tokenizer = tokenizer_of(model)
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                "the model's tokenizer has no chat template: use the pairs as they are, or set "
                "tokenizer.chat_template"
            )
        self.role, self.request = role, request
        self.before = [] if system is None else [{"role": "system", "content": system}]
        bos = self.tokenizer.bos_token
        added = self.tokenizer("").input_ids
        # if the tokenizer prepends BOS itself, the template's BOS would be a second one
        self.doubled = bos if bos and self.tokenizer.bos_token_id in added[:1] else ""

    def __call__(self, prompt: str) -> str:
        if self.role == "user":
            messages = [*self.before, {"role": "user", "content": prompt}]
            how = {"add_generation_prompt": True}
        else:
            messages = [
                *self.before,
                {"role": "user", "content": self.request},
                {"role": "assistant", "content": prompt},
            ]
            how = {"continue_final_message": True}
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **how)
        except Exception as error:  # any error of the template
            raise InputError(f"the chat template refuses these messages: {error}") from error
        return text.removeprefix(self.doubled)

    def answer(self, answer: str) -> str:
        return answer.lstrip() if self.role == "user" else answer
