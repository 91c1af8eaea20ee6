"""Verdicts on models whose truth is known: a planted set decides, and where none does, none is found."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TABLES = Path(__file__).parents[2] / "docs" / "tables"


@pytest.fixture
def script(monkeypatch):
    """A script of docs/tables by its name."""
    monkeypatch.syspath_prepend(TABLES)

    def load(name):
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


@pytest.mark.weekly
@pytest.mark.parametrize(("design", "word"), [("planted", "decides"), ("null", "no")])
def test_the_verdict_is_the_truth(script, design, word):
    """A seed that is not in the table."""
    found = script("nulls").measured(design, 9)
    assert (found["accuracy"], found["verdict"]) == (1.0, word)


def test_a_dose_turns_the_stream_as_the_law_says(script):
    ceilings = script("ceilings")
    stream, write = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity
    for dose in (0.1, 1.0, 7.0):
        pushed = stream + dose * stream.norm() / write.norm() * write
        told = ceilings.alignment(cosine(stream, write, dim=0), dose)
        assert float(told) == pytest.approx(float(cosine(pushed, write, dim=0)), abs=1e-5)


def test_the_dose_at_the_bar_lies_between_two_doses(script):
    ceilings = script("ceilings")
    kls = np.linspace(0.0, 13.0, 14)  # the bar of 2 is at the third dose
    assert ceilings.crossing(kls) == pytest.approx(float(ceilings.DOSES[2]))
    assert np.isnan(ceilings.crossing(np.zeros(14)))
    assert ceilings.crossing(np.full(14, 5.0)) == pytest.approx(float(ceilings.DOSES[0]))
