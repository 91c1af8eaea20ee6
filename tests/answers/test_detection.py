"""Detectors on a model: views, no leak between folds, the transfer table, the command and its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import neurotrace as nt
from neurotrace.answers.detection import detect
from neurotrace.answers.views import read_views, view_names
from neurotrace.cli.main import app
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import load_prompts, originals
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.linear import LinearDetector
from neurotrace.detectors.table import DETECTORS
from neurotrace.detectors.transfer import COLUMNS, OTHERS, Task, fit_all, transfer
from neurotrace.results.verify import verify

FAMILIES = ("arithmetic", "inference", "letters")


@pytest.fixture(scope="module")
def prompts():
    return [prompt for name in FAMILIES for prompt in load_prompts(name)]


@pytest.fixture(scope="module", params=["quick", pytest.param("as shipped", marks=pytest.mark.weekly)])
def settings(request):
    """Quick: few steps of training and one strength of the penalty, where only the way is tested."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "quick":
            few = {"warmup": 100, "steps": 100, "rounds": 2, "divide_steps": 20}
            for name, entry in DETECTORS.items():
                if entry.cls is InvariantDetector:
                    patch.setitem(DETECTORS, name, replace(entry, options={**entry.options, **few}))
            patch.setattr(LinearDetector, "_choose", lambda *_: 1.0)
        yield request.param


