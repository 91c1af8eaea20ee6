"""Every changed bit, missing and foreign file of a folder is named, and readers refuse."""

from __future__ import annotations

import contextlib
import json
import random
import shutil

import pandas as pd
import pytest
from commands import neurotrace, refused, unsealed

import neurotrace as nt
from neurotrace.core import writing
from neurotrace.core.errors import InputError
from neurotrace.core.files import read_seal
from neurotrace.folders.sealing import sealed_json, sealing
from neurotrace.results.trust import prepare_trust, save_trust
from neurotrace.results.verify import remeasure, verify

UNREAD = {"report.html", "trust"}  # by `load_run`, or read and left out with the reason


@pytest.fixture(scope="module")
def study(model, pairs):
    return nt.study(model, pairs, kinds=["patch", "zero"], folds=2, ks=[1, 2], exact_neurons=4)


@pytest.fixture(scope="module")
def made(study, model, trust_study, organism, tmp_path_factory):
    """A run with a trust score inside."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    explorer = nt.explore(model, study.encoded, study, neurons=4, pairs_each=2)
    nt.save_run(study, folder, model=model, probes=["planted"], explorer=explorer)
    save_trust(trust_study, prepare_trust(folder / "trust"), model=organism, probes=["a"])
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_finished_folder_names_every_file(made):
    found = verify(made)
    assert (found.problems, found.files) == ({}, len(files(made)))
    seal = read_seal(made)
    assert {*seal.files, "manifest.json"} == {
        path.relative_to(made).as_posix() for path in files(made) if "trust" not in path.parts
    }
    assert all(of["bytes"] == (made / name).stat().st_size for name, of in seal.files.items())


@pytest.mark.parametrize("flips", [60, pytest.param(600, marks=pytest.mark.nightly)])
def test_every_flipped_bit_is_found(flips, run):
    draw = random.Random(flips)
    every = files(run)
    for turn in range(flips):
        path = every[turn % len(every)] if turn < len(every) else draw.choice(every)
        raw = path.read_bytes()
        bit = draw.randrange(8 * len(raw))
        spoilt = bytearray(raw)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert verify(run).problems == {path: "changed"}, (path, bit)
        if path.relative_to(run).parts[0] not in UNREAD:
            with pytest.raises(InputError, match=path.name):
                nt.load_run(run)
        elif "trust" in path.parts:
            assert path.name in nt.load_run(run).left_out[0] or path.name == "manifest.json"
        path.write_bytes(raw)
    assert not verify(run).problems


def test_missing_and_foreign_files_are_named(run):
    (run / "summary.json").unlink()
    (run / "explorer.json").unlink()
    (run / "interventions" / "zzz.safetensors").write_bytes(b"x")
    (run / "notes.txt").write_text("mine")
    (run / "estimates.parquet").rename(run / "kept")
    (run / "estimates.parquet").symlink_to(run / "kept")
    done = neurotrace("verify", str(run))
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "estimates.parquet: changed",
        "explorer.json: missing",
        "interventions/zzz.safetensors: not listed",
        "kept: not listed",
        "notes.txt: not listed",
        "summary.json: missing",
    ]
    assert "6 files of" in done.stderr


@pytest.mark.parametrize("name", ["explorer.json", "pairs.parquet", "neurons.csv"])
def test_what_is_missing_does_not_read_as_a_run_without_it(name, run):
    (run / name).unlink()
    with pytest.raises(InputError, match=f"{name}: by manifest.json it is missing"):
        nt.load_run(run)
    for words in (["report"], ["compare", str(run)], ["card", "--out", "card.html"]):
        refused(neurotrace(words[0], str(run), *words[1:], cwd=run), name, "missing")


def test_an_intervention_that_the_run_did_not_make_is_refused(run):
    first = min((run / "interventions").iterdir())
    shutil.copy(first, run / "interventions" / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: by manifest\.json it is not listed"):
        nt.load_run(run).interventions()
    with pytest.raises(InputError, match="not listed"):
        nt.Intervention.load(run / "interventions" / "other.safetensors")
    assert nt.Intervention.load(shutil.move(run / "interventions" / "other.safetensors", run.parent))


def test_a_circuit_is_checked_where_it_lies(run, tmp_path):
    path = run / "trust" / "circuit.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # a number; nothing else would notice
    path.write_bytes(raw)
    with pytest.raises(InputError, match="it is changed"):
        nt.Circuit.load(path)
    refused(neurotrace("trust", "--model", "organism", "--circuit", str(path.parent)), "it is changed")
    assert nt.Circuit.load(shutil.copy(path, tmp_path / "alone.safetensors"))  # nothing to hold it against


def test_folders_without_hashes_are_of_an_earlier_version(run, tmp_path):
    unsealed(run)
    assert nt.load_run(run).pairs
    refused(neurotrace("verify", str(run)), "names no hashes")
    refused(neurotrace("verify", str(tmp_path)), "no manifest.json")


def test_the_report_may_be_written_again(run):
    (run / "report.html").write_text("old")
    assert verify(run).problems == {run / "report.html": "changed"}
    assert neurotrace("report", str(run)).returncode == 0
    assert not verify(run).problems


def test_two_commands_share_a_folder(study, model, tmp_path):
    """Detectors made inside a run's folder are listed in its manifest, before and after an overwrite."""
    out = tmp_path / "both"
    other = {"format": "neurotrace.detect/1"}

    def detect():
        with sealing(out, ["detectors.parquet"], other):
            writing.write_atomically(out / "detectors.parquet", writing.noted(pd.DataFrame(), other))

    out.mkdir()
    detect()
    assert read_seal(out).record == other
    nt.save_run(study, out, model=model, probes=["planted"])  # the manifest there is not a run's
    detect()
    nt.save_run(study, out, model=model, probes=["planted"], overwrite=True)
    assert read_seal(out).record["format"] == "neurotrace.run/1"
    assert "detectors.parquet" in read_seal(out).files
    assert not verify(out).problems
    with pytest.raises(InputError, match=r"already holds manifest\.json"):
        nt.save_run(study, out, model=model, probes=["planted"])


