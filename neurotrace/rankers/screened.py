"""Exact effects of the neurons whose write differs most between the two runs of a pair; no gradients.

    screen_i = sqrt(mean over pairs of (d_i - a_i)^2) * ||w_i||

with d_i and a_i the activations in the two runs and w_i what the neuron writes. The first `CANDIDATES` are
then patched one at a time (`exact`). A gradient at either run does not see a neuron whose write is read
through a unit that is off, or saturated, at that run; a difference is seen whatever reads it. The root of
the mean square keeps neurons that differ in a few pairs only. It costs as many forward passes a pair as
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError, renamed
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.activations import collect
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import over_pairs, pair_norms
from neurotrace.rankers.exact import exact

CANDIDATES = 128


@renamed(intervention="kind")
@takes_turns
def screened(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    candidates: int = CANDIDATES,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) of the `candidates` that the screen names; the others are NaN.

    Example::

        nt.screened(model, pairs, candidates=64).top(8)
    """
    if candidates < 1:
        raise InputError(f"candidates={candidates}: expected at least 1")
    encoded = encode(model, pairs)
    values = collect(model, encoded, progress=progress).values
    screen = _screen(values, over_pairs(pair_norms(model, encoded)))
    order = torch.sort(screen.flatten(), descending=True, stable=True).indices[:candidates]
    width = screen.shape[1]
    few = [Neuron(int(place) // width, int(place) % width) for place in order]
    found = exact(model, encoded, donor=donor, kind=kind, neurons=few, progress=progress)
    return replace(found, method="screened")


def _screen(
    values: Float[Tensor, "side pair layer neuron"], norms: Float[Tensor, "layer neuron"]
) -> Float[Tensor, "layer neuron"]:
    return (values[1] - values[0]).square().mean(dim=0).sqrt() * norms
