"""The README's program runs and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def block(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    return found


def test_the_program_prints_the_output(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block("program")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block("output")
    assert (tmp_path / "flips.html").stat().st_size > 1e6


def test_files_that_are_named_exist():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (root / target).exists(), target
