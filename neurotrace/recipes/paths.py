"""Integrated gradients of an answer's probability, prompt by prompt, on a path of activations.

    attribution_i = (a_i - start_i) * mean over t of dP(answer)/da_i at start + t*(a - start)

A layer's neurons move together, and the layers one after another, as in the programs of Dai et al. (ACL
2022) and Shi et al. (NeurIPS 2024). The cost is steps * layers forward and backward passes a prompt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.metrics import Metric, log_probability
from neurotrace.models.activations import read_activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.gradients import slopes_of
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel

STEPS = 4  # midpoints of the path
MOST = 32  # pairs of a family that are attributed, drawn at random


def attributions(
    model: HookedModel,
    encoded: EncodedPairs,
    side: Side,
    *,
    start: Float[Tensor, "pair layer neuron"] | None = None,
    steps: int = STEPS,
    batch_size: int = 32,
    progress: Progress = None,
) -> Float[Tensor, "pair layer neuron"]:
    """Attributions of the side's own answer on the side's prompts; `start` None: from 0."""
    refuse_whole(encoded, "this recipe")
    info = inspect_model(model)
    answers = encoded.memorized if side == "memorization" else encoded.reasoned
    found = torch.zeros(len(encoded), info.n_layers, info.d_mlp)
    batches = list(by_length(encoded.ids(side), batch_size))
    for rows, ids in over(progress, batches, f"integrating ({side} prompts)"):
        values = read_activations(model, ids, info.n_layers, info.d_mlp)
        change = values if start is None else values - start[rows]
        probability = Metric(_Probability(answers[rows]))
        for layer in range(info.n_layers):
            slope = torch.zeros(len(rows), info.d_mlp)
            for step in range(steps):
                added = change * ((step + 0.5) / steps - 1)
                slope += slopes_of(model, ids, probability, added, [layer])[1][:, layer]
            found[rows, layer] = change[:, layer] * slope / steps
    return found


class _Probability:
    """P(answer) from logits."""

    def __init__(self, answers: Int[Tensor, " row"]) -> None:
        self.answers = answers

    def __call__(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
        return log_probability(logits, self.answers).exp()


def shared(found: Float[Tensor, "pair layer neuron"], threshold: float) -> Float[Tensor, "layer neuron"]:
    """Share of prompts in which a neuron's attribution passes `threshold` times the prompt's largest.

    Ties are broken by the mean attribution, which adds less than one prompt.
    """
    largest = found.flatten(1).max(dim=1).values.clamp(min=1e-12)
    passes = (found > threshold * largest[:, None, None]).float().mean(dim=0)
    mean = found.mean(dim=0)
    return passes + mean / mean.abs().max().clamp(min=1e-12) / (2 * len(found))
