"""The sweep is the truth, so it is held against the slow way; the search, against the sweep."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from families import family_model, random_pairs
from planted import PLANTED

import neurotrace as nt
from neurotrace.ablation import passes as ablation_passes
from neurotrace.ablation.batch import Batch
from neurotrace.core.errors import InputError
from neurotrace.engine.modules import bf16_missing
from neurotrace.interventions.intervention import make
from neurotrace.models.encoding import encode

FAMILIES = ["gpt2", "llama", "neox"]
SOME = [nt.Neuron(0, 3), nt.Neuron(1, 60), nt.Neuron(2, 7)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (model, six pairs, what they tell)."""
    found = {}
    for name in FAMILIES:
        model = family_model(name, tmp_path_factory.mktemp(name))
        encoded = encode(model, random_pairs(6), check=False)
        found[name] = model, encoded, nt.reference(model, encoded)
    return found


def measured(model, encoded, kind, neurons, reference, *, direction="to_reasoning", where="read"):
    """Change of L on each pair, by `measure`."""
    one = make(kind, neurons, reference, direction=direction)
    frame = nt.measure(model, encoded, [one], positions=where).to_frame().set_index("pair")
    change = frame["L_after"] - frame["L_before"]
    return change.loc[[pair.id for pair in encoded.pairs]].to_numpy()


def hooked(model):
    """Inside, a user's hook makes the engine step back: only full passes remain."""
    return model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "kind", ["patch", "patch:0.5", "set", "zero", "mean", "shift:2", "scale:0", "scale", "steer"]
)
def test_ablation_equals_measuring_one_by_one(made, name, kind):
    model, encoded, reference = made[name]
    encoded = encoded.at([0, 1, 2])
    scores = nt.ablate(model, encoded, SOME, kind=kind, reference=reference)
    rows = nt.ablation_effects(model, encoded, SOME, kind=kind, reference=reference).to_frame()
    assert len(rows) == 9
    assert int((~scores.value.isnan()).sum()) == 3
    for neuron in SOME:
        expected = measured(model, encoded, kind, [neuron], reference)
        own = rows[(rows["layer"] == neuron.layer) & (rows["neuron"] == neuron.index)]
        close = 1e-4 * max(1.0, float(np.abs(expected).max()))
        assert own["pair"].tolist() == [pair.id for pair in encoded.pairs]
        assert own["effect"].to_numpy() == pytest.approx(expected, abs=close)
        assert (own["L_after"] - own["L_before"]).to_numpy() == pytest.approx(expected, abs=close)
        value = float(scores.value[neuron.layer, neuron.index])
        assert value == pytest.approx(expected.mean(), abs=close)


