"""Interventions and what they do: two routes to one number, and the laws of patching."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.interventions.controls import on_others, random_signs, same_shift
from neurotrace.interventions.intervention import make
from neurotrace.interventions.logits import mixes
from neurotrace.interventions.whole import mixed_batches
from neurotrace.models.encoding import encode
from neurotrace.models.origins import keeping_runs

PAIR_OF_KIND = {"to_reasoning": "reasoning", "to_memorization": "memorization"}


def test_planted_neuron_flips_both_ways_and_others_do_not(model, encoded):
    for direction, donor in PAIR_OF_KIND.items():
        one = nt.patch([PLANTED], donor=donor)
        other = on_others(one, [nt.Neuron(1, 6)], nt.moments(model, encoded), role="random")
        frame = nt.measure(model, encoded, [one, other]).to_frame()
        assert frame[frame["role"] == "selected"]["answers"].all(), direction
        assert not frame[frame["role"] == "random"]["answers"].any(), direction


def test_patching_a_run_with_itself_changes_nothing(model, encoded):
    """Each neuron set to the value that it has: bit-identical on the slow route."""
    from neurotrace.interventions.intervention import patch
    from neurotrace.interventions.logits import _hooked_logits
    from neurotrace.models.hooks import forward

    everything = [nt.Neuron(layer, unit) for layer in range(2) for unit in range(24)]
    own = patch(everything, donor="reasoning")
    ids = encoded.memorization[0][None]
    values = torch.zeros(2, 24)  # as the same pass has them: others round otherwise

    def keep(layer, post):
        values[layer] = post[0, -1]

    with torch.no_grad():
        clean = forward(model, ids, edit=keep, layers=range(2))
    same = _hooked_logits(model, ids, own, values.flatten()[None], (ids.shape[1] - 1,), "neurons", 0)
    assert torch.equal(clean, same)


@pytest.mark.bridge
def test_prompts_of_several_lengths_run_together_as_they_do_alone(model, encoded):
    """Within a study the engine keeps clean runs, and all lengths share its passes."""
    assert len({len(ids) for ids in encoded.reasoning}) > 1
    top = nt.gradient(model, encoded, donor="reasoning").top(4)
    some = [nt.patch(top, donor="reasoning"), nt.zero(top, direction="to_reasoning")]
    keys = ["pair", "intervention"]
    alone = nt.measure(model, encoded, some).to_frame().set_index(keys)
    with keeping_runs(model):
        prompts = encoded.ids("memorization")
        assert mixes(model, prompts, "read", "neurons")
        assert not mixes(model, prompts, "all", "neurons")
        assert len(mixed_batches(model, encoded, some, "read", "neurons")) == 1
        together = nt.measure(model, encoded, some).to_frame().set_index(keys).loc[alone.index]
    for name in ("L_after", "p_reasoned_after", "kl"):
        assert (together[name] - alone[name]).abs().max() < 1e-3, name
    assert (together["top_after"] == alone["top_after"]).all()


@settings(max_examples=20, deadline=None)
@given(
    units=st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True),
    strength=st.floats(-2, 3, allow_nan=False),
)
def test_batching_and_order_do_not_matter(model, encoded, units, strength):
    made = nt.patch([nt.Neuron(1, unit) for unit in units], donor="reasoning", strength=strength)
    assert nt.patch([PLANTED], donor="reasoning", strength=1.5).kind == "patch:1.5"
    zero = nt.zero([nt.Neuron(0, unit) for unit in units], direction="to_reasoning")
    together = nt.measure(model, encoded, [made, zero]).to_frame().set_index(["pair", "intervention"])
    turned = encoded.at(list(range(len(encoded)))[::-1])
    alone = nt.measure(model, turned, [made]).to_frame().set_index(["pair", "intervention"])
    for key in alone.index:
        assert alone.loc[key, "L_after"] == pytest.approx(together.loc[key, "L_after"], abs=1e-4)


def test_signs_are_balanced_and_moves_have_equal_size(model, encoded):
    reference = nt.reference(model, encoded)
    neurons = [nt.Neuron(1, unit) for unit in range(7)]
    one = nt.set_to_mean(neurons, reference, donor="reasoning")
    for seed in range(5):
        flipped = random_signs(one, seed=seed)
        assert int((flipped.keep == 2).sum()) == 4  # of seven, the larger half moves the wrong way
        a = torch.linspace(-1, 2, 7)
        moves = [each.keep * a + each.offset - a for each in (one, flipped)]
        assert torch.allclose(moves[0].abs(), moves[1].abs(), atol=1e-6)
    others = [nt.Neuron(1, unit) for unit in range(10, 17)]
    moved = same_shift(one, others, reference, role="norm")
    recipient = reference.moments.mean_of("memorization")
    for place, (own, other) in enumerate(zip(neurons, others, strict=True)):
        shift = float(one.offset[place] - recipient[own.layer, own.index])
        written = shift * float(reference.norms[own.layer, own.index])
        norm = float(reference.norms[other.layer, other.index])
        assert float(moved.offset[place]) * norm == pytest.approx(written, abs=1e-6)
    assert (moved.keep == 1).all()


def test_steering_is_the_least_norm_shift_for_its_prediction(model, encoded):
    """Any other shift of the same neurons with the same first-order effect writes more."""
    reference = nt.reference(model, encoded)
    neurons = [nt.Neuron(1, unit) for unit in range(9)]
    slope = reference.slope.mean(dim=0)[1, :9]
    norm = reference.norms[1, :9]
    for direction, sign in (("to_reasoning", -1), ("to_memorization", 1)):
        made = nt.steer(neurons, reference, direction=direction, alpha=0.5)
        assert float((slope * made.offset).sum()) == pytest.approx(sign * 0.5 * reference.gap, rel=1e-4)
        for seed in range(5):
            aside = torch.randn(9, generator=torch.Generator().manual_seed(seed))
            aside -= slope * (slope @ aside) / (slope @ slope)  # no first-order effect
            other = made.offset + 0.3 * aside
            assert float((other * norm).norm()) > float((made.offset * norm).norm())
    with pytest.raises(InputError, match=r"nt\.reference"):
        nt.steer(neurons, nt.moments(model, encoded), direction="to_reasoning")


def test_all_positions(model, encoded):
    """At all positions a patch equals the donor's run wherever the last token decides alone."""
    one = nt.patch([PLANTED], donor="reasoning")
    read = nt.measure(model, encoded, [one]).to_frame()
    every = nt.measure(model, encoded, [one], positions="all").to_frame()
    assert every["answers"].all()
    assert (read["L_after"] - every["L_after"]).abs().max() < 0.5
    zero = nt.zero([PLANTED], direction="to_memorization")
    assert nt.measure(model, encoded, [zero], positions="all").to_frame()["answers"].all()


