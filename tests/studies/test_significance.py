"""Statistics over groups: held against scipy's and our own other route, and against pure noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import family_model, random_pairs
from planted import PLANTED
from scipy import stats

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.core.statistics import mean_interval
from neurotrace.studies.significance import GroupScores, assess, group_scores


def noise(groups: int = 20, neurons: int = 2000, *, signal: int = 0, sizes: int = 1) -> GroupScores:
    """Standard normal scores of groups; the first `signal` neurons push by -3 on top."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(groups, neurons, generator=generator)
    value[:, :signal] -= 3.0
    size = torch.randint(1, sizes + 1, (groups,), generator=generator).float()
    mean = (size[:, None] * value).sum(dim=0) / size.sum()
    scores = Scores("noise", mean[None], provenance={"donor": "reasoning"})
    return GroupScores(scores, value, size)


def test_noise_is_called_noise():
    found = assess(noise(), k=10)
    p, q = found.columns["p"], found.columns["q"]
    assert float((p < 0.05).float().mean()) == pytest.approx(0.05, abs=0.02)
    assert int((q < 0.05).sum()) == 0
    assert found.provenance["jaccard"] < 0.5
    covered = (found.columns["low"] < 0) & (found.columns["high"] > 0)
    assert (
        float(covered.float().mean()) > 0.88
    )  # a percentile bootstrap of 20 groups is a bit narrow


def test_a_signal_in_noise_is_found_and_comes_out_again():
    found = assess(noise(signal=30), k=30)
    discovered = found.columns["q"][0] < 0.05
    assert discovered[:30].all()
    assert int(discovered[30:].sum()) <= 5
    assert float(found.columns["kept"][0, :30].min()) > 0.95
    assert float(found.columns["kept"].sum()) == pytest.approx(30, abs=1e-2)
    assert found.provenance["jaccard"] > 0.95


def test_p_equals_scipys_sign_flips():
    grouped = noise(groups=8, neurons=12, signal=3)
    p = assess(grouped, k=3).columns["p"][0]
    for place in range(12):
        own = grouped.value[:, place].double().numpy()
        scipys = stats.permutation_test((own,), np.mean, permutation_type="samples")
        assert float(p[place]) == pytest.approx(scipys.pvalue, abs=1e-6)


def test_the_interval_equals_the_other_routes():
    grouped = noise(groups=30, neurons=4, sizes=3)
    found = assess(grouped, k=1, resamples=4000)
    sizes = grouped.sizes.int().tolist()
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    for place in range(4):
        values = [float(grouped.value[group, place]) for group in groups]
        low, high = mean_interval(values, groups, resamples=4000)
        assert float(found.columns["low"][0, place]) == pytest.approx(low, abs=0.04)
        assert float(found.columns["high"][0, place]) == pytest.approx(high, abs=0.04)


@pytest.mark.parametrize(
    "ranker",
    [nt.gradient, nt.two_ended, nt.relp, nt.integrated, nt.direct, nt.log_increase, nt.exact,
     nt.contrast],
    ids=lambda r: r.__name__,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["patch", "set"])
def test_groups_add_up_to_the_ranking_and_the_planted_neuron_is_no_chance(
    model, encoded, ranker, kind
):
    grouped = group_scores(ranker, model, encoded, intervention=kind)
    whole = ranker(model, encoded, intervention=kind)
    assert torch.allclose(grouped.scores.value, whole.value, atol=1e-4)
    assert grouped.scores.provenance["pairs"] == len(encoded)
    found = assess(grouped, k=1)
    place = PLANTED.layer, PLANTED.index
    assert float(found.columns["q"][place]) < 0.02
    assert float(found.columns["kept"][place]) == 1.0
    assert found.columns["low"][place] <= found.value[place] <= found.columns["high"][place]


def test_the_file_keeps_the_columns(model, encoded, tmp_path):
    found = assess(group_scores(nt.gradient, model, encoded), k=2)
    found.save(tmp_path / "scores.safetensors")
    read = Scores.load(tmp_path / "scores.safetensors")
    assert torch.equal(read.columns["q"], found.columns["q"])
    assert read.provenance["jaccard"] == found.provenance["jaccard"]


@pytest.mark.parametrize(
    "ranker", [nt.pearson, nt.random_scores, nt.magnitude, nt.slimming], ids=lambda r: r.__name__
)
def test_what_is_no_mean_over_pairs_is_refused(ranker, tmp_path):
    model = family_model("gpt2", tmp_path)
    encoded = nt.encode(model, random_pairs(4), check=False)
    with pytest.raises(InputError, match="not a mean over pairs"):
        group_scores(ranker, model, encoded, by="template")


def test_too_few_groups_are_refused(model, encoded):
    with pytest.raises(InputError, match="two or more are needed"):
        group_scores(nt.gradient, model, encoded.at([0]))
    with pytest.raises(InputError, match="expected 'group'"):
        group_scores(nt.gradient, model, encoded, by="country")
    grouped = group_scores(nt.contrast, model, encoded, by="template")
    assert len(grouped.sizes) == 2
    with pytest.raises(InputError, match="expected 1 to 48"):
        assess(grouped, k=49)


def test_the_volcano_shows_what_stands_out(model, encoded):
    found = assess(group_scores(nt.gradient, model, encoded), k=1)
    figure = nt.plot_volcano(found)
    chance, real = figure.data
    assert len(chance.x) + len(real.x) == found.n_neurons
    assert str(PLANTED) in list(real.text)
    with pytest.raises(InputError, match="no p-values"):
        nt.plot_volcano(nt.gradient(model, encoded))
