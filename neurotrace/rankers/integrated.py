"""Integrated gradients: the gradient averaged on the path from the neuron's value to its target.

    score_i = mean over pairs of (target_i - a_i) * mean over t of dL/da_i at a + t*(target - a)

with the neurons of one layer moved together and the layers one after another, as in Sundararajan et al.
(ICML 2017) and Dai et al. (ACL 2022). The scores of a layer add up to the effect of the intervention on
the whole layer (completeness; a test checks it). The cost is steps * layers forward and backward passes
a pair, so it suits small models or few layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.errors import InputError, renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments, read_activations
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.gradients import pair_slopes
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel


@renamed(intervention="kind")
@takes_turns
def integrated(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    steps: int = 5,
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted change of L (nats), `steps` midpoints a layer; layers not requested are NaN.

    Example::

        nt.integrated(model, pairs, steps=5).top(8)
    """
    if steps < 1:
        raise InputError(f"steps={steps}: expected at least 1 (5 to 20 are usual)")
    encoded = encode(model, pairs)
    info = inspect_model(model)
    chosen = list(range(info.n_layers)) if layers is None else sorted(set(layers))
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.full((info.n_layers, info.d_mlp), torch.nan)
    total[chosen] = 0.0
    batches = list(by_length(encoded.ids(Direction.from_donor(donor).recipient), batch_size))
    for rows, ids in over(progress, batches, "integrating"):
        values = read_activations(model, ids, info.n_layers, info.d_mlp)
        changes = targets.changes(rows, values)
        for layer in chosen:
            slope = torch.zeros(len(rows), info.d_mlp)
            for step in range(steps):
                added = changes * ((step + 0.5) / steps)
                slope += pair_slopes(model, encoded, rows, ids, added, [layer])[1][:, layer]
            total[layer] += (changes[:, layer] * slope / steps).sum(dim=0)
    return Scores(
        "integrated",
        finite_where(total / len(encoded), chosen),
        provenance=provenance(model, encoded, donor, kind, steps=steps),
    )


def finite_where(scores: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
    finite(scores[list(layers)], "integrated")
    return scores
