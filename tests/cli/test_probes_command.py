"""`neurotrace probes` as a user meets it."""

from __future__ import annotations

import json

import pytest
from commands import GOOD, neurotrace, refused

from neurotrace.core.records import probe_names


def test_list_show_validate_build(tmp_path):
    done = neurotrace("probes", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(listed) == probe_names()
    assert listed["letters"]["pairs"] == 240
    shown = neurotrace("probes", "show", "letters").stdout
    assert "letters / word-first" in shown
    assert "memorization  'recall " in shown
    done = neurotrace("probes", "validate", "letters")
    assert (done.returncode, done.stdout) == (0, "letters: well\n")
    done = neurotrace("probes", "build", "capitals", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = (tmp_path / "made" / "capitals" / "pairs.jsonl").read_text("utf-8")
    assert json.loads(again.splitlines()[0])["group"] == "Afghanistan"


def test_a_set_of_ones_own_is_checked_as_pairs(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({**GOOD, "memorization": "recall 1+1= "}))
    done = neurotrace("probes", "validate", "p.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "ends with a space" in done.stdout
    refused(neurotrace("probes", "validate"), "--all", "capitals")
    refused(neurotrace("probes", "validate", "letters", "--all"), "--all")
    refused(neurotrace("probes", "validate", "letters", "--write"), "--write goes with --model")
    refused(neurotrace("probes", "build", "nonsense"), "nonsense", "capitals")


def test_mine_writes_pairs_that_run_takes(tmp_path):
    done = neurotrace(
        "probes", "mine", "letters", "--model", "organism", "--at-most", "5", "--out", "own.jsonl",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shares = json.loads(done.stdout)
    assert {row["family"] for row in shares} == {"letters"}
    own = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text("utf-8").splitlines()]
    assert len(own) == 5
    done = neurotrace("probes", "validate", "own.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    refused(
        neurotrace("probes", "mine", "letters", "--model", "organism", "--out", "none/own.jsonl"),
        "no folder",
    )


def test_import(tmp_path):
    (tmp_path / "t.csv").write_text(
        "clean,corrupted,clean_answer,corrupted_answer\na b,a c, x, y\n"
    )
    wanted = ["probes", "import", "t.csv", "--format", "clean-corrupt", "--out", "o.jsonl"]
    done = neurotrace(*wanted, "--clean", "reasoning", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["memorized_answer"] == " y"
    refused(neurotrace(*wanted, cwd=tmp_path), "--clean memorization")
    refused(neurotrace("probes", "import", "t.csv", "--format", "xml", "--out", "o"), "xml")


@pytest.mark.parametrize("chat", ["user", "robot"])
def test_run_renders_chat_only_where_there_is_a_template(tmp_path, chat):
    done = neurotrace(
        "run",
        "--model",
        "organism",
        "--probes",
        "letters",
        "--out",
        "o",
        "--chat",
        chat,
        cwd=tmp_path,
    )
    refused(done, "no chat template" if chat == "user" else "expected user or assistant")
