"""Units of any site, read and differentiated: MLP neurons, dimensions of the residual stream (the
paper's units), dimensions of attention's output. The rest of the package ranks and changes them like
neurons: `Neuron(layer, index)` is a unit of the site."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from neurotrace.core.sides import SIDES
from neurotrace.engine.metrics import logit_difference
from neurotrace.interventions.reference import Evidence, gather
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Site, inspect_model
from neurotrace.models.sites import site_slopes


def evidence_of(model: Any, encoded: EncodedPairs, site: Site) -> Evidence:
    """Values of all units and slopes of L at the final token position, on both sides of every pair."""
    if site == "neurons":
        return gather(model, encoded)
    info = inspect_model(model)
    points = [(site, layer) for layer in range(info.n_layers)]
    values = torch.empty(2, len(encoded), info.n_layers, info.d_model)
    slopes = torch.empty_like(values)
    for place, side in enumerate(SIDES):
        for rows, ids in by_length(encoded.ids(side), 64):
            answers = {"memorized": encoded.memorized[rows], "reasoned": encoded.reasoned[rows]}
            metric = partial(logit_difference, **answers)
            own, found = site_slopes(model, ids, points, metric)
            values[place, rows] = torch.stack([own[point] for point in points], dim=1)
            slopes[place, rows] = torch.stack([found[point] for point in points], dim=1)
    differences = [encoded.behaviour(side).logit_difference for side in SIDES]
    norms = torch.ones(1, info.n_layers, info.d_model)  # a dimension writes itself
    return Evidence(Activations(values, encoded.pairs), slopes, norms, torch.stack(differences))
