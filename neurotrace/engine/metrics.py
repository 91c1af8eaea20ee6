"""Metrics of logits: tensor in, tensor out.

Sign convention, everywhere: L = logit(memorized answer) - logit(reasoned answer), in nats. A positive L
means that the memorized answer is ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A number for each prompt, made of its logits.

    Attributes:
        of: (logits) -> Float[Tensor, "prompt"].
        tokens: each prompt's tokens, whose logits alone are wanted; None: the whole vocabulary's.
    """

    of: Callable[[Tensor], Tensor]
    tokens: Int[Tensor, "prompt token"] | None = None

    def __call__(self, logits: Float[Tensor, "prompt vocab"]) -> Float[Tensor, " prompt"]:
        """From the whole vocabulary's logits."""
        return self.of(logits if self.tokens is None else logits.gather(-1, self.tokens.to(logits.device)))


def first_tokens(memorized: Int[Tensor, " prompt"], reasoned: Int[Tensor, " prompt"]) -> Metric:
    """L of these two tokens."""
    return Metric(lambda two: two[:, 0] - two[:, 1], torch.stack([memorized, reasoned], dim=1))


def logit_difference(
    logits: Float[Tensor, "row vocab"],
    memorized: Int[Tensor, " row"],
    reasoned: Int[Tensor, " row"],
) -> Float[Tensor, " row"]:
    """L = logit(memorized) - logit(reasoned), in nats."""
    return (_pick(logits, memorized) - _pick(logits, reasoned)).float()


def log_probability(
    logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """log p(token), in nats."""
    return _pick(torch.log_softmax(logits.float(), dim=-1), token)


def sequence_log_probability(
    logits: Float[Tensor, "row *token vocab"], tokens: Int[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """log p of each row's tokens, teacher-forced: logits behind what comes before each; in nats."""
    log_p = logits.reshape(*tokens.shape, -1).float().log_softmax(-1)
    return log_p.gather(-1, tokens.to(log_p.device)[..., None])[..., 0].sum(-1)


def answers(logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
    """Whether `token` is the model's top-1 answer."""
    return logits.argmax(dim=-1) == token


def kl(clean: Float[Tensor, "row vocab"], changed: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """KL(clean || changed) of the next-token distributions, in nats, never below 0.

    Rounding gives some -1e-7 for two equal distributions.
    """
    return kl_of(torch.log_softmax(clean.float(), dim=-1), torch.log_softmax(changed.float(), dim=-1))


def kl_of(log_p: Float[Tensor, "row vocab"], log_q: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """`kl` from log-probabilities."""
    return torch.linalg.vecdot(log_p.exp(), log_p - log_q).clamp(min=0)


def _pick(values: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return values.gather(-1, token.to(values.device)[:, None])[:, 0]
