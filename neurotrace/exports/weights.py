"""The weights that do what an intervention does at every position, where weights can.

The row w_i of W_out is all that neuron i writes: a' = keep * a + offset writes keep * a * w_i and, once
and for all, offset * w_i. So W_out's row is multiplied by keep, and the sum of offset_i * w_i goes into
the down projection's bias. A model without such a bias gets one where its config has a switch for it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.engine.parts import write_rows
from neurotrace.exports.attach import parts_of
from neurotrace.interventions.intervention import Intervention

_SWITCH = "mlp_bias"  # of the configs of Llama and its kin


def edited(module: nn.Module, intervention: Intervention) -> nn.Module:
    """A copy of the transformers model whose weights do the same.

    Raises:
        InputError: a patch; a constant shift in a model whose MLPs can't have a bias.
    """
    if intervention.needs_donor:
        raise InputError(
            f"no weight edit can express {intervention.kind}: it takes its values from a donor run; pass "
            "intervention.without_donor() (--stand-in), which writes the donor class's mean"
        )
    shifts = bool((intervention.offset != 0).any())
    lacks = any(getattr(each, "bias", None) is None for each in parts_of(module).projections)
    made = _with_bias(module) if shifts and lacks else copy.deepcopy(module)
    parts = parts_of(made)
    with torch.no_grad():
        for layer, chosen in by_layer(intervention.neurons).items():
            projection: Any = parts.projections[layer]
            units = [intervention.neurons[place].index for place in chosen]
            rows, keep = write_rows(projection), intervention.keep[chosen]
            if shifts:
                projection.bias += written(intervention, layer, rows).to(projection.bias)
            scaled = keep[:, None] * rows[units].float().cpu()
            rows[units] = torch.where(keep[:, None] == 0, 0, scaled).to(rows)
    return made.eval()


def written(
    intervention: Intervention, layer: int, rows: Float[Tensor, "neuron d_model"]
) -> Float[Tensor, " d_model"]:
    """What the intervention's offsets in a layer add to the MLP's output, in float32."""
    chosen = by_layer(intervention.neurons)[layer]
    units = [intervention.neurons[place].index for place in chosen]
    return intervention.offset[chosen] @ rows.detach()[units].float().cpu()


def _with_bias(module: nn.Module) -> nn.Module:
    """The same model with biases of 0 in its MLPs, by its config's own switch."""
    outer: Any = module
    config = copy.deepcopy(outer.config)
    name = type(module).__name__
    refused = InputError(
        f"no weight edit can express a constant shift in a {name}: its down projections have no bias"
    )
    if getattr(config, _SWITCH, None) is not False:
        raise refused
    setattr(config, _SWITCH, True)
    dtype = next(module.parameters()).dtype
    made = type(outer)(config).to(dtype)
    state = module.state_dict()
    new = made.state_dict().keys() - state.keys()
    if not new or any(not key.endswith(".bias") for key in new):
        raise refused
    zeros = {key: torch.zeros_like(made.state_dict()[key]) for key in new}
    made.load_state_dict(state | zeros)
    return made
