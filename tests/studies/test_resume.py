"""Long work that is cut goes on from what is finished, to the same bits; another call is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace

import pandas as pd
import pytest
from commands import neurotrace, refused

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.folders.units import Units
from neurotrace.locating.families import decided_families
from neurotrace.results.verify import verify

UNTIMED = {"report.html", "manifest.json"}  # they hold the time of the call


class Cut(Units):
    """Ends as by a signal when so many units have been made."""

    def __init__(self, folder, after, **options):
        super().__init__(folder, **options)
        self.after, self.made = after, 0

    def once(self, name, form, make):
        def counted():
            if self.made == self.after:
                raise KeyboardInterrupt
            self.made += 1
            return make()

        return super().once(name, form, counted)


def cut_and_resumed(call, folder, most=99):
    """The result of a call that is cut after each unit, and the number of units."""
    for times in range(most):
        with contextlib.suppress(KeyboardInterrupt):
            return call(Cut(folder, 1)), times + 1
    raise AssertionError("it does not end")


def bits(folder):
    """Path -> SHA-256, of what holds no time."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in UNTIMED
    }


SMALL = {"kinds": ["patch", "zero"], "folds": 2, "ks": [1, 2], "exact_neurons": 2}


def two_families(pairs):
    half = len(pairs) // 2
    return [*pairs[:half], *(replace(pair, family="other") for pair in pairs[half:])]


