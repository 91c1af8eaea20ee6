"""The README's program runs and prints what the README says; its first screen leads to a figure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import neurotrace as nt
from neurotrace.core.pairs import pair_record

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def block(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    return found


def run(name: str) -> None:
    """The block as a program of its own: no name of this module is in it."""
    exec(compile(block(name), name, "exec"), {"__name__": "__main__"})


def test_the_program_prints_the_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("program")
    assert capsys.readouterr().out == block("output")
    assert (tmp_path / "flips.html").stat().st_size > 1e6


def test_own_pairs_come_to_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [pair_record(pair) for pair in nt.load_pairs("letters")[:12]]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("own")
    assert "kept; dropped" in capsys.readouterr().out
    assert (tmp_path / "mine.html").stat().st_size > 1e6


def test_the_first_screen_leads_from_clone_to_figure():
    """What it is, how to install, a program and its output come first, and need no other page."""
    headings = re.findall(r"^## (.+)$", README, re.M)
    assert headings[:3] == ["Installation", "Quick example", "How to read the output"]
    start = README[: README.index("<!-- program -->")]
    for word in ("Python 3.10", "git clone", "make demo", "report.html"):
        assert word in start, word
    pages = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", start)
    assert pages == [], "the first screen sends its reader to another page"


def test_files_that_are_named_exist():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (root / target).exists(), target
