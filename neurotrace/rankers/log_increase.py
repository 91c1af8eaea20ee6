"""Log-probability increase (Yu & Ananiadou, EMNLP 2024): what a neuron adds to the answers' log p,
read off where it writes, as if the model ended there.

    increase(y, a) = log p(y | h + a*w_i) - log p(y | h)
    score_i = mean over pairs of [increase(mem, target_i) - increase(rea, target_i)]
                               - [increase(mem, a_i) - increase(rea, a_i)]

with h the residual stream that enters the neuron's block, w_i what it writes (its `W_out` row, or the row
as a norm or a multiplier behind the MLP transforms it in that run: `models/written.py`) and p by the
model's own code behind its last block: final norm, unembedding, soft cap or scale. The paper ranks by
one answer's increase at the neuron's own value; the difference of both answers, between that value and
the intervention's target, has the sign and unit of the other rankers' scores. It misses effects through
later layers. It takes one forward pass a pair (two for a patch) and two final norms a neuron, which for
small models is the larger part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import read_out, residuals
from neurotrace.models.written import written_rows


@renamed(intervention="kind")
@takes_turns
def log_increase(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Change of L (nats) read at the place where the neuron writes.

    Example::

        nt.log_increase(model, pairs).top(8)
    """
    encoded = encode(model, pairs)
    refuse_whole(encoded, "log_increase")
    info = inspect_model(model)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.zeros(info.n_layers, info.d_mlp)
    lens = read_out(model)
    batches = list(by_length(encoded.ids(Direction.from_donor(donor).recipient), batch_size))
    for rows, ids in over(progress, batches, "log p increase"):
        values, entering = residuals(model, ids)
        changes = targets.changes(rows, values)
        for layer, written in enumerate(written_rows(model, ids)):
            for place, row in enumerate(rows):
                answers = [int(encoded.memorized[row]), int(encoded.reasoned[row])]
                before = entering[place, layer] + values[place, layer, :, None] * written[place]
                after = before + changes[place, layer, :, None] * written[place]
                moved = lens(after, answers) - lens(before, answers)
                total[layer] += (moved[:, 0] - moved[:, 1]).float().cpu()
    return Scores(
        "log_increase",
        finite(total / len(encoded), "log_increase"),
        provenance=provenance(model, encoded, donor, kind),
    )
