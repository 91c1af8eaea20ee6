"""Controls: what an intervention has to beat before it means anything.

Each does something of the same size to other neurons, or something else of the same size to the same
neurons, and is measured on the same held-out pairs:

    random       the same kind of intervention on random neurons of the same layers
    norm         neurons of the same layers with the nearest ||W_out row||, moved by the same amount
    sign         the same neurons, each moved by as much, a random half of them the wrong way
    low_rho      the neurons of the same layers with the lowest |rho|, moved by the same amount
    other_donor  the same patch with the values of another pair (other answers, same behaviour)

The first four ask "does any change of this size do it?"; the last "is it this item's answer that is
copied, or the behaviour?", and is reported apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.activations import Moments
from neurotrace.hooks import inspect_model, w_out
from neurotrace.interventions import (
    Intervention,
    low_correlation,
    norm_matched,
    on_others,
    other_donor,
    random_signs,
    same_shift,
)
from neurotrace.scores import Scores

CONTROLS = ("random", "norm", "sign", "low_rho")


def controls_for(
    intervention: Intervention,
    *,
    reference: Moments,
    norms: Float[Tensor, "layer neuron"],
    seeds: int = 3,
) -> list[Intervention]:
    """Every control of one intervention; those that are drawn at random, `seeds` times.

    Args:
        reference: moments over the training pairs, from which shifts and correlations are taken.
        norms: ||W_out row|| of every neuron, see `write_norms`.
    """
    pearson = Scores("pearson", reference.pearson.nan_to_num(nan=0.0), "correlation", signed=False)
    made: list[Intervention] = []
    for seed in range(seeds):
        others = pearson.random_like(intervention.neurons, seed=seed)
        made.append(on_others(intervention, others, reference, role="random"))
        near = norm_matched(intervention, norms, seed=seed)
        made.append(same_shift(intervention, near, reference, role="norm"))
        made.append(random_signs(intervention, seed=seed))
    low = low_correlation(intervention, pearson)
    made.append(same_shift(intervention, low, reference, role="low_rho"))
    if intervention.needs_donor:
        made.append(other_donor(intervention))
    return [replace(control, label=intervention.label) for control in made]


def write_norms(model: Any) -> Float[Tensor, "layer neuron"]:
    """||W_out row|| of every neuron."""
    layers = range(inspect_model(model).n_layers)
    return torch.stack([w_out(model, layer).float().norm(dim=-1).cpu() for layer in layers])