def test_other_donor_takes_another_pairs_values(model, encoded):
    from neurotrace.interventions.controls import other_donor
    from neurotrace.interventions.donors import donor_values, next_of_other_group

    for place in range(len(encoded)):
        other = next_of_other_group(encoded, place)
        assert encoded.pairs[other].group != encoded.pairs[place].group
    patch = other_donor(nt.patch([PLANTED, nt.Neuron(0, 1)], donor="reasoning"))
    (given,) = donor_values(model, encoded, [patch], range(len(encoded)), "read", None)
    values = nt.collect(model, encoded).side("reasoning")
    for place in range(len(encoded)):
        other = next_of_other_group(encoded, place)
        expected = torch.stack([values[other, n.layer, n.index] for n in patch.neurons])
        torch.testing.assert_close(given[place], expected, rtol=1e-4, atol=1e-4)


def test_another_donor_is_of_another_group_with_other_answers():
    """The nearest that has all of it; else of another group; else any."""
    from types import SimpleNamespace

    from neurotrace.interventions.donors import next_of_other_group

    def next_of(*rows):
        names = ("family", "group", "memorized_answer", "reasoned_answer")
        pairs = [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in rows]
        return next_of_other_group(Encoded(pairs), 0)

    class Encoded(SimpleNamespace):
        def __init__(self, pairs):
            super().__init__(pairs=pairs)

        def __len__(self):
            return len(self.pairs)

    own = ("f", "a", "x", "y")
    same_group, same_answer = ("f", "a", "p", "q"), ("f", "b", "x", "q")
    other_reasoned, other_family = ("f", "b", "p", "y"), ("g", "b", "p", "q")
    good = ("f", "c", "p", "q")
    assert next_of(own, same_group, same_answer, other_reasoned, other_family, good) == 5
    assert next_of(own, same_group, same_answer) == 2
    assert next_of(own, same_group) == 1


