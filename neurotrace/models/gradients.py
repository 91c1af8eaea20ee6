"""The slope of L along each neuron's activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Side
from neurotrace.engine.metrics import logit_difference
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel

# (model, ids, memorized, reasoned) -> (activations, slopes), both Float["batch layer neuron"]
Slopes = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def gradients(
    model: HookedModel,
    encoded: EncodedPairs,
    side: Side,
    batch_size: int = 16,
    progress: Progress = None,
    slopes: Slopes | None = None,
) -> Iterator[tuple[list[int], Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer neuron"]]]:
    """(places of the pairs, activations, dL/da) at the final token position, batch by batch.

    `slopes` is the rule by which L is differentiated; None: the plain gradient, `slopes_of`.
    """
    batches = list(by_length(encoded.ids(side), batch_size))
    label = f"gradients ({side} prompts)"
    for rows, ids in over(progress, batches, label):
        answers = encoded.memorized[rows], encoded.reasoned[rows]
        yield rows, *(slopes or slopes_of)(model, ids, *answers)


def slopes_of(
    model: HookedModel,
    ids: Tensor,
    memorized: Tensor,
    reasoned: Tensor,
    added: Float[Tensor, "batch layer neuron"] | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer neuron"]]:
    """Activations and dL/da at the last position, optionally with `added` put on the activations.

    A zero is added to each activation and L is differentiated by it. No parameter's gradient is
    computed, and the model is not changed. With the suffix engine the prefix is run without gradients;
    otherwise the whole prompt is differentiated through hooks.
    """
    engine = engine_of(model)
    if engine is not None and engine.path != "naive":
        from neurotrace.engine.slopes import slopes as by_suffix

        values, found = by_suffix(engine, ids, memorized, reasoned, added=added, layers=layers)
        return values.float().cpu(), found.float().cpu()
    info = inspect_model(model)
    chosen = list(range(info.n_layers)) if layers is None else list(layers)
    nudges = {
        layer: torch.zeros(len(ids), info.d_mlp, device=info.device, dtype=info.dtype, requires_grad=True)
        for layer in chosen
    }
    values = torch.zeros(len(ids), info.n_layers, info.d_mlp)

    def edit(layer: int, post: Tensor) -> Tensor:
        values[:, layer] = post[:, -1].detach().float().cpu()
        changed = post.clone()
        changed[:, -1] = changed[:, -1] + nudges[layer]
        if added is not None:
            changed[:, -1] = changed[:, -1] + added[:, layer].to(post)
        return changed

    with torch.enable_grad():
        logits = forward(model, ids, edit=edit, layers=chosen)
        total = logit_difference(logits, memorized, reasoned).sum()
        # a layer that reaches no logit (the user's hook cuts it off) has slope 0
        parts = torch.autograd.grad(
            total, [nudges[layer] for layer in chosen], allow_unused=True, materialize_grads=True
        )
    slopes = torch.zeros_like(values)
    for layer, slope in zip(chosen, parts, strict=True):
        slopes[:, layer] = slope.float().cpu()
    return values, slopes
