"""Neurons and scores: parse, pick, draw, save."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, strategies as st

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS


def some(seed: int = 0, layers: int = 3, width: int = 40) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores("gradient", torch.randn(layers, width, generator=generator))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_neuron_round_trips(layer, index):
    neuron = Neuron(layer, index)
    assert Neuron.parse(str(neuron)) == neuron


@pytest.mark.parametrize("text", ["", "L3", "L3N4", "L-1.N2", "l1.n2", "L1.N2.N3"])
def test_other_text_is_no_neuron(text):
    with pytest.raises(InputError, match=r"L3\.N771"):
        Neuron.parse(text)


def test_directions_are_the_two_ends():
    scores = some()
    ends = {
        "to_reasoning": scores.value.argmin(),
        "to_memorization": scores.value.argmax(),
    }
    for direction, place in ends.items():
        assert scores.top(1, direction=direction) == (Neuron(int(place) // 40, int(place) % 40),)
    everything = scores.top(120, direction="to_reasoning")
    assert everything[::-1] == scores.top(120, direction="to_memorization")


def test_unsigned_scores_rank_by_magnitude():
    scores = Scores("contrast", torch.tensor([[1.0, -3.0, 2.0]]), signed=False)
    for direction in DIRECTIONS:
        assert [n.index for n in scores.top(3, direction=direction)] == [1, 2, 0]


def test_unmeasured_neurons_are_never_picked():
    scores = Scores("exact", torch.tensor([[torch.nan, -1.0, 2.0]]))
    assert [n.index for n in scores.top(2, direction="to_reasoning")] == [1, 2]
    assert list(scores.to_frame()["neuron"]) == [1, 2]
    with pytest.raises(InputError, match="expected 1 to 2"):
        scores.top(3, direction="to_reasoning")
    with pytest.raises(InputError, match="not measured"):
        scores.rank_of(Neuron(0, 0), direction="to_reasoning")


@given(st.integers(1, 15), st.integers(0, 5))
def test_random_like_matches_layers_and_avoids_the_chosen(k, seed):
    scores = some()
    chosen = scores.top(k, direction="to_reasoning")
    drawn = scores.random_like(chosen, seed=seed)
    assert sorted(n.layer for n in drawn) == sorted(n.layer for n in chosen)
    assert len(set(drawn)) == k
    assert not set(drawn) & set(chosen)
    assert drawn == scores.random_like(chosen, seed=seed)


def test_scores_save_and_load(tmp_path):
    scores = Scores(
        "gradient",
        torch.randn(2, 3),
        columns={"low": torch.zeros(2, 3)},
        provenance={"pairs": 3, "direction": "to_reasoning"},
    )
    scores.save(tmp_path / "s.safetensors")
    again = Scores.load(tmp_path / "s.safetensors")
    assert torch.equal(again.value, scores.value)
    assert torch.equal(again.columns["low"], scores.columns["low"])
    assert (again.method, again.unit, again.signed) == (scores.method, scores.unit, scores.signed)
    assert again.provenance == scores.provenance


@pytest.mark.parametrize("content", [b"", b"no tensors here", b"\x80\x04."])
def test_other_files_are_no_scores(tmp_path, content):
    path = tmp_path / "s.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read as safetensors"):
        Scores.load(path)


def test_scores_that_rank_nothing_are_refused():
    with pytest.raises(InputError, match="NaN"):
        Scores("x", torch.full((2, 2), torch.nan))
    with pytest.raises(InputError, match="infinite"):
        Scores("x", torch.tensor([[torch.inf]]))
    with pytest.raises(InputError, match=r"\[layer, neuron\]"):
        Scores("x", torch.zeros(3))


@pytest.mark.parametrize(
    "provenance", ["x", {"experts": [[1, 2]]}, {"experts": [[2, 4, 0]] * 3}, {"experts": 7}]
)
def test_scores_with_damaged_provenance_are_refused(provenance, tmp_path):
    Scores("a", torch.ones(2, 8)).save(tmp_path / "a.safetensors")
    raw = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    own = json.loads(header["__metadata__"]["neurotrace"]) | {"provenance": provenance}
    header["__metadata__"]["neurotrace"] = json.dumps(own)
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    with pytest.raises(InputError, match="damaged scores"):
        Scores.load(tmp_path / "a.safetensors")
