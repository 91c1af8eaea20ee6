"""SmolLM2-135M, a real model: the main job must hold there too. Run by `make test-real`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import sample_pairs
from neurotrace.interventions.intervention import make

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def gguf() -> str:
    path = os.environ.get("NEUROTRACE_SMOLLM2", "")
    assert Path(path).is_file(), "NEUROTRACE_SMOLLM2 names no file: run `make test-real`"
    return path


@pytest.fixture(scope="session")
def smol(gguf):
    return nt.load_model(gguf, device="cpu")


def test_gguf_loads_and_knows_a_capital(smol):
    info = nt.inspect_model(smol)
    assert (info.n_layers, info.d_mlp, info.n_neurons) == (30, 1536, 46080)
    assert nt.generate(smol, "The capital of France is", max_new_tokens=1) == " Paris"


def test_numbers_behind_a_bare_space_are_read_whole(smol):
    """The tokenizer splits " 7" into a space and a digit: the first tokens are the same."""
    about = {"family": "sums", "template": "school"}
    pairs = [
        {
            **about,
            "id": sum_,
            "group": sum_,
            "memorization": f"In school, one plus one is 2, two plus two is 4, {sum_} is",
            "reasoning": f"In the puzzle book, one plus one is 3, two plus two is 5, {sum_} is",
            "memorized_answer": right,
            "reasoned_answer": wrong,
        }
        for sum_, right, wrong in (("two plus five", " 7", " 8"), ("six plus two", " 8", " 7"))
    ]
    with pytest.raises(InputError, match="2 same first token"):
        nt.encode(smol, nt.load_pairs(pairs))
    whole = nt.encode(smol, nt.load_pairs(pairs), answers="whole", check=False)
    assert [len(sequence) for both in whole.answers for (sequence,) in both] == [2] * 4
    assert whole.on_memorization.answer.tolist() == [0, 0]
    assert (whole.on_memorization.logit_difference > 0).all()
    for pair in whole.pairs:
        assert nt.generate(smol, pair.memorization, max_new_tokens=2) == pair.memorized_answer


def test_engine_equals_hooks_on_the_real_model(smol):
    pairs = sample_pairs(nt.load_pairs("capitals"), 24, seed=1)
    encoded = nt.encode(smol, pairs)
    scores = nt.gradient(smol, encoded)
    top = scores.top(32, direction="to_reasoning")
    some = [nt.patch(top, donor="reasoning"), nt.zero(top, direction="to_memorization")]
    few = encoded.at(range(min(4, len(encoded))))
    fast = nt.measure(smol, few, some).to_frame()
    with smol.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        slow = nt.measure(smol, few, some).to_frame()
    assert (fast["L_after"] - slow["L_after"]).abs().max() < 1e-3
    assert (fast["L_after"] - fast["L_before"]).abs().max() > 1.0


def test_capitals_flip_both_ways_on_countries_never_seen(gguf, tmp_path):
    # one thread: sums in another order could tip the choice between candidates that nearly tie
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "neurotrace.cli",
            "run",
            "--model",
            gguf,
            "--probes",
            "capitals",
            "--at-most",
            "200",
            "--folds",
            "3",
            "--out",
            str(tmp_path / "smol"),
            "--json",
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    chosen = {flip["direction"]: flip for flip in summary["flips"] if flip["selected"]}
    for direction, least in (("to_reasoning", 0.95), ("to_memorization", 0.80)):
        flip = chosen[direction]
        assert flip["n"] >= 40
        assert flip["groups"] >= 10
        assert flip["fraction"] <= 0.0015
        assert flip["answers"] >= least, direction
        assert flip["control_answers"] <= 0.05
        assert flip["damage_kl"] is not None
    verdict = summary["verdict"]["families"]["capitals"]
    assert verdict["word"] != "no"  # to memory the interval holds the bar of 90 %, or is above it
    for flip in chosen.values():
        assert flip["random_p"] <= 0.05
        assert flip["chosen_on"] >= 32


ALONE = """
import json, os, sys
sys.modules["neurotrace"] = None  # importing it raises
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
gguf, out = sys.argv[1:]
sys.path.insert(0, f"{out}/hooks")
import for_transformers as hooks
at = {"pretrained_model_name_or_path": os.path.dirname(gguf), "gguf_file": os.path.basename(gguf)}
tokenizer = AutoTokenizer.from_pretrained(**at)
prompts = json.load(open(f"{out}/prompts.json"))

def answers(model):
    found = []
    for text in prompts:
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        found.append(tokenizer.decode([int(logits.argmax())]))
    return found

model = AutoModelForCausalLM.from_pretrained(**at, dtype=torch.float32).eval()
hooks.attach(model)
print(json.dumps(answers(model)))
print(json.dumps(answers(AutoModelForCausalLM.from_pretrained(f"{out}/checkpoint/checkpoint").eval())))
"""


@pytest.mark.parametrize(
    ("kind", "forms"), [("scale:4", ("hooks", "checkpoint")), ("steer", ("hooks", "checkpoint", "gguf"))]
)
def test_what_is_exported_answers_alike_without_neurotrace(smol, gguf, tmp_path, kind, forms):
    """In a process that can't import neurotrace: hooks at the last token, weights at every token."""
    pairs = nt.encode(smol, sample_pairs(nt.load_pairs("capitals"), 12, seed=1))
    top = nt.gradient(smol, pairs, donor="reasoning", kind="zero").top(32)
    change = make(kind, top, nt.reference(smol, pairs))
    for to in forms:
        made = nt.export(smol, change, to, tmp_path / to, pairs=pairs, source=gguf)
        assert all(proof.relative < 1e-5 and proof.equal_flips for proof in made.proofs.values())
    order = [pair.id for pair in pairs.pairs]
    (tmp_path / "prompts.json").write_text(json.dumps([p.memorization for p in pairs.pairs]))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, gguf, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for found, positions in zip(lines, ("read", "all"), strict=True):
        effects = nt.measure(smol, pairs, [change], positions=positions).to_frame()
        effects = effects.set_index("pair").loc[order]
        assert found == effects["top_after"].tolist()
        assert (effects["top_after"] != effects["top_before"]).any()
