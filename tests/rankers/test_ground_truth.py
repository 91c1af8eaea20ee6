"""The organisms' ground truth: the planted set is found, and where there is none none is claimed."""

from __future__ import annotations

import json

import pytest
from scipy.stats import spearmanr

import neurotrace as nt
from neurotrace import organism
from neurotrace.core.pairs import sample_pairs

FAMILIES = ("arithmetic", "inference", "letters")
DONORS = {"reasoning": "to_reasoning", "memorization": "to_memorization"}


@pytest.fixture(scope="module")
def truth():
    written = json.loads((organism.folder("organism") / "truth.json").read_text())
    return {nt.Neuron.parse(name) for names in written["live"].values() for name in names}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, organism):
    return nt.encode(organism, nt.load_pairs(request.param))


def test_there_is_a_set_of_eight(truth):
    assert len(truth) == 8


@pytest.mark.parametrize("donor", DONORS)
def test_planted_neurons_top_the_gradient_and_the_exact_ranking(organism, family, truth, donor):
    few = family.at(range(0, len(family), max(1, len(family) // 24)))
    for ranker in (nt.gradient, nt.two_ended, nt.exact):
        scores = ranker(organism, few, donor=donor)
        assert set(scores.top(8, direction=DONORS[donor])) == truth, ranker.__name__
    random = nt.random_scores(organism, few)
    assert len(set(random.top(8, direction=DONORS[donor])) & truth) <= 1


def test_gradient_predicts_the_exact_patch(organism, family):
    few = family.at(range(0, len(family), max(1, len(family) // 16)))
    estimate, exact = nt.gradient(organism, few), nt.exact(organism, few)
    live = exact.value.abs() > 1e-3
    assert live.sum() > 50
    assert spearmanr(estimate.value[live], exact.value[live]).statistic > 0.8


@pytest.mark.parametrize("donor", DONORS)
def test_the_set_flips_and_single_neurons_do_not(organism, family, truth, donor):
    together = [nt.patch(sorted(truth), donor=donor)]
    single = [nt.patch([neuron], donor=donor, role=str(neuron)) for neuron in sorted(truth)]
    rates = nt.measure(organism, family, together + single).rates().set_index("role")["answers"]
    assert rates["selected"] >= 0.95
    assert rates.drop("selected").max() <= 0.1


def test_on_the_natural_organism_the_verdict_is_no():
    model = nt.load_model("organism-natural", device="cpu")
    pairs = [pair for name in FAMILIES for pair in sample_pairs(nt.load_pairs(name), 48)]
    found = nt.study(
        model,
        pairs,
        kinds=["patch", "set"],
        ks=[8, 15],
        folds=2,
        tried_on=24,
        exact_neurons=0,
    )
    assert {verdict.word for verdict in found.verdicts().values()} == {"no"}
