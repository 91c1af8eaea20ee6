"""Two-point (trapezoidal) integrated gradients between the two runs of a pair.

    score_i = mean over pairs of (target_i - a_i) * (dL/da_i in the recipient + dL/da_i in the donor) / 2

A gradient at the recipient cannot find neurons that decide only together: while the others keep the
behaviour, changing one neuron does not change L. Exact single-neuron ablation has the same limit. At
the donor run, the other end of the path, all of these neurons have switched. The average of the
gradients at both ends is the trapezoidal rule for the integral of dL/da on the path from one run to the
other. It takes one more forward and backward pass (3F + 2B a pair), no steps, and only activations of
real runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.gradients import pair_slopes
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.gradient import from_slopes
from neurotrace.rankers.training import Training


@renamed(intervention="kind")
@takes_turns
def two_ended(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted share of each neuron in the change of L (nats) by the intervention on many of them.

    Example::

        nt.two_ended(model, pairs, donor="reasoning").top(8)
    """
    encoded = encode(model, pairs)
    info = inspect_model(model)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.zeros(info.n_layers, info.d_mlp)
    recipient = Direction.from_donor(donor).recipient
    batches = list(by_length(encoded.ids(recipient), batch_size))
    for rows, ids in over(progress, batches, "two-ended"):
        values, slopes = pair_slopes(model, encoded, rows, ids)
        part = encoded.at(rows)
        for places, others in by_length(part.ids(donor), batch_size):
            far = pair_slopes(model, part, places, others)[1]
            slopes[places] = (slopes[places] + far) / 2
        total += (targets.changes(rows, values) * slopes).sum(dim=0)
    return Scores(
        "two_ended",
        finite(total / len(encoded), "two_ended"),
        provenance=provenance(model, encoded, donor, kind),
    )


def from_evidence(training: Training) -> Scores:
    """`two_ended` from what a study has read."""
    return from_slopes(training, "two_ended", both=True)
