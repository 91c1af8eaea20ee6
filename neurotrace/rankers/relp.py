"""RelP: the gradient of a model whose attention patterns, norm scales and gains are held constant.

    score_i = mean over pairs of (target_i - a_i) * (the slope of L by RelP's rules)

(arXiv 2508.21258; the rules are in `relp_rules.py`.) A gradient is the effect of an infinitely small
step; it vanishes at a saturated norm or a closed gate. RelP estimates a neuron's share of the actual L.
In a mixture of experts the router's weights are constants as well, whatever `nt.routing` says.
Same cost as the gradient: 2 forward passes and 1 backward pass a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurotrace.core.errors import InputError, renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.metrics import Metric
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.gradients import gradients
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import engine_of, no_twin
from neurotrace.models.protocol import HookedModel


@renamed(intervention="kind")
@takes_turns
def relp(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted change of L (nats) when this kind of intervention is done to one neuron.

    Raises:
        InputError: no transformers model under the hooks (load it with `nt.load_model`, remove your own
            hooks), or a part of it without a rule.

    Example::

        nt.relp(model, pairs).top(8)
    """
    encoded = encode(model, pairs)
    info = inspect_model(model)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.zeros(info.n_layers, info.d_mlp)
    side = Direction.from_donor(donor).recipient
    for rows, values, slopes in gradients(model, encoded, side, batch_size, progress, _slopes):
        total += (targets.changes(rows, values) * slopes).sum(dim=0)
    return Scores(
        "relp",
        finite(total / len(encoded), "relp"),
        provenance=provenance(model, encoded, donor, kind),
    )


def _slopes(
    model: HookedModel,
    ids: Tensor,
    metric: Metric,
    added: Tensor | None,
    layers: Sequence[int] | None,
    behind: int = 0,
) -> tuple[Tensor, Tensor]:
    from neurotrace.engine.slopes import slopes
    from neurotrace.rankers.relp_rules import half, is_gated, linearised

    engine = engine_of(model)
    if engine is None:
        raise no_twin(model, "RelP changes the rules by which a transformers model is differentiated")
    try:
        before = half if is_gated(engine.parts) else None
        with linearised(engine.parts):
            values, found = slopes(
                engine, ids, metric, behind=behind, added=added, layers=layers, before=before
            )
    except ValueError as error:
        raise InputError(str(error)) from None
    return values.float().cpu(), found.float().cpu()
