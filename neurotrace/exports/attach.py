"""An intervention on a plain transformers model: forward pre-hooks on the MLPs' down projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.engine.experts import Neurons
from neurotrace.engine.parts import Parts, find_parts, hooked
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import no_twin, twin
from neurotrace.models.protocol import HookedModel


def plain_model(model: HookedModel) -> nn.Module:
    """The transformers model behind a loaded one.

    Raises:
        InputError: there is none (a `HookedTransformer`, hooks of the user's own, weights spread over
            devices).
    """
    found = twin(model)
    if found is None:
        raise no_twin(model, f"{inspect_model(model).name}: an export needs a transformers model")
    return found


def parts_of(module: nn.Module) -> Parts:
    """The blocks and down projections of a transformers model; InputError where they can't be told."""
    try:
        parts = find_parts(module)
    except ValueError as error:
        raise InputError(f"{type(module).__name__}: its MLPs can't be told apart ({error})") from None
    if any(isinstance(projection, Neurons) for projection in parts.projections):
        raise InputError(
            f"{type(module).__name__} is a mixture of experts, whose neurons no other program can be told "
            "to change: apply the intervention with nt.measure or nt.generate"
        )
    return parts


@contextmanager
def attached(module: nn.Module, intervention: Intervention, *, last: bool = False) -> Iterator[None]:
    """Inside the `with` every forward pass of the transformers model is under the intervention.

    Args:
        last: at the last position of each pass alone; else at all positions.

    Raises:
        InputError: a patch, which needs a donor run (see `Intervention.without_donor`).
    """
    if intervention.needs_donor:
        raise InputError(
            f"{intervention.kind} takes its values from a donor run: pass intervention.without_donor()"
        )
    parts = parts_of(module)
    batch: list[int] = []

    def see(_: nn.Module, args: Any, kwargs: Any) -> None:
        given = args[0] if args else kwargs.get("input_ids")
        batch[:] = [len(kwargs["inputs_embeds"] if given is None else given)]

    def changing(chosen: list[int]) -> Callable[..., Any]:
        units = [intervention.neurons[place].index for place in chosen]

        def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
            changed = args[0].clone()
            # some families' MLPs run on [batch*pos, neuron]
            rows = changed.view(batch[0], -1, changed.shape[-1])
            at = slice(-1, None) if last else slice(None)
            rows[:, at, units] = intervention.apply(chosen, rows[:, at][..., units], None)
            return (changed, *args[1:]), kwargs

        return hook

    hooks = [
        (parts.projections[layer], "input", changing(chosen))
        for layer, chosen in by_layer(intervention.neurons).items()
    ]
    with hooked([(module, "input", see), *hooks]):
        yield


def last_logits(module: nn.Module, ids: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt vocab"]:
    """The transformers model's logits at the last position of prompts of equal length."""
    where = next(module.parameters()).device
    with torch.no_grad():
        return module(ids.to(where), use_cache=False).logits[:, -1].float().cpu()
