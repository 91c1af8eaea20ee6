"""Gradient attribution (attribution patching): first-order prediction of an intervention's effect.

    score_i = mean over pairs of (target_i - a_i) * dL/da_i

at the recipient's read position, where target_i is what the intervention would set the neuron to:
the donor's value (`patch`, AtP: Nanda 2023; Kramár et al. 2024), a mean (`set`, `mean`) or 0. All
neurons for two forward passes and one backward pass a pair, and with the suffix engine for little more
than the forward passes (`suffix_slopes.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side, recipient_of
from neurotrace.interventions.intervention import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.gradients import gradients
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel


def gradient(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    intervention: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted change of L (nats) when `intervention` is done to one neuron of the recipient.

    Args:
        donor: ``"reasoning"`` ranks for flips to reasoning, ``"memorization"`` for the way back.
        reference: class means for `set`, `mean` and `shift`; default: those of `pairs`.
    """
    encoded = encode(model, pairs)
    targets = targets_for(model, encoded, donor, intervention, reference, progress)
    total = torch.zeros(inspect_model(model).n_layers, inspect_model(model).d_mlp)
    batches = gradients(model, encoded, recipient_of(donor), batch_size, progress)
    for rows, values, slopes in batches:
        total += (targets.changes(rows, values) * slopes).sum(dim=0)
    return Scores(
        "gradient", finite(total / len(encoded), "gradient"),
        provenance=provenance(model, encoded, donor, intervention),
    )  # fmt: skip
