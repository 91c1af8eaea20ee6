"""The explorer's data says what the model does; the page around it is data-safe."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest
import torch
from planted import PLANTED

import neurotrace as nt
from neurotrace.results.explorer import pack, strongest


def opened(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def unpacked(block) -> np.ndarray:
    """What explorer.js does."""
    raw = np.frombuffer(opened(block["data"]), "u1").reshape(2, -1)
    return np.ascontiguousarray(raw.T).view("<f2")[:, 0].astype("f4") * block["scale"]


@pytest.fixture(scope="module")
def scores(model, encoded):
    return [nt.gradient(model, encoded, donor=donor) for donor in ("reasoning", "memorization")]


@pytest.fixture(scope="module")
def explorer(model, encoded, scores):
    return nt.explore(model, encoded, scores, neurons=6, pairs_each=5)


@pytest.fixture(scope="module")
def details(explorer):
    return json.loads(opened(explorer.data["details"]))


def test_numbers_survive_packing():
    values = torch.randn(3, 50) * torch.logspace(-3, 2, 50)
    values[0, 0] = torch.nan
    found = unpacked(pack(values))
    assert np.isnan(found[0])
    wanted = values.flatten()[1:].numpy()
    bound = np.abs(wanted) * 2**-11 + np.abs(wanted).max() * 2**-24
    assert (np.abs(found[1:] - wanted) <= bound).all()
    assert (unpacked(pack(torch.zeros(1, 4))) == 0).all()


def test_the_map_holds_every_ranking(explorer, scores):
    labels = [each["label"] for each in explorer.data["scores"]]
    assert labels[:2] == ["gradient, to reasoning", "gradient, to memory"]
    assert labels[2:] == ["contrast, all pairs", "Pearson, all pairs"]
    found = unpacked(explorer.data["scores"][0])
    assert np.abs(found - scores[0].value.flatten().numpy()).max() < 0.01


def test_means_of_many_pairs_are_of_a_stated_sample(model, encoded, scores):
    explorer = nt.explore(model, encoded, scores, neurons=2, pairs_each=2, max_pairs=5)
    sample = f"5 of {len(encoded)} pairs"
    assert explorer.data["sample"] == sample
    assert [each["label"] for each in explorer.data["scores"]][-1] == f"Pearson, {sample}"
    counts = json.loads(opened(explorer.data["details"]))["activations"][0]
    assert sum(counts["memorization"]) == sum(counts["reasoning"]) == 5


def test_exact_effects_are_the_ablations(explorer, details, model, encoded):
    place = PLANTED.layer * explorer.data["width"] + PLANTED.index
    at = details["places"].index(place)
    one = next(each for each in details["effects"] if each["direction"] == "to_reasoning")
    names = [details["pairs"][pair]["id"] for pair in one["pairs"]]
    assert len(names) == 5
    rows = [row for row, pair in enumerate(encoded.pairs) if pair.id in names]
    alone = nt.ablation_effects(model, encoded.at(rows), [PLANTED], kind="patch").to_frame()
    wanted = alone.set_index("pair")["effect"][names]
    assert one["effect"][at] == pytest.approx(wanted.to_list(), rel=1e-3)
    assert one["mean"][at] == pytest.approx(wanted.mean(), rel=1e-3)
    other = next(found for found in details["places"] if found != place)
    at, neuron = details["places"].index(other), nt.Neuron(*divmod(other, explorer.data["width"]))
    assert one["low"][at] < one["mean"][at] < one["high"][at]
    exact = nt.ablate(model, encoded.at(rows), [neuron], kind="patch")
    low = exact.columns["low"][neuron.layer, neuron.index].item()
    assert one["low"][at] == pytest.approx(low, rel=1e-2)


def test_the_planted_neuron_writes_for_reasoning(details, explorer):
    at = details["places"].index(PLANTED.layer * explorer.data["width"] + PLANTED.index)
    assert details["tokens"][at]["for"][0][0].strip() == "rea"
    assert details["tokens"][at]["against"][0][0].strip() == "mem"
    counts = details["activations"][at]
    assert sum(counts["memorization"]) == sum(counts["reasoning"]) == 12
    assert counts["memorization"][0] == 12  # silent there
    assert len(details["neighbours"][at]) == 8
    cosines = [cosine for _, cosine in details["neighbours"][at]]
    assert cosines == sorted(cosines, reverse=True)


def test_prompts_at_both_ends_are_the_models(details, explorer, model, encoded):
    at = details["places"].index(PLANTED.layer * explorer.data["width"] + PLANTED.index)
    rows = details["prompts"][at]
    assert [value for *_, value in rows] == sorted((value for *_, value in rows), reverse=True)
    assert len(rows) == 6
    assert (rows[0][1], rows[-1][1]) == (1, 0)  # silent on the side of memory
    names = [details["pairs"][pair]["id"] for pair, *_ in rows]
    found = nt.collect(model, encoded)
    for name, (_, side, value) in zip(names, rows, strict=True):
        own = found.side(("memorization", "reasoning")[side])[:, PLANTED.layer, PLANTED.index]
        row = [pair.id for pair in encoded.pairs].index(name)
        assert value == pytest.approx(own[row].item(), rel=1e-3)


def test_every_ranking_has_its_say_among_the_strongest():
    first, second = torch.zeros(1, 8), torch.zeros(1, 8)
    first[0, 3], second[0, 6] = -2.0, 5.0
    rankings = [
        nt.Scores("a", first, provenance={"direction": "to_reasoning"}),
        nt.Scores("b", second, signed=False),
    ]
    assert strongest(rankings, 2) == [nt.Neuron(0, 3), nt.Neuron(0, 6)]


def test_it_saves_loads_and_refuses(explorer, tmp_path, model, encoded):
    explorer.save(tmp_path / "a.json")
    assert nt.Explorer.load(tmp_path / "a.json") == explorer
    explorer.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == explorer.page()
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(nt.InputError, match="not written by"):
        nt.Explorer.load(tmp_path / "b.json")
    for name, other in (("width", None), ("scores", "x"), ("layers", "4")):
        (tmp_path / "c.json").write_text(json.dumps({**explorer.data, name: other}))
        with pytest.raises(nt.InputError, match=f"{name} missing or no"):
            nt.Explorer.load(tmp_path / "c.json")
    with pytest.raises(nt.InputError, match="this model"):
        nt.explore(model, encoded, nt.Scores("x", torch.ones(3, 3)))
    with pytest.raises(nt.InputError, match="no scores"):
        nt.explore(model, encoded, [])


def test_nothing_in_the_page_reaches_the_network(explorer):
    page = explorer.page()
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page
    assert "<iframe srcdoc=" in explorer._repr_html_()
