"""The finding as an object: saved, read back, and the same flips when it is measured again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from commands import neurotrace, unsealed
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import Direction
from neurotrace.interventions.intervention import make
from neurotrace.models.identity import model_identity
from neurotrace.organism import folder
from neurotrace.results.findings import stability
from neurotrace.results.reading import load_intervention

BOTH = ("to_reasoning", "to_memorization")


@pytest.fixture(scope="module")
def study(model, encoded):
    return nt.study(model, encoded, ks=[1, 2])


@pytest.fixture(scope="module")
def run(study, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    nt.save_run(study, folder, model=model, probes=["planted"])
    return nt.load_run(folder)


def test_saved_interventions_measured_again_give_the_same_flips(run, model):
    columns = ["pair", "direction", "intervention", "k", "answers", "prefers", "top_after"]
    for direction in BOTH:
        kept = run.effects.where(role="selected", chosen=True, direction=direction).to_frame()
        again = []
        for each in run.interventions(direction=direction):
            if each.provenance["fold"] != "all":
                pairs = run.held_out(each)
                assert {pair.id for pair in pairs} == set(
                    kept.loc[kept["fold"] == each.provenance["fold"], "pair"]
                )
                again.append(nt.measure(model, pairs, [each]).to_frame())
                judged = each.provenance["judged"]
                assert judged["answers"] == again[-1]["answers"].mean()
                assert judged["pairs"] == len(pairs)
        found = [
            {tuple(row) for row in frame[columns].itertuples(index=False)}
            for frame in (kept, pd.concat(again))
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 12


def test_what_all_pairs_made_is_what_most_folds_chose(run, model, encoded):
    for direction in BOTH:
        *folds, whole = run.interventions(direction=direction)
        assert whole.provenance["fold"] == "all"
        assert whole.provenance["trained_on"] == 12
        assert (whole.label, whole.kind, len(whole)) in {(e.label, e.kind, len(e)) for e in folds}
        assert whole.neurons[0] == PLANTED
        assert run.held_out(whole) == []
        assert whole.provenance | model_identity(model) == whole.provenance
        means = nt.moments(model, encoded).mean_of(whole.donor)
        assert torch.allclose(whole.donor_mean, means[PLANTED.layer, [n.index for n in whole.neurons]])
        assert (nt.measure(model, encoded, [whole]).to_frame()["answers"]).all()


def test_neurons_by_name_in_the_table_and_in_the_card(run):
    table = run.neurons
    assert list(table)[:8] == [
        "layer",
        "neuron",
        "family",
        "direction",
        "fold",
        "rank",
        "score",
        "exact",
    ]
    first = table[table["rank"] == 1]
    assert set(zip(first["layer"], first["neuron"], strict=True)) == {(PLANTED.layer, PLANTED.index)}
    assert set(first["fold"]) == {"0", "1", "2", "3", "4", "all"}
    for direction in BOTH:
        own = first[(first["direction"] == direction) & (first["fold"] == "all")].iloc[0]
        known = run.estimates.set_index(["direction", "layer", "neuron"])["exact"]
        assert own["exact"] == pytest.approx(known[direction, PLANTED.layer, PLANTED.index])
        assert own["score"] != 0
    page = " ".join((run.folder / "report.html").read_text().split())
    assert f"<b>{PLANTED}</b>&nbsp;5/5" in page
    assert "Two folds share on average" in page


def test_stability_counts_folds_and_has_chance_beside_it(run):
    for each in stability(run.interventions(), 24).values():
        assert each.neurons[0] == (PLANTED, 5)
        assert each.folds == 5
        assert 0 < each.chance < each.jaccard <= 1
    own = [e for e in run.interventions(direction="to_reasoning") if e.provenance["fold"] in (0, "all")]
    (alone,) = stability(own, 24).values()
    assert (alone.folds, alone.jaccard, alone.chance) == (1, None, None)


def test_a_run_without_findings_says_so(study, model, tmp_path):
    nt.save_run(replace(study, interventions=()), tmp_path, model=model, probes=["planted"])
    run = nt.load_run(tmp_path)
    with pytest.raises(InputError, match="run the study again"):
        run.interventions()
    assert "Neurons, and the share" not in (tmp_path / "report.html").read_text()
    nt.save_run(study, tmp_path, model=model, probes=["planted"], overwrite=True)
    with pytest.raises(InputError, match="there are planted to_memorization; planted to_reasoning"):
        nt.load_run(tmp_path).interventions(family="other")
    (tmp_path / "interventions" / "000-planted-to_reasoning-0.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"by manifest\.json it is changed"):
        nt.load_run(tmp_path)
    unsealed(tmp_path)
    with pytest.raises(InputError, match="can't be read as safetensors"):
        nt.load_run(tmp_path).interventions()


KINDS = ["patch", "patch:0.5", "set", "zero", "mean", "shift:2", "scale:3", "steer"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_bit_for_bit(model, encoded, tmp_path, kind):
    reference = nt.reference(model, encoded)
    neurons = [PLANTED, nt.Neuron(0, 3)]
    made = make(kind, neurons, reference, direction="to_reasoning")
    made = replace(made, label="gradient", score=torch.tensor([1 / 3, -0.1]), provenance={"fold": 2})
    made.save(tmp_path / "x.safetensors")
    back = nt.Intervention.load(tmp_path / "x.safetensors")
    for name in ("keep", "gain", "offset", "score"):
        assert torch.equal(getattr(back, name), getattr(made, name)), name
    assert back.donor_mean is None
    for name in ("kind", "neurons", "direction", "role", "label", "provenance"):
        assert getattr(back, name) == getattr(made, name), name
    frame = back.to_frame()
    assert frame["rank"].tolist() == [1, 2]
    assert frame["neuron"].tolist() == [PLANTED.index, 3]
    assert frame["offset"].tolist() == made.offset.tolist()
    columns = ["pair", "L_after", "top_after", "answers"]
    before, after = (nt.measure(model, encoded, [e]).to_frame()[columns] for e in (made, back))
    assert before.equals(after)


def test_columns_that_are_one_tensor_are_saved_apart(tmp_path):
    """A circuit's interventions hold the same zeros as keep and as gain."""
    zeros, ones = torch.zeros(1), torch.ones(1)
    made = nt.Intervention("off", (PLANTED,), Direction("to_reasoning"), zeros, zeros, ones)
    made.save(tmp_path / "off.safetensors")
    assert torch.equal(nt.Intervention.load(tmp_path / "off.safetensors").offset, ones)


