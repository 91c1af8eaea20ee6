"""Objects show themselves: in a notebook, in a terminal; what comes from prompts stays text."""

from __future__ import annotations

import io
from dataclasses import replace

import pandas as pd
import pytest
import torch
from rich.console import Console

import neurotrace as nt
from neurotrace.core.display import Bar, Shown, Table, View, to_html
from neurotrace.decoding.tokens import Dropped
from neurotrace.studies.verdict import SENTENCES

EVIL = "<script>alert(1)</script>\x1b[31m"


class Evil(Shown):
    def _view(self) -> View:
        cells = ((EVIL, Bar(-0.5, 1.0, EVIL, signed=True), None),)
        return View(EVIL, (Table((EVIL, "b", "c"), cells, title=EVIL),), EVIL)


def terminal(shown: Shown, width: int = 80) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(shown)
    return page.getvalue()


def test_text_is_data_in_both_forms():
    assert "<script" not in Evil()._repr_html_()
    assert Evil()._repr_html_().count("&lt;script&gt;") == 6
    assert "\x1b" not in terminal(Evil(), 400)


def test_a_bar_is_as_long_as_its_share():
    assert (Bar(5.0, 2.0, "").share, Bar(-1.0, 2.0, "").share) == (1.0, -0.5)
    assert Bar(float("nan"), 1.0, "").share == Bar(1.0, 0.0, "").share == 0.0
    left = Table(("a",), ((Bar(-1.0, 2.0, "x", signed=True),),))
    assert "transparent 25.0%" in to_html(View("", (left,)))


def test_scores_name_their_neurons(model, encoded):
    scores = nt.gradient(model, encoded)
    first = str(scores.top(1, direction="to_reasoning")[0])
    assert first in scores._repr_html_()
    assert first in terminal(scores)
    assert "95 %" not in scores._repr_html_()
    exact = nt.ablate(model, encoded, [nt.Neuron(1, 5), nt.Neuron(1, 6)], kind="patch")
    assert "95 %" in exact._repr_html_()
    assert "2 of 48 neurons" in terminal(exact)
    unsigned = replace(scores, signed=False)
    assert "not what it causes" in unsigned._repr_html_()
    one = nt.Scores("one", torch.tensor([[1.0, float("nan")]]))
    assert "L0.N0" in terminal(one)


def test_results_become_datasets(model, encoded):
    """The rows of `to_frame`, and a list of pairs as it was."""
    import datasets

    exact = nt.ablate(model, encoded, [nt.Neuron(1, 5)], kind="patch")
    scores = nt.gradient(model, encoded)
    effects = nt.measure(model, encoded, [nt.zero([nt.Neuron(1, 5)], direction="to_reasoning")])
    table = nt.ablation_effects(model, encoded, [nt.Neuron(1, 5)], kind="zero")
    for result in (encoded, scores, exact, effects, table):
        rows = result.to_dataset()
        assert isinstance(rows, datasets.Dataset)
        left, right = (frame.astype(object) for frame in (rows.to_pandas(), result.to_frame()))
        pd.testing.assert_frame_equal(left, right)
    assert nt.load_pairs(nt.to_dataset(encoded.pairs)) == list(encoded.pairs)
    prompts = nt.prompts_of(encoded.pairs)
    assert nt.load_prompts(nt.to_dataset(prompts)) == prompts
    for wrong in ([], [1], 3, Evil()):
        with pytest.raises(nt.InputError, match="expected a result with rows"):
            nt.to_dataset(wrong)


def test_effects_show_rates_with_intervals(model, encoded):
    many = [nt.patch([nt.Neuron(1, i)], donor="reasoning", role=f"r{i}") for i in range(14)]
    effects = nt.measure(model, encoded, many)
    shown = effects._repr_html_()
    assert "100.0%" in shown
    assert "2 more interventions" in shown
    assert "planted, to reasoning" in terminal(effects)
    assert repr(effects) == "Effects(168 rows on 12 pairs)"


def test_pairs_show_prompts_and_what_was_dropped(model, encoded):
    dropped = (Dropped(encoded.pairs[0], "no memorized answer", "why"),)
    shown = replace(encoded, dropped=dropped)
    assert "12 of 13 pairs" in shown._repr_html_()
    assert "1 no memorized answer" in terminal(shown)
    assert encoded.pairs[0].memorization in shown._repr_html_()
    table = encoded.to_frame()
    assert table["L_on_memorization"].min() > 0 > table["L_on_reasoning"].max()
    assert list(table["pair"]) == [pair.id for pair in encoded.pairs]


