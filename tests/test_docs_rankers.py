"""docs/rankers.md and docs/paper.md show what their tables say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    ("name", "shown"), [("summary", "rankers"), ("when", "rankers"), ("paper", "paper")]
)
def test_the_page_holds_the_tables_as_they_are_printed(name, shown):
    script = DOCS / "tables" / f"{name}.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    page = (DOCS / f"{shown}.md").read_text("utf-8")
    tables = [part for part in printed.stdout.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 4
    for table in tables:
        assert table.strip() in page
