"""Rankers held against exact effects, against known neurons, and against held-out flips."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from commands import neurotrace, refused
from families import family_model, random_pairs
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.results.tables import known_truth, read_truth
from neurotrace.results.verify import verify
from neurotrace.studies.comparison import ALL, compare


def test_agreement_knows_truth_from_noise():
    generator = torch.Generator().manual_seed(0)
    exact = Scores("exact", torch.randn(4, 500, generator=generator))
    noise = Scores("random", torch.randn(4, 500, generator=generator))
    near = Scores("near", exact.value + 0.1 * noise.value)
    backwards = Scores("near", -exact.value)
    assert nt.spearman(exact, exact) == pytest.approx(1)
    assert nt.spearman(near, exact) > 0.9
    assert nt.spearman(backwards, exact) < -0.9
    assert abs(nt.spearman(noise, exact)) < 0.1
    assert nt.spearman(Scores("size", exact.value.abs(), signed=False), exact) == pytest.approx(1)
    assert np.isnan(nt.spearman(Scores("same", torch.ones(4, 500)), exact))
    way = "to_reasoning"
    assert nt.overlap_of_tops(exact, exact, direction=way) == 1.0
    assert nt.overlap_of_tops(backwards, exact, direction=way) == 0.0
    assert nt.overlap_of_tops(noise, exact, direction=way) < 0.2
    some = exact.value.where(torch.arange(500) % 2 == 0, torch.nan)
    assert nt.overlap_of_tops(exact, Scores("exact", some), direction=way) == 1.0
    assert nt.overlap_of_tops(backwards, Scores("exact", some), direction=way) == 0.0
    others = exact.value.where(torch.arange(500) % 2 == 1, torch.nan)
    none = Scores("exact", some), Scores("exact", others)
    assert np.isnan(nt.overlap_of_tops(*none, direction=way))
    # what a ranking leaves out counts as not found: the exact top stays as long as it is
    left_out = exact.value.clone()
    for neuron in exact.top(1, direction=way):
        left_out[neuron.layer, neuron.index] = torch.nan
    assert nt.overlap_of_tops(Scores("pearson", left_out), exact, direction=way) < 1.0
    truth = exact.top(10, direction=way)
    assert nt.recall(near, truth, direction=way) > 0.6
    assert nt.recall(noise, truth, direction=way) < 0.2


def test_small_effects_do_not_count():
    exact = Scores("exact", torch.tensor([[1.0, 0.5, 1e-6, -1.0, -0.5]]))
    other = Scores("other", torch.tensor([[1.0, 0.5, 99.0, -1.0, -0.5]]))
    assert nt.spearman(other, exact) == pytest.approx(1)


def test_area_of_known_curves():
    ks = [1, 2, 4, 8, 16]
    assert nt.area(ks, [1] * 5) == pytest.approx(1)
    assert nt.area(ks, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(0.5)
    assert nt.area([1, 2, 3], [0, 1, 1]) == pytest.approx(1 - 0.5 / np.log2(3))


def test_curves_equal_doing_it_and_end_where_all_is_done(tmp_path):
    model = family_model("llama", tmp_path)
    encoded = nt.encode(model, random_pairs(3), check=False)
    scores = nt.gradient(model, encoded)
    found = nt.curves(model, encoded, scores)
    every = [nt.Neuron(layer, unit) for layer in range(3) for unit in range(64)]
    ranking = scores.top(len(every), direction="to_reasoning")
    assert list(found["k"]) == [1, 2, 4, 8, 16, 32, 64, 128, 192]

    def effect(neurons):
        frame = nt.measure(model, encoded, [nt.patch(neurons, donor="reasoning")]).to_frame()
        return (frame["L_after"] - frame["L_before"]).mean()

    whole = effect(every)
    row = found[found["k"] == 8].iloc[0]
    assert row["necessity"] == pytest.approx(effect(ranking[:8]) / whole, abs=1e-3)
    assert row["sufficiency"] == pytest.approx(1 - effect(ranking[8:]) / whole, abs=1e-3)
    assert found.iloc[-1]["necessity"] == pytest.approx(1)
    assert found.iloc[-1]["sufficiency"] == pytest.approx(1)


@pytest.fixture(scope="module")
def compared(model, pairs):
    return compare(model, pairs, ALL, truth=[PLANTED], positions=("read", "all"), curve_pairs=2)


def test_every_ranker_has_its_row(compared):
    table = compared.rankers.set_index("ranker")
    assert list(table.index) == list(ALL)
    assert compared.k == 1
    cheap = table.drop(index=["random", "magnitude"])
    # what is silent on the recipient's side can't be seen by ablation: one way of two
    seen = cheap.drop(index=["gradient:mean", "exact:mean"])
    assert (seen["recall_truth"] == 1).all()
    assert (seen["flips_to_reasoning"] == 1).all()
    assert (seen["flips_to_memorization"] == 1).all()
    assert (seen["necessity"] > 0.8).all()
    assert table.loc["exact", "top1_overlap"] == 1
    assert table.loc["random", "recall_truth"] == 0
    assert table.loc["random", "flips_to_reasoning"] == 0
    assert (table["flips_to_reasoning_high"] >= table["flips_to_reasoning"]).all()
    assert table.loc["gradient", "cost_passes"] == 3
    assert table.loc["exact", "cost_passes"] > 48


def test_flips_at_all_positions_are_counted_too(compared):
    flips = compared.flips
    assert set(flips["positions"]) == {"read", "all"}
    one = flips[(flips["ranker"] == "gradient") & (flips["positions"] == "all")]
    assert (one["answers"] == 1).all()


def test_training_and_held_out_pairs_share_no_group(compared):
    train, test = compared.pairs["planted"]
    assert train + test == 12
    assert min(train, test) >= 4


def test_only_some_neurons_exactly(model, pairs):
    found = compare(model, pairs, ["gradient", "exact"], truth=[PLANTED], exact_neurons=10, curve_pairs=0)
    table = found.rankers.set_index("ranker")
    assert found.exact_neurons == 10
    assert table.loc["exact", "top1_overlap"] == 1  # of one neuron among the ten
    assert "necessity" not in table
    assert found.curves.empty


def test_what_cannot_be_compared_is_refused(model, pairs):
    with pytest.raises(InputError, match="did you mean 'gradient'"):
        compare(model, pairs, ["gradeint"])
    with pytest.raises(InputError, match="expected one of patch"):
        compare(model, pairs, ["gradient:resample"])
    with pytest.raises(InputError, match=r"L9\.N0 is not in"):
        compare(model, pairs, ["gradient"], truth=[nt.Neuron(9, 0)])
    with pytest.raises(InputError, match="expected 1 to 48"):
        compare(model, pairs, ["gradient"], ks=[49])


def test_truth_files(tmp_path):
    assert len(known_truth("organism")) == 8
    assert known_truth("organism-natural") == ()
    path = tmp_path / "truth.json"
    path.write_text('["L1.N5", "L0.N2"]')
    assert read_truth(path) == (nt.Neuron(0, 2), nt.Neuron(1, 5))
    for wrong, words in (("[]", "no neuron"), ("{}", "expected a list"), ("L1.N5", "as JSON")):
        path.write_text(wrong)
        with pytest.raises(InputError, match=words):
            read_truth(path)


def test_the_command_writes_the_table_with_the_organisms_own_truth(tmp_path):
    out = tmp_path / "rank"
    call = [
        "rank",
        "--model",
        "organism",
        "--probes",
        "arithmetic",
        "--out",
        str(out),
        "--methods",
        "gradient,contrast,random",
        "--train-pairs",
        "24",
        "--curve-pairs",
        "2",
        "--exact-neurons",
        "99",
    ]
    done = neurotrace(*call)
    assert done.returncode == 0, done.stderr
    assert verify(out).problems == {}
    table = pd.read_parquet(out / "rankers.parquet").set_index("ranker")
    wanted = {
        "family",
        "spearman",
        "top1_overlap",
        "recall_truth",
        "flips_to_reasoning",
        "flips_to_memorization",
        "cost_passes",
        "seconds",
        "k",
    }
    assert wanted <= set(table.columns)
    assert table.loc["gradient", "recall_truth"] == 1.0
    assert table.loc["gradient", "flips_to_reasoning"] > 0.9
    assert table.loc["random", "flips_to_reasoning"] == 0.0
    assert (table["k"] == 8).all()
    page = (out / "report.html").read_text()
    assert "L2.N12" in page
    assert "NaN" not in page.split("</style>")[1].split("<script")[0]
    scores = pd.read_parquet(out / "scores.parquet")
    assert set(scores["method"]) == {"gradient", "contrast", "random"}
    refused(neurotrace(*call), "already holds", "--overwrite")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"neurons": 3}))
    refused(neurotrace(*call[:5], "--out", str(tmp_path / "o"), "--truth", str(bad)), "expected a list")
    refused(neurotrace(*call[:5], "--out", str(tmp_path / "o"), "--methods", "magic"), "magic")
