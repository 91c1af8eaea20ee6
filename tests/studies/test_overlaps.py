"""Overlaps: the same ranking is the same, noise is chance, and both have an interval."""

from __future__ import annotations

import math
import random

import pandas as pd
import pytest
import torch
from commands import neurotrace

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.studies.overlap import shared_by_chance
from neurotrace.studies.significance import GroupScores


def grouped(seed: int, donor: str = "reasoning", *, shared: int = 0) -> GroupScores:
    """Noise of 30 groups over 2 × 200 neurons; the first `shared` neurons push by 3 with the donor."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(30, 400, generator=generator)
    value[:, :shared] += -3.0 if donor == "reasoning" else 3.0
    scores = Scores("noise", value.mean(dim=0).view(2, 200), provenance={"donor": donor})
    return GroupScores(scores, value, torch.ones(30))


def test_a_ranking_overlaps_with_itself_and_noise_by_chance():
    table = nt.overlap({"a": grouped(0), "b": grouped(1), "again": grouped(0)}, k=40)
    one = table.set_index(["first", "second"])
    assert one.loc[("a", "again"), "jaccard"] == 1
    assert one.loc[("a", "again"), "p"] < 0.01
    noise = one.loc[("a", "b")]
    assert noise["chance"] == pytest.approx(4 / 76, abs=0.02)
    assert noise["jaccard"] == pytest.approx(noise["chance"], abs=0.06)
    assert noise["p"] > 0.05
    assert noise["low"] <= noise["jaccard"] + 0.05


def test_what_is_shared_is_found_whatever_the_direction():
    table = nt.overlap({"a": grouped(0, shared=20), "b": grouped(1, "memorization", shared=20)}, k=20)
    row = table.iloc[0]
    assert row["shared"] == 20
    assert row["low"] > 0.9
    # chance is matched by layer: all twenty lie in layer 0
    assert row["chance"] == pytest.approx(2 / 38, abs=0.02)


def test_p_is_the_probability_of_sharing_as_many():
    """Against random sets that are drawn, layer by layer; and small where draws could only say 0."""
    first = {3, 5, 7, 20, 21, 22, 23, 40}
    second = {3, 5, 8, 9, 20, 21, 45, 46}
    chances = shared_by_chance(first, second, 20)
    assert chances.sum() == pytest.approx(1)
    generator = random.Random(0)
    counts = [0] * len(chances)
    for _ in range(20_000):
        drawn = {
            20 * layer + place
            for layer in range(3)
            for place in generator.sample(range(20), sum(p // 20 == layer for p in second))
        }
        counts[len(first & drawn)] += 1
    assert [count / 20_000 for count in counts] == pytest.approx(chances.tolist(), abs=0.01)
    row = nt.overlap({"a": grouped(0, shared=20), "b": grouped(1, shared=20)}, k=20).iloc[0]
    assert 0 < row["p"] < 1e-20  # all twenty of a layer of 200
    ways = math.comb(200, 20)
    assert row["p"] == pytest.approx(1 / ways, rel=1e-6)
    assert row["chance"] == pytest.approx(2 / 38, abs=0.01)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="two or more"):
        nt.overlap({"a": grouped(0)}, k=3)
    with pytest.raises(InputError, match="expected 1 to 400"):
        nt.overlap({"a": grouped(0), "b": grouped(1)}, k=401)
    small = Scores("noise", torch.ones(1, 2), provenance={"donor": "reasoning"})
    other = GroupScores(small, torch.ones(3, 2), torch.ones(3))
    with pytest.raises(InputError, match="different models"):
        nt.overlap({"a": grouped(0), "b": other}, k=1)


def test_the_organism_has_one_set_for_both_ways(tmp_path):
    done = neurotrace(
        "overlap",
        "--model",
        "organism",
        "--probes",
        "letters",
        "--max-pairs",
        "40",
        "--k",
        "8",
        "--intervention",
        "patch",
        "--out",
        str(tmp_path / "o.csv"),
    )
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(tmp_path / "o.csv").to_dict("records")
    assert (row["first"], row["second"]) == ("letters: to reasoning", "letters: to memory")
    assert row["jaccard"] == 1.0
    assert row["chance"] < 0.05
    assert 0 < row["p"] < 1e-3  # nor is it rounded to 0, in the file and in the table
    assert done.stdout.split()[-1] not in ("0", "0.0", "0.000")
    assert float(done.stdout.split()[-1]) == pytest.approx(row["p"], rel=0.1)
