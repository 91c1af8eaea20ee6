"""Contrastive neuron attribution: the top 0.1 % by the difference of the classes' mean activation.

    delta_i = mean over pairs of (a_i in one class - a_i in the other)

Neurons that are among the 0.1 % with the largest |a| in at least 80 % of the prompts are universal and
left out. The circuit is multiplied by a scalar: 0 ablates, above 1 amplifies.
"""

from __future__ import annotations

import torch

from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.rankers.training import Training
from neurotrace.recipes.base import Rank, Recipe, by_neurons
from neurotrace.studies.selection import Ground, StudySettings

_SHARE = 0.001
_UNIVERSAL = 0.8


def _prepare(ground: Ground, settings: StudySettings, progress: Progress) -> Rank:
    values = ground.evidence.activations.values.abs().flatten(2)  # side, pair, unit
    k = max(1, round(_SHARE * values.shape[2]))
    bars = values.topk(k, dim=2).values[..., -1:]
    large = values >= bars.clamp(min=1e-12)
    shape = ground.evidence.activations.values.shape[2:]

    def rank(training: Training) -> Scores:
        often = large[:, list(training.rows)].float().mean(dim=(0, 1)).view(shape)
        value = training.means.contrast.clone()
        value[often >= _UNIVERSAL] = torch.nan
        unit = "reasoning minus memorization"
        return Scores("cna", value, unit, signed=False, provenance=training.record())

    return rank


CNA = Recipe(
    "cna",
    "Contrastive neuron attribution",
    "arXiv 2605.12290",
    "Ranks by the difference of mean activations, leaves out universal neurons, multiplies the top 0.1 %.",
    (
        "The two classes are a pair's two prompts; universal neurons are found on the same prompts, "
        "not on unrelated ones.",
        "The scalar is chosen on training pairs out of 0, 0.5, 2 and 4; sizes up to 1 % are tried, too.",
        "Only the prompt's last token is changed.",
    ),
    by_neurons("cna", ("scale:0", "scale:0.5", "scale", "scale:4"), prepare=_prepare, shares=(_SHARE,)),
)