@pytest.mark.parametrize("asked", [False, True])
def test_a_study_goes_on_to_the_same_bits(asked, model, pairs, tmp_path):
    both = two_families(pairs)
    given = nt.encode(model, both) if asked else both
    study = nt.study(model, given, **SMALL)
    found, units = cut_and_resumed(
        lambda kept: nt.study(model, given, units=kept, **SMALL), tmp_path / "cut"
    )
    assert units == 4  # families × directions
    assert (repr(found.flips), repr(found.examples)) == (repr(study.flips), repr(study.examples))
    nt.save_run(study, tmp_path / "whole", model=model, probes=["planted"])
    nt.save_run(found, tmp_path / "cut", model=model, probes=["planted"])
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    assert not (tmp_path / "cut" / "unfinished").exists()
    assert not verify(tmp_path / "cut").problems


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "settings.seed: was 0, is 1"),
        ({"folds": 3}, "settings.folds: was 2, is 3"),
        ({"neutral": ["the sum"]}, "settings.neutral"),
        ({"exact_neurons": 3}, r"exact: was \[2, 4\], is \[3, 4\]"),
    ],
)
def test_another_study_is_refused_by_name(change, named, model, pairs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        nt.study(model, pairs, units=Cut(tmp_path, 1), **SMALL)
    with pytest.raises(InputError, match=named):
        nt.study(model, pairs, units=Units(tmp_path), **SMALL | change)


def test_another_model_other_pairs_and_another_command_are_refused(model, organism, pairs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        nt.study(model, pairs, units=Cut(tmp_path, 1), **SMALL)
    with pytest.raises(InputError, match="pairs_sha256: was"):
        nt.study(model, pairs[:-1], units=Units(tmp_path), **SMALL)
    with pytest.raises(InputError, match=r"model\.name: was 'planted', is 'organism'"):
        nt.study(organism, nt.load_pairs("arithmetic")[:20], units=Units(tmp_path), **SMALL)
    with pytest.raises(InputError, match="command: was 'study', is 'compare'"):
        nt.compare(model, pairs, ["gradient"], units=Units(tmp_path))
    weights = next(iter(model.parameters()))
    before = weights.data.clone()
    weights.data += 1e-3
    try:
        with pytest.raises(InputError, match=r"weights_sha256: was"):
            nt.study(model, pairs, units=Units(tmp_path), **SMALL)
    finally:
        weights.data.copy_(before)


def test_a_comparison_goes_on_to_the_same_tables(model, pairs, tmp_path):
    asked = ["gradient", "gradient:mean", "contrast", "exact"]
    options = {"ks": [1, 2], "exact_neurons": 20, "curve_pairs": 2}
    whole = nt.compare(model, pairs, asked, **options)
    found, units = cut_and_resumed(
        lambda kept: nt.compare(model, pairs, asked, units=kept, **options), tmp_path
    )
    assert units == 4 + len(asked) + 1  # exact effects, rankers, flips
    for name in ("rankers", "flips", "curves"):
        one, other = (getattr(x, name).drop(columns="seconds", errors="ignore") for x in (whole, found))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert list(whole.scores) == list(found.scores)
    for key, scores in whole.scores.items():
        pd.testing.assert_frame_equal(scores.to_frame(), found.scores[key].to_frame(), check_exact=True)


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_decides_goes_on_to_the_same_rows(everywhere, model, pairs, tmp_path):
    both = nt.encode(model, two_families(pairs))
    how = {"heads": 1, "places": 2, "everywhere": everywhere}
    whole = list(decided_families(model, both, **how))

    def call(kept):
        kept.begin({"command": "locate"})
        return list(decided_families(model, both, units=kept, **how))

    found, units = cut_and_resumed(call, tmp_path)
    assert units == 2
    for (name, located, decided), (other, again, rows) in zip(whole, found, strict=True):
        assert name == other
        pd.testing.assert_frame_equal(decided, rows, check_exact=True)
        for one, two in zip(located, again, strict=True):
            pd.testing.assert_frame_equal(one.table, two.table, check_exact=True)
            assert (one.donor, one.model, one.texts) == (two.donor, two.model, two.texts)


@pytest.mark.parametrize("command", ["run", "run all", "rank"])
def test_the_same_command_goes_on(command, planted_folder, tmp_path, monkeypatch):
    of = ["--model", str(planted_folder), "--probes", str(planted_folder)]
    few = {
        "run": ["--folds", "2", "--intervention", "patch", "--method", "gradient"],
        "run all": ["--folds", "2", "--intervention", "patch", "--method", "gradient", "--units", "all"],
        "rank": ["--methods", "gradient,random"],
    }[command]
    cuts = {"run": 1, "run all": 2, "rank": 2}[command]
    command = command.split()[0]
    whole = neurotrace(command, *of, *few, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "cut"
    call = [command, *of, *few, "--out", str(out)]
    once = Units.once
    for _ in range(cuts):
        with monkeypatch.context() as patch:
            made = []

            def one_more(self, name, form, make, made=made):
                if made:
                    raise KeyboardInterrupt
                return once(self, name, form, lambda: made.append(name) or make())

            patch.setattr(Units, "once", one_more)
            done = neurotrace(*call)
            assert done.returncode == 130, done.stderr
            assert "run the same command again, it goes on" in done.stderr
    kept = [path for path in (out / "unfinished").iterdir() if path.is_dir()]
    assert len(kept) == cuts
    refused(neurotrace(*call, "--seed", "7"), "unfinished work of another call", "seed: was 0, is 7")
    refused(neurotrace("verify", str(out)), "no manifest.json")
    done = neurotrace(*call)
    assert done.returncode == 0, done.stderr
    assert os.listdir(out).count("unfinished") == 0
    timed = {"rankers.parquet", "rankers.csv", "scores.parquet", "flips.parquet", "curves.parquet"}
    drop = timed if command == "rank" else set()  # their notes hold the command line
    assert {n: h for n, h in bits(out).items() if n not in drop} == {
        n: h for n, h in bits(tmp_path / "whole").items() if n not in drop
    }
    refused(neurotrace(*call), "already holds", "--overwrite")


def test_a_failed_call_leaves_no_empty_folder(tmp_path):
    out = tmp_path / "new" / "run"
    words = ["--probes", "arithmetic", "--out", str(out)]
    refused(neurotrace("run", "--model", str(tmp_path / "no"), *words))
    assert not out.parent.exists()
    out.mkdir(parents=True)
    refused(neurotrace("run", "--model", str(tmp_path / "no"), *words))
    assert out.exists()  # it was there


def test_a_trust_study_goes_on_to_the_same_tables(organism, tmp_path):
    prompts = [p for name in ("arithmetic", "inference") for p in nt.load_prompts(name)[:120]]
    whole = nt.trust_study(organism, prompts, k=4, off="zero")
    found, units = cut_and_resumed(
        lambda kept: nt.trust_study(organism, prompts, k=4, off="zero", units=kept), tmp_path
    )
    assert units > 4  # slopes, and cells of either half
    for name in ("outcomes", "choices", "signals", "scores", "failures", "coverage"):
        one, other = (getattr(each, name) for each in (whole, found))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert repr(found.summary) == repr(whole.summary)
    found.circuit.save(tmp_path / "a.safetensors")
    whole.circuit.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(InputError, match="k: was 4, is 5"):
        nt.trust_study(organism, prompts, k=5, off="zero", units=Units(tmp_path))


@pytest.mark.parametrize(("most", "answers"), [(None, "first"), (None, "whole"), (60, "first")])
def test_mining_goes_on_to_the_same_pairs(most, answers, organism, tmp_path):
    from neurotrace.probe_sets.mining import _ENCODED

    candidates = [pair for name in ("arithmetic", "letters") for pair in nt.load_pairs(name)][:700]
    options = {"max_pairs": most, "answers": answers}
    whole = nt.mine_pairs(organism, candidates, **options)
    found, units = cut_and_resumed(
        lambda kept: nt.mine_pairs(organism, candidates, units=kept, **options), tmp_path
    )
    assert units == (-(-len(candidates) // 256) if most is None else 2)  # with `most`, 64 of each family
    assert (found.pairs, found.dropped) == (whole.pairs, whole.dropped)
    assert found.encoded.answers == whole.encoded.answers
    assert (found.encoded.answers is None) == (answers == "first")
    for each, name in ((whole, "a"), (found, "b")):
        (tmp_path / name).mkdir()
        _ENCODED.save(each.encoded, tmp_path / name)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")


def test_checkpoints_go_on_to_the_same_table(tmp_path):
    import shutil

    from neurotrace import organism

    checkpoints = [shutil.copytree(organism.folder("organism"), tmp_path / name) for name in ("a", "b")]
    pairs = nt.load_pairs("letters")[:40]
    whole = nt.timeline(checkpoints, pairs, k=4)
    found, units = cut_and_resumed(
        lambda kept: nt.timeline(checkpoints, pairs, k=4, units=kept), tmp_path / "out"
    )
    assert units == 2
    pd.testing.assert_frame_equal(found, whole, check_exact=True)


def test_detectors_go_on_to_the_same_table(tmp_path):
    import numpy as np

    from neurotrace.detectors.transfer import Task, transfer
    from neurotrace.folders.units import JSON

    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    unit = np.repeat(["a", "b"], 40)
    view = rng.normal(size=(80, 3)) + y[:, None]
    groups = np.array([f"g{number // 2}" for number in range(80)])
    texts = [f"word{number % 7} {label}" for number, label in enumerate(y)]
    views = {"neurons": view, "length": view[:, :1]}
    task = Task(views, y, unit, unit, groups, texts, None, (), 64)
    whole = transfer(task, folds=2)

    def call(kept):
        kept.begin({})
        return transfer(task, folds=2, once=lambda name, make: kept.once(name, JSON, make))

    found, units = cut_and_resumed(call, tmp_path)
    assert units == 8  # folds × tasks × (alone, all others)
    for one, other in zip(whole, found, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_mine_goes_on_and_leaves_nothing(tmp_path, monkeypatch):
    call = ["probes", "mine", "arithmetic", "--model", "organism", "--out", str(tmp_path / "p.jsonl")]
    once = Units.once
    with monkeypatch.context() as patch:

        def and_stop(self, name, form, make):
            once(self, name, form, make)
            raise KeyboardInterrupt

        patch.setattr(Units, "once", and_stop)
        assert neurotrace(*call).returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl.unfinished"]
    done = neurotrace(*call, "--at-most", "5")
    refused(done, "max_pairs: was None, is 5")
    assert neurotrace(*call).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
