"""The pairs of a command, asked."""

from __future__ import annotations

import pytest

import neurotrace as nt
from neurotrace.cli.asked import behaving
from neurotrace.engine.kept import Kept
from neurotrace.models.origins import engine_of


@pytest.mark.parametrize("at_most", [0, 10])
def test_what_prompts_begin_with_in_common_is_run_once(organism, monkeypatch, at_most):
    pairs = nt.load_pairs("letters")[:24]
    kept = []
    last_logits = Kept.last_logits
    monkeypatch.setattr(
        Kept, "last_logits", lambda self, ids: kept.append(len(ids)) or last_logits(self, ids)
    )
    found = behaving(organism, pairs, "organism", at_most, 0)
    assert sum(kept) == 2 * len(pairs)
    assert engine_of(organism).kept is None  # the runs are let go
    plain = nt.encode(organism, found.pairs)
    assert len(found) == (at_most or 24)
    assert (
        found.on_memorization.logit_difference - plain.on_memorization.logit_difference
    ).abs().max() < 1e-4
