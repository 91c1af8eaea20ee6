"""Training data of a ranking in a study: activations and slopes of all pairs, and which pairs train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurotrace.core.sides import Direction
from neurotrace.interventions.kinds import Kind
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
