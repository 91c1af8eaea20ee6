"""Units beside neurons: their slopes are right, and patching finds where the organism decides."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from families import family_model, random_pairs

import neurotrace as nt
from neurotrace.cli.deciding import decided_by, sentence
from neurotrace.core.errors import InputError
from neurotrace.engine.metrics import logit_difference
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import forward
from neurotrace.models.sites import change_sites, read_sites
from neurotrace.studies.locate import _as_many, _Work

SITES = ("attention", "mlp", "residual", "heads")


@pytest.fixture(scope="module")
def found(organism):
    train, test = nt.split_pairs(nt.load_pairs("arithmetic")[:120], seed=0)
    return nt.locate(organism, train, test, heads=3)


@pytest.fixture(scope="module")
def organism():
    return nt.load_model("organism", device="cpu")


def test_the_planted_layer_decides(found):
    table = found.to_frame().set_index(["unit", "layer"])["answers"]
    assert table["mlp", 2] > 0.9  # the planted neurons lie there
    assert table["residual", 2] > 0.9
    assert table["direction", 2] > 0.9
    for unit in ("mlp", "residual", "direction", "attention"):
        assert table[unit, 0] < 0.05
    frame = found.to_frame().set_index("unit")
    assert frame.loc["random heads", "answers"] < 0.1
    assert (frame.loc["direction", "control"] < 0.2).all()
    heads = frame.loc["heads"].set_index("k")
    assert heads.index.tolist() == [1, 2, 3]
    assert heads.loc[3, "control"] == frame.loc["random heads", "answers"]
    neurons = frame.loc["neurons"].set_index("k")["answers"]
    assert neurons.index.tolist() == [1, 3, 15]  # of 1,536; eight were planted
    assert neurons[15] > 0.9
    assert neurons[1] < 0.5
    assert (frame.loc["neurons", "control"] < 0.1).all()
    assert frame["n"].min() > 15


def test_the_fewest_of_each_kind_are_said():
    def located(neurons, heads, control=0.0):
        rows = [("neurons", k, rate, 0.0) for k, rate in neurons.items()]
        rows += [("heads", k, rate, control) for k, rate in heads.items()]
        rows += [("direction", 1, 0.95, 0.0), ("direction", 1, 0.2, 0.0)]
        table = pd.DataFrame(rows, columns=["unit", "k", "answers", "control"])
        table["score"] = [0.0] * (len(rows) - 2) + [1.0, 2.0]  # training pairs mislead about the layer
        return nt.Located(table.assign(layer=0, low=0.0, high=1.0, n=20), "reasoning", "m")

    few = decided_by(located({1: 0.2, 8: 0.9}, {1: 0.95}), located({1: 0.95, 8: 0.95}, {1: 0.95}, 0.1))
    assert few.set_index("unit")["decides"].to_dict() == {
        "neurons": True,
        "heads": False,
        "direction": False,
    }
    assert sentence("f", few) == (
        "f: decided at the last token by 8 neurons; not by one attention head (the control flips 10%), "
        "one direction of the residual stream (20% flip)"
    )
    none = decided_by(located({1: 0.2}, {1: 0.5}), located({1: 0.95}, {1: 0.5}, math.nan))
    assert sentence("f", none).startswith("f: decided by no unit tried; not by one neuron (20% flip), ")


def test_it_shows_itself(found):
    assert "held-out pairs" in found._repr_html_()
    figure = nt.plot_located(found)
    assert {trace.name for trace in figure.data} >= {"MLP output", "one direction of it"}
    assert figure.layout.yaxis.title.text == "held-out answers flipped"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt"])
def test_slopes_are_those_of_small_steps(family, tmp_path):
    model = family_model(family, tmp_path)
    pairs = encode(model, random_pairs(3), check=False)
    slopes, moves = _Work(model, pairs, pairs, "reasoning", 4).learn()
    row = 1
    ids = pairs.ids("memorization")[row][None]
    answers = pairs.memorized[row : row + 1], pairs.reasoned[row : row + 1]

    def after(point, step):
        with torch.no_grad():
            logits = change_sites(model, ids, {point: lambda own: own + step.to(own)})
        return float(logit_difference(logits, *answers))

    for site in SITES:
        step = 1e-2 * moves[site, 1][row : row + 1]
        middle = (after((site, 1), step) - after((site, 1), -step)) / 2
        assert middle == pytest.approx(float((slopes[site, 1][row] * step).sum()), rel=2e-2, abs=2e-4)


def test_the_donors_residual_stream_gives_the_donors_logits(organism):
    """Behind the last block nothing else of the recipient is left at the final token position."""
    pairs = encode(organism, nt.load_pairs("arithmetic")[:4])
    own, donor = (torch.stack(pairs.ids(side)) for side in ("memorization", "reasoning"))
    point = ("residual", 3)
    given = read_sites(organism, donor, [point])[point]
    with torch.no_grad():
        changed = change_sites(organism, own, {point: lambda _: given})
        wanted = forward(organism, donor)
    torch.testing.assert_close(changed, wanted, rtol=1e-4, atol=1e-4)


def test_nothing_stays_and_errors_are_named(organism):
    ids = torch.arange(1, 6)[None]
    before = forward(organism, ids)

    def broken(own):
        raise ValueError("in the change")

    with pytest.raises(ValueError, match="in the change"):
        change_sites(organism, ids, {("mlp", 1): broken})
    assert torch.equal(forward(organism, ids), before)
    with pytest.raises(InputError, match=r"no hook blocks\.9\.hook_mlp_out"):
        change_sites(organism, ids, {("mlp", 9): lambda own: own})
    pairs = encode(organism, nt.load_pairs("arithmetic")[:2])
    with pytest.raises(InputError, match="in train and in test"):
        nt.locate(organism, pairs.at([]), pairs)


def test_where_no_other_heads_are_left_there_is_no_control(organism):
    pairs = encode(organism, nt.load_pairs("arithmetic")[:4])
    table = nt.locate(organism, pairs.at([0, 1]), pairs.at([2, 3]), heads=99).table
    heads = table[table["unit"] == "heads"].set_index("k")["control"]
    assert heads.index.tolist() == [1, 2, 4, 8, 16]
    assert heads.isna()[16]
    assert "random heads" not in table["unit"].tolist()


def test_random_heads_are_others_of_the_same_layers():
    chosen = [(0, 1), (2, 0), (2, 3)]
    drawn = _as_many(chosen, layers=3, count=4, seed=1)
    assert sorted(layer for layer, _ in drawn) == [0, 2, 2]
    assert not set(drawn) & set(chosen)
