"""Each kind of intervention does what its formula says; worked out by hand, no model."""

from __future__ import annotations

import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.interventions.controls import random_signs, same_shift
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.targets import Targets
from neurotrace.models.activations import Moments

TWO = (nt.Neuron(0, 1), nt.Neuron(1, 0))
MEAN = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 8.0], [7.0, 0.0]]])  # [side, layer, neuron]
# of TWO: on memorization 2 and 3, on reasoning 8 and 7
SLOPE = torch.tensor([[[0.0, 1.0], [2.0, 0.0]], [[0.0, 3.0], [2.0, 0.0]]])  # means 2 and 2
NORMS = torch.tensor([[4.0, 2.0], [1.0, 0.5]])  # of TWO: 2 and 1
REFERENCE = nt.Reference(
    Moments(MEAN, torch.ones_like(MEAN), 4),
    SLOPE,
    torch.zeros_like(SLOPE),
    NORMS,
    torch.tensor([6.0, -4.0]),
)


@pytest.mark.parametrize(
    ("kind", "keep", "gain", "to_reasoning", "to_memorization"),
    [
        ("patch", 0, 1, [0, 0], [0, 0]),
        ("patch:1.5", -0.5, 1.5, [0, 0], [0, 0]),
        ("set", 0, 0, [8, 7], [2, 3]),
        ("zero", 0, 0, [0, 0], [0, 0]),
        ("mean", 0, 0, [5, 5], [5, 5]),
        ("shift", 1, 0, [6, 4], [-6, -4]),  # reasoning minus memorization, added towards reasoning
        ("shift:2", 1, 0, [12, 8], [-12, -8]),
        ("scale", 2, 0, [0, 0], [0, 0]),
        ("scale:-1", -1, 0, [0, 0], [0, 0]),
        # gap 10; weights g/w² are .5 and 2, their sum of g·g/w² is 5
        ("steer", 1, 0, [-1, -4], [1, 4]),
        ("steer:0.5", 1, 0, [-0.5, -2], [0.5, 2]),
    ],
)
def test_keep_gain_and_offset(kind, keep, gain, to_reasoning, to_memorization):
    for direction, offset in (("to_reasoning", to_reasoning), ("to_memorization", to_memorization)):
        made = make(kind, TWO, REFERENCE, direction=direction)
        assert made.kind == kind
        assert made.keep.tolist() == pytest.approx([keep] * 2)
        assert made.gain.tolist() == pytest.approx([gain] * 2)
        assert made.offset.tolist() == pytest.approx(offset)


def test_steering_is_predicted_to_close_the_gap():
    made = make("steer", TWO, REFERENCE, direction="to_reasoning")
    slope = torch.tensor([2.0, 2.0])
    assert float(made.offset @ slope) == pytest.approx(-REFERENCE.gap) == -10


@pytest.mark.parametrize("kind", ["patch", "patch:1.5", "set", "zero", "mean", "shift", "scale"])
def test_rankers_predict_where_the_intervention_takes_a_neuron(kind):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, 2, generator=generator)
    donors = torch.randn(3, 2, 2, generator=generator)
    targets = Targets(kind, "reasoning", donors, REFERENCE)
    predicted = targets.changes([0, 1, 2], values)
    made = make(kind, TWO, REFERENCE, direction="to_reasoning")
    for place, neuron in enumerate(TWO):
        own, given = (x[:, neuron.layer, neuron.index] for x in (values, donors))
        done = made.apply([place], own[:, None], given[:, None])[:, 0] - own
        torch.testing.assert_close(done, predicted[:, neuron.layer, neuron.index])


def test_an_old_value_that_is_not_kept_does_not_matter():
    made = make("set", TWO, REFERENCE, direction="to_reasoning")
    found = made.apply([0, 1], torch.tensor([torch.inf, torch.nan]), None)
    assert found.tolist() == [8.0, 7.0]


def test_a_control_writes_as_much_as_what_it_stands_in_for():
    """moved * ||w|| of TWO towards reasoning: 6·2 and 4·1; of norms 4 and .5: 3·4 and 8·.5."""
    made = make("set", TWO, REFERENCE, direction="to_reasoning")
    others = (nt.Neuron(0, 0), nt.Neuron(1, 1))
    control = same_shift(made, others, REFERENCE, role="norm")
    assert control.keep.tolist() == [1, 1]
    assert control.offset.tolist() == [3, 8]
    wrong = random_signs(made, seed=0)
    moves = wrong.apply([0, 1], torch.tensor([2.0, 3.0]), None) - torch.tensor([2.0, 3.0])
    assert sorted(moves.abs().tolist()) == [4.0, 6.0]
    assert int((moves > 0).sum()) == 1


def test_what_a_kind_needs_is_asked_for():
    with pytest.raises(InputError, match="steer needs slopes"):
        make("steer", TWO, REFERENCE.moments, direction="to_reasoning")
    with pytest.raises(InputError, match="shift needs class means"):
        make("shift", TWO, direction="to_reasoning")
    with pytest.raises(InputError, match="one finite number for each neuron"):
        Intervention("zero", TWO, "to_reasoning", *(torch.full((2,), torch.nan) for _ in range(3)))


def test_names_stand_for_neurons():
    by_name = nt.patch(["L2.N12", nt.Neuron(0, 3)], donor="reasoning")
    assert by_name.neurons == (nt.Neuron(2, 12), nt.Neuron(0, 3))
    assert nt.zero(["L1.N5"], direction="to_reasoning").neurons == (nt.Neuron(1, 5),)
    with pytest.raises(InputError, match="L2"):
        nt.patch(["L2"], donor="reasoning")
