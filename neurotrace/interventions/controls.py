"""Controls: what an intervention has to beat before it means anything.

Each does something of the same size to other neurons, or something else of the same size to the same
neurons, and is measured on the same held-out pairs:

    random       the same kind of intervention on random neurons of the same layers
    norm         neurons of the same layers with the nearest ||W_out row||, moved to write as much
    sign         the same neurons, each moved by as much, a random half of them the wrong way
    low_rho      neurons of the same layers out of the tenth with the lowest |rho|, likewise
    other_donor  the same patch with the values of another pair (other answers, same behaviour)

The first four ask "does any change of this size do it?"; the last "is it this item's answer that is
copied, or the behaviour?", and is reported apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.interventions.intervention import (
    Intervention,
    low_correlation,
    norm_matched,
    on_others,
    other_donor,
    parse_kind,
    random_signs,
    same_shift,
)
from neurotrace.models.activations import Reference
from neurotrace.models.hooks import inspect_model, w_out

CONTROLS = ("random", "norm", "sign", "low_rho")


def controls_for(
    intervention: Intervention, *, reference: Reference, seeds: Sequence[int] = (0, 1, 2)
) -> list[Intervention]:
    """Every control of one intervention, those that are drawn at random once a seed.

    Args:
        reference: what the training pairs tell; shifts and correlations are taken from it.
    """
    drawn = Scores("random", torch.zeros_like(reference.norms))
    rho = reference.moments.pearson.nan_to_num(nan=0.0).abs()
    made: list[Intervention] = []
    for seed in seeds:
        others = drawn.random_like(intervention.neurons, seed=seed)
        made.append(random_control(intervention, others, reference))
        near = norm_matched(intervention, reference.norms, seed=seed)
        made.append(same_shift(intervention, near, reference, role="norm"))
        made.append(random_signs(intervention, seed=seed))
        low = low_correlation(intervention, rho, seed=seed)
        made.append(same_shift(intervention, low, reference, role="low_rho"))
    if intervention.needs_donor:
        made.append(other_donor(intervention))
    return [replace(control, label=intervention.label) for control in made]


def random_control(
    intervention: Intervention, neurons: Sequence[Neuron], reference: Reference
) -> Intervention:
    """The same kind of intervention on other neurons.

    `steer` would push them, too, along their slopes and as far as the gap asks: they are moved to
    write as much instead.
    """
    if parse_kind(intervention.kind)[0] == "steer":
        return same_shift(intervention, neurons, reference, role="random")
    return on_others(intervention, neurons, reference, role="random")


def write_norms(model: Any) -> Float[Tensor, "layer neuron"]:
    """||W_out row|| of every neuron."""
    layers = range(inspect_model(model).n_layers)
    return torch.stack([w_out(model, layer).float().norm(dim=-1).cpu() for layer in layers])
