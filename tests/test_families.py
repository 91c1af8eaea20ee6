"""Every model family through everything: `families_table.py` is the suite, `docs/families.md` its page."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families_table import examine

PAGE = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")
TODAY = version("transformer-lens") >= "4"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, device, tmp_path):
    row, family = examine(name, tmp_path, device), FAMILIES[name]
    refused = family.refused if TODAY else family.before_4 or family.refused
    if refused:
        assert row.outcome.startswith("refused")
        assert refused in row.outcome
    else:
        assert row.outcome.startswith("works")
        assert (row.path, row.bf16) == (family.path, "yes")
    if TODAY:
        assert str(row) in PAGE.splitlines()