def test_no_manifest_while_files_are_written(tmp_path):
    record = {"format": "neurotrace.x/1"}
    with sealing(tmp_path, ["a"], record):
        (tmp_path / "a").write_text("old")
    with contextlib.suppress(KeyboardInterrupt), sealing(tmp_path, ["a"], record):
        (tmp_path / "a").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_effects_are_measured_anew(run, model, organism):
    again = remeasure(model, run, rows=10, seed=1)
    assert (again.rows, again.of, again.answers) == (10, 24, 0)
    assert again.difference < 1e-5
    with pytest.raises(InputError, match="other weights"):
        remeasure(organism, run)
    effects = pd.read_parquet(run / "effects.parquet")
    effects.loc[effects["chosen"] & (effects["role"] == "selected"), "L_after"] += 0.01
    effects.to_parquet(run / "effects.parquet")
    with sealing(run, ["effects.parquet"], read_seal(run).record):  # by somebody who knows how
        pass
    assert not verify(run).problems
    assert remeasure(model, run).difference == pytest.approx(0.01, rel=0.01)


def test_verify_measures_by_the_command_line(planted_folder, tmp_path):
    out = str(tmp_path / "run")
    of = ["--model", str(planted_folder), "--probes", str(planted_folder), "--out", out]
    words = ["--folds", "2", "--intervention", "patch", "--method", "gradient"]
    assert neurotrace("run", *of, *words).returncode == 0
    done = neurotrace("verify", out, "--model", str(planted_folder), "--rows", "5")
    assert done.returncode == 0, done.stderr
    assert "5 of 24 held-out effects" in done.stdout
    refused(neurotrace("verify", out, "--model", str(planted_folder), "--rows", "0"), "--rows 0")
    changed = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(changed)[-2:] == ["files", "seal"]


def test_a_seal_whose_name_is_damaged_is_a_change(tmp_path):
    (tmp_path / "manifest.json").write_bytes(sealed_json({"format": "x"}).replace(b'"seal"', b'"sea,"'))
    assert verify(tmp_path).problems == {tmp_path / "manifest.json": "changed"}


def test_a_sweep_is_verified(planted_folder, tmp_path):
    asked = nt.Sweep(str(planted_folder), (str(planted_folder),), part_rows=100, threads=1)
    out = tmp_path / "sweep"
    nt.sweep(asked, out)
    parts = sorted((out / "parts").iterdir())
    assert verify(out).files == len(parts) + 1
    draw = random.Random(0)
    for path in [*parts, *[out / "manifest.json"] * 30]:
        raw = path.read_bytes()
        spoilt = bytearray(raw)
        bit = draw.randrange(8 * len(raw))
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert verify(out).problems == {path: "changed"}, bit
        path.write_bytes(raw)
    parts[0].unlink()
    (out / "extra").write_text("x")
    assert verify(out).problems == {parts[0]: "missing", out / "extra": "not listed"}
