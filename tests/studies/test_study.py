"""The main job on the planted model, its run folder, its figures, its report."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from planted import PLANTED

import neurotrace as nt
from neurotrace.core import writing
from neurotrace.core.errors import InputError
from neurotrace.decoding.tokens import Dropped
from neurotrace.interventions import intervention as interventions
from neurotrace.interventions.controls import CONTROLS
from neurotrace.interventions.damage import still_answered
from neurotrace.models.identity import model_identity
from neurotrace.results import run as runs
from neurotrace.results.report import figures
from neurotrace.studies import held_out
from neurotrace.studies.held_out import flip_record
from neurotrace.studies.selection import default_ks
from neurotrace.studies.verdict import Rule, verdicts_of


@pytest.fixture(scope="module")
def study(model, encoded):
    return nt.study(model, encoded, ks=[1, 2], neutral=["the item1", "item2 item3"])


def test_it_finds_the_planted_neuron_and_flips_everything(study):
    for flip in study.selected():
        assert (flip.k, flip.answers, flip.n, flip.groups) == (1, 1.0, 12, 12)
        assert flip.control_answers == 0.0
        assert flip.controls["other_donor"] == 1.0  # the behaviour is copied, not the item
        assert flip.damage_kl >= 0
        assert flip.random_p == 1 / 20  # none of 19 draws of random neurons flips as many
        assert set(flip.controls_worst.values()) == {0.0}
        assert flip.chosen_on == 9  # of nine training pairs
        assert (flip.regret, flip.regret_ci) == (0.0, (0.0, 0.0))
        assert flip.compared >= 4
        assert 0.7 < flip.answers_ci[0] < flip.answers_ci[1] <= 1
    for (_, method, direction), scores in study.scores.items():
        assert scores.top(1, direction=direction) == (PLANTED,), method
    assert {flip.direction for flip in study.selected()} == {"to_reasoning", "to_memorization"}


def test_the_verdict_follows_the_rule(study):
    # 1 of 48 neurons is more than 1 %: the rule must say no
    assert study.verdicts()["planted"].word == "no"
    records = [flip_record(flip) for flip in study.flips]
    # where 5 % are allowed, twelve groups are too few to tell 100 % from 90 %, and 0 % from 5 %
    found = verdicts_of(records, Rule(fraction=0.05))["planted"]
    assert (found.word, found.pairs) == ("undecided", 73)
    assert verdicts_of(records, Rule(answers=0.7, controls=0.3, fraction=0.05))["planted"].word == "decides"
    assert verdicts_of(records, Rule(answers=0.7, controls=-0.1, fraction=0.05))["planted"].word == "no"


@pytest.mark.parametrize("doubtful", [False, True])
def test_controls_in_doubt_are_drawn_as_often_as_random_neurons(model, encoded, monkeypatch, doubtful):
    counted = []
    count = held_out._by_draw
    monkeypatch.setattr(held_out, "in_doubt", lambda rate, low, high: doubtful)
    monkeypatch.setattr(held_out, "_by_draw", lambda drawn: counted.append(drawn) or count(drawn))
    found = nt.study(model, encoded, ks=[1], kinds=["patch"], neutral=[])
    for flip, drawn in zip(found.selected(), counted, strict=True):
        for role in CONTROLS:
            own = drawn[drawn["role"] == role]
            assert own["draw"].nunique() == (19 if doubtful or role == "random" else 3)
            assert (own.groupby("draw")["pair"].nunique() == flip.n).all()
            assert flip.controls[role] == own["answers"].mean()


def test_a_family_that_cannot_be_split_does_not_stop_the_others(model, encoded):
    lone = replace(encoded.pairs[0], id="alone", family="lone")
    with pytest.warns(UserWarning, match="lone is left out: 1 pair of one group, expected at least two"):
        found = nt.study(model, [*encoded.pairs, lone], ks=[1], kinds=["patch"], neutral=[])
    assert {flip.family for flip in found.selected()} == {"planted"}
    assert [(each.pair.id, each.reason) for each in found.encoded.dropped] == [
        ("alone", "family too small")
    ]
    assert found.read == len(encoded) + 1
    with pytest.raises(InputError, match="1 pairs, 1 groups: they can't be folded"):
        nt.study(model, [lone], neutral=[])
    with pytest.warns(UserWarning, match="lone is left out"):
        claims = nt.replicate(model, [*encoded.pairs, lone], ["cna"], neutral=[])
    assert set(claims.to_frame()["family"]) == {"planted"}


def test_effects_are_of_held_out_pairs_once(study):
    frame = study.effects.to_frame()
    chosen = frame[frame["chosen"] & (frame["role"] == "selected")]
    for _, part in chosen.groupby("direction"):
        assert sorted(part["pair"]) == sorted(pair.id for pair in study.encoded.pairs)
    assert set(frame["role"]) == {"selected", "random", "norm", "sign", "low_rho", "other_donor"}


def test_random_neurons_get_no_verdict(model, encoded):
    found = nt.study(model, encoded, methods=["random"], ks=[1], exact_neurons=0)
    assert all(flip.answers < 0.5 for flip in found.selected())


@pytest.mark.parametrize("method", ["contrast", "pearson", "direct", "integrated", "exact"])
def test_other_rankers_run(model, encoded, method):
    found = nt.study(model, encoded, methods=[method], kinds=["set"], ks=[1], folds=2, exact_neurons=0)
    assert {flip.method for flip in found.flips} == {method}
    assert all(flip.answers == 1.0 for flip in found.selected())


def test_what_other_families_keep_is_under_the_intervention_as_it_was_done(model, encoded):
    """Its strength included: recall's value, written whole, breaks reasoning; a tenth of it doesn't."""
    means = nt.moments(model, encoded).mean_of("memorization")

    def kept(strength):
        done = interventions.patch([PLANTED], donor="reasoning", strength=strength)
        return still_answered(model, encoded, [done], [means])

    assert kept(1.0) == 0.0
    assert kept(0.1) == 1.0


def test_split_by_template_too(model, encoded):
    found = nt.study(model, encoded, split="group+template", ks=[1], kinds=["patch"], exact_neurons=0)
    assert found.split == "group+template"
    assert all(flip.answers == 1.0 and flip.n == 12 for flip in found.selected())


def test_default_sizes_are_at_most_one_percent_and_64():
    assert default_ks(1536) == (1, 2, 4, 8)
    assert default_ks(46080) == (8, 16, 32, 64)
    assert default_ks(250) == (1, 2)
    assert default_ks(50) == (1,)


def test_run_folder(study, model, tmp_path):
    out = tmp_path / "run"
    summary = nt.save_run(study, out, model=model, probes=["planted"], command="neurotrace test")
    assert {*os.listdir(out), "explorer.json"} == set(runs.FILES)
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    manifest = json.loads((out / "manifest.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", manifest["model"]["weights_sha256"])
    assert manifest["command"] == "neurotrace test"
    assert manifest["dtype"] == "float32"
    scores = pd.read_parquet(out / "scores.parquet")
    assert {"layer", "neuron", "method", "score"} <= set(scores.columns)
    assert pq.read_table(out / "effects.parquet").num_rows == len(study.effects)
    assert pq.read_table(out / "dropped.parquet").num_rows == 0
    assert summary["pairs"] == {"read": 12, "kept": 12, "train": 9, "test": 12, "dropped": {}}
    wanted = {
        "family",
        "method",
        "direction",
        "intervention",
        "k",
        "fraction",
        "answers",
        "answers_ci",
        "prefers",
        "n",
        "groups",
        "split",
        "selected",
        "controls",
        "control_answers",
        "damage_kl",
    }
    assert all(wanted <= set(flip) for flip in summary["flips"])
    assert sum(flip["selected"] for flip in summary["flips"]) == 2
    with pytest.raises(InputError, match="--overwrite"):
        nt.save_run(study, out, model=model, probes=["planted"])
    nt.save_run(study, out, model=model, probes=["planted"], overwrite=True)


def test_a_failed_write_leaves_nothing_behind(study, model, tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "run"
    writing.prepare_folder(out, runs.FILES)
    monkeypatch.setattr(writing.os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        runs.save_run(study, out, model=model, probes=["planted"])
    assert os.listdir(out) == []


def test_no_mixture_of_two_runs_is_read(study, model, tmp_path, monkeypatch):
    """Cut at each rename of an overwrite, the folder is refused or is the new run."""
    out, real, ends = tmp_path / "run", os.replace, []
    for cut in range(14):
        nt.save_run(study, out, model=model, probes=["planted"], command="old", overwrite=True)
        done = []

        def replace_some(source, target, cut=cut, done=done):
            if Path(target).parent != out or Path(target).name.startswith("."):
                return real(source, target)
            if len(done) == cut:
                raise KeyboardInterrupt
            done.append(target)
            return real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_some)
            with contextlib.suppress(KeyboardInterrupt):
                nt.save_run(study, out, model=model, probes=["planted"], command="new", overwrite=True)
        try:
            ends.append(nt.load_run(out).manifest["command"])
        except InputError:
            ends.append("refused")
    assert set(ends) == {"refused", "new"}
    assert ends == sorted(ends, reverse=True)  # refused up to the manifest, which comes last


def saved(study, model, folder, probes=("planted",), **options):
    nt.save_run(study, folder, model=model, probes=list(probes), **options)
    return nt.load_run(folder)


def test_prompts_are_data_in_the_report(study, model, tmp_path):
    evil = "<script>alert(1)</script>"
    pairs = tuple(
        replace(pair, id=f"{evil}{pair.id}", memorization=pair.memorization + evil)
        for pair in study.encoded.pairs
    )
    examples = tuple(replace(example, prompt=evil, after=evil) for example in study.examples)
    encoded = replace(study.encoded, pairs=pairs, dropped=(Dropped(pairs[0], evil, evil),))
    effects = nt.Effects(
        study.effects.table.set_column(
            0, "pair", [[evil + name for name in study.effects.table["pair"].to_pylist()]]
        )
    )
    dangerous = replace(study, encoded=encoded, examples=examples, effects=effects)
    explorer = nt.explore(model, encoded, study, neurons=4, pairs_each=2)
    run = saved(dangerous, model, tmp_path, [evil], command=evil, explorer=explorer)
    page = (tmp_path / "report.html").read_text()
    assert page.count("&lt;script&gt;alert") >= 6
    for shown in (page, run._repr_html_(), run.explorer._repr_html_()):
        assert evil not in shown


def test_a_run_reads_back_and_its_report_is_written_again(study, model, tmp_path):
    explorer = nt.explore(model, study.encoded, study, neurons=4, pairs_each=2)
    run = saved(study, model, tmp_path, explorer=explorer)
    assert run.summary["model"] == "planted"
    assert run.explorer == explorer
    assert run.effects.table.equals(study.effects.table)
    assert len(run.to_frame()) == len(study.flips)
    assert "planted" in run._repr_html_()
    exact = study.estimates[0][3]
    part = run.estimates[run.estimates["direction"] == "to_reasoning"]
    assert len(part) == int((~exact.value.isnan()).sum())
    first = (tmp_path / "report.html").read_text()
    assert nt.write_report(run) == first
    for section in ("#curves", "#controls", "#explorer", "#rankers", "#again"):
        assert f'href="{section}"' in first
    assert "#detectors" not in first  # no detectors were run
    saved(study, model, tmp_path, overwrite=True)  # without an explorer the old one must go
    assert nt.load_run(tmp_path).explorer is None
    assert "#explorer" not in (tmp_path / "report.html").read_text()


def test_the_report_states_controls_choice_and_regret(study, model, tmp_path):
    run = saved(study, model, tmp_path)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "worst 0.0%" in page
    assert "<td>0.05</td>" in page
    assert "on at least 9 training pairs in each fold, ranked on others: one pair is 11.1%" in page
    # a run of an earlier version has none of it
    new = {
        "controls_worst",
        "random_p",
        "regret",
        "regret_ci",
        "best",
        "compared",
        "chosen_on",
        "tied",
    }
    flips = [{k: v for k, v in flip.items() if k not in new} for flip in run.summary["flips"]]
    old = replace(run, summary=run.summary | {"flips": flips})
    assert "worst 0.0%" not in nt.write_report(old)


def test_detectors_show_where_a_run_has_them(study, model, tmp_path):
    saved(study, model, tmp_path)
    row = {
        "detector": "linear",
        "view": "<b>neurons",
        "train_family": "a",
        "test_family": "b",
        "auroc": 0.75,
        "auroc_lo": 0.7,
        "auroc_hi": 0.8,
        "accuracy": float("nan"),
        "ece": 0.05,
        "n": 40,
    }
    rows = [row, row | {"view": "neurons", "train_family": "others", "test_family": "<b>a"}]
    path, about = tmp_path / "detectors.parquet", model_identity(model)
    path.write_bytes(writing.noted(pd.DataFrame(rows), about | {"command": "neurotrace detect"}))
    page = nt.write_report(nt.load_run(tmp_path))
    assert 'id="detectors"' in page
    section = page[page.index('id="detectors"') : page.index("Every intervention")]
    assert "&lt;b&gt;neurons" in section
    assert "<b>neurons" not in section
    assert "0.750" in section
    assert "neurotrace detect" in section
    assert 'data-name="Transfer between tasks, linear on neurons"' in section
    assert "nan" not in section
    for note, reason in (
        (about | {"model": "x", "weights_sha256": "0"}, "is of x, the run is of planted"),
        ({}, "is of an unknown model"),
    ):
        path.write_bytes(writing.noted(pd.DataFrame(rows), note))
        page = nt.write_report(nt.load_run(tmp_path))
        assert 'id="detectors"' not in page
        assert reason in page


def test_what_is_no_run_is_refused(study, model, tmp_path):
    with pytest.raises(InputError, match=r"no run in .*manifest.json"):
        nt.load_run(tmp_path)
    saved(study, model, tmp_path)
    (tmp_path / "effects.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"can't read .*effects.parquet"):
        nt.load_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "other/9"}')
    with pytest.raises(InputError, match=r"expected 'neurotrace.run/1'"):
        nt.load_run(tmp_path)


def test_the_report_says_how_many_neurons_each_fold_chose(study, model, tmp_path):
    run = saved(study, model, tmp_path)
    chosen = run.effects.where(role="selected", chosen=True).to_frame()
    flip = run.selected()[0]
    own = chosen[chosen["direction"] == flip["direction"]]["k"]
    page = " ".join((run.folder / "report.html").read_text().split())
    assert f"of {' or '.join(map(str, sorted(set(own))))} neuron" in page


def test_figures_are_labelled_and_returned(study, model, tmp_path):
    made = [("curves", nt.plot_flips(study.effects)), *figures(saved(study, model, tmp_path))]
    assert len(made) >= 5
    for name, figure in made:
        assert figure.layout.title.text
        assert any(axis.title.text for axis in figure.select_xaxes()), name
    import plotly.io as pio

    assert pio.templates.default == "plotly"  # no global template of ours


def test_plot_pairs_wants_one_intervention(study):
    with pytest.raises(InputError, match="pick one"):
        nt.plot_pairs(study.effects)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["magic"]}, "expected one of gradient"),
        ({"kinds": ["resample"]}, "expected one of patch"),
        ({"ks": [0]}, "expected 1 to 24"),
        ({"ks": [400]}, "expected 1 to 24"),
        ({"split": "family"}, "expected 'group'"),
        ({"methods": []}, "at least one method"),
    ],
)
def test_bad_options_are_named(model, encoded, options, words):
    with pytest.raises(InputError, match=words):
        nt.study(model, encoded, **options)
