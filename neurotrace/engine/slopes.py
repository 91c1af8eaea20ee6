"""dL/da of every neuron at the final token position, over a clean prefix.

A neuron at the last position can affect the answer only through that position. So the prefix needs no
gradient, and the backward pass goes through one token. All neurons of a prompt cost little more than
one forward pass (three, if the whole prompt is differentiated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.engine.attention import Prefix
from neurotrace.engine.engine import Engine
from neurotrace.engine.parts import overridden

# (layer, activations [prompt neuron] at the last position) -> the activations to go on with
Change = Callable[[int, Tensor], Tensor]


def prefix_of(engine: Engine, ids: Int[Tensor, "prompt pos"]) -> Prefix | None:
    """Clean keys and values before the last position; None if there are none."""
    if engine.path == "naive" or ids.shape[1] == 1:
        return None
    if engine.kept is not None and (kept := engine.kept.prefix(ids)) is not None:
        return kept
    unembed: Any = engine.parts.unembedding
    with torch.no_grad(), overridden([(unembed, lambda x: x[..., :1])]):  # no logits wanted
        ids = ids.to(engine.parts.device)
        cache = engine.parts.model(ids[:, :-1], use_cache=True).past_key_values
    # the frozen form: the shared attention writes into buffers that autograd does not track
    return Prefix(cache.layers, shared=False)


def logits_hooked(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    prefix: Prefix | None,
    hooks: Iterable[Any],
    tokens: Int[Tensor, "prompt token"] | None = None,
) -> Float[Tensor, "prompt token"]:
    """Logits at the last position, differentiable through what `hooks` (see `hooked`) change.

    The hooked modules see the last position alone where there is a prefix.

    Args:
        tokens: each prompt's; None: the whole vocabulary.
    """
    ids = ids.to(engine.parts.device)
    hidden = engine._forward(ids if prefix is None else ids[:, -1:], prefix, hooks, shared=False)
    return engine.logits_of(hidden, None if tokens is None else tokens.to(hidden.device))


def logits_through(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    prefix: Prefix | None,
    change: Change,
    tokens: Int[Tensor, "prompt token"] | None = None,
) -> Float[Tensor, "prompt token"]:
    """`logits_hooked`, differentiable through the neurons' values after `change`."""

    def through(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            x = args[0].reshape(len(ids), -1, args[0].shape[-1])
            changed = torch.cat([x[:, :-1], change(layer, x[:, -1])[:, None]], dim=1)
            return (changed.reshape(args[0].shape), *args[1:]), kwargs

        return hook

    hooks = [(module, "input", through(layer)) for layer, module in enumerate(engine.parts.projections)]
    return logits_hooked(engine, ids, prefix, hooks, tokens)


def slopes(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    plus: Int[Tensor, " prompt"],
    minus: Int[Tensor, " prompt"],
    *,
    added: Float[Tensor, "prompt layer neuron"] | None = None,
    layers: Sequence[int] | None = None,
    before: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "prompt layer neuron"], Float[Tensor, "prompt layer neuron"]]:
    """(activations, slopes of logit(plus) - logit(minus)) at the last position.

    Args:
        added: put on the activations of `layers` (None: of all), where alone slopes are then taken;
            the others' are 0.
        before: what an activation goes through before the neuron's own slope is taken.
    """
    weight = engine.parts.unembedding.weight
    widths = engine.parts.widths
    nudges = {
        layer: weight.new_zeros(len(ids), widths[layer]).requires_grad_()
        for layer in (range(len(widths)) if layers is None else layers)
    }
    values: list[Tensor] = []

    def nudged(layer: int, post: Tensor) -> Tensor:
        values.append(post.detach())
        if before is not None:
            post = before(post)
        if layer in nudges:
            post = post + nudges[layer]
            if added is not None:
                post = post + added[:, layer].to(post)
        return post

    prefix = prefix_of(engine, ids)
    with torch.enable_grad():
        logits = logits_through(engine, ids, prefix, nudged, torch.stack([plus, minus], dim=1))
        difference = logits[:, 0] - logits[:, 1]
        found = torch.autograd.grad(difference.sum(), list(nudges.values()))
    every = torch.zeros_like(torch.stack(values, dim=1))
    for layer, slope in zip(nudges, found, strict=True):
        every[:, layer] = slope
    return torch.stack(values, dim=1), every
