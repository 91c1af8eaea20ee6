"""Donor values of a patch: from the donor run of the same pair or, as a control, of another pair.

Where an answer is written behind the prompt and changed there as well, the donor's values are those of its
run with the same tokens behind its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import Donors, Positions
from neurotrace.models.activations import Activations, clean_activations
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel


def donor_values(
    model: HookedModel,
    encoded: EncodedPairs,
    interventions: Sequence[Intervention],
    places: Sequence[int],
    positions: Positions,
    activations: Activations | None,
    tokens: Int[Tensor, "row token"] | None = None,
) -> list[Tensor | None]:
    """Donor values of each intervention's neurons for the pairs at `places`.

    Args:
        tokens: what stands behind each prompt, if it is changed there.
    """
    found: list[Tensor | None] = []
    cached: dict[bool, Tensor] = {}
    for intervention in interventions:
        if not intervention.needs_donor:
            found.append(None)
            continue
        foreign = intervention.role == "other_donor"
        if foreign not in cached:
            origin = [next_of_other_group(encoded, place) for place in places] if foreign else places
            at: Any = "read" if positions == "onward" else positions
            if tokens is not None:
                at = tuple(range(-1 - tokens.shape[1], 0))
            if activations is not None and at == "read":
                cached[foreign] = activations.side(intervention.donor)[list(origin)]
            else:
                prompts = [encoded.ids(intervention.donor)[place] for place in origin]
                if tokens is not None:
                    prompts = [torch.cat(both) for both in zip(prompts, tokens, strict=True)]
                cached[foreign] = clean_activations(model, prompts, at)
        layers = [neuron.layer for neuron in intervention.neurons]
        units = [neuron.index for neuron in intervention.neurons]
        found.append(cached[foreign][..., layers, units])
    return found


def donors_of(
    model: HookedModel,
    encoded: EncodedPairs,
    interventions: Sequence[Intervention],
    places: Sequence[int],
    positions: Positions,
    activations: Activations | None,
) -> Donors:
    """`donor_values` of some of the pairs at `places`, with these tokens behind their prompts."""
    own = donor_values(model, encoded, interventions, places, positions, activations)

    def of(rows: Sequence[int], tokens: Int[Tensor, "row token"]) -> list[Tensor | None]:
        if positions != "onward" or not tokens.shape[1]:
            return [None if each is None else each[list(rows)] for each in own]
        some = [places[row] for row in rows]
        return donor_values(model, encoded, interventions, some, positions, None, tokens)

    return of


def of_each_prompt(donors: Sequence[Tensor | None], count: int) -> list[list[Tensor | None]]:
    """Each intervention's values, of all prompts -> each prompt's, of all interventions."""
    return [[None if each is None else each[row] for each in donors] for row in range(count)]


def next_of_other_group(encoded: EncodedPairs, place: int) -> int:
    """The next pair of the same family and another group with other answers, if there is one."""
    own = encoded.pairs[place]
    total = len(encoded)
    order = [(place + step) % total for step in range(1, total)]
    tests: list[Callable[[PromptPair], bool]] = [
        lambda other: (
            other.family == own.family
            and other.group != own.group
            and other.memorized_answer != own.memorized_answer
            and other.reasoned_answer != own.reasoned_answer
        ),
        lambda other: other.group != own.group,
        lambda other: True,
    ]
    for test in tests:
        for other in order:
            if test(encoded.pairs[other]):
                return other
    raise InputError("the control 'other_donor' needs at least two pairs")
