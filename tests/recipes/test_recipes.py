"""Published recipes: what each ranks and changes, and all of them beside each other."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from commands import neurotrace, refused
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.reference import gather
from neurotrace.rankers.registry import RANKERS
from neurotrace.rankers.training import Training
from neurotrace.recipes import contrastive, h_neurons, ircan, knowledge
from neurotrace.recipes.base import lent, sizes
from neurotrace.recipes.lirefs import _vectors as directions
from neurotrace.recipes.nmd import _vectors as dimensions
from neurotrace.recipes.paths import attributions, shared
from neurotrace.recipes.table import RECIPES
from neurotrace.recipes.vectors import _Streams, refuses, written
from neurotrace.studies.selection import Ground, StudySettings

TO_REASONING, TO_MEMORY = DIRECTIONS
SETTINGS = StudySettings((), (), (), "group", 2, 0, (), 8)


@pytest.fixture(scope="module")
def ground(model, encoded):
    """The planted model: neuron L1.N5 is silent on memory's prompts and decides for reasoning."""
    return Ground(model, encoded, encoded.at([]), gather(model, encoded), "planted", TO_REASONING)


def ranked(recipe, ground, kind, to):
    rank = recipe._prepare(ground, SETTINGS, None)
    rows = range(len(ground.own))
    return rank(Training(ground.model, ground.own, ground.evidence, rows, kind, to))


@pytest.mark.parametrize(
    ("recipe", "kind", "to"),
    [
        (contrastive, "scale:0", TO_MEMORY),
        (contrastive, "scale", TO_REASONING),
        (knowledge, "zero", TO_MEMORY),  # it supports the answer that is suppressed
        (h_neurons, "scale:0", TO_MEMORY),
        (h_neurons, "scale", TO_REASONING),
        (ircan, "scale", TO_REASONING),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)).rpartition(".")[2],
)
def test_the_planted_neuron_is_first_where_the_recipe_looks(ground, recipe, kind, to):
    scores = ranked(recipe, ground, kind, to)
    assert scores.top(1, direction=to)[0] == PLANTED


def test_a_ranking_asks_which_side_is_changed(ground):
    """Suppressed are the neurons of the present answer, amplified those of the other one."""
    suppressed = ranked(h_neurons, ground, "scale:0", TO_REASONING)
    assert suppressed.rank_of(PLANTED, direction=TO_REASONING) == suppressed.n_neurons
    amplified = ranked(knowledge, ground, "zero", TO_REASONING)
    assert amplified.rank_of(PLANTED, direction=TO_REASONING) > 1


def test_universal_neurons_are_left_out(ground):
    loud = torch.zeros(ground.evidence.activations.values.shape[2:])
    loud[0, 3] = 50.0  # above all others in every prompt
    values = ground.evidence.activations.values + loud
    activations = type(ground.evidence.activations)(values, ground.own.pairs)
    evidence = type(ground.evidence)(
        activations, ground.evidence.slopes, ground.evidence.norms, ground.evidence.logit_difference
    )
    other = Ground(ground.model, ground.own, ground.others, evidence, "planted", TO_REASONING)
    value = ranked(contrastive, other, "scale", TO_REASONING).value
    assert value[0, 3].isnan()
    assert int(value.isnan().sum()) == 1


def test_attributions_add_up_to_the_change_of_the_probability(ground):
    """Completeness, layer by layer: P(answer) minus P(answer) with the layer's neurons at 0."""
    found = attributions(ground.model, ground.own, "reasoning", steps=32)
    every = [nt.Neuron(1, index) for index in range(found.shape[2])]
    effects = nt.measure(ground.model, ground.own, [nt.zero(every, direction="to_memorization")])
    table = effects.to_frame().set_index("pair").loc[[pair.id for pair in ground.own.pairs]]
    change = (table["p_reasoned_before"] - table["p_reasoned_after"]).to_numpy()
    assert found[:, 1].sum(dim=1).numpy() == pytest.approx(change, abs=1e-3)
    assert abs(change).max() > 0.01


def test_shared_is_the_share_of_prompts():
    found = torch.tensor([[[1.0, 0.3, 0.0]], [[1.0, 0.1, 0.9]]])
    assert shared(found, 0.2)[0].round(decimals=0).tolist() == [1.0, 1.0, 1.0]
    order = shared(found, 0.2)[0].argsort(descending=True).tolist()
    assert order == [0, 2, 1]  # both keep the first; of the others the larger attribution


