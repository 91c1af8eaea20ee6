"""Along training: nothing is said of a model that doesn't behave, and the planted set is seen to flip."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from commands import neurotrace, refused
from transformers import GPT2LMHeadModel

import neurotrace as nt
from neurotrace import organism
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import pair_record, sample_pairs
from neurotrace.organism import training
from neurotrace.organism.tokenizer import make_tokenizer
from neurotrace.results.verify import verify
from neurotrace.studies.timeline import checkpoints_of


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A folder with the organism's shape and random weights: its first checkpoint."""
    return without_training(tmp_path_factory.mktemp("run") / "step-00000", 4)


def without_training(folder, layers):
    torch.manual_seed(0)
    GPT2LMHeadModel(training.model_config(layers)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_behaviour_and_its_neurons_appear(untrained, tmp_path):
    """The planted set, beside a model in which the behaviour is in no few neurons."""
    pairs = sample_pairs(nt.load_pairs("letters"), 48, seed=0)
    small = without_training(tmp_path / "step-00000", 3)
    _, natural = nt.timeline([small, "organism-natural"], pairs, k=8).to_dict("records")
    copied = shutil.copytree(organism.folder("organism"), tmp_path / "step-00100")
    table = nt.timeline([untrained, copied, "organism"], pairs, k=8)
    first, again, last = table.to_dict("records")
    assert first["checkpoint"] == "step-00000"
    assert first["recalls"] < 0.2
    assert first["pairs"] == 0
    assert pd.isna(first["flips_to_reasoning"])
    assert pd.isna(first["settled_to_reasoning"])
    assert natural["recalls"] > 0.9
    assert natural["flips_to_reasoning"] < 0.1
    assert last["flips_to_reasoning"] > 0.9
    assert last["flips_to_memorization"] > 0.9
    assert last["flips_to_reasoning_low"] < last["flips_to_reasoning"]
    assert last["random_to_reasoning"] < 0.1
    assert pd.isna(again["kept_to_reasoning"])  # the first checkpoint has no top to keep
    assert last["kept_to_reasoning"] == last["kept_to_memorization"] == 1.0
    assert last["stable_to_reasoning"] > 0.9 > natural["stable_to_reasoning"]
    assert last["settled_to_reasoning"] == 1.0
    assert last["concentrated_to_reasoning"] > natural["concentrated_to_reasoning"] + 0.2
    figure = nt.plot_timeline(table)
    assert {trace.name for trace in figure.data} > {"reasons", "flips to memory"}


def test_what_has_no_timeline_is_refused(untrained):
    pairs = nt.load_pairs("letters")
    with pytest.raises(InputError, match="expected two or more"):
        nt.timeline([untrained, untrained], pairs)
    with pytest.raises(InputError, match="differ in shape: expected checkpoints of one model"):
        nt.timeline([untrained, "organism-natural"], pairs[:20])
    with pytest.raises(InputError, match="expected one of gradient"):
        nt.timeline([untrained, "organism"], pairs, method="magic")


def test_the_command_looks_into_a_folder(untrained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(organism.folder("organism"), run)
    shutil.copytree(untrained, run / "step-00000")
    some = sample_pairs(nt.load_pairs("letters"), 40, seed=0)
    probes = tmp_path / "some.jsonl"
    probes.write_text("\n".join(json.dumps(pair_record(pair)) for pair in some))
    call = ["--probes", str(probes), "--out"]
    done = neurotrace("checkpoints", str(run), *call, str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "a/checkpoints.csv")
    assert list(table["checkpoint"]) == ["step-00000", "run"]
    assert (tmp_path / "a/checkpoints.html").stat().st_size > 1000
    assert (verify(tmp_path / "a").files, verify(tmp_path / "a").problems) == (3, {})
    again = neurotrace("checkpoints", str(run), *call, str(tmp_path / "a"))
    refused(again, "already holds checkpoints.csv", "--overwrite")


def test_checkpoints_are_found_and_named(untrained):
    """Sub-folders of a folder, revisions of a model on the hub."""
    run = untrained.parent
    assert checkpoints_of(run) == checkpoints_of(run, "step-00000") == [str(untrained)]
    assert checkpoints_of("some/model", "step1, main") == ["some/model@step1", "some/model@main"]
    with pytest.raises(InputError, match="name a hub model's revisions"):
        checkpoints_of("some/model")
    with pytest.raises(InputError, match="holds no model in 'step-1'"):
        checkpoints_of(run, "step-1")
    with pytest.raises(InputError, match="only a model on the hub has revisions"):
        nt.load_model(f"{run}@step-00000")


def test_a_revision_is_what_transformers_is_asked_for(untrained, monkeypatch):
    """A stand-in for the hub: what it is asked for, and local weights in answer."""
    import transformers

    asked = []

    def standing_in(name):
        own = getattr(transformers, name).from_pretrained

        def from_pretrained(path, **options):
            if path != "some/model":  # TransformerLens reads a configuration again
                return own(path, **options)
            asked.append((path, options.pop("revision")))
            return own(untrained, **options)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", from_pretrained)

    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        standing_in(name)
    pairs = sample_pairs(nt.load_pairs("letters"), 20, seed=0)
    table = nt.timeline(checkpoints_of("some/model", "step1,step2"), pairs)
    assert asked == [("some/model", step) for step in ("step1", "step1", "step2", "step2")]
    assert list(table["checkpoint"]) == ["step1", "step2"]


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


def test_a_second_set_of_prompts_is_not_taken_for_a_checkpoint(tmp_path, monkeypatch):
    from neurotrace.cli.checkpoints import checkpoints

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="inference is a set of prompts, no model"):
        checkpoints(["organism", "inference"], ["arithmetic"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
