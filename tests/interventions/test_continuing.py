"""Log-likelihoods and continuations under an intervention, against hooks written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.interventions import continuing
from neurotrace.interventions.continuing import POSITIONS, continuations, likelihoods
from neurotrace.interventions.logits import logits_under

pytestmark = pytest.mark.bridge
NEURONS = [nt.Neuron(0, 7), nt.Neuron(1, 100), nt.Neuron(2, 250)]
SCALED = nt.scale(NEURONS, factor=6.0, direction="to_reasoning")
CHANGE = replace(SCALED, kind="set", keep=torch.tensor([0.0, 6.0, -5.0]), offset=torch.ones(3))
CONTEXTS = ("recall 31+28=", "think 31+28=", "recall 5+6=")


def requests_of(model):
    """Each context with continuations of one to three tokens, some of which begin another."""
    ids = [model.tokenizer(text).input_ids for text in CONTEXTS]
    digits = model.tokenizer("5 9 1", add_special_tokens=False).input_ids
    return [(row, digits[:length]) for row in ids for length in (1, 2, 3)] + [(ids[0], digits[1:])]


def by_hand(model, context, continuation, change, positions):
    """(log p, greedy) by TransformerLens' own hooks, one token at a time."""
    start, total, greedy = len(context) - 1, 0.0, True
    for length in range(len(continuation)):
        ids = torch.tensor([[*context, *continuation[:length]]])
        where = {"read": slice(start, start + 1), "onward": slice(start, None), "all": slice(None)}
        there = where[positions]
        hooks = []
        for place, neuron in enumerate(change.neurons if change else ()):

            def hook(value, hook, place=place, neuron=neuron, there=there):
                new = value.clone()
                old = value[:, there, neuron.index]
                new[:, there, neuron.index] = change.keep[place] * old + change.offset[place]
                return new

            hooks.append((f"blocks.{neuron.layer}.mlp.hook_post", hook))
        with torch.no_grad():
            logits = model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1].log_softmax(-1)
        total += float(logits[continuation[length]])
        greedy &= int(logits.argmax()) == continuation[length]
    return total, greedy


@pytest.mark.parametrize("change", [None, SCALED, CHANGE], ids=["none", "scale", "set"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_log_likelihoods_equal_those_by_hand(organism, change, positions):
    asked = requests_of(organism)
    found = likelihoods(organism, asked, change, positions=positions)
    for (context, continuation), each in zip(asked, found, strict=True):
        expected, greedy = by_hand(organism, context, continuation, change, positions)
        assert each.log_probability == pytest.approx(expected, abs=1e-4)
        assert each.greedy == greedy


def test_of_one_token_they_are_what_a_run_measures(organism):
    encoded = nt.encode(organism, nt.load_pairs("letters")[:12])
    asked = [
        (ids.tolist(), [int(token)])
        for ids, token in zip(encoded.memorization, encoded.memorized, strict=True)
    ]
    found = [each.log_probability for each in likelihoods(organism, asked, CHANGE)]
    clean = [each.log_probability for each in likelihoods(organism, asked)]
    assert torch.tensor(clean).exp().numpy() == pytest.approx(
        encoded.on_memorization.p_memorized.numpy(), abs=1e-5
    )
    for (ids, (token,)), each in zip(asked, found, strict=True):
        _, (logits,) = logits_under(organism, torch.tensor([ids]), [CHANGE], [None])
        assert each == pytest.approx(float(logits[0].log_softmax(-1)[token]), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(clean, found, strict=True)) > 0.02  # it does something


def test_continuations_of_one_context_share_a_pass(organism, monkeypatch):
    rows = []
    true = continuing.run_hooked

    def counted(model, ids, edits):
        rows.extend(ids.tolist())
        return true(model, ids, edits)

    monkeypatch.setattr(continuing, "run_hooked", counted)
    asked = requests_of(organism)
    likelihoods(organism, asked, CHANGE)
    assert len(rows) == len(CONTEXTS) + 1  # one for `9 1`, which begins none
    # where the change begins counts: the same tokens, cut elsewhere, are another row
    rows.clear()
    context, continuation = asked[2]
    other = ([*context, *continuation[:1]], continuation[1:])
    pair = likelihoods(organism, [asked[2], other], CHANGE)
    assert len(rows) == 2
    assert pair[1].log_probability == pytest.approx(
        by_hand(organism, *other, CHANGE, "onward")[0], abs=1e-4
    )
    rows.clear()
    likelihoods(organism, [asked[2], other])  # nothing is changed: one row
    assert len(rows) == 1


def test_continuations_in_batches_equal_single_ones_and_stop(organism):
    texts = ["recall 31+28=", "recall 40+28=", "think 5+6="]
    ids = [organism.tokenizer(text).input_ids for text in texts]
    for change in (None, CHANGE):
        for positions in POSITIONS:
            together = continuations(organism, ids, change, max_new_tokens=5, positions=positions)
            assert together == [
                nt.generate(organism, text, change, max_new_tokens=5, positions=positions) for text in texts
            ]
    whole = nt.generate(organism, texts[0], max_new_tokens=5)
    assert len(whole.split()) == 5
    second = whole.split()[1]
    (short,) = continuations(organism, ids[:1], max_new_tokens=5, stop=[second])
    assert short == whole[: whole.find(second)]


@pytest.mark.parametrize("change", [None, SCALED, CHANGE], ids=["none", "scale", "set"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_written_over_a_cache_they_are_those_of_full_passes(organism, monkeypatch, change, positions):
    prompts = [model_ids for model_ids, _ in requests_of(organism)[::3]]
    quick = continuations(organism, prompts, change, max_new_tokens=5, positions=positions)
    monkeypatch.setattr(continuing, "engine_of", lambda model: None)
    assert continuations(organism, prompts, change, max_new_tokens=5, positions=positions) == quick
    if change is CHANGE:
        assert quick != continuations(organism, prompts, max_new_tokens=5)


def test_what_cannot_be_asked_is_refused(model, organism):
    for context, continuation in (([], [1]), ([1], []), ([1] * 17, [1])):
        with pytest.raises(InputError, match="17 tokens in all at most"):
            likelihoods(model, [(context, continuation)])
    assert len(likelihoods(model, [([1] * 16, [1])])) == 1
    with pytest.raises(InputError, match="donor"):
        likelihoods(model, [([1], [1])], nt.patch([PLANTED], donor="reasoning"))
    with pytest.raises(InputError, match="the model takes 16"):
        continuations(model, [[1] * 16], max_new_tokens=1)
    with pytest.raises(InputError, match="empty"):
        continuations(model, [[]], max_new_tokens=1)
