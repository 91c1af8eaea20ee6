"""A ranker and a kind of intervention, each added by one call, are known wherever one is chosen."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

import neurotrace as nt
from neurotrace.cli.main import app
from neurotrace.core.errors import InputError
from neurotrace.core.scores import Scores
from neurotrace.interventions.intervention import make
from neurotrace.interventions.kinds import KINDS, Affine, Form, register_kind
from neurotrace.rankers.registry import RANKERS, Ranker, passes, register_ranker


def by_size(model, pairs, *, donor="reasoning", kind="patch", progress=None) -> Scores:
    """|mean activation| on the donor's side: a ranker that knows nothing of effects."""
    found = nt.moments(model, pairs).mean_of(donor)
    return Scores("by_size", found.abs(), "activation", provenance={"donor": donor})


@pytest.fixture
def toys():
    register_ranker("by_size", Ranker(by_size, lambda info, pairs, reads: 1))
    register_kind("away", Form(lambda reference, to, s: Affine(keep=-s), strength=1.0))
    yield
    del RANKERS["by_size"], KINDS["away"]


def test_run_and_rank_and_measure_take_them(toys, organism, tmp_path):
    call = ["--model", "organism", "--probes", "arithmetic", "--max-pairs", "24"]
    choice = ["--method", "by_size", "--intervention", "away", "--folds", "2", "--k", "2"]
    done = CliRunner().invoke(app, ["run", *call, *choice, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    effects = pd.read_parquet(tmp_path / "run" / "effects.parquet")
    assert set(effects.loc[effects["role"] == "selected", "intervention"]) == {"away"}
    assert set(effects.loc[effects["role"] == "selected", "label"]) == {"by_size"}

    few = ["--exact-neurons", "32", "--curve-pairs", "0", "--k", "2", "--methods", "by_size"]
    done = CliRunner().invoke(app, ["rank", *call, *few, "--out", str(tmp_path / "rank")])
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(tmp_path / "rank" / "rankers.parquet")
    assert set(table["ranker"]) == {"by_size"}
    assert set(table["cost_passes"]) == {1}
    assert passes("by_size", "patch", nt.inspect_model(organism), 8) == 1

    pairs = nt.encode(organism, nt.load_pairs("arithmetic")[:8])
    twice = make("away:2", [nt.Neuron(2, 250)], direction="to_reasoning")
    assert twice.keep.tolist() == [-2.0]
    assert len(nt.measure(organism, pairs, [twice]).to_frame()) == len(pairs)
    # the gradient ranks for it, too: (keep - 1) * a * slope
    predicted = nt.gradient(organism, pairs, kind="away").value
    zeroed = nt.gradient(organism, pairs, kind="zero").value
    assert (predicted - 2 * zeroed).abs().max() < 1e-4 * zeroed.abs().max()


def test_a_name_is_taken_once(toys):
    with pytest.raises(InputError, match="expected a new name"):
        register_ranker("gradient", Ranker(by_size))
    with pytest.raises(InputError, match="expected a new name"):
        register_kind("patch", Form(lambda reference, to, s: Affine()))


def test_scores_and_neurons_carry_their_direction(organism):
    scores = nt.gradient(organism, nt.load_pairs("arithmetic")[:8], donor="reasoning")
    top = scores.top(3)
    assert scores.direction == top.direction == top[:2].direction == "to_reasoning"
    assert top == scores.top(3, direction="to_reasoning")
    assert nt.patch(top).donor == "reasoning"
    assert nt.zero(top[:2]).recipient == "memorization"
    assert nt.patch(scores.random_like(top, seed=0)).direction == "to_reasoning"
    with pytest.raises(InputError, match="no direction"):
        nt.zero(list(top))
    with pytest.raises(InputError, match="no direction of their own"):
        Scores("mine", scores.value).top(3)
