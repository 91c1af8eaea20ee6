"""Donor values of a patch: from the donor run of the same pair or, as a control, of another pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import Positions
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
) -> list[Tensor | None]:
    """Donor values of each intervention's neurons for the pairs at `places`."""
    found: list[Tensor | None] = []
    cached: dict[bool, Tensor] = {}
    for intervention in interventions:
        if not intervention.needs_donor:
            found.append(None)
            continue
        foreign = intervention.role == "other_donor"
        if foreign not in cached:
            origin = [next_of_other_group(encoded, place) for place in places] if foreign else places
            if activations is not None and positions == "read":
                cached[foreign] = activations.side(intervention.donor)[list(origin)]
            else:
                prompts = [encoded.ids(intervention.donor)[place] for place in origin]
                cached[foreign] = clean_activations(model, prompts, positions)
        layers = [neuron.layer for neuron in intervention.neurons]
        units = [neuron.index for neuron in intervention.neurons]
        found.append(cached[foreign][..., layers, units])
    return found


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
