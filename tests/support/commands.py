"""The command line, called as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GOOD = {
    "id": "a", "family": "f", "template": "t", "group": "g", "memorization": "recall 1+1=",
    "reasoning": "think 1+1=", "memorized_answer": "3", "reasoned_answer": "2",
}  # fmt: skip


def neurotrace(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neurotrace.cli", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=300,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("neurotrace: ")
    for word in words:
        assert word in line
