"""Two runs side by side: overlap and agreement with chance beside them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from commands import neurotrace, refused

import neurotrace as nt
from neurotrace.core.errors import InputError


@pytest.fixture(scope="module")
def study(model, encoded):
    return nt.study(model, encoded, ks=[2], kinds=["patch"], methods=["gradient"], exact_neurons=0)


def saved(study, model, folder):
    nt.save_run(study, folder, model=model, probes=["planted"])
    return nt.load_run(folder)


@pytest.fixture(scope="module")
def run(study, model, tmp_path_factory):
    return saved(study, model, tmp_path_factory.mktemp("run"))


def elsewhere(study, layer):
    """The same study, its neurons replaced by the first of a layer."""
    moved = [
        replace(each, neurons=tuple(nt.Neuron(layer, i) for i in range(len(each))))
        for each in study.interventions
    ]
    return replace(study, interventions=tuple(moved))


def test_a_run_agrees_with_itself(run):
    found = nt.compare_runs(run, run)
    assert found.same_weights
    for row in found.to_frame().itertuples():
        assert (row.jaccard, row.shared, row.agree, row.pairs) == (1.0, 2, 1.0, 12)
        assert 0 < row.chance < 0.3
        assert row.depth_first == row.depth_second
    assert [str(each) for each in found.to_frame()["direction"]] == [
        "to_reasoning",
        "to_memorization",
    ]
    assert "the same weights" in found._repr_html_()


def test_other_neurons_and_other_flips_are_counted(study, run, model, tmp_path):
    frame = study.effects.to_frame()
    ids = sorted(frame["pair"].unique())
    frame.loc[frame["pair"].isin(ids[:3]), "answers"] = False  # a quarter no longer flips
    import pyarrow as pa

    other = replace(elsewhere(study, 0), effects=nt.Effects(pa.Table.from_pandas(frame)))
    found = nt.compare_runs(run, saved(other, model, tmp_path)).to_frame()
    assert (found["flips_first"] == 1).all()
    assert (found["flips_second"] == 0.75).all()
    assert (found["agree"] == 0.75).all()
    assert (found["agree_chance"] == 0.75).all()  # one run flips all: no more than chance
    assert (found["depth_second"] == 0).all()
    assert (found["depth_first"] > 0).all()
    assert (found["jaccard"] < 1).all()
    assert (found["p"] > 0.05).all()


def test_pairs_are_known_by_their_text_and_families_by_name(study, run, model, tmp_path):
    renamed = tuple(replace(p, id=f"x{p.id}", reasoning=p.reasoning + " ") for p in study.encoded.pairs)
    frame = study.effects.to_frame().assign(pair=lambda f: "x" + f["pair"])
    import pyarrow as pa

    other = replace(
        study,
        encoded=replace(study.encoded, pairs=renamed),
        effects=nt.Effects(pa.Table.from_pandas(frame)),
    )
    found = nt.compare_runs(run, saved(other, model, tmp_path / "a")).to_frame()
    assert (found["pairs"] == 0).all()
    assert found["agree"].isna().all()
    moved = [
        replace(each, provenance=dict(each.provenance) | {"family": "other"})
        for each in study.interventions
    ]
    other = saved(replace(study, interventions=tuple(moved)), model, tmp_path / "b")
    with pytest.raises(InputError, match=r"no family in common: .* has planted; .* has other"):
        nt.compare_runs(run, other)


def test_models_of_other_shapes_compare_by_depth_alone(study, run, model, tmp_path):
    other = saved(elsewhere(study, 1), model, tmp_path)
    other.manifest["model"] |= {"layers": 3, "weights_sha256": "0" * 64}
    found = nt.compare_runs(run, other)
    assert not found.same_weights
    assert found.to_frame()["jaccard"].isna().all()
    assert (found.to_frame()["depth_second"] == 0.5).all()
    assert "–" in found._repr_html_()


def test_the_command_prints_a_table_or_json(run, tmp_path):
    folder = str(run.folder)
    done = neurotrace("compare", folder, folder)
    assert done.returncode == 0, done.stderr
    assert "Jaccard" in done.stdout
    done = neurotrace("compare", folder, folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["agree"] for row in rows] == [1.0, 1.0]
    refused(neurotrace("compare", folder, str(tmp_path)), "no run in")
