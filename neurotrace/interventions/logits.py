"""The model's logits at the last position under interventions.

Interventions at the final token position run on the suffix engine, if the model has one; otherwise, and
at all positions, they run as full forward passes with hooks. Both give the same numbers within
rounding; `tests/interventions/test_effects.py` compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.engine.edits import Edit, Run
from neurotrace.engine.top import is_top
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.encoding import by_length, last_logits
from neurotrace.models.hooks import Site, forward
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel

Positions = Literal["read", "all"]


def logits_under(
    model: HookedModel,
    ids: Int[Tensor, "prompt pos"],
    interventions: Sequence[Intervention],
    donors: Sequence[Tensor | None],
    *,
    positions: Positions = "read",
    site: Site = "neurons",
    cleans: dict[bytes, Any] | None = None,
) -> tuple[Float[Tensor, "prompt vocab"], Iterator[Float[Tensor, "prompt vocab"]]]:
    """Logits at the last position: of the unchanged model, and under each intervention in turn.

    Args:
        donors: for each intervention the donor values of its neurons, Float[Tensor, "prompt neuron"]
            (or "prompt pos neuron" at all positions), None where it needs none.
    """
    engine = engine_of(model) if positions == "read" and site == "neurons" else None
    if engine is None:
        together = zip(interventions, donors, strict=True)
        changed = (_hooked_logits(model, ids, each, own, positions, site) for each, own in together)
        return last_logits(model, ids).float().cpu(), changed
    key = ids.numpy().tobytes()
    run = (cleans or {}).get(key) or engine.clean(ids)
    if cleans is not None:
        cleans[key] = run
    logits = (engine.logits(each).float().cpu() for each in _hidden(engine, run, interventions, donors))
    return engine.logits(run.hidden).float().cpu(), logits


def tops_under(
    model: HookedModel,
    prompts: Sequence[Int[Tensor, " pos"]],
    interventions: Sequence[Intervention],
    donors: Sequence[Tensor | None],
    wanted: Int[Tensor, " prompt"],
) -> Bool[Tensor, "intervention prompt"]:
    """Whether each prompt's `wanted` is the top-1 token under each intervention (`engine/top.py`).

    Raises:
        InputError: an intervention leaves logits that are not finite.
    """
    engine = engine_of(model)
    mixed = None if engine is None or engine.kept is None else engine.kept.mixed(prompts)
    if mixed is None and len({len(ids) for ids in prompts}) > 1:
        found = torch.zeros(len(interventions), len(prompts), dtype=torch.bool)
        for rows, ids in by_length(prompts, len(prompts)):
            own = [None if each is None else each[rows] for each in donors]
            found[:, rows] = tops_under(model, list(ids), interventions, own, wanted[rows])
        return found
    if engine is None:
        _, changed = logits_under(model, torch.stack(list(prompts)), interventions, donors)
        together = zip(interventions, changed, strict=True)
        return torch.stack([check_finite(each, logits).argmax(-1) == wanted for each, logits in together])
    hidden = _hidden(engine, mixed or engine.clean(torch.stack(list(prompts))), interventions, donors)
    for intervention, own in zip(interventions, hidden, strict=True):
        check_finite(intervention, own)
    return (
        is_top(engine, hidden.flatten(0, 1), wanted.repeat(len(interventions))).cpu().view(-1, len(wanted))
    )


def check_finite(intervention: Intervention, values: Tensor) -> Tensor:
    """`values`; InputError if they are not finite."""
    if not torch.isfinite(values).all():
        raise InputError(f"{intervention}: the logits it leaves are not finite")
    return values


def _hidden(
    engine: Any, run: Run, interventions: Sequence[Intervention], donors: Sequence[Tensor | None]
) -> Float[Tensor, "intervention prompt d_model"]:
    """The unembedding's input under each intervention."""
    edits: list[list[Edit]] = []
    for intervention, values in zip(interventions, donors, strict=True):
        layers = torch.tensor([neuron.layer for neuron in intervention.neurons])
        units = torch.tensor([neuron.index for neuron in intervention.neurons])
        given = torch.zeros(len(run.ids), len(intervention)) if values is None else values
        offsets = intervention.gain * given + intervention.offset
        edits.append([Edit(layers, units, intervention.keep, offset) for offset in offsets])
    # the engine needs rows in prompt order
    flat = [of_one[row] for row in range(len(run.ids)) for of_one in edits]
    return rearrange(engine.sets(run, flat), "(prompt each) d -> each prompt d", prompt=len(run.ids))


def _hooked_logits(
    model: HookedModel,
    ids: Tensor,
    intervention: Intervention,
    donor: Tensor | None,
    positions: Positions,
    site: Site = "neurons",
) -> Float[Tensor, "prompt vocab"]:
    """A full forward pass with hooks that apply the map."""
    where = slice(-1, None) if positions == "read" else slice(None)
    places = by_layer(intervention.neurons)

    def edit(layer: int, post: Tensor) -> Tensor:
        chosen = places[layer]
        units = [intervention.neurons[place].index for place in chosen]
        given = None if donor is None else donor[..., chosen]
        if given is not None and given.ndim == 2:  # one value a prompt, at every position
            given = given[:, None]
        changed = post.clone()
        changed[:, where, units] = intervention.apply(chosen, post[:, where][..., units], given)
        return changed

    with torch.no_grad():
        return forward(model, ids, edit=edit, layers=places, site=site).float().cpu()
