"""Slope per unit written: change of L if a neuron wrote one unit more.

    score_i = mean over pairs of sign(target_i - a_i) * dL/da_i / ||w_i||

with w_i what the neuron writes: its `W_out` row, or the row as a norm or a multiplier behind the MLP
transforms it (||w_i|| is then the root mean square over both runs of the pairs: `models/written.py`).
The gradient's other factor, how far the neuron is moved, is left out. The score measures whether the
neuron's row points in a direction that affects the answer, whatever its activation on this prompt. A
fact that was trained into rows (`studies/injection.py`) left its trace there. To predict the effect of
an intervention the distance matters; use `gradient`. 2 forward passes and 1 backward pass a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.gradients import gradients
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import written_norms


@renamed(intervention="kind")
@takes_turns
def slope(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Change of L (nats) per unit written, in the direction in which the intervention moves the neuron.

    Example::

        nt.slope(model, pairs).top(8)
    """
    encoded = encode(model, pairs)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    info = inspect_model(model)
    total = torch.zeros(info.n_layers, info.d_mlp)
    side = Direction.from_donor(donor).recipient
    for rows, values, slopes in gradients(model, encoded, side, batch_size, progress):
        total += (targets.changes(rows, values).sign() * slopes).sum(dim=0)
    per_unit = total / len(encoded) / written_norms(model, encoded).clamp(min=1e-12)
    return Scores(
        "slope",
        finite(per_unit, "slope"),
        "nats of L per unit written",
        provenance=provenance(model, encoded, donor, kind),
    )
