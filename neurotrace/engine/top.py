"""Is this token the model's top-1 answer? Answered without the whole vocabulary where that can be.

A token is beaten as soon as one other has a higher logit. So the tokens that were on top before are asked
first; only rows in which none of them is ahead need the product with the whole unembedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_RIVALS = 512  # maximum number of tokens asked first
_LOGITS = 2**26  # numbers held at the same time
_ROUNDING = 1e-4  # of a logit: products of other shapes are rounded otherwise


@torch.no_grad()
def is_top(engine: Any, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Bool["row"]: whether `tokens[row]` has the highest logit of the row; rows without a rival ahead are
    answered from all logits, so the answers are those of `argmax`.

    Args:
        hidden: Float[Tensor, "row d_model"], as `Engine.sets` returns it.
        tokens: Int[Tensor, "row"].
    """
    tokens = tokens.to(hidden.device)
    found = torch.zeros(len(tokens), dtype=torch.bool, device=hidden.device)
    rest = torch.arange(len(tokens), device=hidden.device)
    if engine.plain_tail and engine.rivals:
        own = engine.logits(hidden, tokens[:, None])[:, 0]
        first = engine.logits(hidden, torch.tensor(list(engine.rivals))).amax(dim=-1)
        rest = (first <= own + _ROUNDING * (1 + own.abs())).nonzero()[:, 0]
    for some in rest.split(max(1, _LOGITS // engine.parts.unembedding.weight.shape[0])):
        tops = engine.logits(hidden[some]).argmax(dim=-1)
        found[some] = tops == tokens[some]
        for token in dict.fromkeys(tops.tolist()):
            engine.rivals.pop(token, None)
            engine.rivals[token] = None  # the latest last
        for token in list(engine.rivals)[:-_RIVALS]:
            del engine.rivals[token]
    return found
