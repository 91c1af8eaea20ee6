"""What a study ranks from evidence that it read once is what the ranker says of the same pairs."""

from __future__ import annotations

import pytest
import torch

import neurotrace as nt
from neurotrace.core.sides import DIRECTIONS
from neurotrace.interventions.reference import gather
from neurotrace.rankers.registry import RANKERS, rank
from neurotrace.rankers.training import Training

ROWS = [0, 2, 3, 7, 8, 10]


@pytest.fixture(scope="module")
def evidence(organism):
    pairs = nt.encode(organism, nt.load_pairs("arithmetic")[:12])
    return pairs, gather(organism, pairs)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["patch", "patch:1.5", "set", "shift", "scale"])
@pytest.mark.parametrize("method", [n for n, r in RANKERS.items() if r.from_evidence and n != "exact"])
def test_two_routes_to_one_ranking(organism, evidence, method, kind, direction):
    pairs, read = evidence
    found = rank(Training(organism, pairs, read, ROWS, kind, direction), method)
    asked = RANKERS[method].function(organism, pairs.at(ROWS), donor=direction.donor, kind=kind)
    bound = 1e-4 * float(asked.value.nan_to_num().abs().max())
    torch.testing.assert_close(found.value, asked.value, rtol=1e-3, atol=bound, equal_nan=True)
    assert (found.signed, found.unit, found.direction) == (asked.signed, asked.unit, direction)
