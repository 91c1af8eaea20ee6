"""What is exported answers as under our hooks; what a form can't express is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from commands import neurotrace, refused
from families import FAMILIES, WORDS, build
from generations import KIND, boot
from planted import PLANTED, WORDS as PLANTED_WORDS, word_tokenizer

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.files import read_seal
from neurotrace.engine.parts import write_rows
from neurotrace.exports import weights
from neurotrace.exports.attach import attached, last_logits, parts_of, plain_model
from neurotrace.interventions.logits import logits_under
from neurotrace.organism import folder
from neurotrace.results.verify import verify

pytestmark = pytest.mark.bridge
NEURONS = [nt.Neuron(1, 3), nt.Neuron(1, 7), nt.Neuron(3, 2)]
SCALE = nt.scale(NEURONS, factor=3.0, direction="to_reasoning")
SHIFT = replace(SCALE, kind="shift", keep=torch.ones(3), offset=torch.tensor([1.0, -2.0, 0.5]))
SET = replace(SCALE, kind="set", keep=torch.tensor([0.0, 1.0, 0.0]), offset=SHIFT.offset)

# families whose MLPs can hold a constant, and those where something follows the MLP
BIASED = {
    "gpt2",
    "gpt_neo",
    "gptj",
    "neox",
    "neox_serial",
    "bloom",
    "opt",
    "opt_post_norm",
    "llama",
    "llama_tied_biased",
    "phi",
    "granite",
    "smollm3",
    "starcoder2",
    "gpt_bigcode",
    "codegen",
    "nemotron",
    "arcee",
    "jais2",
    "seed_oss",
    "modernbert_decoder",
    "xglm",
    "openai_gpt",
    "falcon_h1",
}
NORMED = {
    "opt_post_norm",
    "gemma2",
    "gemma3",
    "gemma4",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "granite",
    "glm4",
    "exaone4",
    "openai_gpt",
}
BY_DAY = ("gpt2", "llama", "opt", "gemma2", "granite")
TAKEN = [name for name, family in FAMILIES.items() if not family.refused and name not in ("bamba",)]


@pytest.mark.parametrize(
    "name",
    [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.weekly) for name in TAKEN],
)
def test_every_family_exported_answers_as_under_hooks(name, tmp_path):
    model = boot(build(name), word_tokenizer(tmp_path, WORDS), name=name)
    if nt.inspect_model(model).experts is not None:
        for form in ("hooks", "checkpoint", "vector"):
            with pytest.raises(InputError, match="is a mixture of experts"):
                nt.export(model, SCALE, form, tmp_path / form)
            assert not (tmp_path / form).exists()
        return
    for change in (SCALE, SHIFT, SET):
        kind = change.kind.split(":")[0]
        for proof in nt.export(model, change, "hooks", tmp_path / f"{kind}-hooks").proofs.values():
            assert proof.difference < 1e-5
        out = tmp_path / f"{kind}-checkpoint"
        if name == "youtu":  # transformers itself doesn't read back what it wrote
            with pytest.raises(InputError):
                nt.export(model, change, "checkpoint", out)
            assert not (out / "checkpoint").exists()
        elif kind == "scale" or name in BIASED:
            (proof,) = nt.export(model, change, "checkpoint", out).proofs.values()
            assert proof.difference < 1e-5
        else:
            with pytest.raises(InputError, match=r"constant shift in a .* have no bias"):
                nt.export(model, change, "checkpoint", out)
        out = tmp_path / f"{kind}-vector"
        if kind != "shift":
            with pytest.raises(InputError, match="no control vector can express"):
                nt.export(model, change, "vector", out)
        elif name in NORMED:
            with pytest.raises(InputError, match="answers otherwise"):
                nt.export(model, change, "vector", out)
            assert not (out / "vector.gguf").exists()
        else:
            (proof,) = nt.export(model, change, "vector", out).proofs.values()
            assert proof.difference < 1e-5


def test_attached_equals_the_engine_at_the_last_token(model, encoded):
    means = nt.moments(model, encoded)
    module, ids = plain_model(model), torch.stack(encoded.reasoning[::2])
    clean = last_logits(module, ids)
    for change in (
        nt.scale([PLANTED, nt.Neuron(0, 2)], factor=0.5, direction="to_memorization"),
        nt.set_to_mean([PLANTED], means, donor="memorization"),
    ):
        _, ours = logits_under(model, ids, [change], [None])
        with attached(module, change, last=True):
            theirs = last_logits(module, ids)
        assert torch.allclose(next(ours), theirs, atol=1e-5)
        assert not torch.allclose(clean, theirs, atol=1e-2)
        assert torch.equal(last_logits(module, ids), clean)  # it is gone
    patch = nt.patch([PLANTED], donor="reasoning")
    with pytest.raises(InputError, match="donor run"), attached(module, patch):
        pass


@pytest.fixture(scope="module")
def run(model, encoded, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    study = nt.study(model, encoded, ks=[1], kinds=["patch"], methods=["gradient"], exact_neurons=0)
    nt.save_run(study, place, model=model, probes=["planted"])
    return nt.load_run(place)


def test_a_patch_goes_into_scripts_and_its_stand_in_into_weights(run, model, tmp_path):
    (patch,) = run.interventions(direction="to_reasoning", fold="all")
    assert patch.needs_donor
    made = nt.export(model, patch, "hooks", tmp_path / "hooks", pairs=run.pairs)
    assert len(made.proofs) == 2
    for proof in made.proofs.values():
        assert (proof.flips, proof.equal_flips, proof.positions) == (1.0, True, "read")
    for to in ("checkpoint", "vector", "gguf"):
        with pytest.raises(InputError, match=r"can express patch|--to gguf"):
            nt.export(model, patch, to, tmp_path / to, pairs=run.pairs)
    with pytest.raises(InputError, match="donor run: pass pairs="):
        nt.export(model, patch, "hooks", tmp_path / "none")
    (proof,) = nt.export(
        model, patch.without_donor(), "checkpoint", tmp_path / "in", pairs=run.pairs
    ).proofs.values()
    assert (proof.flips, proof.read_flips, proof.equal_flips) == (1.0, 1.0, True)
    record = json.loads((tmp_path / "in" / "export.json").read_text())
    assert record["proofs"]["checkpoint"]["flips"] == 1.0
    assert record["intervention"]["neurons"][0]["name"] == str(PLANTED)


ALONE = """
import json, sys
sys.modules["neurotrace"] = None  # importing it raises
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
folder, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
pairs = json.load(open(f"{out}/pairs.json"))
ids = [[torch.tensor([tokenizer(text).input_ids]) for text in pair[:2]] for pair in pairs]