@pytest.fixture(scope="module")
def call(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("detect") / "out"
    return [
        "detect",
        "--model",
        "organism",
        "--probes",
        "arithmetic",
        "inference",
        "--out",
        str(out),
        "--max-prompts",
        "40",
        "--folds",
        "2",
        "--depths",
        "1",
    ]


@pytest.fixture(scope="module")
def folder(call):
    app(call, standalone_mode=False)
    made = Path(call[call.index("--out") + 1])
    assert verify(made).problems == {}
    return made


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_parquet(folder / "detectors.parquet")


def rows_of(table, detector, view, *, own):
    rows = table[(table["detector"] == detector) & (table["view"] == view)]
    return rows[(rows["train_family"] == rows["test_family"]) == own]


def test_views_are_what_the_hooks_say(organism, prompts):
    """Batched, out of order, against one prompt at a time through TransformerLens itself."""
    answered = nt.answer(organism, originals(prompts)[::37])
    views = read_views(organism, answered, ["neurons", "residual@1", "attention@3", "length", "confidence"])
    for row in (0, len(answered) - 1):
        cache = organism.run_with_cache(answered.ids[row][None])[1]
        for view, name in (
            ("residual@1", "blocks.1.hook_resid_post"),
            ("attention@3", "blocks.3.hook_attn_out"),
        ):
            expected = cache[name][0, -1].numpy()
            np.testing.assert_allclose(views[view][row], expected, atol=1e-4)
        width = views["neurons"].shape[1] // 4
        second = cache["blocks.2.mlp.hook_post"][0, -1].numpy()
        np.testing.assert_allclose(views["neurons"][row, 2 * width : 3 * width], second, atol=1e-4)
        assert views["length"][row, 0] == len(answered.ids[row])
    assert all(len(point.fwd_hooks) == 0 for point in organism.hook_dict.values())
    assert view_names(organism, depths=2)[:3] == ["neurons", "neurons@0", "neurons@3"]


def test_bad_views_are_named(organism, prompts):
    answered = nt.answer(organism, originals(prompts)[:3])
    for name in ("residual@4", "resid@1", "residual", "neurons@-1"):
        with pytest.raises(InputError, match="is no view of this model: expected neurons"):
            read_views(organism, answered, [name])
    with pytest.raises(InputError, match="'margin' needs a circuit"):
        read_views(organism, answered, ["margin"])


def test_the_organisms_neurons_tell_and_its_words_do_not(table):
    for own in (True, False):
        assert rows_of(table, "causal margin", "margin", own=own)["auroc"].min() > 0.95
        assert rows_of(table, "linear", "neurons", own=own)["auroc"].min() > 0.8
        assert rows_of(table, "baseline", "words", own=own)["auroc"].max() < 0.75
        assert rows_of(table, "baseline", "length", own=own)["auroc"].max() < 0.75


def test_the_table_is_whole(table):
    assert list(table.columns) == list(COLUMNS)
    assert set(table["detector"]) == set(DETECTORS)  # templates are environments here
    assert not table.duplicated(["detector", "view", "train_family", "test_family"]).any()
    assert (table["auroc_lo"] <= table["auroc"] + 1e-9).all()
    assert (table["auroc"] <= table["auroc_hi"] + 1e-9).all()
    one, two = "arithmetic", "inference"
    pairs = set(zip(table["train_family"], table["test_family"], strict=True))
    assert pairs == {(one, one), (one, two), (two, one), (two, two), (OTHERS, one), (OTHERS, two)}


def test_what_is_asked_about_was_never_learnt_from(settings):
    """Rows whose outcome can only be known by having seen their group: chance, in every cell."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 2)
    y = rng.integers(2, size=80)[groups]
    units = np.tile(["a", "b"], 80)
    X = np.eye(80)[groups]  # the group itself, in all units
    task = Task({"neurons": X}, y, units, units, groups, [f"word{g}" for g in groups])
    table, _ = transfer(task, folds=2)
    assert table["auroc"].between(0.25, 0.75).all()
    assert set(table["n"]) == {80}
    # where the best view is all neurons, either name has a row of every fold
    assert set(table["view"][table["detector"] == "linear, no floor"]) == {"neurons", "best view"}
    fits = {(f.detector, f.view): f for f in fit_all(task, np.arange(160), np.arange(160), 0)}
    assert nt.judge(fits["linear", "neurons"].p(np.arange(160)), y, groups).auroc == 1.0


def test_too_little_to_learn_from_is_named(organism, prompts):
    task = Task(
        {"neurons": np.zeros((9, 2))},
        np.array([1] + 8 * [0]),
        np.array(["a"] * 9),
        np.array(["a"] * 9),
        np.arange(9),
        ["word"] * 9,
    )
    with pytest.raises(InputError, match="no unit has 5 training prompts of either outcome"):
        transfer(task, folds=2)
    with pytest.raises(InputError, match="by='group': expected 'family' or 'template'"):
        detect(organism, prompts, by="group")
    own = nt.answer(organism, originals(prompts)[:40])
    recalled = [p for p, o in zip(own.prompts, own.outcome, strict=True) if o == "memory"]
    with pytest.raises(InputError, match="from memory: detectors need both outcomes"):
        detect(organism, recalled)


def test_the_command_writes_a_folder_that_can_be_used(folder, call, organism, prompts):
    about = json.loads(pq.read_schema(folder / "detectors.parquet").metadata[b"neurotrace"])
    assert about["model"] == "organism"
    assert about["outcomes"]["arithmetic"] == {"memory": 20, "reasoning": 20}
    weights = pd.read_parquet(folder / "weights.parquet")
    sums = weights.groupby(["detector", "train_family", "fold"])["weight"].sum()
    np.testing.assert_allclose(sums, 1)
    assert (weights["r_hat"] <= 1.05).all()
    assert (weights["ess"] >= 400).all()
    for name in ("transfer.html", "sites.html", "weights.html"):
        assert "<html>" in (folder / name).read_text("utf-8")
    detector = nt.load_detector(folder / "chosen.safetensors")
    answered = nt.answer(organism, originals(prompts)[:40]).decided()
    names = nt.about_detector(folder / "chosen.safetensors")["views"]
    circuit = nt.Circuit.load(folder / "circuit.safetensors")
    views = read_views(organism, answered, names, circuit=circuit)
    p = detector.predict_proba(np.hstack(list(views.values())))[:, 1]
    recalled = np.array([outcome == "memory" for outcome in answered.outcome])
    assert np.mean((p > 0.5) == recalled) > 0.9
    with pytest.raises(InputError, match=r"already holds .*\.parquet"):
        app(call, standalone_mode=False)
    with pytest.raises(InputError, match="--by relation: expected family or template"):
        app([*call, "--by", "relation", "--overwrite"], standalone_mode=False)
