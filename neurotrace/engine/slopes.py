"""dL/da of every neuron at the prompt's final token position, over a clean prefix.

A neuron at the last position can affect the answer only through that position and those behind it. So the
prefix needs no gradient, and the backward pass goes through one token and those of the answer. All neurons
of a prompt cost little more than one forward pass (three, if the whole prompt is differentiated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.engine.attention import Prefix
from neurotrace.engine.engine import Engine
from neurotrace.engine.experts import as_clean
from neurotrace.engine.metrics import Metric
from neurotrace.engine.parts import overridden

# (layer, activations [prompt neuron] at the last position) -> the activations to go on with
Change = Callable[[int, Tensor], Tensor]


def prefix_of(engine: Engine, ids: Int[Tensor, "prompt pos"], behind: int = 0) -> Prefix | None:
    """Clean keys and values before the prompt's last position, which has `behind` tokens behind it."""
    start = ids.shape[1] - 1 - behind
    if engine.path == "naive" or not start:
        return None
    if engine.kept is not None and (kept := engine.kept.prefix(ids[:, : start + 1])) is not None:
        return kept
    unembed: Any = engine.parts.unembedding
    with torch.no_grad(), overridden([(unembed, lambda x: x[..., :1])]):  # no logits wanted
        ids = ids.to(engine.parts.device)
        cache = engine.parts.model(ids[:, :start], use_cache=True).past_key_values
    # the frozen form: the shared attention writes into buffers that autograd does not track
    return Prefix(cache.layers, shared=False)


def logits_hooked(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    prefix: Prefix | None,
    hooks: Iterable[Any],
    behind: int = 0,
    tokens: Int[Tensor, "prompt token"] | None = None,
) -> Float[Tensor, "prompt *read token"]:
    """Logits at the prompt's last position, differentiable through what `hooks` (see `hooked`) change.

    Where there is a prefix, the hooked modules see that position and those behind it alone. With `behind`
    above 0 the logits are those at each of them.

    Args:
        tokens: each prompt's; None: the whole vocabulary.
    """
    own = ids.to(engine.parts.device)
    own = own if prefix is None else own[:, -1 - behind :]
    with as_clean(engine, ids, own.shape[1], 1 + behind):
        hidden = engine._forward(own, prefix, hooks, shared=False, read=1 + behind)
    return engine.logits_of(hidden, None if tokens is None else tokens.to(hidden.device))


def logits_through(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    prefix: Prefix | None,
    change: Change,
    behind: int = 0,
    tokens: Int[Tensor, "prompt token"] | None = None,
) -> Float[Tensor, "prompt *read token"]:
    """`logits_hooked`, differentiable through the neurons' values after `change`."""

    def through(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            x = args[0].reshape(len(ids), -1, args[0].shape[-1])
            at = x.shape[1] - 1 - behind
            changed = torch.cat([x[:, :at], change(layer, x[:, at])[:, None], x[:, at + 1 :]], dim=1)
            return (changed.reshape(args[0].shape), *args[1:]), kwargs

        return hook

    hooks = [(module, "input", through(layer)) for layer, module in enumerate(engine.parts.projections)]
    return logits_hooked(engine, ids, prefix, hooks, behind, tokens)


def slopes(
    engine: Engine,
    ids: Int[Tensor, "prompt pos"],
    metric: Metric,
    *,
    behind: int = 0,
    added: Float[Tensor, "prompt layer neuron"] | None = None,
    layers: Sequence[int] | None = None,
    before: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "prompt layer neuron"], Float[Tensor, "prompt layer neuron"]]:
    """(activations, slopes of the metric) at the prompt's last position.

    Args:
        metric: of the logits as of `logits_hooked`.
        behind: number of tokens at the end of `ids` that stand behind the prompt.
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

    prefix = prefix_of(engine, ids, behind)
    with torch.enable_grad():
        logits = logits_through(engine, ids, prefix, nudged, behind, metric.tokens)
        found = torch.autograd.grad(metric.of(logits).sum(), list(nudges.values()))
    every = torch.zeros_like(torch.stack(values, dim=1))
    for layer, slope in zip(nudges, found, strict=True):
        every[:, layer] = slope
    return torch.stack(values, dim=1), every
