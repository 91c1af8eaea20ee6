"""Pairs whose answers are read whole: laws that tie them to first tokens, to decoding and to passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.interventions.controls import random_controls
from neurotrace.models.gradients import pair_slopes


@pytest.fixture(scope="module")
def letters():
    return nt.load_pairs("letters")[:12]


@pytest.fixture(scope="module")
def whole(organism, letters):
    return nt.encode(organism, letters, answers="whole")


def test_one_token_answers_are_read_as_first_tokens_are(model, pairs):
    """L, behaviour, gradient, exact effects and flips: the same bits, or the same to rounding."""
    first, whole = (nt.encode(model, pairs, answers=how) for how in ("first", "whole"))
    assert whole.reading == "whole"
    assert whole.pairs == first.pairs
    for side in ("memorization", "reasoning"):
        one, other = first.behaviour(side), whole.behaviour(side)
        assert torch.allclose(one.logit_difference, other.logit_difference, atol=1e-5)
        assert torch.equal(one.answer, other.answer)
    assert torch.equal(nt.gradient(model, first).value, nt.gradient(model, whole).value)
    top = nt.gradient(model, first).top(2)
    both = [nt.exact(model, each, neurons=top).value for each in (first, whole)]
    assert torch.equal(*(each.nan_to_num() for each in both))
    changes = [nt.patch(top, donor="reasoning"), nt.zero(top, direction="to_memorization")]
    one, other = (nt.measure(model, each, changes).to_frame() for each in (first, whole))
    assert one["answers"].any()
    assert (one["answers"] == other["answers"]).all()
    assert (one["L_after"] - other["L_after"]).abs().max() < 1e-5
    assert (other["L_after"] - other["first_after"]).abs().max() < 1e-5
    assert (one["kl"] - other["kl"]).abs().max() < 1e-5


def test_a_kept_pair_is_what_greedy_decoding_writes(organism, letters, whole):
    assert len(whole) == len(letters)
    for pair in whole.pairs:
        for prompt, answer in (
            (pair.memorization, pair.memorized_answer),
            (pair.reasoning, pair.reasoned_answer),
        ):
            assert nt.generate(organism, prompt, max_new_tokens=2) == answer
    wrong = [replace(pair, memorized_answer=pair.memorized_answer[:2] + "a") for pair in letters]
    wrong = [pair for pair, own in zip(wrong, letters, strict=True) if pair != own]
    dropped = nt.encode(organism, [*wrong, letters[0]], answers="whole").dropped
    assert len(dropped) == len(wrong)  # the first token is right, the answer isn't
    assert {each.reason for each in dropped} == {"no memorized answer"}
    assert letters[1].memorized_answer in dropped[1].detail
    assert len(nt.encode(organism, [*wrong, letters[0]]).dropped) == 0


def test_a_flip_is_what_greedy_decoding_writes_under_the_change(organism, whole):
    reference = nt.reference(organism, whole)
    for donor in ("reasoning", "memorization"):
        top = nt.gradient(organism, whole, donor=donor).top(4)
        change = nt.set_to_mean(top, reference, donor=donor)
        beside = random_controls(change, reference, seeds=[0])
        for positions in ("read", "onward"):
            frame = nt.measure(organism, whole, [change, *beside], positions=positions).to_frame()
            for each in (change, *beside):
                rows = frame[frame["role"] == each.role]
                for pair, flipped in zip(whole.pairs, rows["answers"], strict=True):
                    prompt = getattr(pair, each.recipient)
                    wanted = pair.reasoned_answer if donor == "reasoning" else pair.memorized_answer
                    said = nt.generate(organism, prompt, each, max_new_tokens=2, positions=positions)
                    assert flipped == (said == wanted)


def test_a_donor_behind_the_prompt_is_its_run_with_the_same_answer(organism, whole):
    """Every neuron of the last block patched onward: its MLP's part of each answer token is the donor's."""
    info = whole.at([0])
    everything = [nt.Neuron(layer, at) for layer in range(4) for at in range(384)]
    change = nt.patch(everything, donor="reasoning")
    read, onward = (
        nt.measure(organism, info, [change], positions=at).to_frame()["p_reasoned_after"][0]
        for at in ("read", "onward")
    )
    own = float(info.on_reasoning.p_reasoned[0])
    assert abs(onward - own) < abs(read - own)


def test_answers_that_share_their_first_token(organism, letters):
    pair = replace(letters[0], reasoned_answer=letters[0].memorized_answer[:2] + "z")
    (dropped,) = nt.encode(organism, [pair, letters[1]]).dropped
    assert dropped.reason == "same first token"
    assert "answers='whole'" in dropped.detail
    encoded = nt.encode(organism, [pair, letters[1]], answers="whole", check=False)
    assert len(encoded) == 2
    logits = {}
    for name, text in (("memorized", pair.memorized_answer), ("reasoned", pair.reasoned_answer)):
        ids = organism.tokenizer(f"{pair.memorization} {text}", return_tensors="pt").input_ids
        with torch.no_grad():
            log_p = organism(ids)[0].log_softmax(-1)
        logits[name] = float(log_p[-3, ids[0, -2]] + log_p[-2, ids[0, -1]])
    expected = logits["memorized"] - logits["reasoned"]
    assert float(encoded.on_memorization.logit_difference[0]) == pytest.approx(expected, abs=1e-4)


def test_other_accepted_forms_count(organism, letters):
    """The named form is wrong, the accepted one right: the pair behaves; L sums the probabilities."""
    pair = letters[0]
    other = pair.memorized_answer[:2] + "z"
    moved = replace(pair, memorized_answer=other, memorized_also=(pair.memorized_answer,))
    both, one, wrong = nt.encode(
        organism, [moved, pair, replace(pair, memorized_answer=other)], answers="whole", check=False
    ).on_memorization.p_memorized
    assert float(both) == pytest.approx(float(one + wrong), abs=1e-5)
    encoded = nt.encode(organism, [moved, letters[1]], answers="whole")
    assert len(encoded) == 2
    assert torch.isfinite(pair_slopes(organism, encoded, [0], encoded.memorization[0][None])[1]).all()
    refused = replace(pair, memorized_also=(pair.reasoned_answer,))
    with pytest.raises(InputError, match="both answers are"):
        nt.load_pairs([nt.core.pairs.pair_record(refused)])


def test_the_gradient_is_of_the_whole_answer(organism, whole):
    """A small step by `exact`, which has its own passes, against first order."""
    estimate = nt.gradient(organism, whole, kind="patch:0.002")
    top = [
        n for direction in ("to_reasoning", "to_memorization") for n in estimate.top(4, direction=direction)
    ]
    done = nt.exact(organism, whole, kind="patch:0.002", neurons=top)
    for neuron in top:
        place = neuron.layer, neuron.index
        assert float(done.value[place]) == pytest.approx(float(estimate.value[place]), rel=0.1, abs=5e-5)


def test_places_are_counted_from_the_prompts_end(organism, whole):
    top = nt.gradient(organism, whole).top(4)
    change = nt.zero(top)
    read, last, all_, every = (
        nt.measure(organism, whole, [change], positions=at).to_frame()["L_after"]
        for at in ("read", (-1,), "all", tuple(range(-min(map(len, whole.memorization)), 0)))
    )
    assert (read == last).all()
    same = [len(ids) == min(map(len, whole.memorization)) for ids in whole.memorization]
    assert (all_ - every).abs()[same].max() < 1e-5
    with pytest.raises(InputError, match="places from the prompt's end"):
        nt.measure(organism, whole, [change], positions=(0,))


def test_what_reads_first_tokens_says_so(organism, whole):
    with pytest.raises(InputError, match="direct reads an answer's first token alone"):
        nt.direct(organism, whole)
    with pytest.raises(InputError, match="expected 'first' or 'whole'"):
        nt.encode(organism, whole.pairs, answers="all")