@pytest.mark.parametrize("kind", ["zero", "set", "scale:0.5"])
def test_at_all_positions_equals_measure(made, kind):
    model, encoded, reference = made["llama"]
    scores = nt.ablate(model, encoded, SOME, kind=kind, reference=reference, positions="all")
    for neuron in SOME:
        expected = measured(model, encoded, kind, [neuron], reference, where="all").mean()
        value = float(scores.value[neuron.layer, neuron.index])
        assert value == pytest.approx(expected, abs=1e-4)
    last = nt.ablate(model, encoded, SOME, kind=kind, reference=reference, positions=[-1])
    read = nt.ablate(model, encoded, SOME, kind=kind, reference=reference)
    assert torch.allclose(last.value, read.value, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("where", ["read", "all", [-2, -1], [1]])
@pytest.mark.parametrize("kind", ["zero", "patch"])
def test_sweep_by_engine_equals_sweep_by_hooks(made, kind, where):
    model, encoded, _ = made["llama"]
    encoded = encoded.at([0, 1])
    few = None if where == "read" else [nt.Neuron(n, 9 * n + 2) for n in range(3)]
    fast = nt.ablate(model, encoded, few, kind=kind, positions=where)
    with hooked(model):
        slow = nt.ablate(model, encoded, few, kind=kind, positions=where)
    assert fast.provenance["path"] == "shared"
    assert slow.provenance["path"] == "hooks"
    assert torch.allclose(fast.value, slow.value, atol=1e-4, equal_nan=True)
    if where != [1] or kind == "zero":  # the prompts of a pair differ in their last token alone
        assert float(fast.value.nan_to_num().abs().max()) > 0.001


def test_columns_are_the_clustered_interval(made):
    model, encoded, _ = made["gpt2"]
    from dataclasses import replace

    groups = ["a", "b", "a", "b", "c", "c"]
    pairs = tuple(replace(p, group=g) for p, g in zip(encoded.pairs, groups, strict=True))
    grouped = replace(encoded, pairs=pairs)
    scores = nt.ablate(model, grouped, SOME)
    rows = nt.ablation_effects(model, grouped, SOME).to_frame()
    for neuron in SOME:
        own = rows[(rows["layer"] == neuron.layer) & (rows["neuron"] == neuron.index)]
        means = own.groupby("group", observed=True)["effect"].mean()  # groups of equal size
        half = 4.302653 * means.std() / len(means) ** 0.5
        at = neuron.layer, neuron.index
        assert float(scores.columns["low"][at]) == pytest.approx(means.mean() - half, abs=1e-5)
        assert float(scores.columns["high"][at]) == pytest.approx(means.mean() + half, abs=1e-5)
        assert float(scores.columns["n"][at]) == 6
    assert float(scores.columns["n"][0, 0]) == 0
    assert scores.columns["low"][0, 0].isnan()
    alone = nt.ablate(model, encoded.at([0]), SOME)
    assert alone.columns["low"].isnan().all()  # one cluster says nothing about others


def test_intervals_cover_the_mean_over_many_pairs(tmp_path):
    model = family_model("gpt2", tmp_path)
    encoded = encode(model, random_pairs(16), check=False)
    truth = nt.ablate(model, encoded).value
    hits = []
    for seed in range(12):
        rows = torch.randint(16, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
        columns = nt.ablate(model, encoded.at(sorted(rows))).columns
        hits.append(((columns["low"] <= truth) & (truth <= columns["high"])).float().mean())
    assert 0.85 < float(torch.stack(hits).mean()) <= 1.0


@pytest.mark.parametrize("kind", ["zero", "patch", "steer"])
@pytest.mark.parametrize("by", ["engine", "hooks"])
def test_sets_equal_measuring_the_same_sets(made, kind, by):
    model, encoded, reference = made["neox"]
    ranking = [nt.Neuron(2, 5), nt.Neuron(0, 8), nt.Neuron(2, 50), nt.Neuron(1, 1)]
    ks = [1, 3, 4]
    if by == "engine":
        curve = nt.ablate_sets(model, encoded, ranking, ks, kind=kind, reference=reference)
    else:
        with hooked(model):
            curve = nt.ablate_sets(model, encoded, ranking, ks, kind=kind, reference=reference)
    frame = curve.to_frame()
    assert frame["k"].tolist() == ks
    assert frame["neuron"].tolist() == ["L2.N5", "L2.N50", "L1.N1"]
    for column, k in enumerate(ks):
        expected = measured(model, encoded, kind, ranking[:k], reference)
        close = 1e-4 * max(1.0, float(np.abs(expected).max()))
        assert curve.effect[:, column].numpy() == pytest.approx(expected, abs=close)
        assert frame["effect"][column] == pytest.approx(expected.mean(), abs=close)
    assert ((frame["low"] <= frame["effect"]) & (frame["effect"] <= frame["high"])).all()


def test_greedy_finds_the_planted_neuron_and_goes_on_from_there(model, encoded):
    candidates = [nt.Neuron(layer, unit) for layer in range(2) for unit in range(2, 24, 3)]
    found = nt.greedy_set(model, encoded, candidates, 3, kind="patch", direction="to_reasoning")
    assert found.neurons[0] == PLANTED
    assert found.ks == (1, 2, 3)
    left = [one for one in candidates if one != PLANTED]
    pairs_of = [nt.ablate_sets(model, encoded, [PLANTED, one], [2], kind="patch") for one in left]
    second = min(range(len(left)), key=lambda at: float(pairs_of[at].effect.mean()))
    assert found.neurons[1] == left[second]
    again = nt.ablate_sets(model, encoded, found.neurons, kind="patch")
    assert torch.allclose(again.effect, found.effect, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_and_memory_change_nothing(made, batch_size):
    model, encoded, _ = made["llama"]
    encoded = encoded.at([0, 1])
    base = nt.ablate(model, encoded)
    other = nt.ablate(model, encoded, batch_size=batch_size, memory_gb=1e-3)
    assert torch.allclose(base.value, other.value, atol=1e-5)
    sets = [nt.ablate_sets(model, encoded, SOME, batch_size=size) for size in ("auto", 1)]
    assert torch.allclose(sets[0].effect, sets[1].effect, atol=1e-5)


def test_running_out_of_memory_halves_and_keeps_what_is_done(made, monkeypatch):
    model, encoded, _ = made["llama"]
    base = nt.ablate(model, encoded)
    from neurotrace.engine.engine import Engine

    forward, sizes = Engine._forward, []

    def small(self, ids, *args, **kwargs):
        if len(ids) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate everything")
        sizes.append(len(ids))
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr(Engine, "_forward", small)
    monkeypatch.setattr(ablation_passes, "_MERGE", 0)
    again = nt.ablate(model, encoded)
    assert torch.allclose(base.value, again.value, atol=1e-5)
    assert sum(sizes) == 6 + 6 * 192  # each neuron once; a clean pass for each pair
    assert max(sizes) <= 20


def test_sizes_are_tried_once_and_the_fastest_is_kept():
    batch = Batch(None, 1e9, (100, 50, 200))
    for seconds in (2.0, 1.0, 3.0):
        size, trial = batch.size(1, 4.0, 1000)
        assert trial
        batch.seconds[size] = seconds
    assert batch.size(1, 4.0, 1000) == (50, False)
    batch.held = 30  # memory ran out
    assert batch.size(1, 4.0, 1000) == (30, False)
    assert Batch(None, 400, (100, 50)).size(1, 4.0, 80) == (50, True)  # 100 rows are not there
    with pytest.raises(InputError, match="raise memory_gb"):
        Batch(None, 1.0, (100,)).size(10, 4.0, 5)


def test_fast_reports_its_error_or_stays_exact(made):
    model, encoded, _ = made["llama"]
    exact = nt.ablate(model, encoded)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fast = nt.ablate(model, encoded, precision="fast")
    if bf16_missing(torch.device("cpu")):
        assert any("exact, not fast" in str(each.message) for each in said)
        assert fast.provenance["precision"] == "exact"
        return
    assert fast.provenance["precision"] == "fast"
    error = fast.provenance["fast_rms_relative_error"]
    true = float((fast.value - exact.value).norm() / exact.value.norm())
    assert 0 < error < 0.05
    assert true < 0.05
    with hooked(model), pytest.warns(UserWarning, match="exact, not fast"):
        slow = nt.ablate(model, encoded.at([0]), SOME, precision="fast")
    assert slow.provenance["precision"] == "exact"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """name -> (model, sixteen pairs)."""
    models = {name: family_model(name, tmp_path_factory.mktemp(name)) for name in ("gpt2", "llama")}
    pairs = random_pairs(16)
    return {name: (model, encode(model, pairs, check=False)) for name, model in models.items()}


@pytest.fixture(scope="module")
def swept(many):
    """(name, kind) -> the sweep of it, done once."""
    return cache(lambda name, kind: nt.ablate(*many[name], kind=kind))


@pytest.mark.parametrize("seeds", [(0,), pytest.param((1, 2), marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", ["zero", "patch", "scale:0.5"])
@pytest.mark.parametrize("direction", [None, "to_reasoning", "to_memorization"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_top_is_the_top_of_the_sweep_for_less(many, swept, name, direction, kind, seeds):
    model, encoded = many[name]
    full = swept(name, kind)
    strength = full.value.abs() if direction is None else full.strength(direction)
    best = strength.flatten().sort(descending=True).indices[:6].tolist()
    for seed in seeds:
        top = nt.ablate_top(model, encoded, 6, kind=kind, direction=direction, seed=seed)
        assert top.converged
        assert {one.layer * 64 + one.index for one in top.neurons} == set(best)
        assert top.evaluations == int(top.scores.columns["n"].nan_to_num().sum())
        assert top.sweep == 16 * 192
        assert top.share < 0.9
        assert 0 < top.passes < top.sweep
        done = ~top.scores.value.isnan()
        low, high = (top.scores.columns[end][done] for end in ("low", "high"))
        inside = (low - 1e-4 <= full.value[done]) & (full.value[done] <= high + 1e-4)
        assert float(inside.float().mean()) > 0.95


def test_search_finds_one_loud_neuron_at_once(model, encoded):
    top = nt.ablate_top(model, encoded, 1, kind="patch")
    assert top.neurons == (PLANTED,)
    assert "L1.N5" in repr(top)
    small = nt.ablate_top(model, encoded, 3, kind="patch", max_share=0.4)
    assert small.share <= 0.4
    assert small.neurons[0] == PLANTED


def test_search_of_everything_and_with_steer(made):
    model, encoded, reference = made["gpt2"]
    every = nt.ablate_top(model, encoded, 192)
    assert len(set(every.neurons)) == 192
    steered = nt.ablate_top(model, encoded, 2, kind="steer", reference=reference)
    assert len(steered.neurons) == 2


def test_progress_is_told_how_much_there_is(made):
    model, encoded, _ = made["llama"]
    seen = []

    def progress(iterable, description=""):
        seen.append((description, len(iterable)))
        return iterable

    nt.ablate(model, encoded, progress=progress)
    assert ("ablating neurons", 6 * 2) in seen  # two of three layers of 64 share a pass


def test_what_cannot_be_done_is_refused(made, model, encoded):
    few = [nt.Neuron(0, 0)]
    wrong = [
        ({"kind": "resample"}, "expected one of patch"),
        ({"donor": "clean"}, "expected 'memorization' or 'reasoning'"),
        ({"precision": "rough"}, "expected 'exact' or 'fast'"),
        ({"batch_size": 0}, "expected 'auto' or a number"),
        ({"memory_gb": -1}, "above 0"),
        ({"memory_gb": 1e-9}, "raise memory_gb"),
        ({"positions": "last"}, "expected 'read', 'all' or a list"),
        ({"positions": [99]}, "inside the shortest prompt"),
        ({"kind": "steer", "reference": nt.moments(model, encoded)}, "steer needs slopes"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            nt.ablate(model, encoded, few, **options)
    with pytest.raises(InputError, match="neurons is empty"):
        nt.ablate(model, encoded, [])
    with pytest.raises(InputError, match=r"L9.N0 is outside the model's 2 layers"):
        nt.ablate(model, encoded, [nt.Neuron(9, 0)])
    with pytest.raises(InputError, match="raise table_gb"):
        nt.ablation_effects(model, encoded, table_gb=1e-9)
    with pytest.raises(InputError, match="expected numbers from 1 to 1"):
        nt.ablate_sets(model, encoded, few, [2])
    with pytest.raises(InputError, match="expected 1 to 1"):
        nt.greedy_set(model, encoded, few, 2)
    with pytest.raises(InputError, match="or None"):
        nt.greedy_set(model, encoded, few, 1, direction="up")
    with pytest.raises(InputError, match="k=0"):
        nt.ablate_top(model, encoded, 0)
    with pytest.raises(InputError, match="confidence=1"):
        nt.ablate_top(model, encoded, 1, confidence=1)
    with pytest.raises(InputError, match="raise max_share"):
        nt.ablate_top(model, encoded, 1, max_share=0.01)
    with pytest.raises(InputError, match="raise it"):
        nt.ablate_top(model, encoded, 1, predictions_gb=1e-9)


def test_an_effect_that_is_not_finite_is_named(made):
    model, encoded, _ = made["gpt2"]
    with pytest.raises(InputError, match=r"scale:3e\+38 of L0.N3 on pair p0"):
        nt.ablate(model, encoded, SOME[:1], kind="scale:3e+38")
    with pytest.raises(InputError, match="on pair p0: L is"):
        nt.ablate_sets(model, encoded, SOME[:1], kind="scale:3e+38")
