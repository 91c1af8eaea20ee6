"""A run on a mixture of experts: every table, figure and page calls its neurons by their experts."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from families import WORDS, build, random_pairs
from planted import word_tokenizer

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Experts
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import inspect_model
from neurotrace.plots.scores import plot_estimates, plot_scores
from neurotrace.results.card import claim_card
from neurotrace.results.tables import read_truth

INDEXED = re.compile(r"L[123]\.N\d+")  # blocks 1 to 3 have experts, block 0 has none


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Block 0 dense; blocks 1 to 3 of four experts and a shared one."""
    found = build("glm4_moe")
    return nt.load_model(found, word_tokenizer(tmp_path_factory.mktemp("words"), WORDS), name="mixture")


@pytest.fixture(scope="module")
def study(model):
    encoded = encode(model, random_pairs(6), check=False)
    options: dict = {
        "ks": [40],
        "folds": 2,
        "kinds": ["patch"],
        "methods": ["gradient"],
        "exact_neurons": 6,
    }
    options["neutral"] = ["w1 w2 w3 w4", "w5 w6 w7 w8"]
    with nt.routing(model, "frozen"):
        return nt.study(model, encoded, **options)


@pytest.fixture(scope="module")
def run(model, study, tmp_path_factory):
    explorer = nt.explore(model, study.encoded, study, neurons=5, pairs_each=2)
    folder = tmp_path_factory.mktemp("run")
    nt.save_run(study, folder, model=model, probes=["noise"], explorer=explorer)
    return nt.load_run(folder)


def test_pages_name_experts(run):
    pages = [(run.folder / "report.html").read_text()]
    pages += [claim_card(run, direction=way) for way in ("to_reasoning", "to_memorization")]
    for page in pages:
        found = set(re.findall(r"<b>(L\d\.[ES]\d*\.N\d+)</b>", page))
        assert len(found) > 5
        assert any(".S." in name for name in found)
        said = page.replace("L3.N771", "").replace(
            "L2.N250", ""
        )  # examples, in the definition and the script
        assert not INDEXED.findall(said)
        assert "In a mixture of experts L3.E12.N57 is unit 57 of expert 12" in page


def test_tables_name_experts(run, model):
    experts = inspect_model(model).experts
    for table in (run.neurons, run.scores):
        assert len(table)
        for row in table.head(500).itertuples():
            assert row.name == experts.name(nt.Neuron(row.layer, row.neuron))
    again = run.intervention(direction="to_reasoning")
    assert again.experts == experts
    assert again.names[0] in repr(again)
    assert list(pd.read_csv(run.folder / "neurons.csv")["name"]) == list(run.neurons["name"])
    assert (
        run.manifest["model"]["experts"]
        == run.explorer.data["experts"]
        == inspect_model(model).naming["experts"]
    )


def test_the_run_says_how_it_routed(run, study):
    assert run.manifest["settings"]["routing"] == run.effects.routing == study.effects.routing == "frozen"
    assert "Routing of its experts under interventions: frozen." in (run.folder / "report.html").read_text()
    assert "routing frozen" in claim_card(run, direction="to_reasoning")
    assert run.summary["examples"] == []  # what a model writes has no unchanged run to go by


def test_figures_and_searches_name_experts(model, study):
    scores = next(iter(study.scores.values()))
    (_, _, estimate, exact), *_ = study.estimates
    assert plot_scores(scores).data[0].text[2][50] == "L2.E1.N2"
    figures = [plot_estimates(estimate, exact), plot_scores(scores)]
    assert not any(INDEXED.search(figure.to_json()) for figure in figures)
    encoded = study.encoded.at([0, 1])
    top = nt.ablate_top(model, encoded, 3, max_share=0.2)
    curve = nt.ablate_sets(model, encoded, scores.top(3))
    rows = nt.ablation_effects(model, encoded, scores.top(3))
    said = [repr(top), *top.to_frame()["neuron"], *curve.to_frame()["neuron"], str(rows._view())]
    assert not any(INDEXED.search(text) for text in said), said
    assert sum(".E" in text or ".S" in text for text in said) >= 2
    control = nt.steer(scores.top(3), nt.reference(model, encoded))
    assert not INDEXED.search(repr(control))


def test_a_record_of_experts_is_checked(tmp_path):
    assert Experts.of(None) is None
    assert Experts.of([[4, 48, 40]]) == Experts(((4, 48, 40),))
    for blocks in ([[4, 48]], [4], [["a", 1, 2]]):
        with pytest.raises(InputError, match="three counts"):
            Experts.of(blocks)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"planted": ["L1.E1.N3"], "live": {"both": ["L1.N35"]}}))
    assert read_truth(path) == (nt.Neuron(1, 35),)
