"""The parts of generated environments (EDNIL): each does what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spurious import worst

from neurotrace.detectors import invariant
from neurotrace.detectors.environments import EnvironmentHeads
from neurotrace.detectors.invariant import InvariantDetector


@pytest.fixture(scope="module")
def rows():
    """Two ways to divide rows: by a feature that goes with the invariant model's loss, and by one that
    doesn't; the first is the easier to find."""
    generator = torch.Generator().manual_seed(0)
    count = 400
    hard = torch.arange(count) % 2 * 1.0
    y = (torch.rand(count, generator=generator) < 0.5).double()
    side = torch.arange(count) // 2 % 2 * 2.0 - 1
    easy = 2 * hard - 1
    Z = torch.stack([3 * (2 * y - 1) * easy, 2 * (2 * y - 1) * side], dim=1)
    return Z.double(), y, (0.1 + 2 * hard).double(), hard


def divided(rows, preserve, balance=3.0, steps=300):
    Z, y, loss, _ = rows
    heads = EnvironmentHeads(2, 2, temperature=0.2, balance=balance, rate=0.05, seed=0)
    return heads.divide(Z, y, loss, steps=steps, preserve=preserve)


def test_preserving_keeps_the_invariant_models_risk_alike(rows):
    """L_IP: without it the environments are the hard rows and the easy ones."""
    *_, loss, _ = rows
    gaps = []
    for preserve in (0.0, 50.0):
        found = divided(rows, preserve)
        gaps.append(abs(float(loss[found == 0].mean() - loss[found == 1].mean())))
    assert gaps[0] > 1.5
    assert gaps[1] < 0.5


def test_balance_keeps_environments_from_being_labels():
    """L_LI: two heads that see nothing of a row but a constant divide the rows by their labels."""
    y = (torch.arange(400) % 2).double()
    Z = torch.ones(400, 1).double()
    shares = []
    for balance in (0.0, 30.0):
        heads = EnvironmentHeads(1, 2, temperature=0.2, balance=balance, rate=0.05, seed=0)
        heads.divide(Z, y, torch.ones(400).double(), steps=300, preserve=0.0)
        member = heads._log_member(Z, y).exp().detach()
        rates = (y @ member) / member.sum(dim=0)
        shares.append(float((rates[0] - rates[1]).abs()))
    assert shares[0] > 0.9
    assert shares[1] < 0.2


def test_dividing_and_learning_take_turns(monkeypatch):
    """Each round divides anew, by the losses of the model as it stands; the first preserves nothing."""
    calls = []

    class Watched(EnvironmentHeads):
        def divide(self, Z, y, loss, *, steps, preserve):
            found = super().divide(Z, y, loss, steps=steps, preserve=preserve)
            calls.append((preserve, loss.clone(), found))
            return found

    monkeypatch.setattr(invariant, "EnvironmentHeads", Watched)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = np.stack([2 * y - 1 + rng.normal(size=200), rng.normal(size=200)], axis=1)
    InvariantDetector(warmup=20, steps=60, rounds=3, divide_steps=20, preserve=7.0).fit(X, y)
    assert [preserve for preserve, *_ in calls] == [0.0, 7.0, 7.0]
    assert not torch.equal(calls[0][1], calls[1][1])
    assert not torch.equal(calls[1][1], calls[2][1])


def test_each_part_matters_where_spurious_features_outvote_the_invariant_one():
    """Five seeds, the rivals and the published settings: `python tests/benchmarks/invariance.py`."""
    found = {
        method: worst(method, 10)
        for method in ("erm", "generated", "generated, no L_IP", "generated, one alternation")
    }
    assert found["generated"] >= 0.7
    for without in ("erm", "generated, no L_IP", "generated, one alternation"):
        assert found["generated"] >= found[without] + 0.05
