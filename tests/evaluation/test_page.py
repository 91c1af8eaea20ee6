"""docs/evaluation.md as a user follows it: its files written, its commands run, what they print."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.evaluation
pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")

PAGE = Path(__file__).parent.parent.parent / "docs" / "evaluation.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def run(line: str, cwd: Path) -> str:
    name, *arguments = shlex.split(line)
    bin_folder = Path(sys.executable).parent
    program = [sys.executable] if name == "python" else [str(bin_folder / name)]
    if name == "neurotrace":
        program = [sys.executable, "-m", "neurotrace.cli"]
    done = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(cwd / "cache")},
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (_, installs), *blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert installs.count("pip install") == 2
    compared = 0
    for kind, text in blocks:
        if kind == "yaml":
            (tmp_path / "recalled_letters.yaml").write_text(text)
        elif kind == "python" and "inspect_ai" in text:
            (tmp_path / "task.py").write_text(text)
        elif kind == "python":
            exec(compile(text, PAGE.name, "exec"), {})
        else:
            printed = ""
            for line in text.splitlines():
                if line.startswith("$ "):
                    printed = run(line[2:], tmp_path)
                else:
                    compared += 1
                    assert " ".join(line.split()) in " ".join(printed.split()), printed
    assert compared == 7
    for place, accuracy in (("before", 1.0), ("after", 4 / 180)):
        (file,) = (tmp_path / "out" / place).rglob("results_*.json")
        results = json.loads(file.read_text())
        found = results["results"]["recalled_letters"]["acc,none"]
        assert found == pytest.approx(accuracy)
        assert ("intervention" in results["config"]) == (place == "after")
        (log,) = (tmp_path / "logs" / place).glob("*.json")
        samples = json.loads(log.read_text())["samples"]
        assert len(samples) == 20
        for sample in samples:
            assert ("intervention" in sample["output"]["metadata"]) == (place == "after")
            score = sample["scores"]["trust_score"]
            assert set(score["value"]) == {"p_memory", "margin", "abstain"}
            assert score["metadata"]["margin"] == score["value"]["margin"]
