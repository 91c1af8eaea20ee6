"""Whatever a path or a file is, a reader says so in a line: no traceback, no hang."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import neurotrace as nt
from neurotrace.cli import main as cli
from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json
from neurotrace.probe_sets.importing import import_counterfact
from neurotrace.results.tables import known_truth, read_truth
from neurotrace.sweeps.cells import read_cells
from neurotrace.sweeps.cost import config_from_file

LONG = "x" * 5000  # more than a file's name may have
ONE = ["--model", "organism", "--probes", "letters", "--out", "OUT"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", *ONE[:3], LONG, *ONE[4:]],
        ["run", *ONE[:5], LONG],
        ["run", *ONE, "--neutral", LONG],
        ["run", "--model", LONG, *ONE[2:]],
        ["run", "--model", f"{LONG}.gguf", *ONE[2:]],
        ["rank", "--model", LONG, *ONE[2:]],
        ["rank", *ONE[:5], LONG],
        ["rank", *ONE, "--truth", LONG],
        ["overlap", *ONE[:3], LONG],
        ["overlap", *ONE[:5], LONG],
        ["checkpoints", LONG, *ONE[2:]],
        ["checkpoints", "organism", *ONE[2:5], LONG],
        ["checkpoints", "organism", *ONE[2:5], "."],
        ["detect", *ONE[:5], LONG],
        ["circuit", *ONE[:5], LONG],
        ["trust", *ONE[:2], "--circuit", LONG],
        ["trust", *ONE[:2], "--circuit", ".", LONG],
        ["trust", *ONE[:2], "--circuit", "."],
        ["inject", *ONE[:2], "--out", "OUT", "--facts", LONG],
        ["report", LONG],
        ["report", "."],
        ["plan", "--config", LONG, "--gflops", "1"],
        ["probes", "show", LONG],
        ["probes", "validate", LONG],
        ["probes", "mine", LONG, *ONE[:2], "--out", "OUT"],
        ["probes", "mine", "letters", *ONE[:2], "--out", LONG],
        ["probes", "import", LONG, "--format", "counterfact", "--out", "OUT"],
        ["probes", "import", LONG, "--format", "clean-corrupt", "--clean", "reasoning", "--out", "O"],
        ["sweep", *ONE[:3], LONG, *ONE[4:]],
        ["sweep", *ONE[:5], LONG],
        ["sweep", *ONE[:5], "FILE"],
        ["sweep", "--out", LONG, "--resume"],
        ["sweep", *ONE, "--neurons", LONG],
        ["sweep", *ONE, "--neurons", LONG, "--dry-run"],
        ["sweep", "--model", LONG, *ONE[2:]],
        ["sweep", "--model", LONG, *ONE[2:], "--dry-run"],
        ["sweep", "--model", f"{LONG}.gguf", *ONE[2:], "--dry-run"],
        ["sweep", "--spec", LONG, "--out", "OUT"],
        ["sweep", "--spec", "SPEC", "--out", LONG],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_path_that_can_be_no_file_is_one_line(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    Path("SPEC").write_text("models: [organism]\nprobes: [letters]")
    monkeypatch.setattr(sys, "argv", ["neurotrace", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr().err.strip().splitlines()
    assert end.value.code == 2, said
    assert said[-1].startswith("neurotrace: ")


DEEP, DIGITS = b"[" * 10**5, b'{"a": ' + b"9" * 5000 + b"}"
READERS = {
    "pairs": nt.load_pairs,
    "prompts": nt.load_prompts,
    "explorer": nt.Explorer.load,
    "truth": read_truth,
    "counterfact": import_counterfact,
    "config": config_from_file,
    "cells": read_cells,
}


@pytest.mark.parametrize("raw", [DEEP, DIGITS, b'{"a": "\xff"}', b"", b"\0", b"[[]]", b"{}", b"1"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_such_file_is_refused(read, raw, tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"file\.jsonl"):
        read(path)


@pytest.mark.parametrize("raw", [DEEP, DIGITS, b"[]", b"{}"])
def test_folders_with_such_a_manifest_are_refused(raw, tmp_path):
    (tmp_path / "manifest.json").write_bytes(raw)
    for read in (nt.load_run, nt.open_run):
        with pytest.raises(InputError, match=tmp_path.name):
            read(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    for read in (nt.load_run, nt.open_run):
        with pytest.raises(InputError, match=tmp_path.name):
            read(tmp_path)


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (nt.Circuit.load, "circuit"),
        (nt.load_detector, "detector"),
        (nt.about_detector, "detector"),
        (nt.Scores.load, "scores"),
    ],
)
def test_headers_of_tensors_are_checked(read, kind, tmp_path):
    about = {"format": f"neurotrace.{kind}/1", "class": "LinearDetector"}
    broken = {**about, "memory": 3, "parameters": [], "about": 0, "method": 1, "calibration": {}}
    for header in (
        DEEP.decode(),
        DIGITS.decode(),
        "[]",
        "{}",
        json.dumps(about),
        json.dumps(broken),
    ):
        path = tmp_path / "file.safetensors"
        save_file({"value": np.zeros(2)}, path, metadata={"neurotrace": header})
        if read is nt.about_detector and "class" in header:
            continue
        with pytest.raises(InputError, match=r"file\.safetensors"):
            read(path)


def test_a_model_with_a_name_that_is_too_long_has_no_known_truth():
    assert known_truth(LONG) == ()


def test_a_device_is_no_file():
    """/dev/zero has no end: a read of it took all memory. /dev/null, which has one, is such a file, too."""
    with pytest.raises(InputError, match="can't be read \\(a device, expected a regular file"):
        read_json("/dev/null")