def test_a_study_says_its_verdict(model, encoded):
    study = nt.study(model, encoded, ks=[1], kinds=["patch"], exact_neurons=0)
    assert SENTENCES["no"] in study._repr_html_()
    assert len(study.to_frame()) == len(study.flips)
    assert repr(study) == f"Study(planted: 12 pairs, {len(study.flips)} interventions)"


def test_exact_effects_show_the_planted_neuron_first(model, encoded):
    both = [nt.Neuron(1, 5), nt.Neuron(1, 6)]
    rows = nt.ablation_effects(model, encoded, both, kind="patch")
    assert "24 effects" in rows._repr_html_()
    assert repr(rows) == "NeuronEffects(24 rows)"
    curve = nt.ablate_sets(model, encoded, both, kind="patch")
    assert "first k of 2 neurons" in terminal(curve)
    assert repr(curve) == "SetEffects(2 sizes on 12 pairs)"
    top = nt.ablate_top(model, encoded, 2, kind="patch")
    assert list(top.to_frame()["neuron"]) == [str(neuron) for neuron in top.neurons]
    assert str(top.neurons[0]) == "L1.N5"
    assert "L1.N5" in terminal(top)


def test_a_sweep_shows_what_is_there(organism, tmp_path):
    asked = nt.Sweep("organism", ("letters",), layers="2", max_pairs=3, threads=1)
    nt.sweep(asked, tmp_path / "s", model=organism)
    run = nt.open_run(tmp_path / "s")
    assert "1 of 1" in run._repr_html_()
    assert "384 neurons on each of 3 pairs of organism" in terminal(run, 200)


def test_ipython_prints_the_terminal_form(encoded, capsys):
    class Printer:
        text = print

    encoded._repr_pretty_(Printer, cycle=False)
    assert "12 of 12 pairs" in capsys.readouterr().out


def test_figures_are_saved_by_suffix(tmp_path, monkeypatch):
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    assert nt.save_figure(figure, tmp_path / "a.html").stat().st_size > 1e6
    with pytest.raises(nt.InputError, match="ends in"):
        nt.save_figure(figure, tmp_path / "a.txt")
    monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    with pytest.raises(nt.InputError, match="pip install"):
        nt.save_figure(figure, tmp_path / "a.png")


def test_an_image_without_a_browser_is_a_clear_error(tmp_path, monkeypatch):
    kaleido = pytest.importorskip("kaleido")
    import plotly.graph_objects as go
    from choreographer.browsers.chromium import ChromeNotFoundError

    def missing(*_, **__):
        raise ChromeNotFoundError

    monkeypatch.setattr(kaleido, "calc_fig_sync", missing)
    with pytest.raises(nt.InputError, match="Chromium"):
        nt.save_figure(go.Figure(), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_hover_text_names_both_prompts(model, encoded):
    effects = nt.measure(model, encoded, [nt.patch([nt.Neuron(1, 5)], donor="reasoning")])
    figure = nt.plot_pairs(effects, pairs=encoded, limit=2)
    assert any("recall →  mem" in text for trace in figure.data for text in trace.text or ())


def test_a_family_with_markup_is_text_in_a_figure(model, encoded):
    pairs = tuple(replace(pair, family="<b>bold</b>") for pair in encoded.pairs)
    change = nt.patch([nt.Neuron(1, 5)], donor="reasoning")
    effects = nt.measure(model, replace(encoded, pairs=pairs), [change])
    subtitle = nt.plot_flips(effects).layout.title.subtitle.text
    assert subtitle.startswith("&lt;b&gt;bold&lt;/b&gt;, memory → reasoning: ")
    both = [change, nt.patch([nt.Neuron(1, 5)], donor="memorization")]
    two = nt.plot_flips(nt.measure(model, replace(encoded, pairs=pairs), both)).layout.annotations
    assert two[0].text == "&lt;b&gt;bold&lt;/b&gt;: memory → reasoning"


def test_a_single_number_of_neurons_is_drawn_with_its_interval(model, encoded):
    effects = nt.measure(model, encoded, [nt.patch([nt.Neuron(1, 5)], donor="reasoning")])
    (mark,) = (trace for trace in nt.plot_flips(effects).data if trace.mode == "lines+markers")
    rates = effects.rates().iloc[0]
    assert rates["answers_low"] < rates["answers_high"]
    assert mark.error_y.array[0] == pytest.approx(rates["answers_high"] - rates["answers"])
    assert mark.error_y.arrayminus[0] == pytest.approx(rates["answers"] - rates["answers_low"])
