"""Direct logit attribution: the direct effect of what a neuron writes on the answers' logits.

    score_i = mean over pairs of (target_i - a_i) * (written_i . dL/dh)

with h the residual stream behind the last block: the gradient there carries the unembedding rows of
both answers, the final norm and a soft cap, linearised at the recipient run. written_i is the `W_out`
row, or the row as a norm or a multiplier behind the MLP transforms it in that run (`models/written.py`).
In the last layer the scores equal those of `gradient`. It misses effects through later layers. It takes
one forward pass and the backward pass of the final norm a pair; with a norm behind the MLP, three passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.metrics import logit_difference
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import inspect_model, w_out
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import direct_slopes, router_factors


@renamed(intervention="kind")
@takes_turns
def direct(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted change of L (nats) by the direct path only.

    Example::

        nt.direct(model, pairs, donor="reasoning").top(8)
    """
    encoded = encode(model, pairs)
    refuse_whole(encoded, "direct")
    info = inspect_model(model)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.zeros(info.n_layers, info.d_mlp)
    batches = list(by_length(encoded.ids(Direction.from_donor(donor).recipient), batch_size))
    for rows, ids in over(progress, batches, "direct effects"):
        answers = encoded.memorized[rows], encoded.reasoned[rows]

        def metric(logits: Tensor, answers: tuple[Tensor, Tensor] = answers) -> Tensor:
            return logit_difference(logits, *answers)

        values, slopes = direct_slopes(model, ids, metric)
        changes = targets.changes(rows, values)
        if (factors := router_factors(model, ids)) is not None:
            changes = changes * factors
        for layer in range(info.n_layers):
            slope = slopes[:, layer].to(info.device)
            per_unit = (w_out(model, layer).float() @ slope.t()).t().cpu()
            total[layer] += (changes[:, layer] * per_unit).sum(dim=0)
    return Scores(
        "direct",
        finite(total / len(encoded), "direct"),
        provenance=provenance(model, encoded, donor, kind),
    )
