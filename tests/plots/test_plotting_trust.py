"""The trust side shows itself: tables in a notebook and a terminal, figures; text stays text."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch.nn.functional as F
from rich.console import Console
from torch.overrides import TorchFunctionMode

import neurotrace as nt
from neurotrace.answers.tables import coverage, risks
from neurotrace.core.errors import InputError

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def prompts():
    return nt.load_prompts("arithmetic")


@pytest.fixture
def study(trust_study):
    return trust_study


def terminal(shown) -> str:
    page = io.StringIO()
    Console(file=page, width=120).print(shown)
    return page.getvalue()


def test_the_trust_side_shows_itself(organism, prompts, study):
    scored = nt.trust(organism, prompts[:20], study.circuit)
    margins = nt.causal_margin(organism, prompts[:3], study.circuit)
    asked = nt.answer(organism, prompts[:20])
    for shown, said, rows in (
        (study, "causal margin", len(study.signals)),
        (study.circuit, "calibrated on", 8),
        (scored, "P(from memory)", len(scored)),
        (margins, "Causal margins of 3 prompts", 3),
        (asked, "its first prompt", len(asked)),
    ):
        assert said in shown._repr_html_()
        assert said in terminal(shown)
        assert len(shown.to_frame()) == rows
        assert repr(shown).startswith(type(shown).__name__)
    assert "not calibrated" in terminal(replace(study.circuit, calibration=None))
    evil = replace(prompts[0], prompt=EVIL)
    assert "<script" not in replace(asked, prompts=(evil, *asked.prompts[1:]))._repr_html_()
    named = scored.table.set_column(1, "prompt", [[EVIL] * len(scored)])
    assert "&lt;script" in nt.Trust(named)._repr_html_()


def test_detectors_show_what_they_learnt():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, 2] > 0).astype(int)
    quick = {"warmup": 200, "steps": 20, "rounds": 2, "divide_steps": 10}
    for detector in (
        nt.LinearDetector(),
        nt.InvariantDetector(**quick),
        nt.InvariantDetector(hidden=3, **quick),
    ):
        assert "not fitted" in detector._repr_html_()
        detector.fit(X, y)
        assert detector.to_frame()["feature"].iloc[0] == 2
        assert detector._repr_mimebundle_()["text/html"] == detector._repr_html_()
        assert "on 4 features" in terminal(detector)
    fused = nt.FusedDetector({EVIL: (0, 2), "signal": (2, 4)}).fit(X, y)
    table = fused.to_frame().set_index("view")
    assert table["weight"]["signal"] > 0.8
    assert "<script" not in fused._repr_html_()
    assert "±" in terminal(fused)


def test_bands_hold_the_risk_and_widen_where_few_are_kept(study):
    names = ("log p without context", "largest drop", "log-probability", "entropy")
    table = coverage(
        study.scores, risks(study.scores, {name: {"items": study.scores[name]} for name in names})
    )
    for _, line in table.groupby("signal"):
        inside = (line["risk_lo"] <= line["risk"] + 1e-9) & (line["risk"] <= line["risk_hi"] + 1e-9)
        assert inside.mean() > 0.9
    spread = (table["risk_hi"] - table["risk_lo"])[table["signal"] == "entropy"].to_numpy()
    assert spread[9] > spread[-1] > 0


def test_figures_of_a_study(prompts, study):
    risk = nt.plot_coverage(study.coverage)
    assert [line.name for line in risk.data if line.name] == [
        "kept by trust score",
        "kept by combined score",
        "kept by log p without context",
        "kept by largest drop",
        "kept by log-probability",
        "kept by entropy",
        "all answers",
    ]
    own = nt.plot_reliability(study.scores).data[1]
    assert own.name == "P(from memory)"
    assert sum(row[0] for row in own.customdata) == len(study.scores)
    signals = nt.plot_signals(study.signals)
    assert signals.layout.annotations[0].text == "unseen items"
    evil = [replace(prompt, prompt=EVIL) for prompt in prompts]
    margins = nt.plot_margins(study.scores, prompts=evil)
    hover = "".join(text for marks in margins.data[1:] for text in marks.text)
    assert "&lt;script&gt;" in hover
    assert "<script" not in hover
    with pytest.raises(InputError, match="has a changed version"):
        nt.plot_coverage(study.coverage.head(0))


def test_a_monitored_text_is_coloured_and_stays_text(organism, study):
    tokens = list(nt.monitor(organism, "recall 31+28=", study.circuit, max_new_tokens=2))
    figure = nt.plot_monitor(tokens, prompt="recall 31+28=")
    assert len(figure.layout.shapes) == len(tokens)
    recalled = replace(tokens[0], p_memory=1.0)
    reasoned = replace(tokens[0], p_memory=0.0, text=EVIL + "\n", abstain=True)
    figure = nt.plot_monitor([recalled, reasoned, tokens[0]], prompt=EVIL, width=40)
    blue, red, _ = (shape.fillcolor for shape in figure.layout.shapes)
    assert (blue, red) == ("rgb(0, 114, 178)", "rgb(213, 94, 0)")
    assert figure.layout.shapes[1].line.width == 2
    assert "<script" not in figure.to_json().replace("\\u003c", "<")
    lines = figure.data[0].y
    assert lines[-1] == lines[-2] + 1  # what follows a line's end stands below it
    by_margin = nt.plot_monitor([replace(tokens[0], p_memory=None, abstain=None)])
    assert by_margin.data[1].marker.colorbar.title.text == "margin, nats"
    with pytest.raises(InputError, match="no token was generated"):
        nt.plot_monitor([])


@pytest.mark.parametrize("engine", [True, False])
def test_a_prompt_costs_at_most_three_passes(organism, prompts, study, engine, monkeypatch):
    """Counted where a pass starts: rows × positions."""
    from neurotrace.interventions import logits as changed_logits
    from neurotrace.models.origins import twin

    real = twin(organism)
    changed_logits.engine_of(organism)  # proved before anything is counted
    if not engine:
        monkeypatch.setattr(changed_logits, "engine_of", lambda model: None)
    # the engine runs the first block, a bridge computes norms by itself but embeds once a pass
    place, weight = (
        (F.layer_norm, real.transformer.h[0].ln_1.weight)
        if engine
        else (F.embedding, real.transformer.wte.weight)
    )
    counted = []

    class Counted(TorchFunctionMode):  # a hook would be a change of the model
        def __torch_function__(self, func, types, args=(), kwargs=None):
            given = [*args, *(kwargs or {}).values()]
            if func is place and any(each is weight for each in given):
                counted.append(args[0].shape[:2].numel())
            return func(*args, **(kwargs or {}))

    with Counted():
        nt.trust(organism, [prompts[0].prompt], study.circuit)
    length = len(nt.answer(organism, prompts[:1]).ids[0])
    assert sum(counted) == (length if engine else 3 * length)


def test_figures_of_detectors_keep_names_apart_and_shares_above_zero():
    long = "relation/" + "x" * 30
    row = {"detector": "linear", "view": "neurons", "auroc_lo": 0.5, "auroc_hi": 1.0, "n": 30}
    units = [f"{long}1", f"{long}2", f"<b>{EVIL}"]
    table = pd.DataFrame(
        row | {"train_family": train, "test_family": test, "auroc": 0.6 + 0.1 * (train == test)}
        for train in units
        for test in units
    )
    figure = nt.plot_transfer(table)
    assert np.array(figure.data[0].z).shape == (3, 3)  # though two names are cut to the same label
    assert "<b>" not in "".join([*figure.layout.yaxis.ticktext, *np.ravel(figure.data[0].customdata)])
    weights = pd.DataFrame(
        {"detector": "fused product", "view": ["a", "b"], "weight": [0.1, 0.9], "sd": [0.3, 0.3]}
    )
    bars = nt.plot_weights(weights).data[0]
    assert list(bars.error_y.arrayminus) == [0.1, 0.3]
