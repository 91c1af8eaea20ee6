"""Prompts of another kind than the calibration's are told; those of its kind, in unseen groups, are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import neurotrace as nt
from neurotrace.answers import tables
from neurotrace.answers.calibration import fit_familiar
from neurotrace.answers.trust import familiar_block, streams_at
from neurotrace.core.errors import InputError


def streams(rng, rows: int, shift: float = 0.0) -> np.ndarray:
    """Eight broad axes of sixty, the rest narrow; `shift` along a narrow one."""
    scale = np.where(np.arange(60) < 8, 5.0, 0.3)
    found = rng.normal(size=(rows, 60)) * scale
    found[:, 40] += shift
    return found


def test_another_kind_is_far_and_unseen_groups_are_not():
    rng = np.random.default_rng(0)
    familiar = fit_familiar(streams(rng, 200), np.arange(200) // 2, 3)
    # chosen within the sample the limit would call one in five strange
    assert 0.005 < familiar.strange(streams(rng, 2000)).mean() < 0.06
    assert familiar.strange(streams(rng, 200, shift=4.0)).mean() > 0.95
    assert familiar.block == 3
    assert fit_familiar(streams(rng, 6), [0, 0, 1, 1, 2, 2], 0) is None


def test_a_studys_strangers_are_judged_by_other_groups():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"group": np.arange(400) // 4, "train": np.arange(400) < 200})
    X = streams(rng, 400)
    X[300:304] += 30.0  # a group of its own kind
    found = tables.strangers(frame, X, [f"{group}" for group in frame["group"]], 0)
    assert found[300:304].all()
    assert not found[:200].any()
    assert found.mean() < 0.06


def test_a_circuit_keeps_it_and_the_score_abstains(organism, trust_study, tmp_path):
    circuit = trust_study.circuit
    circuit.save(tmp_path / "circuit.safetensors")
    again = nt.Circuit.load(tmp_path / "circuit.safetensors")
    own, read = circuit.calibration.familiar, again.calibration.familiar
    assert (own.block, own.limit, own.rest) == (read.block, read.limit, read.rest)
    assert np.array_equal(own.axes, read.axes)
    texts = [prompt.prompt for prompt in nt.load_prompts("arithmetic")[:20]]
    kept = nt.trust(organism, texts, again, kind=True).to_frame()["abstain"]
    ids = [organism.tokenizer(text, return_tensors="pt").input_ids[0] for text in texts]
    far = own.strange(streams_at(organism, ids, familiar_block(organism)))
    assert own.block == familiar_block(organism)
    none = replace(circuit, calibration=replace(circuit.calibration, familiar=None))
    without = nt.trust(organism, texts, again).to_frame()["abstain"]
    with pytest.raises(InputError, match="four templates or more"):
        nt.trust(organism, texts, none, kind=True)
    assert (kept == (without | far)).all()
    strict = replace(circuit, calibration=replace(circuit.calibration, familiar=replace(own, limit=0.0)))
    assert nt.trust(organism, texts, strict, kind=True).to_frame()["abstain"].all()
