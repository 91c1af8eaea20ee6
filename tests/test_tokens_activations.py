"""Encoding: what is kept, what is dropped and why; activations and their moments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import neurotrace as nt
from neurotrace.activations import stream
from neurotrace.errors import InputError
from neurotrace.tokens import by_length


def test_kept_pairs_behave(encoded):
    assert len(encoded) == 12
    assert not encoded.dropped
    assert (encoded.on_memorization.logit_difference > 0).all()
    assert (encoded.on_reasoning.logit_difference < 0).all()
    assert "12 kept" in repr(encoded)


def test_each_drop_has_its_reason(model, pairs):
    good = pairs[0]
    bad = {
        "does not recall": replace(good, id="1", memorized_answer=" other"),
        "does not reason": replace(good, id="2", reasoned_answer=" other"),
        "does neither": replace(good, id="3", memorized_answer=" rea", reasoned_answer=" mem"),
        "same first token": replace(good, id="4", reasoned_answer=" mem other"),
        "answer merges": replace(good, id="5", memorized_answer="mem"),
        "too long": replace(good, id="6", memorization="the " * 20 + "recall"),
    }
    encoded = nt.encode(model, [good, *bad.values()])
    assert [pair.id for pair in encoded.pairs] == [good.id]
    assert {d.pair.id: d.reason for d in encoded.dropped} == {p.id: r for r, p in bad.items()}
    assert "says 'mem', wanted ' other'" in {d.pair.id: d.detail for d in encoded.dropped}["1"]
    with pytest.raises(InputError, match="1 does not recall"):
        nt.encode(model, [bad["does not recall"]])


def test_answer_ids_follow_the_prompt(model, encoded):
    from neurotrace.hooks import tokenizer_of

    tokenizer = tokenizer_of(model)
    for place, pair in enumerate(encoded.pairs):
        assert tokenizer.decode([int(encoded.memorized[place])]) == pair.memorized_answer.strip()
        joined = tokenizer(pair.reasoning + pair.reasoned_answer).input_ids
        own = [*encoded.reasoning[place].tolist(), int(encoded.reasoned[place])]
        assert joined == own


def test_batches_hold_equal_lengths(encoded):
    seen = []
    for rows, ids in by_length(encoded.memorization, 5):
        assert len(rows) == len(ids) <= 5
        seen += rows
        for row, prompt in zip(rows, ids, strict=True):
            assert torch.equal(prompt, encoded.memorization[row])
    assert sorted(seen) == list(range(12))


def test_streamed_moments_equal_collected_ones(model, encoded):
    collected = nt.collect(model, encoded).moments()
    for batch_size in (1, 5, 32):
        streamed = nt.moments(model, encoded, batch_size=batch_size)
        assert torch.allclose(streamed.mean, collected.mean, atol=1e-6)
        assert torch.allclose(streamed.variance, collected.variance, atol=1e-6)


def test_activations_are_those_of_the_model(model, encoded):
    name = "blocks.1.mlp.hook_post"
    for rows, values in stream(model, encoded, "reasoning"):
        for row, value in zip(rows, values, strict=True):
            _, cache = model.run_with_cache(encoded.reasoning[row][None], names_filter=[name])
            assert torch.allclose(value[1], cache[name][0, -1], atol=1e-6)


def test_a_budget_is_kept(model, encoded):
    with pytest.raises(InputError, match=r"nt\.moments"):
        nt.collect(model, encoded, budget_gb=1e-6)


@pytest.mark.bridge
def test_nan_is_named(tmp_path):
    from families import family_model, random_pairs

    from neurotrace.hooks import twin

    model = family_model("gpt2", tmp_path)
    with torch.no_grad():
        twin(model).transformer.h[2].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="finite"):
        nt.encode(model, random_pairs(2), check=False)
