"""Along training: nothing is said of a model that doesn't behave, and the planted set is seen to flip."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from test_cli import neurotrace, refused
from transformers import GPT2LMHeadModel

import neurotrace as nt
from neurotrace.errors import InputError
from neurotrace.organism import training
from neurotrace.organism.tokenizer import make_tokenizer
from neurotrace.pairs import pair_record, sample_pairs


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A folder with the organism's shape and random weights: its first checkpoint."""
    folder = tmp_path_factory.mktemp("run") / "step-00000"
    torch.manual_seed(0)
    GPT2LMHeadModel(training.model_config(4)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_behaviour_and_its_neurons_appear(untrained):
    pairs = sample_pairs(nt.load_pairs("letters"), 80, seed=0)
    table = nt.timeline([untrained, "organism-natural", "organism"], pairs, k=8)
    first, natural, last = table.to_dict("records")
    assert first["checkpoint"] == "step-00000"
    assert first["recalls"] < 0.2
    assert first["pairs"] == 0
    assert pd.isna(first["flips_to_reasoning"])
    assert pd.isna(first["settled_to_reasoning"])
    assert natural["recalls"] > 0.9
    assert natural["flips_to_reasoning"] < 0.1
    assert last["flips_to_reasoning"] > 0.9
    assert last["flips_to_memorization"] > 0.9
    assert last["random_to_reasoning"] < 0.1
    assert last["stable_to_reasoning"] > 0.9 > natural["stable_to_reasoning"]
    assert last["settled_to_reasoning"] == 1.0
    assert last["concentrated_to_reasoning"] > natural["concentrated_to_reasoning"] + 0.2


def test_what_has_no_timeline_is_refused(untrained):
    pairs = nt.load_pairs("letters")
    with pytest.raises(InputError, match="wanted two or more"):
        nt.timeline([untrained, untrained], pairs)
    with pytest.raises(InputError, match="wanted one of contrast"):
        nt.timeline([untrained, "organism"], pairs, method="magic")


def test_the_command(untrained, tmp_path):
    out = tmp_path / "table.csv"
    some = sample_pairs(nt.load_pairs("letters"), 40, seed=0)
    probes = tmp_path / "some.jsonl"
    probes.write_text("\n".join(json.dumps(pair_record(pair)) for pair in some))
    call = ["checkpoints", "--probes", str(probes), "--out", str(out)]
    done = neurotrace(*call, str(untrained), "organism")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(out)["checkpoint"]) == ["step-00000", "organism"]
    refused(neurotrace(*call, str(untrained.parent)), "1 checkpoints: wanted two or more")


def test_training_keeps_checkpoints_and_is_the_same_for_it():
    kept = {}
    model, _ = training.train(
        training.DESIGNS["natural"], 0, steps=2, keep=lambda step, copy: kept.update({step: copy})
    )
    plain, _ = training.train(training.DESIGNS["natural"], 0, steps=2)
    assert list(kept) == [0]
    assert not kept[0].training
    ours, others = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert not torch.equal(kept[0].lm_head.weight, ours["lm_head.weight"])
