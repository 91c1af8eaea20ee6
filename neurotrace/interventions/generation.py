"""Generate text under an intervention, so that a flip can be read and not only counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from neurotrace.core.errors import InputError
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.continuing import continuations
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.activations import read_activations
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel


@takes_turns
def generate(
    model: HookedModel,
    prompt: str,
    intervention: Intervention | None = None,
    *,
    donor_prompt: str | None = None,
    max_new_tokens: int = 16,
    positions: Literal["read", "onward", "all"] = "onward",
) -> str:
    """The model's greedy continuation of `prompt`, as text.

    Args:
        intervention: applied at the prompt's last token (``positions="read"``), there and at every token
            written after it (``"onward"``), or at every token. None: the unchanged model.
        donor_prompt: the prompt from whose last token a patch takes its values.

    Raises:
        InputError: an empty prompt, one as long as the context, a patch without a donor prompt.

    Example::

        nt.generate(model, "recall 31+28=", nt.patch(scores.top(8)), donor_prompt="think 31+28=")
    """
    info = inspect_model(model)
    tokenizer = tokenizer_of(model)
    change = intervention
    if intervention is not None and intervention.needs_donor:
        if donor_prompt is None:
            raise InputError("a patch takes its values from a donor run: pass donor_prompt=")
        given = torch.tensor(tokenizer(donor_prompt).input_ids, dtype=torch.long)[None]
        values = read_activations(model, given, info.n_layers, info.d_mlp)[0]
        donor = torch.stack([values[n.layer, n.index] for n in intervention.neurons])
        change = replace(intervention, donor_mean=donor.float().cpu()).without_donor()
    ids = tokenizer(prompt).input_ids
    return continuations(model, [ids], change, max_new_tokens=max_new_tokens, positions=positions)[0]
