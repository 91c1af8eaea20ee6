"""Every model family through everything: `families_table.py` is the suite, `docs/families.md` its page."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families_table import Row, examine, page

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
TODAY = version("transformer-lens") >= "4"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


# One of each engine path and kind of block, and every refusal; the rest is nightly. `test_suffix.py` holds
# the engine on all of them.
DAILY = (
    "gpt2",
    "neox",
    "gptj",
    "opt_post_norm",
    "llama",
    "gemma2",
    "phi",
    "cohere2",
    "youtu",
    "qwen3_5",
    "bamba",
)
NAMES = [
    name if name in DAILY or family.refused else pytest.param(name, marks=pytest.mark.nightly)
    for name, family in FAMILIES.items()
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_family(name, device, tmp_path):
    row, family = examine(name, tmp_path, device), FAMILIES[name]
    refused = family.refused if TODAY else family.before_4 or family.refused
    if refused:
        assert row.outcome.startswith("refused")
        assert refused in row.outcome
    else:
        assert row.outcome.startswith("works")
        assert row.path == family.path
        assert row.bf16 == "yes" or (name == "jamba" and row.bf16.startswith("loads"))
    if TODAY:
        assert str(row) in PAGE.splitlines()


@pytest.mark.skipif(not TODAY, reason="the page names today's versions")
def test_the_page_is_what_its_command_writes():
    """Given its rows, which `test_family` holds: the counts, and what 3.9 refuses, too."""
    lines = [line[2:-2].split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [Row(name, kind.strip("`"), *more) for name, kind, *more in lines[1:]]
    assert [row.family for row in rows] == list(FAMILIES)
    assert page(rows) == PAGE
