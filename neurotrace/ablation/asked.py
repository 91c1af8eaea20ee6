"""What may be asked of a sweep: which neurons, and which way their effects should go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.ablation import passes
from neurotrace.ablation.passes import Task
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import DIRECTIONS, Direction
from neurotrace.models.activations import Reference
from neurotrace.models.hooks import ModelInfo


def strength(effect: Tensor, direction: Direction | None) -> Tensor:
    """How far an effect goes the wanted way; None: how far it goes."""
    if direction is None:
        return effect.abs()
    return -effect if direction == "to_reasoning" else effect


def check_direction(direction: Direction | None) -> None:
    if direction is not None and direction not in DIRECTIONS:
        raise InputError(f"direction={direction!r}: wanted {' or '.join(DIRECTIONS)}, or None")


def places_of(neurons: Sequence[Neuron] | None, task: Task) -> Int[Tensor, " place"]:
    """Sorted places of these neurons (None: all that the intervention can be done to).

    Raises:
        InputError: none are left, or one lies outside the model.
    """
    info: ModelInfo = task.info
    if neurons is None:
        places = torch.arange(info.n_neurons)
    elif not len(neurons):
        raise InputError("neurons is empty: name those to measure, or None for all")
    else:
        for one in neurons:
            if one.layer >= info.n_layers or one.index >= info.d_mlp:
                raise InputError(
                    f"{one} is outside the model's {info.n_layers} layers × {info.d_mlp} neurons"
                )
        places = torch.tensor(sorted({one.layer * info.d_mlp + one.index for one in neurons}))
    if isinstance(task.reference, Reference) and task.kind.startswith("steer"):
        can = ~passes.steps(task.reference, task.kind, task.direction).isnan().flatten()
        places = places[can[places]]
        if not len(places):
            raise InputError("steer: none of these neurons has a slope to move along")
    return places