def test_rates_count_what_happened(model, encoded):
    effects = nt.measure(model, encoded, [nt.patch([PLANTED], donor="reasoning")])
    (row,) = effects.rates().to_dict("records")
    assert (row["answers"], row["n"], row["groups"]) == (1.0, 12, 12)
    assert 0.7 < row["answers_low"] < 0.8  # Wilson with n = 12
    assert row["answers_high"] == pytest.approx(1.0)
    frame = effects.to_frame()
    assert (frame["top_before"] == "mem").all()
    assert (frame["top_after"] == "rea").all()
    assert (frame["prefers"] & (frame["L_after"] < 0)).all()
    back = nt.measure(model, encoded, [nt.patch([PLANTED], donor="memorization")]).to_frame()
    assert (back["prefers"] & (back["L_after"] > 0)).all()
    assert (frame["p_reasoned_after"] > frame["p_reasoned_before"]).all()


@pytest.mark.parametrize("kind", ["", "swap", "zero:2", "shift:two", "scale:nan"])
def test_unknown_kinds_are_refused(model, encoded, kind):
    with pytest.raises(InputError, match="expected one of patch"):
        make(kind, [PLANTED], nt.moments(model, encoded), direction="to_reasoning")


def test_refusals_say_what_to_do(model, encoded, tmp_path):
    with pytest.raises(InputError, match="no interventions"):
        nt.measure(model, encoded, [])
    with pytest.raises(InputError, match=r"L7\.N0 is not in this model"):
        nt.measure(model, encoded, [nt.patch([nt.Neuron(7, 0)], donor="reasoning")])
    with pytest.raises(InputError, match="one or more neurons"):
        nt.patch([], donor="reasoning")
    with pytest.raises(InputError, match="each once"):
        nt.zero([PLANTED, PLANTED], direction="to_reasoning")
    with pytest.raises(InputError, match="'all', 'cue', 'anywhere', a span"):
        nt.measure(model, encoded, [nt.patch([PLANTED], donor="reasoning")], positions="first")
    with pytest.raises(InputError, match="no column"):
        nt.measure(model, encoded, [nt.patch([PLANTED], donor="reasoning")]).where(colour=1)
    longer = [
        nt.PromptPair("x", "f", "t", "g", "the item1 recall", "item1 think", " mem", " rea"),
    ]
    uneven = encode(model, longer)
    with pytest.raises(InputError, match="equal length"):
        nt.measure(model, uneven, [nt.patch([PLANTED], donor="reasoning")], positions="all")


@pytest.mark.bridge
def test_generation_shows_the_flip(model, pairs):
    pair = pairs[0]
    assert nt.generate(model, pair.memorization, max_new_tokens=1) == "mem"
    one = nt.patch([PLANTED], donor="reasoning")
    flipped = nt.generate(model, pair.memorization, one, donor_prompt=pair.reasoning, max_new_tokens=1)
    assert flipped == "rea"
    assert nt.generate(model, pair.reasoning, max_new_tokens=1) == "rea"
    with pytest.raises(InputError, match="donor_prompt"):
        nt.generate(model, pair.memorization, one)
    with pytest.raises(InputError, match="empty"):
        nt.generate(model, "")
    with pytest.raises(InputError, match="the model takes 16"):
        nt.generate(model, "the " * 20)


def test_damage_is_zero_for_nothing_and_positive_for_something(model, encoded):
    texts = ["the item1", "item2 item3 the"]
    nothing = nt.scale([PLANTED], factor=1.0, direction="to_reasoning")
    assert float(nt.damage(model, texts, [nothing]).abs().max()) < 1e-6
    loud = nt.scale([nt.Neuron(0, 3)], factor=50.0, direction="to_reasoning")
    assert float(nt.damage(model, texts, [loud]).max()) > 1e-4
    with pytest.raises(InputError, match="donor_means"):
        nt.damage(model, texts, [nt.patch([PLANTED], donor="reasoning")])
    for wrong in ("the " * 17, ""):
        with pytest.raises(InputError, match=r"neutral text 2 .*: expected 1 to 16"):
            nt.damage(model, ["the", wrong], [loud])