def test_one_intervention_by_its_name(run, tmp_path):
    (all_pairs,) = run.interventions(direction="to_reasoning", fold="all")
    for path in (run.folder, str(run.folder)):
        found = load_intervention(path, direction="to_reasoning")
        assert (found.neurons, found.provenance) == (all_pairs.neurons, all_pairs.provenance)
    assert load_intervention(run.folder, direction="to_reasoning", fold="1").provenance["fold"] == 1
    all_pairs.save(tmp_path / "one.safetensors")
    assert load_intervention(tmp_path / "one.safetensors").neurons == all_pairs.neurons
    with pytest.raises(InputError, match="several: pick one by --family and --direction"):
        load_intervention(run.folder)
    with pytest.raises(InputError, match="family='other'"):
        load_intervention(run.folder, family="other")


def test_files_that_are_no_interventions_are_refused(model, encoded, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    nt.zero([PLANTED], direction="to_reasoning").save(path)
    from neurotrace.core.files import read_tensors

    header, tensors = read_tensors(path, "pt")
    for broken in (
        {"neurons": ["L1"]},
        {"neurons": []},
        {"direction": "up"},
        {"kind": 3},
        {"provenance": "x"},
        {"neurons": ["L1.N5", "L1.N6"]},
    ):
        save_file(tensors, path, metadata={"neurotrace": json.dumps(header | broken)})
        with pytest.raises(InputError, match="damaged intervention"):
            nt.Intervention.load(path)
    infinite = tensors | {"offset": torch.tensor([torch.inf])}
    save_file(infinite, path, metadata={"neurotrace": json.dumps(header)})
    with pytest.raises(InputError, match="finite"):
        nt.Intervention.load(path)
    save_file(tensors, path, metadata={"neurotrace": json.dumps(header | {"format": "x/1"})})
    with pytest.raises(InputError, match="not written by"):
        nt.Intervention.load(path)
    with pytest.raises(InputError, match="can't be read"):
        nt.Intervention.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="can't write"):
        nt.zero([PLANTED], direction="to_reasoning").save(tmp_path / "no" / "x.safetensors")


def test_a_donor_class_mean_stands_in_where_there_is_no_donor(model, encoded):
    means = nt.moments(model, encoded)
    patch = nt.patch([PLANTED], donor="reasoning")
    with pytest.raises(InputError, match="carries no mean"):
        patch.without_donor()
    mean = means.mean_of("reasoning")[PLANTED.layer, PLANTED.index][None]
    alone = replace(patch, donor_mean=mean).without_donor()
    assert not alone.needs_donor
    wanted = nt.set_to_mean([PLANTED], means, donor="reasoning")
    assert torch.equal(alone.offset, wanted.offset)
    assert torch.equal(alone.keep, wanted.keep)
    zero = nt.zero([PLANTED], direction="to_reasoning")
    assert zero.without_donor() is zero


def test_another_model_is_noticed(run, model, organism):
    (whole,) = run.interventions(direction="to_reasoning", fold="all")
    whole.check(model)
    with pytest.warns(UserWarning, match="other weights"):
        whole.check(organism)
    with pytest.raises(InputError, match="not in planted of 2 layers"):
        replace(whole, neurons=(nt.Neuron(2, 0), nt.Neuron(2, 1))[: len(whole)]).check(model)


SHORT = [
    "run",
    "--model",
    "organism",
    "--probes",
    "arithmetic",
    "letters",
    "--max-pairs",
    "80",
    "--k",
    "8",
    "--intervention",
    "patch",
    "--intervention",
    "set",
    "--method",
    "gradient",
]


@pytest.mark.parametrize("call", [SHORT, pytest.param(["demo"], marks=pytest.mark.weekly)])
def test_the_folder_alone_names_the_planted_neurons_and_repeats_the_flips(organism, tmp_path, call):
    done = neurotrace(*call, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    run = nt.load_run(tmp_path / "run")
    planted = set(json.loads((folder("organism") / "truth.json").read_text())["planted"])
    card = (run.folder / "report.html").read_text()
    for family in {pair.family for pair in run.pairs} - {"inference"}:  # few neurons suffice there
        section = card[card.index(f"{family}: ") :].split("</dl>")[0]
        assert set(re.findall(r"<b>(L\d+\.N\d+)</b>", section)) == planted
    columns = ["pair", "direction", "answers", "prefers", "top_after"]
    again = [
        nt.measure(organism, run.held_out(each), [each]).to_frame()[columns]
        for each in run.interventions()
        if each.provenance["fold"] != "all"
    ]
    kept = run.effects.where(role="selected", chosen=True).to_frame()[columns]
    both = [
        frame.sort_values(["direction", "pair"]).reset_index(drop=True)
        for frame in (kept, pd.concat(again))
    ]
    pd.testing.assert_frame_equal(*both)
