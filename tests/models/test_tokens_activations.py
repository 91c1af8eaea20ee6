"""Encoding: what is kept, what is dropped and why; activations and their moments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory import peaks_in, said_by

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.activations import stream
from neurotrace.models.encoding import by_length


def test_kept_pairs_behave(encoded):
    assert len(encoded) == 12
    assert not encoded.dropped
    assert (encoded.on_memorization.logit_difference > 0).all()
    assert (encoded.on_reasoning.logit_difference < 0).all()
    assert "12 kept" in repr(encoded)


def test_each_drop_has_its_reason(model, pairs):
    good = pairs[0]
    bad = {
        "no memorized answer": replace(good, id="1", memorized_answer=" other"),
        "no reasoned answer": replace(good, id="2", reasoned_answer=" other"),
        "neither answer": replace(good, id="3", memorized_answer=" rea", reasoned_answer=" mem"),
        "same first token": replace(good, id="4", reasoned_answer=" mem other"),
        "answer merges with the prompt": replace(good, id="5", memorized_answer="mem"),
        "too long": replace(good, id="6", memorization="the " * 20 + "recall"),
    }
    encoded = nt.encode(model, [good, *bad.values()])
    assert [pair.id for pair in encoded.pairs] == [good.id]
    assert {d.pair.id: d.reason for d in encoded.dropped} == {p.id: r for r, p in bad.items()}
    assert "says 'mem', expected ' other'" in {d.pair.id: d.detail for d in encoded.dropped}["1"]
    with pytest.raises(InputError, match="1 no memorized answer"):
        nt.encode(model, [bad["no memorized answer"]])


def test_a_word_without_a_token_is_not_studied_as_if_it_had_one(organism):
    good = nt.load_pairs("arithmetic")[0]
    strange = replace(good, id="1", reasoning=f"zebra {good.reasoning}")
    unsaid = replace(good, id="2", reasoned_answer="zebra")
    (one, two) = nt.encode(organism, [good, strange, unsaid], check=False).dropped
    assert {one.reason, two.reason} == {"unknown word"}
    assert one.detail == two.detail == "reasoning: the tokenizer has no token for 'zebra'"


def test_a_token_that_serves_for_more_is_not_unknown():
    from types import SimpleNamespace

    from neurotrace.decoding.unknown import unknown_token

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    assert unknown_token(SimpleNamespace(unk_token_id=0, **ids)) == 0
    assert unknown_token(SimpleNamespace(unk_token_id=2, **ids)) is None  # GPT-2's end of text
    assert unknown_token(SimpleNamespace(**ids)) is None


def test_answer_ids_follow_the_prompt(model, encoded):
    from neurotrace.models.origins import tokenizer_of

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


def test_the_engine_reads_what_hooks_read(model, encoded, monkeypatch):
    """Activations and slopes, both at the last position."""
    from neurotrace.engine.metrics import first_tokens
    from neurotrace.models import activations, gradients

    info = nt.inspect_model(model)
    rows, ids = next(by_length(encoded.memorization, 4))
    answers = encoded.memorized[rows], encoded.reasoned[rows]

    def read():
        values, slopes = gradients.slopes_of(model, ids, first_tokens(*answers))
        return activations.read_activations(model, ids, info.n_layers, info.d_mlp), values, slopes

    engine = read()
    for module in (activations, gradients):
        monkeypatch.setattr(module, "engine_of", lambda model: None)
    for ours, hooks in zip(engine, read(), strict=True):
        assert float(ours.abs().max()) > 1e-2
        torch.testing.assert_close(ours, hooks, rtol=1e-4, atol=1e-5)


def test_values_streamed_to_a_file_are_those_in_memory(model, encoded, tmp_path):
    path = tmp_path / "values"
    streamed = nt.collect(model, encoded, into=path, batch_size=5, memory_gb=0)
    assert torch.equal(streamed.values, nt.collect(model, encoded, batch_size=5).values)
    assert path.stat().st_size == 4 * streamed.values.numel()
    with pytest.raises(InputError, match="a new file"):
        nt.collect(model, encoded, into=path)

    def fail(batches, description):
        yield next(iter(batches))
        raise KeyError("injected")

    with pytest.raises(KeyError, match="injected"):
        nt.collect(model, encoded, into=tmp_path / "half", batch_size=1, progress=fail)
    assert not (tmp_path / "half").exists()


_PEAKS = """
import neurotrace as nt
from memory import say_peak
model = nt.load_model("organism", device="cpu")
some = nt.encode(model, nt.load_pairs("arithmetic")[:100])
for count in (100, {many}):
    many = some.at([place % len(some) for place in range(count)])
    nt.moments(model, many, batch_size=100)
    nt.collect(model, many, batch_size=100, into={folder!r} + f"/{{count}}")
    say_peak()
"""


@pytest.mark.parametrize("many", [3_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_peak_memory_does_not_grow_with_the_number_of_pairs(many, tmp_path):
    """100 pairs, then many, of which the values alone would take 12 kB each."""
    before, after = peaks_in(said_by(_PEAKS.format(many=many, folder=str(tmp_path))))
    values = many * 2 * 1536 * 4
    assert (tmp_path / str(many)).stat().st_size == values
    assert after < before + values / 3


def test_a_budget_is_kept(model, encoded):
    with pytest.raises(InputError, match=r"nt\.moments"):
        nt.collect(model, encoded, memory_gb=1e-6)


@pytest.mark.bridge
def test_nan_is_named(tmp_path):
    from families import family_model, random_pairs

    from neurotrace.models.origins import twin

    model = family_model("gpt2", tmp_path)
    with torch.no_grad():
        twin(model).transformer.h[2].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="finite"):
        nt.encode(model, random_pairs(2), check=False)
