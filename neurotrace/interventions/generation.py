"""Generate text under an intervention, so that a flip can be read and not only counted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.activations import read_activations
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import context_length, tokenizer_of
from neurotrace.models.protocol import HookedModel


@takes_turns
def generate(
    model: HookedModel,
    prompt: str,
    intervention: Intervention | None = None,
    *,
    donor_prompt: str | None = None,
    max_new_tokens: int = 16,
    positions: Literal["read", "onward"] = "onward",
) -> str:
    """The model's greedy continuation of `prompt`, as text.

    Args:
        intervention: applied at the prompt's last token and, with ``positions="onward"``, at every
            token written after it. None: the unchanged model.
        donor_prompt: the prompt from whose last token a patch takes its values.

    Raises:
        InputError: an empty prompt, one as long as the context, a patch without a donor prompt.

    Example::

        nt.generate(model, "recall 31+28=", nt.patch(scores.top(8)), donor_prompt="think 31+28=")
    """
    info = inspect_model(model)
    tokenizer = tokenizer_of(model)
    ids = torch.tensor(tokenizer(prompt).input_ids, dtype=torch.long)[None]
    limit = context_length(model)
    if ids.shape[1] == 0:
        raise InputError("the prompt is empty: expected at least one token")
    if limit and ids.shape[1] >= limit:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, the model takes {limit}")
    donor: Tensor | None = None
    if intervention is not None and intervention.needs_donor:
        if donor_prompt is None:
            raise InputError("a patch takes its values from a donor run: pass donor_prompt=")
        given = torch.tensor(tokenizer(donor_prompt).input_ids, dtype=torch.long)[None]
        values = read_activations(model, given, info.n_layers, info.d_mlp)[0]
        donor = torch.stack([values[n.layer, n.index] for n in intervention.neurons])
    start = ids.shape[1] - 1
    end = getattr(tokenizer, "eos_token_id", None)
    places = by_layer(intervention.neurons) if intervention is not None else {}

    def edit(layer: int, post: Tensor) -> Tensor:
        assert intervention is not None
        chosen = places[layer]
        units = [intervention.neurons[place].index for place in chosen]
        where = slice(start, start + 1 if positions == "read" else None)
        given = None if donor is None else donor[chosen]
        changed = post.clone()
        changed[:, where, units] = intervention.apply(chosen, post[:, where][..., units], given)
        return changed

    written: list[int] = []
    with torch.no_grad():
        while len(written) < max_new_tokens and not (limit and ids.shape[1] >= limit):
            token = int(forward(model, ids, edit=edit, layers=places)[0].argmax())
            if token == end:
                break
            written.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return tokenizer.decode(written)
