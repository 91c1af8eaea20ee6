"""The mixture organisms: their text, and weekly that both tools and planted neurons do what is said."""

from __future__ import annotations

import json
import os

import pytest
import torch

import neurotrace as nt
from neurotrace.interventions.controls import controls_for
from neurotrace.models.hooks import inspect_model
from neurotrace.organism.mixture import make_mixture
from neurotrace.organism.mixture_text import NAMES, draw, prompt_pairs


def test_prompts_are_of_pairs_that_are_not_trained(tmp_path):
    import numpy as np

    rows = prompt_pairs()
    assert len(rows) == 4 * len(NAMES)
    asked = {tuple(row["id"].split("-")[1:]) for row in rows}
    batch = draw(np.random.default_rng(0), 400)
    first = len(NAMES)
    assert batch.ids.shape == (400, 6)
    for ids, back in zip(batch.ids.tolist(), batch.back, strict=True):
        a, b = (ids[1], ids[3]) if back else (ids[2], ids[4])
        assert (NAMES[a - 7], NAMES[b - 7]) not in asked
    assert first == 48


def test_a_few_steps_make_a_model_with_its_truth_beside_it(tmp_path):
    made = make_mixture("two", seed=0, steps=2)
    folder = made.save(tmp_path / "mixture")
    model = nt.load_model(str(folder))
    experts = inspect_model(model).experts
    planted = json.loads((folder / "truth.json").read_text())["planted"]
    assert [experts.name(experts.neuron(name)) for name in planted] == planted
    assert {name.rpartition(".")[0] for name in planted} == {"L1.E1", "L1.E2"}
    assert len(nt.load_pairs(folder / "pairs.jsonl")) == 192
    with pytest.raises(ValueError, match="'one' or 'two'"):
        make_mixture("three", seed=0)


@pytest.mark.weekly
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("design", ["one", "two"])
def test_the_planted_neurons_are_found_and_flip_held_out_answers(design, seed, tmp_path):
    if (design, seed) != ("one", 0) and not os.environ.get("NEUROTRACE_LONG"):
        pytest.skip("set NEUROTRACE_LONG=1: two minutes each")
    folder = make_mixture(design, seed).save(tmp_path / "mixture")
    model = nt.load_model(str(folder))
    encoded = nt.encode(model, nt.load_pairs(folder / "pairs.jsonl"))
    assert len(encoded) >= 180
    experts = inspect_model(model).experts
    planted = {experts.neuron(name) for name in json.loads((folder / "truth.json").read_text())["planted"]}
    early = set(NAMES[:24])
    train = encoded.at([at for at, pair in enumerate(encoded.pairs) if pair.group in early])
    held_out = encoded.at([at for at, pair in enumerate(encoded.pairs) if pair.group not in early])
    reference = nt.reference(model, train)
    for donor in ("reasoning", "memorization"):
        for scores in (nt.gradient(model, train, donor=donor), nt.exact(model, train, donor=donor)):
            assert set(scores.top(len(planted))) == planted, scores.method
        change = nt.patch(nt.gradient(model, train, donor=donor).top(len(planted)))
        controls = controls_for(change, reference=reference, roles=("random", "norm", "low_rho"))
        rates = (
            nt.measure(model, held_out, [change, *controls]).to_frame().groupby("role")["answers"].mean()
        )
        assert rates["selected"] >= 0.95
        assert all(rate <= 0.02 for role, rate in rates.items() if role != "selected"), rates
    assert torch.isfinite(reference.norms).all()
