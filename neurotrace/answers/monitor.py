"""Score each generated token: does it come from memory or from reasoning?

For each token the model runs three times: unchanged, with the memory neurons off and with the reasoning
neurons off at the last position. The token is the unchanged model's (greedy), so the text is that of
plain generation. With the suffix engine this costs little more than generation; by full passes, three
times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from neurotrace.answers.answered import prompt_ids
from neurotrace.answers.circuit import Circuit
from neurotrace.core.errors import InputError
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns, turn
from neurotrace.interventions.logits import logits_under
from neurotrace.models.origins import context_length, tokenizer_of
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Token:
    """One generated token and its score; nats. Without a calibration `p_memory` and `abstain` are None."""

    text: str
    id: int
    log_probability: float
    memory_fall: float
    reasoning_fall: float
    p_memory: float | None
    abstain: bool | None

    @property
    def margin(self) -> float:
        return self.memory_fall - self.reasoning_fall


@takes_turns
def monitor(
    model: HookedModel, prompt: str, circuit: Circuit, *, max_new_tokens: int = 16
) -> Iterator[Token]:
    """The model's greedy continuation, token by token, each with its score.

    Stops at the end-of-text token, after `max_new_tokens`, or when the context is full.

    Raises:
        InputError: an empty or too long prompt; a circuit of another model; numbers that are not
            finite. All but the last are raised at the call, before any token.

    Example::

        for token in nt.monitor(model, "recall 31+28=", circuit, max_new_tokens=2):
            print(token.text, token.margin)
    """
    circuit.check(model)
    ids = prompt_ids(model, [prompt])[0][None]
    limit = context_length(model)
    if limit and ids.shape[1] >= limit:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, the model takes {limit}")
    return _write(model, ids, circuit, max_new_tokens, limit)


def _write(
    model: HookedModel, ids: torch.Tensor, circuit: Circuit, most: int, limit: int
) -> Iterator[Token]:
    tokenizer = tokenizer_of(model)
    end = getattr(tokenizer, "eos_token_id", None)
    off = circuit.interventions()
    for _ in range(most):
        if limit and ids.shape[1] >= limit:
            return
        with turn(model):
            clean, changed = logits_under(model, ids, off, [None, None])
            top = clean.argmax(dim=-1)
            before = metrics.log_probability(clean, top)
            falls = [float(before - metrics.log_probability(logits, top)) for logits in changed]
        if int(top) == end:
            return
        parts = np.array([falls])
        if not np.isfinite(parts).all():
            raise InputError("the margin is not finite here: try dtype=float32")
        calibration = circuit.calibration
        yield Token(
            tokenizer.decode([int(top)]),
            int(top),
            float(before),
            falls[0],
            falls[1],
            float(calibration.p_memory(parts)[0]) if calibration else None,
            bool(calibration.outside(parts)[0]) if calibration else None,
        )
        ids = torch.cat([ids, top[:, None]], dim=1)