def answers(model, change=None):
    found = []
    for recipient, donor in ids:
        handles = change(donor) if change else []
        with torch.no_grad():
            found.append(int(model(recipient).logits[0, -1].argmax()))
        for handle in handles:
            handle.remove()
    return found

sys.path.insert(0, f"{out}/hooks")
import for_transformers as hooks
model = AutoModelForCausalLM.from_pretrained(folder).eval()
by_hooks = answers(model, lambda donor: hooks.attach(model, donor=hooks.read(model, donor)))
by_weights = answers(AutoModelForCausalLM.from_pretrained(f"{out}/checkpoint/checkpoint").eval())
print(json.dumps([tokenizer.decode([t]) for t in by_hooks]))
print(json.dumps([tokenizer.decode([t]) for t in by_weights]))
"""


def test_without_neurotrace_the_same_answers_flip(organism, tmp_path):
    """A donor patch by the script, a scale in the weights, in a process that can't import neurotrace."""
    pairs = nt.encode(organism, nt.load_pairs("letters")[:40])
    top = nt.gradient(organism, pairs, donor="reasoning").top(8)
    patch, scale = nt.patch(top), nt.scale(top, factor=4.0)
    nt.export(organism, patch, "hooks", tmp_path / "hooks", pairs=pairs)
    nt.export(organism, scale, "checkpoint", tmp_path / "checkpoint", pairs=pairs)
    (tmp_path / "pairs.json").write_text(
        json.dumps([[pair.memorization, pair.reasoning] for pair in pairs.pairs])
    )
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder("organism")), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    by_hooks, by_weights = (json.loads(line) for line in done.stdout.splitlines())
    order = [pair.id for pair in pairs.pairs]
    ours = nt.measure(organism, pairs, [patch]).to_frame().set_index("pair")["top_after"][order]
    assert by_hooks == ours.tolist()
    ours = nt.measure(organism, pairs, [scale], positions="all").to_frame()
    ours = ours.set_index("pair")["top_after"][order]
    assert by_weights == ours.tolist()
    assert len(set(by_hooks)) > 3


def test_an_edit_that_does_something_else_is_noticed_and_removed(organism, tmp_path, monkeypatch):
    change = nt.scale([nt.Neuron(2, 250)], factor=3.0, direction="to_memorization")

    def rows_of_another(projection):
        return write_rows(projection).roll(1, dims=0)

    monkeypatch.setattr(weights, "write_rows", rows_of_another)
    with pytest.raises(InputError, match=r"answers otherwise than our hooks, and was removed") as caught:
        nt.export(organism, change, "checkpoint", tmp_path)
    assert "--to hooks" in str(caught.value)
    assert not (tmp_path / "checkpoint").exists()
    assert json.loads((tmp_path / "export.json").read_text())["proofs"]["checkpoint"]["holds"] is False


