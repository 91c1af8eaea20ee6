"""Units of any site, read and differentiated: MLP neurons, dimensions of the residual stream (the
paper's units), dimensions of what attention writes. The rest of the package then ranks and intervenes
on them as on neurons: `Neuron(layer, index)` stands for a unit of the site."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurotrace.activations import Activations
from neurotrace.hooks import Site, forward, inspect_model
from neurotrace.metrics import logit_difference
from neurotrace.selection import Evidence, gather
from neurotrace.tokens import SIDES, EncodedPairs, by_length


def evidence_of(model: Any, encoded: EncodedPairs, site: Site) -> Evidence:
    """Values of all units at the read position and slopes of L there, on both sides of every pair."""
    if site == "neurons":
        return gather(model, encoded)
    info = inspect_model(model)
    layers = range(info.n_layers)
    values = torch.empty(2, len(encoded), info.n_layers, info.d_model)
    slopes = torch.empty_like(values)
    for place, side in enumerate(SIDES):
        for rows, ids in by_length(encoded.ids(side), 64):
            nudges = [torch.zeros(len(rows), info.d_model, requires_grad=True) for _ in layers]
            seen: dict[int, Tensor] = {}

            def edit(layer: int, value: Tensor, nudges: Any = nudges, seen: Any = seen) -> Tensor:
                seen[layer] = value[:, -1].detach()
                changed = value.clone()
                changed[:, -1] = changed[:, -1] + nudges[layer]
                return changed

            with torch.enable_grad():
                logits = forward(model, ids, edit=edit, layers=layers, site=site)
                total = logit_difference(logits, encoded.memorized[rows], encoded.reasoned[rows])
                found = torch.autograd.grad(total.sum(), nudges)
            values[place, rows] = torch.stack([seen[layer] for layer in layers], dim=1)
            slopes[place, rows] = torch.stack(found, dim=1)
    differences = [encoded.behaviour(side).logit_difference for side in SIDES]
    norms = torch.ones(info.n_layers, info.d_model)  # a dimension writes itself
    return Evidence(Activations(values, encoded.pairs), slopes, norms, torch.stack(differences))
