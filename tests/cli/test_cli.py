"""The command line as a user meets it: exit codes, one line for a mistake, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import GOOD, neurotrace, neurotrace_process, refused


def test_importing_and_help_load_no_torch():
    code = "import sys, neurotrace, neurotrace.cli.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    done = neurotrace_process("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert neurotrace("--version").stdout.startswith("neurotrace 0.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json\n", ["line 1", "not JSON"]),
        (json.dumps({**GOOD, "reasoned_answer": "3"}) + "\n", ["both answers"]),
        (json.dumps({"id": "a"}) + "\n", ["'family' is missing"]),
        ("", ["no pairs in it"]),
    ],
)
def test_bad_pairs(tmp_path, content, words):
    (tmp_path / "p.jsonl").write_text(content)
    done = neurotrace("run", "--model", "organism", "--probes", "p.jsonl", "--out", "o", cwd=tmp_path)
    refused(done, "p.jsonl", *words)
    assert not (tmp_path / "o").exists()


def test_bad_calls(tmp_path):
    refused(neurotrace("run", "--model", "organism"), "--probes")
    refused(neurotrace_process("nonsense"), "nonsense")
    refused(
        neurotrace("run", "--model", "no/such", "--probes", "inference", "--out", "o", cwd=tmp_path),
        "no/such",
        "organism",
    )
    refused(
        neurotrace("run", "--model", ".", "--probes", "inference", "--out", "o", cwd=tmp_path),
        "config.json",
    )
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    refused(
        neurotrace("run", "--model", "m", "--probes", "inference", "--out", "o", cwd=tmp_path),
        "pickle",
        "safe_serialization",
    )
    (tmp_path / "file").write_text("")
    refused(
        neurotrace("run", "--model", "organism", "--probes", "inference", "--out", "file/x", cwd=tmp_path),
        "can't write",
    )


def test_terminal_escapes_do_not_reach_the_terminal(tmp_path):
    done = neurotrace_process("run", "--model", "organism", "--probes", "\x1b[31mred", "--out", "o")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_interrupted_run_leaves_no_file(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "neurotrace.cli",
            "run",
            "--model",
            "organism",
            "--probes",
            "inference",
            "--out",
            "o",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # a shell in the background ignores the signal, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if (tmp_path / "o").exists():
            break
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    # at most what the same command goes on from; no empty folder
    assert not (tmp_path / "o").exists() or os.listdir(tmp_path / "o") == ["unfinished"]


def test_report_wants_a_run(tmp_path):
    refused(neurotrace("report", str(tmp_path)), "no run in", "manifest.json")


def test_a_slip_in_a_built_in_models_name_is_named_before_the_hub_is_asked():
    import neurotrace as nt
    from neurotrace.core.errors import InputError

    with pytest.raises(InputError, match=r"did you mean the built-in 'organism'"):
        nt.load_model("organsim")
