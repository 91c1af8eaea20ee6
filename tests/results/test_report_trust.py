"""Trust and detectors in the report: shown where they are of the run's model, words from their tables."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from commands import neurotrace, refused, unsealed

import neurotrace as nt
from neurotrace.cli import main as cli
from neurotrace.core import writing
from neurotrace.core.errors import InputError
from neurotrace.locating.deciding import in_words
from neurotrace.results.report_sections import trust_section
from neurotrace.results.trust import FILES, prepare_trust, read_trust, save_trust

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def judged(trust_study):
    return trust_study


@pytest.fixture(scope="module")
def made(organism, trust_study, tmp_path_factory):
    """A run of the organism with its trust score inside."""
    folder = tmp_path_factory.mktemp("run")
    pairs = nt.load_pairs("arithmetic")[:20]
    study = nt.study(organism, pairs, kinds=["patch"], folds=2, ks=[8], exact_neurons=0)
    trust = prepare_trust(folder / "trust")
    save_trust(trust_study, trust, model=organism, probes=["a"], command="x")
    nt.save_run(study, folder, model=organism, probes=["arithmetic"])
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy to spoil."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def told(page: str) -> str:
    """The section on trust, without its figures."""
    section = page[page.index('id="trust"') : page.index("Every intervention")]
    return re.sub(r"<script.*?</script>|<[^>]+>", " ", section, flags=re.S)


def test_the_report_says_what_the_study_found(made, judged):
    page = (made / "report.html").read_text()
    text = " ".join(told(page).split())
    said = judged.summary
    assert 'href="#trust"' in page
    assert f"{100 * said['ece']:.1f} points off (ECE)" in text
    assert all(f"on unseen {kind}" in text for kind in ("items", "templates", "families"))
    assert f"abstains on {said['abstains']:.1%}" in text
    assert f"tested on {said['held_out']} prompts of the other" in text
    for name in ("Reliability of the probabilities", "Risk against coverage"):
        assert f'data-name="{name}"' in page
    # the organism has few ways to differ, and inference names one answer in the prompt
    assert "“all neurons”" in text
    assert "In inference string matching suffices" in text
    assert page.count('id="plotly"') == 1
    again = nt.load_run(made)
    assert nt.write_report(again) == page
    assert again.left_out == ()


def test_the_terminal_shows_the_rivals_that_matter(judged, tmp_path, capsys):
    from neurotrace.cli.circuit import _show

    _show(judged, tmp_path)
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if line.startswith((" items", "items"))]
    mean = judged.signals[(judged.signals["of"] == "mean") & (judged.signals["unseen"] == "items")]
    rivals = mean[~mean["signal"].isin(("causal margin", "memory fall alone", "reasoning fall alone"))]
    best = rivals.sort_values("auroc").iloc[-1]
    assert len(rows) == 6  # the margin, the combined score, random neurons, three rivals: a line each
    assert any("combined score" in row for row in rows)
    assert any("causal margin" in row for row in rows)
    assert any("random neurons" in row for row in rows)
    assert any(f"{best['auroc']:.3f}" in row for row in rows)
    assert f"ECE {judged.summary['ece']:.3f}" in told


def test_caveats_follow_the_tables(made):
    trust = read_trust(made / "trust")
    signals = trust.signals
    worse = signals.assign(auroc=signals["auroc"].where(signals["signal"] == "causal margin", 0.6))
    found = trust_section(replace(trust, signals=worse))
    assert not any("correlation suffices" in caveat for caveat in found["caveats"])
    assert not any("string matching" in caveat for caveat in found["caveats"])
    assert any(
        "Random neurons" in caveat
        for caveat in trust_section(replace(trust, signals=signals.assign(auroc_lo=0.55)))["caveats"]
    )
    # a circuit of random neurons that ranks the wrong way round tells as well
    drawn = signals["signal"] == "random neurons, same layers"
    assert not any("random neurons" in caveat.lower() for caveat in trust_section(trust)["caveats"])
    told = signals.assign(auroc_lo=signals["auroc_lo"].where(~drawn, 0.01))
    assert any(
        caveat == "Random neurons of the same layers predict, too, on unseen items: AUROC up to 0.99."
        for caveat in trust_section(replace(trust, signals=told))["caveats"]
    )
    p = trust.circuit.calibration.p_memory(np.zeros((1, 2)))[0]
    assert abs(p - 0.5) > 0.1
    zero = f"at a margin of 0, the score is {p:.1%}"
    assert not any("margin of 0" in caveat for caveat in trust_section(trust)["caveats"])
    blind = replace(trust.circuit, calibration=replace(trust.circuit.calibration, least=0.0))
    assert any(zero in caveat for caveat in trust_section(replace(trust, circuit=blind))["caveats"])
    few = trust.scores.head(40).assign(survived=1.0)
    assert any(
        "too few for a reliable rate" in each
        for each in trust_section(replace(trust, scores=few))["caveats"]
    )
    none = replace(
        trust, scores=trust.scores.assign(survived=float("nan")), coverage=trust.coverage.head(0)
    )
    found = trust_section(none)
    assert found["kept_half"] is None
    assert any("No prompt has a changed version" in caveat for caveat in found["caveats"])
    assert len(found["figures"]) == 1 + signals["unseen"].nunique()  # none of coverage


def test_what_is_of_another_model_is_left_out_and_named(run, model, judged):
    page = (run / "report.html").read_text()
    shutil.rmtree(run / "trust")
    save_trust(judged, prepare_trust(run / "trust"), model=model, probes=[], command="")
    found = nt.load_run(run)
    assert found.trust is None
    assert "is of planted, the run is of organism" in found.left_out[0]
    again = nt.write_report(found)
    assert 'id="trust"' in page
    assert 'id="trust"' not in again
    assert "Not shown: " in again
    manifest = json.loads((unsealed(run / "trust") / "manifest.json").read_text())
    manifest["model"] = "organism"  # the name alone is no proof
    (run / "trust" / "manifest.json").write_text(json.dumps(manifest))
    assert "of other weights than organism's" in nt.load_run(run).left_out[0]


@pytest.mark.parametrize("name", ["signals.parquet", "circuit.safetensors", "summary.json"])
@pytest.mark.parametrize("raw", [b"", b"PAR1", b"{}"])
def test_a_part_of_it_is_left_out(run, name, raw):
    (run / "trust" / name).write_bytes(raw)
    (reason,) = nt.load_run(run).left_out
    assert name in reason


def test_columns_are_checked(run):
    table = pd.read_parquet(unsealed(run / "trust") / "signals.parquet")
    table.assign(auroc="high").to_parquet(run / "trust" / "signals.parquet")
    assert "expected the column 'auroc'" in nt.load_run(run).left_out[0]


def test_names_are_text_in_the_section(run):
    path = unsealed(run / "trust") / "signals.parquet"
    table = pd.read_parquet(path)
    for name in ("signal", "of"):
        evil = table[name].replace({"all neurons": f"all {EVIL}", "inference": EVIL})
        table[name] = evil
    table.to_parquet(path)
    page = nt.write_report(nt.load_run(run))
    assert "&lt;script&gt;alert" in told(page)
    assert EVIL not in page
    figures = nt.plot_signals(table).to_json().replace("\\u003c", "<").replace("\\u003e", ">")
    assert EVIL not in figures


def test_a_circuit_does_not_replace_a_runs_files(run, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    words = ["neurotrace", "circuit", "--model", "organism", "--probes", "arithmetic", "--out"]
    monkeypatch.setattr(sys, "argv", [*words, str(run)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert f"--out {run / 'trust'} say" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    prepare_trust(run / "trust")  # its own may be replaced


def test_nor_a_detectors_circuit(tmp_path):
    (tmp_path / "circuit.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds the circuit\.safetensors of something else"):
        prepare_trust(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing_that_reads(
    made, judged, organism, tmp_path, monkeypatch
):
    shutil.copytree(made / "trust", tmp_path / "trust")
    real, written = os.replace, []

    def full(source, target):
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(target)
        real(source, target)

    monkeypatch.setattr(writing.os, "replace", full)
    folder = prepare_trust(tmp_path / "trust")
    written.clear()
    with pytest.raises(InputError, match="No space left"):
        save_trust(judged, folder, model=organism, probes=[])
    assert len(os.listdir(folder)) == 4  # no half-written one
    with pytest.raises(InputError):
        read_trust(folder)
    monkeypatch.setattr(writing.os, "replace", real)
    save_trust(judged, prepare_trust(folder), model=organism, probes=[])
    assert set(os.listdir(folder)) == set(FILES)


def test_hover_shows_the_prompts(made, tmp_path):
    from neurotrace.results.report import figures

    run = nt.load_run(made)
    assert len(run.pairs) == run.summary["pairs"]["kept"]
    (name, figure), *_ = figures(run)
    hover = figure.data[-1].text[0]
    assert "single pairs" in name
    assert "recall" in hover
    assert "think" in hover
    evil = tuple(replace(pair, memorization=EVIL) for pair in run.pairs)
    (_, figure), *_ = figures(replace(run, pairs=evil))
    assert "&lt;script" in figure.data[-1].text[0]
    assert "<script" not in figure.data[-1].text[0]
    shutil.copytree(made, tmp_path / "old")  # a run of an earlier version
    (unsealed(tmp_path / "old") / "pairs.parquet").unlink()
    assert nt.load_run(tmp_path / "old").pairs == ()


def test_a_family_says_which_units_decide_it(run):
    """`neurotrace locate` into the run's folder, and the report of it."""
    words = ("locate", "--model", "organism", "--probes", "arithmetic", "--at-most", "24", "--heads", "1")
    done = neurotrace(*words, "--places", "2", "--out", str(run))
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("arithmetic: "))
    assert "decided by" in said
    page = nt.write_report(nt.load_run(run))
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert f"Of all kinds of unit , it is {said.removeprefix('arithmetic: ')[:40]}" in text
    assert {"neurons", "heads", "direction"} == set(nt.load_run(run).decided["unit"])
    assert neurotrace("verify", str(run)).returncode == 0


def test_a_run_of_all_units_opens_with_what_decides(tmp_path):
    call = ("run", "--model", "organism", "--probes", "arithmetic", "--at-most", "20", "--folds", "2")
    done = neurotrace(*call, "--units", "all", "--out", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("arithmetic: "))
    found = nt.load_run(tmp_path / "all")
    assert set(found.decided["unit"]) == {"neurons", "heads", "direction"}
    chosen = found.decided[found.decided["change"] != ""].to_dict("records")
    assert [row["answers_to_memory"] for row in chosen] == [
        flip["answers"] for flip in found.selected() if flip["direction"] == "to_memorization"
    ]
    assert said == f"arithmetic: {in_words(found.decided)}"
    text = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "all" / "report.html").read_text()).split())
    assert f"Of all kinds of unit , it is {said.removeprefix('arithmetic: ')[:40]}" in text
    assert neurotrace("verify", str(tmp_path / "all")).returncode == 0
    no = str(tmp_path / "no")
    refused(neurotrace(*call, "--units", "heads", "--out", no), "--units heads: expected neurons or all")
    assert not (tmp_path / "no").exists()
