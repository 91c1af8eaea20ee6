"""The rivals of the margin: each against what it says of itself; the learned ones see no judged group."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

import neurotrace as nt
from neurotrace.answers import learners, rivals, tables
from neurotrace.answers.rivals import RIVALS, Reading, read_rivals
from neurotrace.answers.views import read_views
from neurotrace.models.origins import tokenizer_of


@pytest.fixture
def asked(organism, monkeypatch):
    """Two prompts, each with two sentences of context, and one without any."""
    first = nt.load_prompts("letters")[0]
    parts = ["recall shift 2 , b c ", "a m = ", first.prompt]
    monkeypatch.setattr(
        rivals, "sentences", lambda text: list(parts) if text.startswith("recall") else [text]
    )
    two = [replace(first, id=f"{n}", prompt="".join(parts)) for n in range(2)]
    return nt.answer(organism, [*two, replace(first, id="one")])


@pytest.fixture
def read(organism, asked):
    return read_rivals(organism, asked, np.zeros((3, 1)))


def log_p(organism, text: str, token: int) -> float:
    ids = organism.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(organism(ids)[0, -1].log_softmax(-1)[token])


def test_less_of_the_prompt_is_asked_as_it_says(organism, asked, read):
    text, own = asked.prompts[0].prompt, int(asked.top[0])
    whole = log_p(organism, text, own)
    words = text.split(" ")
    cut = [0, len(words) // 2, len(words)]
    expected = [whole - log_p(organism, " ".join(words[:a] + words[b:]), own) for a, b in pairwise(cut)]
    assert read["drop of each half"][0] == pytest.approx(expected, abs=1e-4)
    swapped = f"a m = recall shift 2 , b c {asked.prompts[2].prompt}"
    assert read["reordered context"][0] == pytest.approx(log_p(organism, swapped, own) - whole, abs=1e-4)
    assert read["reordered context"][2] == 0
    again = read_views(organism, asked, ["again"])["again"]  # the same, as a view of detectors
    question = asked.prompts[2].prompt
    without = [log_p(organism, f"{kept} {question}", own) for kept in ("a m =", "recall shift 2 , b c")]
    assert again[0] == pytest.approx([log_p(organism, question, own), whole - min(without)], abs=1e-4)
    assert again[2] == pytest.approx([float(asked.log_probability[2]), 0], abs=1e-4)


def test_attention_to_the_context_is_what_the_hooks_show(organism, asked, read):
    ids = asked.ids[0]
    context = len(organism.tokenizer("recall shift 2 , b c a m =").input_ids)
    seen = []
    with (
        torch.no_grad(),
        organism.hooks([("blocks.1.attn.hook_pattern", lambda value, hook: seen.append(value.detach()))]),
    ):
        organism(ids[None])
    expected = seen[0][0, :, -1, :context].sum(-1)
    heads = len(expected)
    assert read["lookback ratio"][0, heads : 2 * heads] == pytest.approx(expected.numpy(), abs=1e-4)
    assert float(expected.max()) > 0.01
    assert not read["lookback ratio"][2].any()  # nothing before the question
    assert not read["ReDeEP, heads"][2].any()
    assert np.abs(read["ReDeEP, heads"]).max() <= 1.0001
    assert read["ReDeEP, MLPs"].min() >= -1e-5


def test_tokens_of_one_meaning_are_one_answer():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    assert float(rivals._meanings(logits, torch.arange(4))) == pytest.approx(np.log(4))
    assert float(rivals._meanings(logits, torch.tensor([0, 0, 1, 1]))) == pytest.approx(np.log(2))


def test_similarity_finds_the_sentence_that_says_the_answer(organism, asked):
    reading = Reading(organism, asked, np.zeros((3, 1)))
    own = tokenizer_of(organism).decode([int(asked.top[0])])
    question = asked.prompts[2].prompt
    reading.split = [[f"{question} {own}. ", question], ["nothing alike. ", question], [question]]
    found = RIVALS["text similarity"].read(reading)
    assert found[0] == pytest.approx(1)
    assert found[1] < 0.5
    assert found[2] == 0


def features(rng, y: np.ndarray, learner: learners.Learner) -> np.ndarray:
    if learner is learners.BY_WORDS:
        return np.array([f"{'ab'[int(own)]} {rng.integers(9)}" for own in y], dtype=object)
    shape = (len(y), 20) if learner in (learners.BY_FEATURES, learners.BY_BEST) else (len(y), 3, 6)
    X = rng.normal(size=shape)
    X[..., :8] += 2.0 * y.reshape(-1, *[1] * (X.ndim - 1))
    return X


@pytest.mark.parametrize(
    "name", ["BY_WORDS", "BY_FEATURES", "BY_DEPTH", "BY_MEANS", "BY_LAYERS", "BY_BEST"]
)
def test_what_learns_sees_the_first_half_only(name):
    learner, rng = getattr(learners, name), np.random.default_rng(0)
    y, train = rng.random(120) < 0.5, np.arange(120) < 80
    groups, X = np.arange(120) // 2, features(rng, y, learner)
    rival = rivals.Rival("1", lambda r: X, learner)
    (told,) = rival.scores(X, [train], train, y, groups)
    (blind,) = rival.scores(X, [train], train, np.where(train, y, ~y), groups)
    assert np.array_equal(told, blind)
    assert tables.auroc(told[~train], y[~train]) > 0.9


@pytest.mark.parametrize("name", ["BY_FEATURES", "BY_DEPTH", "BY_LAYERS", "BY_BEST", "BY_MEANS"])
def test_what_is_the_same_everywhere_tells_nothing(name):
    """As attention to a context where no prompt has any: more features than rows, all zero."""
    learner, y, train = getattr(learners, name), np.arange(40) % 3 == 0, np.arange(40) < 30
    X = np.zeros((40, 90) if name in ("BY_FEATURES", "BY_BEST") else (40, 2, 90))
    (score,) = rivals.Rival("1", lambda r: X, learner).scores(X, [train], train, y, np.arange(40))
    assert len(set(score.tolist())) == 1


def frame(rng) -> pd.DataFrame:
    """Groups whose outcome only they know; family f0's answers have the signs the other way round."""
    rows = pd.DataFrame({"group": np.arange(320) // 4, "family": np.arange(320) % 2})
    rows["template"] = rows["family"]
    rows["train"] = rows["group"] % 2 == 0
    rows["memory"] = (rng.permutation(80) % 2 == 0)[rows["group"]]
    for unseen in tables.UNSEEN:
        for part in tables.FEATURES:
            rows[f"{unseen} {part}"] = 0.0
    for column in ("log p without context", "largest drop", "reordered context", "log-probability"):
        rows[column] = rows["group"].astype(float)
    return rows


def test_the_combined_score_is_of_other_groups_and_other_families():
    rng = np.random.default_rng(1)
    rows = frame(rng)
    found = tables.combined(rows, "items")[tables.COMBINED]
    assert np.isnan(found[rows["train"]]).all()
    rows["largest drop"] = np.where(rows["family"] == 0, 1, -1) * np.where(rows["memory"], 1.0, -1.0)
    held = ~rows["train"].to_numpy()
    away = tables.combined(rows, "families")[tables.COMBINED][held]
    for family in range(2):  # learnt where the signs are reversed
        own = (rows["family"] == family).to_numpy()[held]
        assert tables.auroc(away[own], rows["memory"].to_numpy()[held][own]) < 0.2
    without = tables.combined(rows, "families")[f"{tables.COMBINED} without asking again"][held]
    assert not np.array_equal(away, without)


def test_the_combined_score_never_learns_its_own_groups(monkeypatch):
    rows, seen = frame(np.random.default_rng(2)), []
    rows["largest drop"] = rows["group"].astype(float)
    place = tables._AGAIN["asking again"].index("largest drop") + 2

    def watched(X, y):
        seen.append(set(X[:, place]))
        return np.zeros(1 + X.shape[1])

    monkeypatch.setattr(tables, "logistic", watched)
    tables.combined(rows, "items")
    held = set(rows["group"][~rows["train"]].astype(float))
    folds = seen[:4]
    assert all(own < held for own in folds)
    assert not set.intersection(*folds)  # each group is left out by the fold that scores it
    assert sum(len(held - own) for own in folds) == len(held)


def test_failures_are_set_beside_both_scores(trust_study):
    found = trust_study.failures.set_index("signal")
    assert found.loc["trust score", "behind"] == found.loc[tables.COMBINED, "combined"] == 0
    own = found.loc["entropy"]
    assert own["behind"] == pytest.approx(found.loc["trust score", "auroc"] - own["auroc"])
    assert own["behind_lo"] < own["behind"] < own["behind_hi"]
    assert set(RIVALS) <= set(found.index)