def test_a_vector_by_neurons_is_the_vector_in_the_stream(organism):
    encoded = nt.encode(organism, nt.load_pairs("arithmetic")[:10])
    evidence = gather(organism, encoded)
    ground = Ground(organism, encoded, encoded.at([]), evidence, "arithmetic", TO_REASONING)
    streams = _Streams(ground)
    moments = streams.moments(range(len(encoded)))
    for vector in (list(directions(moments, TO_REASONING))[4], list(dimensions(moments, TO_REASONING))[1]):
        by_neurons = written(vector.values, streams.inverse, TO_REASONING)
        places = vector.values.nonzero()
        units = tuple(nt.Neuron(*place) for place in places.tolist())
        one = torch.ones(len(units))
        offsets = vector.values[places[:, 0], places[:, 1]]
        in_stream = Intervention("vector", units, TO_REASONING, one, 0 * one, offsets)
        first = nt.measure(organism, encoded, [by_neurons]).to_frame()
        second = nt.measure(organism, encoded, [in_stream], site="residual").to_frame()
        assert first["L_after"].to_numpy() == pytest.approx(second["L_after"].to_numpy(), abs=1e-3)
        assert abs(first["L_after"] - first["L_before"]).max() > 0.1
        for role in ("random", "sign", "low_rho"):
            for control in vector.controls(role, range(2)):
                norm = control.norm(dim=1)
                assert torch.allclose(norm, vector.values.norm(dim=1), atol=1e-5)
                assert not torch.equal(control, vector.values)
    assert not any(vector.controls("low_rho", [0]) for vector in directions(moments, TO_MEMORY))


def test_vectors_are_refused_where_neurons_cannot_write_them(model):
    assert "24 neurons" in refuses(model)
    with pytest.raises(InputError, match=r"recipe 'lirefs'.*24 neurons"):
        nt.replicate(model, [], ["lirefs"])


def test_a_lent_ranker_is_given_back():
    with lent("mine", lambda training: None):
        assert "mine" in RANKERS
        with pytest.raises(InputError, match="expected a new name"), lent("mine", lambda training: None):
            pass
    assert "mine" not in RANKERS


def test_sizes_hold_the_authors():
    assert sizes(46_080, (0.001,), (2, 20)) == (2, 8, 16, 20, 32, 46, 64)
    assert sizes(1000, (0.1,), (20,)) == (1, 2, 4, 8, 100)


def test_every_recipe_names_its_source():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.deviates or name == "ours"
        assert name == "ours" or "arXiv" in recipe.source


def test_the_command_goes_on_and_is_verified(planted_folder, tmp_path):
    asked = ("replicate", "ours", "cna", "--model", str(planted_folder), "--folds", "2", "--quiet")
    asked += ("--probes", str(planted_folder / "pairs.jsonl"), "--out", "o")
    refused(neurotrace(*asked, "nda", cwd=tmp_path), "recipe 'nda'", "nmd")
    done = neurotrace(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Contrastive neuron attribution" in done.stdout
    found = json.loads((tmp_path / "o" / "recipes.json").read_text())
    verdicts = {name: each["verdicts"]["planted"] for name, each in found["recipes"].items()}
    assert set(verdicts) == {"ours", "cna"}
    # a silent neuron stays silent however it is multiplied
    assert verdicts["cna"]["verdict"] == "not causal"
    assert "to reasoning flips 0.0%" in verdicts["cna"]["why"][0]
    # one neuron flips all both ways; of 48 it is more than 1 %
    assert all("2.1% of the neurons" in why for why in verdicts["ours"]["why"])
    table = pd.read_csv(tmp_path / "o" / "recipes.csv").set_index("recipe")
    assert table.loc["ours", "flipped"].tolist() == [1.0, 1.0]
    assert table.loc["ours", "controls"].max() < 0.05
    page = (tmp_path / "o" / "recipes.html").read_text()
    assert "Content-Security-Policy" in page
    assert "universal neurons" in page
    assert neurotrace("verify", "o", cwd=tmp_path).returncode == 0
    refused(neurotrace(*asked, cwd=tmp_path), "already holds")


def test_folds_are_kept_and_read_back(model, pairs, tmp_path):
    units = nt.Units(tmp_path)
    first = nt.replicate(model, pairs, ["knowledge"], folds=2, units=units)
    again = nt.replicate(model, pairs, ["knowledge"], folds=2, units=nt.Units(tmp_path))
    assert first.flips == again.flips
    assert {flip.direction for flip in again.flips["knowledge"]} == set(DIRECTIONS)
    assert isinstance(again.flips["knowledge"][0].direction, Direction)
    assert again.to_frame()["flipped"].tolist() == [0.0, 1.0]
