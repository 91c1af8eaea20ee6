"""dL/da of every neuron at the read position, over a clean prefix.

A neuron at the last position can act on the answer only through that position. So the prefix needs no
gradient, and the backward pass goes through one token: all neurons of a prompt for little more than
one forward pass (three, where the whole prompt is differentiated).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.suffix import Engine
from neurotrace.suffix_attention import Prefix
from neurotrace.suffix_parts import overridden, write_rows


def slopes(
    engine: Engine, ids: Int[Tensor, "prompt pos"], plus: Int[Tensor, prompt],
    minus: Int[Tensor, prompt],
) -> tuple[Float[Tensor, "prompt layer neuron"], Float[Tensor, "prompt layer neuron"]]:  # fmt: skip
    """(activations, slopes of logit(plus) - logit(minus)) at the last position.

    Raises:
        ValueError: the engine's path is naive; it has no prefix to start from.
    """
    if engine.path == "naive":
        raise ValueError("no clean prefix on the naive path: differentiate the whole prompt")
    parts = engine.parts
    unembed: Any = parts.unembedding
    ids = ids.to(unembed.weight.device)
    with torch.no_grad():
        prefix = None
        if ids.shape[1] > 1:
            with overridden([(unembed, lambda x: x[..., :1])]):  # no logits wanted
                cache = parts.model(ids[:, :-1], use_cache=True).past_key_values
            # the frozen form: the shared one's attention writes into buffers, out of autograd's sight
            prefix = Prefix(cache, shared=False)
    widths = [write_rows(module).shape[0] for module in parts.projections]
    nudges = [unembed.weight.new_zeros(len(ids), width).requires_grad_() for width in widths]
    values: list[Tensor] = []

    def nudged(nudge: Tensor) -> Any:
        def change(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            values.append(args[0].detach().reshape(len(ids), -1))
            return (args[0] + nudge.view(-1, *args[0].shape[1:]), *args[1:]), kwargs

        return change

    hooks = [
        (module, "input", nudged(nudge))
        for module, nudge in zip(parts.projections, nudges, strict=True)
    ]
    rows = torch.arange(len(ids), device=ids.device)
    with torch.enable_grad():
        hidden = engine._forward(ids[:, -1:], prefix, hooks, shared=False)
        logits = unembed(hidden)
        if not engine.plain_tail:
            logits = engine._behind_unembedding(logits)
        difference = logits[rows, plus.to(rows.device)] - logits[rows, minus.to(rows.device)]
        found = torch.autograd.grad(difference.sum(), nudges)
    return torch.stack(values, dim=1), torch.stack(found, dim=1)
