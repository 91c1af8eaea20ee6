"""Statistics over groups: held against scipy's and our own other route, and against pure noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import family_model, random_pairs
from planted import PLANTED
from scipy import stats

import neurotrace as nt
from neurotrace.core import statistics
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.core.statistics import (
    _saddlepoint,
    mean_interval,
    sign_choices,
    sign_flip_p,
    sign_flip_tail,
)
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
    assert float(covered.float().mean()) > 0.88  # a percentile bootstrap of 20 groups is a bit narrow


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


def study_of(mean: torch.Tensor, groups: int, *, neurons: int, seed: int) -> Scores:
    """Assessed scores of noise; the first neurons' means are `mean` times their standard error."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(groups, neurons, generator=generator)
    own = value[:, : len(mean)]
    own = (own - own.mean(dim=0)) / own.std(dim=0)
    value[:, : len(mean)] = own + mean / groups**0.5
    scores = Scores("noise", value.mean(dim=0)[None], provenance={"donor": "reasoning"})
    return assess(GroupScores(scores, value, torch.ones(groups)), k=8, resamples=20)


def test_eight_of_8192_neurons_at_six_standard_errors_are_found():
    found = study_of(torch.full((8,), 6.0), 20, neurons=8192, seed=0)
    for name in ("p_family", "q"):
        below = found.columns[name][0] <= 0.05
        assert below[:8].all()
        assert int(below[8:].sum()) <= 1
    assert float(found.columns["p"][0, :8].max()) < 5e-5  # 9,999 flips alone end at 1e-4


@pytest.mark.parametrize("neurons", [2048, pytest.param(8192, marks=pytest.mark.nightly)])
def test_of_noise_little_is_called_a_finding(neurons):
    generator = torch.Generator().manual_seed(0)
    groups = 20
    signs = sign_choices(groups, 999, seed=1)
    rejected = discovered = 0
    for _ in range(30):
        # half of the neurons in blocks of eight that move together, and of very unlike sizes
        own = torch.randn(groups, neurons, generator=generator)
        own[:, : neurons // 2] += own[:, -neurons // 16 :].repeat(1, 8)
        own *= torch.rand(neurons, generator=generator) ** 3
        p, p_family = sign_flip_p(own, signs)
        rejected += bool((p_family <= 0.05).any())
        discovered += bool((stats.false_discovery_control(p.numpy()) <= 0.05).any())
    # where nothing is real the false discovery rate is the family-wise error: 1.5 expected, sd 1.2
    assert rejected <= 5
    assert discovered <= 5


def test_the_family_wise_error_is_not_far_below_its_level():
    generator = torch.Generator().manual_seed(1)
    signs = sign_choices(20, 199, seed=1)
    rejected = sum(
        bool((sign_flip_p(torch.randn(20, 100, generator=generator), signs)[1] <= 0.1).any())
        for _ in range(400)
    )
    assert 0.06 < rejected / 400 < 0.14


def test_the_step_down_equals_its_definition(monkeypatch):
    monkeypatch.setattr(statistics, "_AT_ONCE", 256)  # two columns at once
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(7, 5, generator=generator).double()
    values[:, 2] += 2
    signs = sign_choices(7, 9999)
    assert signs.unique(dim=0).shape == (2**7, 7)
    _, p_family = sign_flip_p(values.float(), signs)
    sums = (signs.double() @ values).abs()
    own, order = sums[0], sums[0].argsort(descending=True).tolist()
    expected, before = {}, 0.0
    for place, test in enumerate(order):
        largest = sums[:, order[place:]].amax(dim=1)
        before = max(before, float((largest >= own[test] - 1e-4).double().mean()))
        expected[test] = before
    assert p_family.tolist() == pytest.approx([expected[test] for test in range(5)], abs=1e-6)


@pytest.mark.parametrize("groups", [13, 14, 19])
def test_the_tail_equals_all_choices_of_signs(groups):
    generator = torch.Generator().manual_seed(groups)
    values = torch.randn(groups, 40, generator=generator) + torch.linspace(0, 2, 40)
    every = torch.arange(2**groups)[:, None] >> torch.arange(groups) & 1
    sums = ((1.0 - 2 * every).double() @ values.double()).abs()
    exact = (sums >= sums[0] * (1 - 1e-7)).double().mean(dim=0)
    assert sign_flip_tail(values).tolist() == pytest.approx(exact.tolist(), rel=1e-4)


def test_the_saddlepoint_is_near_the_exact_tail_and_goes_on_where_none_can_be_had():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(24, 300, generator=generator) + torch.linspace(0.3, 1.8, 300)
    exact, near = sign_flip_tail(values), _saddlepoint(values.double())
    off = (near / exact).log()[(exact < 0.01) & (exact > 1e-5)].abs()
    assert len(off) > 100
    assert float(off.max()) < 0.25
    assert float((near / exact).log().abs().max()) < 1.2  # of the last few choices of signs too
    certain = sign_flip_tail(torch.rand(200, 3, generator=generator) + 0.5)
    assert (certain > 0).all()
    assert (certain < 1e-20).all()


def test_with_few_groups_it_is_said_what_cannot_be_found():
    few = study_of(torch.full((8,), 20.0), 8, neurons=8192, seed=0)
    sure, steady = (few.columns[name][0] <= 0.05 for name in ("p_family", "q"))
    assert sure[:8].all()
    assert not sure[8:].any()
    assert not steady.any()  # p is 2/256 at least, of 8,192 neurons
    said = few.provenance["resolution"]
    assert said.startswith("8 groups: no p is below 0.0078, no p_family below 0.0078")
    assert "takes 1,280 neurons or more" in said
    assert said in few._repr_html_()
    assert float(few.columns["p"].min()) == 2 / 256
    fewer = study_of(torch.full((8,), 8.0), 5, neurons=64, seed=0)
    assert "nothing can be told from chance" in fewer.provenance["resolution"]
    assert not (fewer.columns["p_family"] <= 0.05).any()
    many = study_of(torch.full((8,), 8.0), 40, neurons=64, seed=0)
    assert "a single neuron can reach q" in many.provenance["resolution"]


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
    [nt.gradient, nt.two_ended, nt.relp, nt.integrated, nt.direct, nt.log_increase, nt.exact, nt.contrast],
    ids=lambda r: r.__name__,
)
@pytest.mark.parametrize("kind", ["patch", "set"])
def test_groups_add_up_to_the_ranking_and_the_planted_neuron_is_no_chance(model, encoded, ranker, kind):
    grouped = group_scores(ranker, model, encoded, kind=kind)
    whole = ranker(model, encoded, kind=kind)
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


def short_slimming(model, pairs, **options):
    return nt.slimming(model, pairs, steps=40, **options)


@pytest.mark.parametrize(
    "ranker", [nt.pearson, nt.random_scores, nt.magnitude, short_slimming], ids=lambda r: r.__name__
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
    chance, steady, sure = figure.data
    assert len(chance.x) + len(steady.x) + len(sure.x) == found.n_neurons
    assert str(PLANTED) in list(sure.text)
    told = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert found.provenance["resolution"].replace("p_family", "corrected p") in told
    with pytest.raises(InputError, match="no p-values"):
        nt.plot_volcano(nt.gradient(model, encoded))
