"""Attribution patching: first-order prediction of an intervention's effect.

    score_i = mean over pairs of (target_i - a_i) * dL/da_i

at the recipient's final token position, where target_i is what the intervention would set the neuron
to: the donor's value (`patch`, AtP: Nanda 2023; Kramár et al. 2024), a mean (`set`, `mean`) or 0. All
neurons take two forward passes and one backward pass a pair; with the suffix engine, little more than
the forward passes (`engine.slopes`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind, form_of
from neurotrace.interventions.reference import Evidence
from neurotrace.interventions.targets import Targets, finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.gradients import gradients
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.training import Training


@renamed(intervention="kind")
@takes_turns
def gradient(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Moments | None = None,
    batch_size: int = 16,
    progress: Progress = None,
) -> Scores:
    """Predicted change of L (nats) when this kind of intervention is done to one neuron of the recipient.

    Args:
        donor: ``"reasoning"`` ranks for flips to reasoning, ``"memorization"`` for flips to memory.
        reference: class means for `set`, `mean` and `shift`; default: those of `pairs`.

    Example::

        scores = nt.gradient(model, pairs, donor="reasoning")
        scores.top(8)
    """
    encoded = encode(model, pairs)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    total = torch.zeros(inspect_model(model).n_layers, inspect_model(model).d_mlp)
    batches = gradients(model, encoded, Direction.from_donor(donor).recipient, batch_size, progress)
    for rows, values, slopes in batches:
        total += (targets.changes(rows, values) * slopes).sum(dim=0)
    return Scores(
        "gradient",
        finite(total / len(encoded), "gradient"),
        provenance=provenance(model, encoded, donor, kind),
    )


def from_evidence(training: Training) -> Scores:
    """`gradient` from what a study has read."""
    return from_slopes(training, "gradient", both=False)


def from_slopes(training: Training, method: str, *, both: bool) -> Scores:
    """The score from the slopes at the recipient, or (`both`) from their mean over both runs."""
    evidence, direction = training.evidence, training.direction
    place = SIDES.index(direction.recipient)
    if form_of(training.kind).together is not None:  # a set moves together, along the slope
        found = training.reference or evidence.reference(training.rows)
        slope = found.slope.mean(dim=0) if both else found.slope[place]
        spread = found.spread.mean(dim=0) if both else found.spread[place]
        # a neuron that pushes the same way in most groups with a small write norm
        pull = (slope.abs() - spread / 2) / found.norms
        return Scores(
            method,
            direction.sign * pull,
            "nats of L per unit written",
            provenance=training.record(),
        )
    targets = Targets(training.kind, direction.donor, reference=training.means)
    key = "sums", direction, both, *training.rows
    total = targets.joined(*evidence.once(key, lambda: _sums(evidence, training.rows, place, both)))
    return Scores(method, total / len(training.rows), provenance=training.record())


def _sums(
    evidence: Evidence, rows: Sequence[int], place: int, both: bool
) -> Float[Tensor, "what layer neuron"]:
    """Σ (d - a)·g, Σ a·g and Σ g over pairs, of which every affine change's effect consists.

    With a the recipient's activation, d the donor's, and g the slope of L: at the recipient, or (`both`)
    the mean over both runs.
    """
    found = torch.zeros(3, *evidence.slopes.shape[2:])
    for row in rows:
        own, other = evidence.activations.values[place, row], evidence.activations.values[1 - place, row]
        slope = evidence.slopes[:, row].mean(dim=0) if both else evidence.slopes[place, row]
        found[0].addcmul_(other - own, slope)
        found[1].addcmul_(own, slope)
        found[2].add_(slope)
    return found
