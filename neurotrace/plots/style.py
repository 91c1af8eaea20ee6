"""Style shared by all figures: template, palette, writing to a file.

The template is set on each figure; plotly's global one is not changed. RdBu centred at zero for signed
numbers (blue supports memory, red reasoning); Okabe and Ito's palette, suited to colour-blind readers,
for lines.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core import display
from neurotrace.core.errors import InputError
from neurotrace.core.writing import save_file, save_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {
    "patch": "#0072B2",
    "set": "#009E73",
    "zero": "#D55E00",
    "mean": "#CC79A7",
    "shift": "#E69F00",
    "scale": "#56B4E9",
    "steer": "#6A51A3",
    "random": "#7f7f7f",
}
MEMORIZED, REASONED = "#0072B2", "#D55E00"
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
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
            "colorway": list(COLOURS.values()),
            "colorscale": {"diverging": "RdBu", "sequential": "Viridis"},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left", "font": {"family": _FONT}},
            "legend": {"title": {"text": ""}},
            "margin": {"l": 70, "r": 30, "t": 70, "b": 60},
        }
    )


def finish(figure: Any, title: str, *, height: int = 440) -> Any:
    """The figure with the template, its title and its height."""
    figure.update_layout(template=template(), title={"text": clip(title, 110)}, height=height)
    return figure


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
