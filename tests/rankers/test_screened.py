"""Neurons that gradients don't see (docs/tables/off_axis.py), and the rankers that find them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import DIRECTIONS
from neurotrace.models.encoding import encode
from neurotrace.rankers.registry import RANKERS, passes
from neurotrace.rankers.screened import screened

TABLES = Path(__file__).parent.parent.parent / "docs" / "tables"


@pytest.fixture(scope="module")
def off_axis():
    """(module, model, pairs, controllers)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TABLES)
        import off_axis as module

        weights, places = module.build(0)
        model = nt.load_model(weights, module.tokenizer_of(module.WORDS), name="off-axis")
        encoded = encode(model, module.pairs())
        yield module, model, encoded, [nt.Neuron(module.CONTROLLERS, place) for place in places]


def test_the_controllers_are_off_the_axis_and_decide(off_axis):
    module, model, encoded, controllers = off_axis
    assert len(encoded) == module.ITEMS
    found = module.checked(model, encoded, controllers)
    for side in ("memorization", "reasoning"):
        assert found[f"cos_{side}"] <= 0.05
        assert found[f"flips_to_{side}"] == 1.0
        assert found[f"predicted_to_{side}"] <= 0.25


@pytest.mark.parametrize(
    ("method", "recall"),
    [("gradient", 0), ("two_ended", 0), ("contrast", 0), ("screened", 1), ("integrated", 1)],
)
def test_who_sees_them(off_axis, method, recall):
    _, model, encoded, controllers = off_axis
    for way in DIRECTIONS:
        scores = RANKERS[method].function(model, encoded, donor=way.donor)
        assert nt.recall(scores, controllers, direction=way) == recall


def test_screened_is_exact_where_it_measures(off_axis):
    _, model, encoded, _ = off_axis
    assert passes("screened", "patch", nt.inspect_model(model), len(encoded)) == 128 + 3
    scores = screened(model, encoded, candidates=5)
    assert int((~scores.value.isnan()).sum()) == 5
    every = nt.exact(model, encoded, neurons=scores.top(5))
    torch.testing.assert_close(scores.value, every.value, equal_nan=True)
    with pytest.raises(InputError, match="candidates=0"):
        screened(model, encoded, candidates=0)
