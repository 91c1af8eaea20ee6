"""SmolLM2-135M, a real model: the main job must hold there too. Run by `make test-real`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import neurotrace as nt
from neurotrace.core.pairs import sample_pairs

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
        [sys.executable, "-m", "neurotrace.cli", "run", "--model", gguf, "--probes", "capitals",
         "--out", str(tmp_path / "smol"), "--json"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
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
