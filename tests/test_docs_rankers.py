"""docs/rankers.md and docs/paper.md show what their tables say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("summary", "rankers"),
        ("when", "rankers"),
        ("paper", "paper"),
        ("rephrased", "paper"),
        ("claims", "replicate"),
        ("ceilings", "rankers"),
        ("nulls", "replicate"),
        ("deciding", "thirteen-families"),
        ("models", "models"),
    ],
)
def test_the_page_holds_the_tables_as_they_are_printed(name, shown, capsys, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "tables")  # where a script's own folder is
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(DOCS / "tables" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    page = (DOCS / f"{shown}.md").read_text("utf-8")
    tables = [part for part in printed.split("\n\n") if part.startswith("|")]
    fewest = {"claims": 2, "ceilings": 1, "nulls": 1, "deciding": 1, "models": 2, "paper": 2}
    assert len(tables) >= fewest.get(name, 4)
    for table in tables:
        assert table.strip() in page
