"""The search for quiet controls decides as if everything were measured. Its flips are random tables."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from neurotrace.core.statistics import share_interval
from neurotrace.interventions.controls import CONTROLS, QUIET, QuietSearch

DRAWS = 6


class Table:
    """Bool[Tensor, "candidate role draw pair"], and which of its cells were asked for."""

    def __init__(self, flips):
        self.flips, self.asked = flips, torch.zeros_like(flips, dtype=torch.long)

    def __call__(self, drawn):
        found = []
        for candidate, role, seeds, pairs in drawn:
            at = (candidate, CONTROLS.index(role), torch.tensor(list(seeds))[:, None], torch.tensor(pairs))
            self.asked[at] += 1
            found.append(self.flips[at])
        return found

    def is_quiet(self, candidate):
        """The rule as docs/flip-rates.md states it."""
        return all(
            share_interval(int(own[:3].sum()), own[:3].numel())[1] <= QUIET
            or float(own.double().mean()) <= QUIET
            for own in self.flips[candidate]
        )

    def loudest(self, candidate):
        return float(self.flips[candidate].double().mean(dim=(1, 2)).max())


@st.composite
def tables(draw, least=1):
    """Candidates whose controls flip some share, more on some pairs than on others."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    candidates, pairs = draw(st.integers(least, 20)), draw(st.integers(1, 40))
    shares = draw(
        st.lists(st.sampled_from([0, 0.02, 0.04, 0.06, 0.2]), min_size=candidates, max_size=candidates)
    )
    uneven = draw(st.sampled_from([0.0, 2.0, 6.0]))
    near = torch.rand(pairs, generator=generator)
    weight = (uneven * near).exp()
    chance = torch.tensor(shares)[:, None, None, None] * weight / weight.mean()
    noise = torch.rand(candidates, len(CONTROLS), DRAWS, pairs, generator=generator)
    misled = draw(st.booleans())  # the order of the pairs may be no help
    return Table(noise < chance), 1 - near if misled else near


@settings(deadline=None, max_examples=150)
@given(tables(), st.data())
def test_what_is_chosen_is_what_measuring_everything_chooses(given_table, data):
    table, near = given_table
    order = data.draw(st.permutations(range(len(table.flips))))
    rates = {each: data.draw(st.integers(0, 20)) / 20 for each in order}
    search = QuietSearch(table, near)
    found = search.first_quiet(order)
    assert found == next((each for each in order if table.is_quiet(each)), None)
    assert not any(table.is_quiet(each) for each in order if each in search.heard and search.too_loud(each))
    if found is None:
        # rates and shares are sums of small fractions: equal ones may differ in the last bit
        best = search.least_loud(rates)
        beyond = {each: rates[each] - table.loudest(each) for each in order}
        assert math.isclose(beyond[best], max(beyond.values()), abs_tol=1e-12)
        assert search.loudest(best) == pytest.approx(table.loudest(best))
    assert table.asked.max() <= 1  # no cell twice


def test_among_equals_the_first_is_least_loud():
    table = Table(torch.ones(3, len(CONTROLS), DRAWS, 8, dtype=torch.bool))
    search = QuietSearch(table, torch.rand(8))
    assert search.first_quiet([2, 0, 1]) is None
    assert search.least_loud({0: 0.9, 1: 0.9, 2: 0.5}) == 0


def test_little_is_measured():
    """Controls of 30 candidates flip the two nearest of 32 pairs: a sixteenth of the pairs shows it.

    The first candidate is measured by itself: its controls are too few rows to be cut.
    """
    flips = torch.zeros(30, len(CONTROLS), DRAWS, 32, dtype=torch.bool)
    flips[..., [5, 20]] = True
    near = torch.zeros(32)
    near[[5, 20]] = 1
    table = Table(flips)
    assert QuietSearch(table, near).first_quiet(range(30)) is None
    assert table.asked.double().mean() == pytest.approx((32 + 29 * 2) / (30 * 32))
    # nearness is unknown, but the first candidate shows which pairs flip
    table = Table(flips)
    assert QuietSearch(table, torch.zeros(32)).first_quiet(range(30)) is None
    assert table.asked[1:].double().mean() == pytest.approx(2 / 32)
    # and where the first is quiet, half of its draws are all that is measured
    table = Table(torch.zeros_like(flips))
    assert QuietSearch(table, near).first_quiet(range(30)) == 0
    assert table.asked.sum() == table.asked[0, :, :3].sum() == 32 * 3 * len(CONTROLS)


def test_the_least_loud_is_found_before_all_are_measured():
    generator = torch.Generator().manual_seed(0)
    flips = torch.rand(20, len(CONTROLS), DRAWS, 32, generator=generator) < 0.3
    table = Table(flips)
    search = QuietSearch(table, torch.rand(32, generator=generator))
    assert search.first_quiet(range(20)) is None
    rates = {each: 1.0 if each == 7 else 0.5 for each in range(20)}
    assert search.least_loud(rates) == 7
    assert table.asked[7].all()
    assert table.asked.double().mean() < 0.25