def test_the_models_own_weights_stay_as_they_are(organism, tmp_path):
    before = nt.Neuron(2, 250)
    rows = write_rows(parts_of(plain_model(organism)).projections[2]).clone()
    nt.export(organism, nt.zero([before], direction="to_reasoning"), "checkpoint", tmp_path)
    assert torch.equal(rows, write_rows(parts_of(plain_model(organism)).projections[2]))


def test_names_of_others_cannot_leave_the_scripts_docstring(organism, tmp_path):
    evil = '"""\nraise SystemExit(3)\n"""\\'
    change = nt.scale([nt.Neuron(2, 250)], factor=3.0, direction="to_reasoning")
    change = replace(change, kind=f"scale{evil}", provenance={"model": evil, "family": evil})
    nt.export(organism, change, "hooks", tmp_path)  # imports both
    for name in ("for_transformers.py", "for_transformerlens.py"):
        assert "\nraise" not in (tmp_path / name).read_text()


def test_json_says_it_all(organism, tmp_path):
    change = replace(SHIFT, neurons=(nt.Neuron(1, 3), nt.Neuron(1, 7), nt.Neuron(2, 2)))
    assert nt.export(organism, change, "json", tmp_path).proofs == {}
    told = json.loads((tmp_path / "intervention.json").read_text())
    assert [row["offset"] for row in told["neurons"]] == change.offset.tolist()
    assert [row["name"] for row in told["neurons"]] == ["L1.N3", "L1.N7", "L2.N2"]
    assert told["map"] == "a' = keep * a + gain * donor + offset"


def test_wrong_calls_are_named(organism, tmp_path):
    change = nt.zero([nt.Neuron(2, 250)], direction="to_reasoning")
    with pytest.raises(InputError, match="expected one of hooks, checkpoint"):
        nt.export(organism, change, "onnx", tmp_path)
    with pytest.raises(InputError, match="edits the GGUF file that a model came from"):
        nt.export(organism, change, "gguf", tmp_path)
    with pytest.raises(InputError, match="edits the GGUF file"):
        nt.export(organism, change, "gguf", tmp_path, source="organism")
    first = replace(SHIFT, neurons=(nt.Neuron(0, 3), nt.Neuron(1, 7), nt.Neuron(2, 2)))
    with pytest.raises(InputError, match="block 0"):
        nt.export(organism, first, "vector", tmp_path)
    beyond = replace(change, neurons=(nt.Neuron(9, 0),))
    with pytest.raises(InputError, match="is not in organism"):
        nt.export(organism, beyond, "json", tmp_path)
    nt.export(organism, change, "json", tmp_path)
    with pytest.raises(InputError, match="--overwrite"):
        nt.export(organism, change, "json", tmp_path)
    nt.export(organism, change, "json", tmp_path, overwrite=True)
    with organism.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        assert KIND == "TransformerBridge"
        with pytest.raises(InputError, match="hooks of your own"):
            nt.export(organism, change, "checkpoint", tmp_path / "other")


def test_the_command_exports_what_a_run_found(run, model, tmp_path):
    plain_model(model).save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model", PLANTED_WORDS)
    call = ["export", str(run.folder), "--model", str(tmp_path / "model"), "--out"]
    refused(neurotrace(*call, str(tmp_path / "a"), "--to", "hooks"), "several: pick one by --family")
    one = ["--direction", "to_reasoning"]
    done = neurotrace(*call, str(tmp_path / "a"), "--to", "hooks", *one, "--fold", "0")
    assert done.returncode == 0, done.stderr
    assert "logits of 3 prompts" in " ".join(done.stdout.split())  # those that fold 0 left out
    assert "100.0% flip, the same pairs" in " ".join(done.stdout.split())
    refused(neurotrace(*call, str(tmp_path / "b"), "--to", "checkpoint", *one), "--stand-in")
    done = neurotrace(*call, str(tmp_path / "b"), "--to", "checkpoint", *one, "--stand-in")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "checkpoint" / "model.safetensors").is_file()
    again = nt.load_model(str(tmp_path / "b" / "checkpoint"), device="cpu")
    flipped = nt.answer(again, nt.prompts_of(run.pairs)).outcome
    assert set(flipped) == {"reasoning"}
    for name in ("a", "b"):
        assert verify(tmp_path / name).problems == {}
    assert "checkpoint/model.safetensors" in read_seal(tmp_path / "b").files
    file = sorted((run.folder / "interventions").glob("*-all.safetensors"))[0]
    done = neurotrace("export", str(file), *call[2:], str(tmp_path / "c"), "--to", "json")
    assert done.returncode == 0, done.stderr
    refused(
        neurotrace("export", str(run.folder), "--out", str(tmp_path / "d"), "--to", "json", *one),
        "the run's model is called 'planted'",
        "--model",
    )
