"""The laws of invariance and balance on digits. All five seeds: `python -m neurotrace.detectors`."""

from __future__ import annotations

from functools import partial

import pytest

from neurotrace.detectors import proofs
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.proofs import coloured_digits


@pytest.mark.parametrize("copies", [2, pytest.param(8, marks=pytest.mark.nightly)])
def test_generated_environments_do_what_known_ones_do_and_erm_does_not(copies, monkeypatch):
    monkeypatch.setattr(proofs, "coloured_digits", partial(coloured_digits, copies=copies))
    table = proofs.prove_invariance([2], ["erm", "vrex known", "vrex generated"]).set_index("method")
    erm, known, generated = (
        table.loc[name, "reversed_test"] for name in ("erm", "vrex known", "vrex generated")
    )
    assert generated > known - 0.05
    assert min(known, generated) > erm + 0.20
    assert table.loc["grey", "reversed_test"] >= max(known, generated)


def test_generated_environments_are_those_in_which_the_colour_changes_sides():
    train, _ = coloured_digits(3, copies=2)
    found = InvariantDetector(warmup=100, steps=100, rounds=2).fit(train.X, train.y).environments_
    agrees = (train.X[:, 64:].sum(axis=1) > 0) == (train.y == 1)
    rates = sorted(agrees[found == number].mean() for number in (0, 1))
    assert rates[0] < 0.1
    assert rates[1] > 0.9


@pytest.fixture(scope="module")
def balance():
    return proofs.prove_balance([2]).set_index(["with_copy", "method"])


@pytest.mark.parametrize("kind", ["bayesian product", "bayesian mixture"])
def test_noise_gets_little_weight_and_a_copy_counts_once(balance, kind):
    alone, copied = balance.loc[False, kind], balance.loc[True, kind]
    assert alone["noise"] <= 0.05
    assert copied["noise"] <= 0.05
    assert alone["weak"] < alone["strong"]
    assert copied["strong"] + copied["copy"] == pytest.approx(alone["strong"], abs=0.05)
    assert copied["accuracy"] == pytest.approx(alone["accuracy"], abs=0.01)
    assert copied["log_loss"] == pytest.approx(alone["log_loss"], abs=0.01)


def test_weighing_is_better_calibrated_than_a_plain_product(balance):
    at = balance.loc[True]
    assert at.loc["bayesian product", "ece"] < at.loc["plain product", "ece"]
    assert at.loc["bayesian mixture", "ece"] < at.loc["average", "ece"]
    assert at.loc["bayesian product", "log_loss"] < at["log_loss"].drop("bayesian product").min()
