"""Style shared by all figures: template, palette, writing to a file.

The template is set on each figure; plotly's global one is not changed. One colour each for memory,
reasoning and controls, everywhere; all are of Okabe and Ito's palette, or as far apart
for colour-blind readers.
A title states the finding, a subtitle what is measured. Layer 0 is on top.
"""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core import display
from neurotrace.core.errors import InputError
from neurotrace.core.writing import save_file, save_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEMORIZED, REASONED, CONTROL = display.TOWARDS_MEMORY, display.TOWARDS_REASONING, "#7f7f7f"
INK, FAINT = "#1d2430", "#999999"
# for what is neither memory nor reasoning nor a control
OTHERS = ("#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#6A51A3")
# signed numbers: towards reasoning below zero, towards memory above
SIGNED = ((0.0, REASONED), (0.5, "#f4f4f4"), (1.0, MEMORIZED))
# a rate beside chance, which is neither memory's nor reasoning's
CHANCE = ((0.0, "#6A51A3"), (0.5, "#f4f4f4"), (1.0, "#00795a"))
_WRAP, _WRAP_SUB, _LINE, _LINE_SUB = 78, 104, 21, 17  # characters and pixels of a line
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
_SHOWN = {
    "text",
    "name",
    "ticktext",
    "hovertemplate",
    "hovertext",
    "customdata",
    "label",
    "title",
    "x",
    "y",
}
_IMAGES = (".png", ".svg", ".pdf", ".jpg", ".webp")


def template() -> go.layout.Template:
    """The project's template, for your own figures: `figure.update_layout(template=nt.template())`.

    Example::

        figure.update_layout(template=nt.template())
    """
    import plotly.graph_objects as go

    axis = {
        "gridcolor": "#e6e9ee",
        "zerolinecolor": "#c3c9d2",
        "linecolor": "#8a93a0",
        "ticks": "outside",
        "tickcolor": "#c3c9d2",
        "title": {"standoff": 8},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": _FONT, "size": 13, "color": "#1d2430"},
            "title": {"x": 0.01, "xanchor": "left", "font": {"size": 15}},
            "colorway": list(OTHERS),
            "colorscale": {"diverging": [list(each) for each in SIGNED], "sequential": "Viridis"},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left", "font": {"family": _FONT}},
            "legend": {"title": {"text": ""}},
            "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        }
    )


def finish(figure: Any, title: str, *, subtitle: str = "", height: int = 440) -> Any:
    """The figure with template, title and subtitle, whose lines are broken; `height` is without them."""
    head, below = _lines(title, _WRAP), _lines(subtitle, _WRAP_SUB)
    panels = 18 if len(list(figure.select_xaxes())) > 1 else 0  # their titles stand below
    top = 34 + _LINE * len(head) + _LINE_SUB * len(below) + panels
    figure.update_layout(
        template=template(),
        title={
            "text": "<br>".join(head),
            "subtitle": {"text": "<br>".join(below), "font": {"size": 12}},
            "y": 1 - (10 + _LINE * (len(head) - 1)) / (height + top),  # of the last line
            "yref": "container",
            "yanchor": "top",
        },
        height=height + top,
        margin={"t": top + 10},
    )
    return figure


def said(figure: Any) -> tuple[str, str]:
    """A finished figure's title and subtitle as plain text."""
    found = figure.layout.title
    return tuple(
        html.unescape((each or "").replace("<br>", " ")) for each in (found.text, found.subtitle.text)
    )  # type: ignore[return-value]


def bare(figure: Any) -> Any:
    """A copy without title and subtitle, for a page that sets them as text."""
    import plotly.graph_objects as go

    copy = go.Figure(figure)
    above = int(figure.layout.margin.t or 0)
    top = 40 if len(list(figure.select_xaxes())) > 1 else 12
    copy.update_layout(title={"text": "", "subtitle": {"text": ""}}, margin={"t": top})
    copy.update_layout(height=int(figure.layout.height) - above + top)
    return copy


def strings(figure: Any) -> list[str]:
    """Every text that a reader of the figure can see: titles, names, ticks, marks, hover, buttons."""
    found: list[str] = []

    def walk(node: Any, key: str = "") -> None:
        if isinstance(node, dict):
            for name, each in node.items():
                if name != "template":
                    walk(each, name)
        elif hasattr(node, "tolist"):  # an array
            walk(node.tolist(), key)
        elif isinstance(node, (list, tuple)):
            for each in node:
                walk(each, key)
        elif isinstance(node, str) and key in _SHOWN:
            found.append(html.unescape(re.sub(r"%\{[^}]*\}|<[^>]*>", " ", node)))

    walk(figure.to_plotly_json())
    return [text for text in found if text.strip()]


def save_figure(figure: go.Figure, path: str | Path, *, scale: float = 2.0) -> Path:
    """Write a figure as .html (offline), or as .png, .svg, .pdf, .jpg, .webp through a browser.

    Args:
        scale: image pixels per pixel of the figure.

    Raises:
        InputError: another suffix; the package `kaleido` or a Chrome or Chromium is missing.

    Example::

        nt.save_figure(nt.plot_scores(scores), "scores.html")
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix == ".html":
        save_file(target, page(figure))
        return target
    if suffix not in _IMAGES:
        raise InputError(f"{target}: expected a name that ends in .html, {', '.join(_IMAGES)}")
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise InputError(
            f"{target}: writing images needs the package kaleido: pip install 'kaleido>=1' "
            "(in a clone: pip install -e '.[images]'); .html needs nothing"
        ) from None
    from choreographer.browsers.chromium import ChromeNotFoundError

    try:
        save_whole(target, lambda made: figure.write_image(made, scale=scale))
    except (ChromeNotFoundError, RuntimeError) as error:  # plotly wraps the first
        if "chrome" not in str(error).lower():
            raise
        raise InputError(
            f"{target}: writing images needs a Chrome or Chromium and none was found: install one "
            "(Debian: apt install chromium) or name it in BROWSER_PATH; .html needs nothing"
        ) from None
    return target


def page(figure: go.Figure) -> str:
    """A page that opens offline, and that loads and sends nothing."""
    text: str = figure.to_html(include_plotlyjs=True)
    return text.replace("<head>", f"<head>{display.POLICY}", 1)


def fade(colour: str, alpha: float = 0.15) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def clip(text: str, limit: int = 40) -> str:
    return html.escape(display.clip(text, limit))  # plotly interprets tags in labels


def _lines(text: str, width: int) -> list[str]:
    """Broken and escaped, at most three lines."""
    return [html.escape(each) for each in textwrap.wrap(text, width, max_lines=3, placeholder=" …")]
