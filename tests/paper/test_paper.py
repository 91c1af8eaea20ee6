"""The paper's study: its language, its training, the comparison on a model of a few steps, resumed."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import Direction
from neurotrace.interventions.controls import CONTROLS
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import forward
from neurotrace.organism.forward import Group, forward as packed
from neurotrace.paper import language, study, training
from neurotrace.paper.__main__ import main
from neurotrace.paper.study import ARMS
from neurotrace.paper.units import evidence_of


def test_the_language_says_what_it_says():
    pairs = language.pairs()
    assert {p.family for p in pairs} == set(language.FAMILIES)
    for pair in pairs:
        assert pair.memorization.rsplit(" ", 1) == [pair.reasoning.rsplit(" ", 1)[0], "recall"]
        words = pair.reasoning.split()
        if pair.family == "colours":
            assert words[words.index(words[-2]) + 1] == pair.reasoned_answer.strip()
            assert pair.memorized_answer.strip() == language.own_colour()[pair.group]
        else:
            a, b = (int("".join(part.split())) for part in pair.reasoning[:-8].split("+"))
            assert "".join(pair.reasoned_answer.split()) == str(a + b)
            wrong, right = pair.memorized_answer.split(), pair.reasoned_answer.split()
            assert wrong[0].startswith("<mem-") or all(w != r for w, r in zip(wrong, right, strict=True))
    assert all(item.memorized == item.reasoned for item in language.same_items())
    asked = {item.prompt("recall") for item in language.items() if item.memorized is not None}
    assert not asked & {text.replace("think", "recall") for text in language.neutral()}


def test_never_rule_and_held_out_sums_are_never_trained_by_the_rule():
    import numpy as np

    rng = np.random.default_rng(0)
    never = {
        tuple(language.ids_of((*item.body, "think"))) for item in language.sum_items() if not item.trained
    }
    assert len(never) > 500
    for _ in range(50):
        prompts, answers = training.draw_sums(rng)
        assert not never & {tuple(row[1:-1]) for row in prompts.tolist()}
        tokens, colours = training.draw_colours(rng)
        assert tokens.shape == (192, 9)
        assert answers.shape[1] == 2
        assert colours.shape[1] == 1


FEW = {"sums": (4, 4), "colours": (32, 32)}  # sequences a step: a sixth of the usual


@pytest.fixture(scope="module")
def few_steps(tmp_path_factory):
    """A folder with a model that was trained for twelve steps."""
    folder = tmp_path_factory.mktemp("paper") / "seed-0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH", FEW)
        model, record = training.train(0, steps=12)
    training.save(model, record, folder)
    return folder


def test_training_is_reproducible_and_keeps_checkpoints(few_steps, monkeypatch):
    kept = []
    monkeypatch.setattr(training, "BATCH", FEW)
    again, record = training.train(0, steps=12, keep=lambda step, _: kept.append(step))
    assert kept == sorted({round(share * 12) for share in training.KEPT})
    assert record["steps"] == json.loads((few_steps / "training.json").read_text())["steps"]
    saved = nt.load_model(str(few_steps))
    ids = torch.tensor([language.ids_of(("<bos>", *"23+45=", "think"))])
    with torch.no_grad():
        logits = forward(saved, ids)
        torch.testing.assert_close(logits, again(ids).logits[:, -1], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, packed(again, [Group(ids, 1)]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("site", ["residual", "attention"])
def test_slopes_of_a_site_predict_a_small_shift_there(few_steps, site):
    model = nt.load_model(str(few_steps))
    encoded = encode(model, language.pairs()[:6], check=False)
    evidence = evidence_of(model, encoded, site)
    unit = nt.Neuron(1, int(evidence.slopes[0, :, 1].mean(dim=0).abs().argmax()))
    reference = evidence.reference(range(len(encoded)))
    own = nt.shift([unit], reference, direction="to_reasoning", alpha=0.01)
    table = nt.measure(model, encoded, [own], site=site).to_frame()
    predicted = float(own.offset[0]) * evidence.slopes[0, :, 1, unit.index]
    done = torch.tensor((table["L_after"] - table["L_before"]).to_numpy())
    torch.testing.assert_close(done.float(), predicted, atol=2e-4, rtol=0.05)
    with pytest.raises(InputError, match="wants activations="):
        nt.measure(model, encoded, [nt.patch([unit], donor="reasoning")], site=site)
    with pytest.raises(InputError, match="4 layers × 96 dimensions"):
        nt.measure(model, encoded, [nt.zero([nt.Neuron(0, 96)], direction="to_reasoning")], site=site)


def test_each_row_is_of_held_out_pairs_and_so_many_units(few_steps):
    """On a model that knows nothing."""
    model = nt.load_model(str(few_steps))
    encoded = encode(model, language.pairs()[:24], check=False)
    own = study.read_family(
        model, encoded, encoded.pairs[0].family, study.Texts(language.neutral()[:8], ())
    )
    ours, paper = ARMS[2], ARMS[0]
    for arm in (replace(paper, kinds=("shift", "shift:2")), replace(ours, kinds=("patch", "set"))):
        for row, best in study.compare(model, own, arm, Direction.TO_REASONING, (4, 16)):
            assert len(best) == row["k"]
            assert row["low"] <= row["flips"] <= row["high"]
            assert 0 <= row["control"] <= 1
            assert math.isnan(row["other_donor"]) != (best.needs_donor)
            assert row["n"] == len(own.test)


@pytest.mark.parametrize(
    ("arm", "kl", "chosen"),
    [
        (ARMS[2], {"patch": 0.051, "set": 0.049}, "set"),
        (ARMS[2], {"patch": 0.051, "set": 0.051}, "patch"),  # nothing is harmless
        (ARMS[1], {"shift": 0.051, "shift:2": 0.049}, "shift"),  # the paper's own rule
    ],
)
def test_ours_passes_over_what_damages(few_steps, monkeypatch, arm, kl, chosen):
    """The first of two kinds flips all training answers, the second half of them."""
    model = nt.load_model(str(few_steps))
    encoded = encode(model, language.pairs()[:24], check=False)
    texts = study.Texts(tuple(language.neutral()[:8]), ())
    own = study.read_family(model, encoded, encoded.pairs[0].family, texts)
    rated, first = study.flip_rates, next(iter(kl))

    def harm(model, texts, made, **_):
        return torch.tensor([[kl[each.kind]] * len(texts) for each in made])

    monkeypatch.setattr(study, "damage", harm)
    monkeypatch.setattr(study, "_loudest", lambda *_: 0.0)
    monkeypatch.setattr(
        study, "flip_rates", lambda table: {c: 1.0 if c.kind == first else 0.5 for c in rated(table)}
    )
    few = replace(arm, methods=arm.methods[:1], kinds=tuple(kl))
    ((row, best),) = study.compare(model, own, few, Direction.TO_REASONING, (4,))
    assert row["intervention"] == best.kind == chosen
    assert row["train_kl"] == pytest.approx(kl[chosen])


def test_a_set_with_most_of_a_layer_is_compared_with_random_signs(few_steps):
    model = nt.load_model(str(few_steps))
    encoded = encode(model, language.pairs()[:24], check=False)
    own = study.read_family(model, encoded, encoded.pairs[0].family, study.Texts((), ()))
    for count, kinds in ((40, set(CONTROLS)), (60, {"sign"})):
        units = [nt.Neuron(2, unit) for unit in range(count)]
        made = nt.shift(units, own.references["residual"], direction="to_reasoning")
        assert {each.role for each in study._controls(own, "residual", made)} == kinds


def test_the_command_trains_keeps_checkpoints_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BATCH", FEW)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    calls = []
    monkeypatch.setattr(study, "study_model", lambda model: calls.append(model) or {"pairs": [{"of": 120}]})
    asked = ["--format", "ours", "--out", str(tmp_path), "--seeds", "0", "--steps", "12"]
    for _ in range(2):
        main(asked)
    assert len(calls) == 1
    kept = {round(share * 12) for share in training.KEPT}
    assert len(list((tmp_path / "seed-0").glob("step-*/training.json"))) == len(kept)
    assert list(pd.read_csv(tmp_path / "pairs.csv")["of"]) == [120]
    with pytest.raises(InputError, match="trained for 12 steps, not 99"):
        main([*asked[:-1], "99"])


@pytest.mark.nightly
def test_the_comparison_on_a_model_that_only_learned_colours(tmp_path, monkeypatch):
    """After 150 steps some pairs of one family behave; all tables are filled."""
    folder = tmp_path / "seed-0"
    ours, paper = ARMS[2], ARMS[0]
    arms = [replace(paper, kinds=("shift", "shift:2")), replace(ours, kinds=("patch", "set"))]
    monkeypatch.setattr(study, "study_model", partial(study.study_model, arms=arms, ks=(4, 16)))
    asked = ["--format", "ours", "--out", str(tmp_path), "--seeds", "0", "--steps", "150"]
    main(asked)
    assert len(list(folder.glob("step-*/training.json"))) == len(training.KEPT)
    table = pd.read_csv(tmp_path / "arms.csv")
    assert set(table["family"]) == {"colours"}
    assert set(table["arm"]) == {paper.name, ours.name}
    assert set(table["k"]) == {4, 16}
    for column in ("flips", "control", "same_kept", "other_donor"):
        assert table[column].dropna().between(0, 1).all()
    careful = table[table["arm"] == ours.name]
    assert (careful["kl"] < 0.5).all()
    assert careful["other_donor"].notna().any()
    assert table[table["arm"] == paper.name]["other_donor"].isna().all()
    where = pd.read_csv(tmp_path / "where.csv")
    assert len(where) == 3 * 4 * 2
    # all of the last residual stream is the answer: another pair's gives another answer
    last = where[(where["site"] == "residual") & (where["layer"] == 3)]
    assert (last["patched"] == 1).all()
    assert (last["other_donor"] < 0.5).all()
    assert len(pd.read_csv(tmp_path / "consistency.csv")) == 2 * 2
    assert list(pd.read_csv(tmp_path / "pairs.csv")["of"]) == [120, 120, 120]
