"""Every figure: as kept in docs/gallery.json, in plain words, in the common colours."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

import neurotrace as nt
from neurotrace.core.display import TOWARDS_MEMORY, TOWARDS_REASONING
from neurotrace.plots import words
from neurotrace.plots.style import bare, said, strings

DOCS = Path(__file__).parents[2] / "docs"
# a name with an underscore is one of the code; so are these
CODE = re.compile(
    r"[A-Za-z]+_[A-Za-z_]+|\bsteer:|to_reasoning|memoriz(ed|ation)_|\bkl\b|\bci\b|nan\b|None\b"
)
RED_OR_OLD = ("#b2182b", "#2166ac", "RdBu", "rgb(103,0,31)", "rgb(5,48,97)")


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(gallery):
    return gallery.figures()


def test_every_figure_is_in_it(drawn):
    public = {name for name in dir(nt) if name.startswith("plot_")}
    assert set(drawn) == public


def test_figures_are_as_they_were_kept(gallery, drawn):
    """Another picture: look at it, then `python docs/gallery.py`."""
    kept = json.loads((DOCS / "gallery.json").read_text("utf-8"))
    now = gallery.record(drawn)
    assert {name: now[name]["words"] for name in now} == {name: kept[name]["words"] for name in kept}
    assert [name for name in now if now[name]["sha256"] != kept[name]["sha256"]] == []
    assert (DOCS / "gallery.md").read_text("utf-8") == gallery.page(drawn)
    assert {path.stem for path in (DOCS / "gallery").glob("*.png")} == set(drawn)
    assert sum(path.stat().st_size for path in (DOCS / "gallery").glob("*.png")) < 1.2e6
    assert {n: gallery.fingerprint(f) for n, f in gallery.figures().items()} == {
        n: each["sha256"] for n, each in now.items()
    }


def test_figures_show_no_name_of_the_code(drawn):
    bad = {name: [text for text in strings(figure) if CODE.search(text)] for name, figure in drawn.items()}
    assert {name: found for name, found in bad.items() if found} == {}
    assert sum(len(strings(figure)) for figure in drawn.values()) > 300


def test_the_list_of_words_finds_what_is_hidden(drawn):
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[1], y=[1], hovertemplate="low_rho, k=%{x}<extra></extra>"))
    assert any(CODE.search(text) for text in strings(figure))
    figure = go.Figure(go.Scatter(x=[1], y=[1], name="other_donor", text=["steer:0.7"]))
    assert sum(bool(CODE.search(text)) for text in strings(figure)) == 2
    assert not CODE.search("steer ×0.7 or patch: least correlated neurons")
    assert strings(next(iter(drawn.values())))


def test_titles_state_and_subtitles_explain(drawn):
    for name, figure in drawn.items():
        title, subtitle = said(figure)
        assert len(title) > 15, name
        assert re.search(r"\d|highest|best|most", title), (name, title)
        assert len(subtitle) > 30, name
        plain = bare(figure)
        assert said(plain) == ("", "")
        assert plain.layout.height < figure.layout.height
        assert said(figure) == (title, subtitle)  # the copy alone lost them


def test_one_colour_for_memory_and_one_for_reasoning(drawn):
    for name, figure in drawn.items():
        text = figure.to_json()
        assert not any(old in text for old in RED_OR_OLD), name
    flips = drawn["plot_flips"]
    lines = [trace.line.color for trace in flips.data if trace.mode == "lines+markers" and trace.visible]
    assert {TOWARDS_MEMORY, TOWARDS_REASONING} <= set(lines)
    shown = [trace for trace in flips.data if trace.visible]
    assert len(shown) < len(flips.data) / 1.5  # the rest on demand
    assert [button.label for button in flips.layout.updatemenus[0].buttons][1] == "show all tried"


def test_layer_0_is_on_top(drawn):
    assert drawn["plot_scores"].layout.yaxis.autorange == "reversed"


def test_words_for_names():
    assert words.kind_words("steer:0.7+patch+set") == "steer ×0.7 or patch or set to mean"
    assert words.candidate_words("two_ended steer:0.7 8") == "two-ended gradient, steer ×0.7, 8 neurons"
    assert "“least correlated neurons” flips 4%" in words.why_words("the control low_rho flips 4%")
    found = [words.damage_word(nats) for nats in (0.001, 0.0099, 0.01, 0.099, 0.1, 0.99, 1.0, 50.0)]
    assert found == ["hardly any"] * 2 + ["small"] * 2 + ["large"] * 2 + ["severe"] * 2
