"""`neurotrace probes` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys

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
    assert (done.returncode, done.stdout) == (0, "letters: ok\n")
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
        "probes",
        "mine",
        "letters",
        "--model",
        "organism",
        "--at-most",
        "5",
        "--out",
        "own.jsonl",
        "--json",
        cwd=tmp_path,
    )
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
    (tmp_path / "t.csv").write_text("clean,corrupted,clean_answer,corrupted_answer\na b,a c, x, y\n")
    wanted = ["probes", "import", "t.csv", "--format", "clean-corrupt", "--out", "o.jsonl"]
    done = neurotrace(*wanted, "--clean", "reasoning", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["memorized_answer"] == " y"
    refused(neurotrace(*wanted, cwd=tmp_path), "--clean memorization")
    refused(neurotrace("probes", "import", "t.csv", "--format", "xml", "--out", "o"), "xml")


def test_import_of_a_table_with_other_columns(tmp_path):
    """A delimiter of its own, a byte-order mark, `007`; the file may stand behind the columns."""
    (tmp_path / "t.csv").write_text("\ufeffprompt;rule;old;new\nrecall 1;think 1;007;08\n")
    names = ["memorization=prompt", "reasoning=rule", "memorized_answer=old", "reasoned_answer=new"]
    fixed = ["--constants", "family=sums", "--constants", "template=plain", "--out", "o.jsonl"]
    done = neurotrace("probes", "import", "--columns", *names, "t.csv", *fixed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["memorized_answer"] == "007"
    call = ["probes", "import", "t.csv", *fixed]
    (tmp_path / "t.csv").write_text("prompt,rule,old,new\nrecall 1,think 1,,08\n")
    bad = neurotrace(*call, "--columns", *names, cwd=tmp_path)
    refused(bad, "t.csv, line 2", "'memorized_answer' is empty")
    refused(neurotrace(*call, "--columns", "prompt", cwd=tmp_path), "expected FIELD=")
    refused(neurotrace(*call, "--format", "mib", cwd=tmp_path), "without --columns")
    refused(neurotrace(*call[:3], "--out", "o", cwd=tmp_path), "no known layout", "--columns")


def test_import_knows_the_layout_and_says_which(tmp_path):
    record = {
        "case_id": 0,
        "prompt": "The mother tongue of Danielle Darrieux is",
        "target_new": "English",
        "subject": "Danielle Darrieux",
        "ground_truth": "French",
    }
    (tmp_path / "e.json").write_text(json.dumps([record]))
    done = neurotrace("probes", "import", "e.json", "--out", "o.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "o.jsonl: 4 pairs, read as easyedit\n"), done.stderr
    (tmp_path / "e.json").write_text(json.dumps([{**record, "ground_truth": ["a", "b"]}]))
    bad = neurotrace("probes", "import", "e.json", "--out", "o.jsonl", cwd=tmp_path)
    refused(bad, "line 1 (record 1)", "--sets first")


def test_a_tokenizers_own_code_is_not_run(tmp_path):
    """Nor is anybody asked on the terminal whether to."""
    row = "clean,corrupted,correct_idx,incorrect_idx\na b,a c,3,4\n"
    (tmp_path / "t.csv").write_text(row)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text("open('it-ran', 'w')\nclass C: pass\n")
    (tmp_path / "evil" / "config.json").write_text('{"model_type": "made-up"}')
    (tmp_path / "evil" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "C", "auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}'
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "neurotrace.cli",
            "probes",
            "import",
            "t.csv",
            "--clean",
            "reasoning",
            "--tokenizer",
            "evil",
            "--out",
            "o.jsonl",
        ],
        input="y\ny\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    refused(done, "tokenizer evil", "can't be loaded")
    assert not list(tmp_path.rglob("it-ran"))


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
