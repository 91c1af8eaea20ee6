"""The default trust score: which signal is chosen, and that what is saved reads the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import neurotrace as nt
from neurotrace.answers import tables
from neurotrace.answers.learners import BY_LAYERS
from neurotrace.answers.rivals import RIVALS, read_rivals
from neurotrace.answers.score import AGAIN, CANDIDATES, MARGIN, PROBE, Score, at_answer, fit_score
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import originals


@pytest.fixture(scope="module")
def asked(organism):
    return nt.answer(organism, originals(nt.load_prompts("arithmetic"))[::3]).decided()


@pytest.fixture(scope="module")
def values(organism, asked):
    return read_rivals(organism, asked, np.zeros((len(asked), 1)))


def fitted(signal, asked, values):
    y = np.array([outcome == "memory" for outcome in asked.outcome])
    first = np.arange(len(y)) % 2 == 0
    groups = np.array([prompt.group for prompt in asked.prompts])
    return fit_score(signal, values[signal], y, first, groups, np.full(len(y), np.nan)), y, first, groups


def test_a_probe_reads_what_its_rival_read(organism, asked, values):
    np.testing.assert_allclose(at_answer(organism, asked), values[PROBE], atol=1e-4)
    score, y, first, groups = fitted(PROBE, asked, values)
    choice = BY_LAYERS.choose(values[PROBE][first], y[first], groups[first])
    expected = BY_LAYERS.score(choice, values[PROBE], first, y)
    np.testing.assert_allclose(score.read(organism, asked)[:, 0], expected, atol=1e-3)
    p = score.calibration.p_memory(score.read(organism, asked))
    assert p[y].mean() > p[~y].mean() + 0.2  # of few prompts


@pytest.mark.parametrize("signal", CANDIDATES[1:])
def test_trust_reads_the_circuits_score_unless_the_margin_is_asked_for(
    organism, asked, values, trust_study, tmp_path, signal
):
    score, *_ = fitted(signal, asked, values)
    replace(trust_study.circuit, score=score).save(tmp_path / "c.safetensors")
    circuit = nt.Circuit.load(tmp_path / "c.safetensors")
    found = nt.trust(organism, asked.prompts[:9], circuit).to_frame()
    assert set(found["signal"]) == {signal}
    expected = score.read(organism, asked.at(range(9)))
    np.testing.assert_allclose(found["score"], expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(found["p_memory"], score.calibration.p_memory(expected), atol=1e-4)
    np.testing.assert_allclose(found["log_probability"], asked.log_probability[:9].numpy(), atol=1e-4)
    assert found["margin"].isna().all()
    assert f"reads {signal}" in str(circuit._view())
    with pytest.raises(InputError, match=f"read from {signal}, a margin has two parts"):
        nt.plot_margins(nt.trust(organism, asked.prompts[:3], circuit))
    by_margin = nt.trust(organism, asked.prompts[:9], circuit, margin=True).to_frame()
    plain = nt.trust(organism, asked.prompts[:9], trust_study.circuit).to_frame()
    pd.testing.assert_frame_equal(by_margin, plain)
    assert set(plain["signal"]) == {MARGIN}
    texts = [prompt.prompt for prompt in asked.prompts[:3]]
    np.testing.assert_allclose(nt.trust(organism, texts, circuit).to_frame()["score"], found["score"][:3])


def judged(**quality: float) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """A frame and learned signals; of each the share of noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=400).astype(bool)
    frame = pd.DataFrame({"memory": y, "group": np.arange(400), "family": "one", "train": False})
    scores = {name: y + noise * rng.normal(size=400) for name, noise in quality.items()}
    frame["items memory_fall"], frame["items reasoning_fall"] = scores["margin"], 0.0
    named = {AGAIN: "again", PROBE: "probe"}
    return frame, {name: {"items": scores[own]} for name, own in named.items()}


@pytest.mark.parametrize(
    ("quality", "chosen"),
    [
        ({"margin": 0.1, "again": 0.1, "probe": 0.1}, MARGIN),
        ({"margin": 0.5, "again": 0.1, "probe": 0.1}, AGAIN),
        ({"margin": 0.5, "again": 0.5, "probe": 0.1}, PROBE),
        ({"margin": 0.1, "again": 0.5, "probe": 0.5}, MARGIN),
    ],
)
def test_the_cheapest_that_is_as_good_is_the_default(quality, chosen):
    assert tables.cheapest(*judged(**quality)) == chosen


def test_the_study_names_what_it_chose(trust_study):
    assert trust_study.summary["score"] == MARGIN  # as good as the probe here, and cheaper
    assert trust_study.circuit.score is None
    assert set(CANDIDATES) - {MARGIN} <= set(RIVALS)


def test_a_damaged_score_is_refused(organism, asked, values, trust_study):
    score, *_ = fitted(PROBE, asked, values)
    content = score.to_json()
    for wrong, weights in (
        (content | {"signal": "entropy"}, score.weights),
        (content, np.empty((0, 0))),
        (content | {"signal": AGAIN}, score.weights),
        (content | {"calibration": trust_study.circuit.calibration.to_json()}, score.weights),
    ):
        with pytest.raises(InputError, match="a damaged score"):
            Score.from_json(wrong, weights)
    with pytest.raises(InputError, match="it is of another model"):
        replace(score, weights=score.weights[:, :-1]).read(organism, asked.at([0]))
