"""Controls: changes of the same size that an intervention is compared with.

Each control changes other neurons by the same amount, or the same neurons differently by the same
amount. It is measured on the same held-out pairs:

    random       the same kind of intervention on random neurons of the same layers
    norm         neurons of the same layers with the nearest norm of what they write, moved to write as much
    sign         the same neurons, each moved by as much, a random half of them in the opposite direction
    low_rho      neurons of the same layers out of the tenth with the lowest |rho|, moved likewise
    other_donor  the same patch with the values of another pair (other answers, same behaviour)

The first four test whether any change of this size flips answers. The last tests whether this item's
answer is copied or the behaviour is transferred; it is reported separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron, by_layer
from neurotrace.core.scores import Scores
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import ClassMeans, form_of, values_at
from neurotrace.interventions.reference import Reference

CONTROLS = ("random", "norm", "sign", "low_rho")


def controls_for(
    intervention: Intervention, *, reference: Reference, seeds: Sequence[int] = (0, 1, 2)
) -> list[Intervention]:
    """Every control of one intervention; random controls are drawn once per seed.

    Args:
        reference: statistics of the training pairs; shifts and correlations are taken from it.
    """
    rho = reference.moments.pearson.nan_to_num(nan=0.0).abs()
    made: list[Intervention] = []
    for seed in seeds:
        near = norm_matched(intervention, reference.norms, seed=seed)
        low = low_correlation(intervention, rho, seed=seed)
        of_draw = [
            same_shift(intervention, near, reference, role="norm"),
            random_signs(intervention, seed=seed),
            same_shift(intervention, low, reference, role="low_rho"),
        ]
        made += random_controls(intervention, reference, seeds=(seed,))
        made += [replace(each, draw=seed) for each in of_draw]
    if intervention.needs_donor:
        made.append(other_donor(intervention))
    return [replace(control, label=intervention.label) for control in made]


def random_controls(
    intervention: Intervention, reference: Reference, *, seeds: Sequence[int]
) -> list[Intervention]:
    """The same intervention on random neurons of the same layers, once a seed (its `draw`)."""
    blank = Scores("random", torch.zeros_like(reference.norms))
    return [
        replace(
            random_control(intervention, blank.random_like(intervention.neurons, seed=seed), reference),
            label=intervention.label,
            draw=seed,
        )
        for seed in seeds
    ]


def random_control(
    intervention: Intervention, neurons: Sequence[Neuron], reference: Reference
) -> Intervention:
    """The same kind of intervention on other neurons.

    A kind that computes a set's offsets together (`steer`) would close the gap with other neurons, too.
    Its control moves the other neurons to write as much instead.
    """
    if form_of(intervention.kind).together is not None:
        return same_shift(intervention, neurons, reference, role="random")
    return on_others(intervention, neurons, reference, role="random")


def random_signs(intervention: Intervention, *, seed: int) -> Intervention:
    """The same neurons moved by as much, a random half of them in the opposite direction.

    a' = a + s*(target - a) with s = +1 or -1: the map of the intervention where s is +1, its mirror
    image about the neuron's own value where s is -1. The signs are balanced (of an odd number, one more
    is -1), because independent signs would sometimes equal the intervention itself; for one neuron,
    half of the time.

    Example::

        shift = nt.steer(scores.top(8), nt.reference(model, train))
        nt.measure(model, test, [shift, nt.random_signs(shift, seed=0)])
    """
    generator = torch.Generator().manual_seed(seed)
    heads = torch.zeros(len(intervention), dtype=torch.bool)
    heads[torch.randperm(len(intervention), generator=generator)[: len(intervention) // 2]] = True
    return replace(
        intervention,
        keep=torch.where(heads, intervention.keep, 2 - intervention.keep),
        gain=torch.where(heads, intervention.gain, -intervention.gain),
        offset=torch.where(heads, intervention.offset, -intervention.offset),
        role="sign",
    )


def other_donor(intervention: Intervention) -> Intervention:
    """The same patch with values from another pair's donor run (see `measure`)."""
    return replace(intervention, role="other_donor")


def same_shift(
    intervention: Intervention, neurons: Sequence[Neuron], reference: Reference, *, role: str
) -> Intervention:
    """Move other neurons so that they write as much as the intervention's own, over `reference`.

    Neuron j replaces neuron i at its place in the list: a'_j = a_j + mean(target_i - a_i) * ||w_i|| /
    ||w_j||, with w what a neuron writes (`Reference.norms`). The sizes are equal in the residual stream,
    where neurons act, whatever the scale of their activations.
    """
    moments = reference.moments
    own = values_at(moments.mean_of(intervention.recipient), intervention.neurons)
    donor = values_at(moments.mean_of(intervention.donor), intervention.neurons)
    moved = (intervention.keep - 1) * own + intervention.gain * donor + intervention.offset
    written = moved * values_at(reference.norms, intervention.neurons)
    offset = written / values_at(reference.norms, neurons).clamp(min=1e-6)
    keep, gain = torch.ones(len(neurons)), torch.zeros(len(neurons))
    direction = intervention.direction
    return Intervention("shift", tuple(neurons), direction, keep, gain, offset, role)


def on_others(
    intervention: Intervention, neurons: Sequence[Neuron], reference: ClassMeans, *, role: str
) -> Intervention:
    """The same kind of intervention on other neurons: their own donor values, means or factors."""
    return make(intervention.kind, neurons, reference, direction=intervention.direction, role=role)


def norm_matched(
    intervention: Intervention, norms: Float[Tensor, "layer neuron"], *, seed: int
) -> tuple[Neuron, ...]:
    """For each neuron another of its layer with a similar `Reference.norms`, of the ten nearest."""
    generator = torch.Generator().manual_seed(seed)
    taken = set(intervention.neurons)
    drawn: list[Neuron] = []
    for neuron in intervention.neurons:
        distance = (norms[neuron.layer] - norms[neuron.layer, neuron.index]).abs()
        order = distance.argsort().tolist()
        near = (place for place in order if Neuron(neuron.layer, place) not in taken)
        free = list(islice(near, 10))
        if not free:
            raise InputError(f"layer {neuron.layer} has no neuron left to match {neuron}'s norm")
        pick = free[int(torch.randint(len(free), (1,), generator=generator))]
        drawn.append(Neuron(neuron.layer, pick))
        taken.add(drawn[-1])
    return tuple(drawn)


def low_correlation(
    intervention: Intervention, rho: Float[Tensor, "layer neuron"], *, seed: int
) -> tuple[Neuron, ...]:
    """As many neurons in each layer, drawn from the tenth with the lowest |rho|."""
    generator = torch.Generator().manual_seed(seed)
    taken = set(intervention.neurons)
    drawn: list[Neuron] = []
    for layer, places in by_layer(intervention.neurons).items():
        order = [p for p in rho[layer].abs().argsort().tolist() if Neuron(layer, p) not in taken]
        pool = order[: max(len(places), len(order) // 10)]
        if len(pool) < len(places):
            raise InputError(f"layer {layer} has too few neurons besides the selected ones")
        picks = torch.randperm(len(pool), generator=generator)[: len(places)].tolist()
        drawn += [Neuron(layer, pool[pick]) for pick in picks]
    # in the order of the neurons that they replace
    by = {layer: [n for n in drawn if n.layer == layer] for layer in {n.layer for n in drawn}}
    return tuple(by[neuron.layer].pop() for neuron in intervention.neurons)
