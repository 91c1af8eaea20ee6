"""A study's rankings: their training data, and the interventions on their top neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import Kind, values_at
from neurotrace.interventions.reference import Evidence, Reference
from neurotrace.interventions.targets import provenance
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Training:
    """A requested ranking: from the pairs at `rows` only, for this intervention."""

    model: HookedModel
    encoded: EncodedPairs
    evidence: Evidence  # of all pairs of `encoded`
    rows: Sequence[int]
    kind: Kind
    direction: Direction
    reference: Reference | None = None  # that of `rows`, if already computed

    @property
    def pairs(self) -> EncodedPairs:
        return self.encoded.at(self.rows)

    @property
    def means(self) -> Moments:
        return self.reference.moments if self.reference else self.evidence.moments(self.rows)

    def record(self) -> dict[str, Any]:
        return provenance(self.model, self.pairs, self.direction.donor, self.kind)


def interventions_for(
    scores: Scores,
    *,
    kind: Kind,
    direction: Direction,
    ks: Sequence[int],
    reference: Reference,
) -> list[Intervention]:
    """The intervention on the top k of a ranking, for each k."""
    measured = int((~scores.value.isnan()).sum())
    top: tuple[Neuron, ...] = scores.top(min(max(ks), measured), direction=direction)
    return [
        replace(
            make(kind, top[:k], reference, direction=direction),
            label=scores.method,
            score=values_at(scores.value, top[:k]),
        )
        for k in ks
        if k <= len(top)
    ]
