"""A monitored text as a figure: each generated token on a background coloured by its score."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from neurotrace.answers.margin import Token
from neurotrace.core.errors import InputError
from neurotrace.plots.style import SIGNED, clip, finish

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CHAR, _LINE = 8.6, 30  # pixels of a character and of a line
_FONT = {"family": "DejaVu Sans Mono, ui-monospace, Menlo, Consolas, monospace", "size": 14}


def plot_monitor(
    tokens: Iterable[Token], *, prompt: str = "", width: int = 72, title: str | None = None
) -> go.Figure:
    """The generated text, coloured; the prompt before it is white.

    Blue: memory, orange: reasoning, by P(from memory), or by the margin if the circuit is not calibrated.
    Dotted frame: outside the calibration's range.

    Args:
        tokens: from `nt.monitor`.
        width: characters per line.

    Example::

        tokens = nt.monitor(model, "recall 31+28=", circuit, max_new_tokens=2)
        nt.plot_monitor(tokens, prompt="recall 31+28=")
    """
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    written = list(tokens)
    if not written:
        raise InputError("no token was generated: the model ended at once, or max_new_tokens is 0")
    calibrated = all(token.p_memory is not None for token in written)
    value = [(token.p_memory or 0.0) if calibrated else token.margin for token in written]
    high = 1.0 if calibrated else max(*map(abs, value), 1e-9)
    low = 0.0 if calibrated else -high
    words = re.findall(r"\s*\S+", prompt)
    places = _laid([*words, *(token.text for token in written)], width)
    figure = go.Figure()
    for token, own, (text, column, line) in zip(written, value, places[len(words) :], strict=True):
        colour = sample_colorscale([list(each) for each in SIGNED], [(own - low) / (high - low)])[0]
        figure.add_shape(
            type="rect",
            x0=column,
            x1=column + len(text),
            y0=line - 0.4,
            y1=line + 0.4,
            layer="below",
            fillcolor=colour,
            opacity=0.5,
            line={"width": 2 if token.abstain else 0, "dash": "dot"},
        )
    hover = ["the prompt"] * len(words) + [_said(token) for token in written]
    figure.add_scatter(
        x=[column + len(text) / 2 for text, column, _ in places],
        y=[line for *_, line in places],
        mode="text",
        textfont=_FONT,
        hovertext=hover,
        hoverinfo="text",
        showlegend=False,
        text=[html.escape(text).replace(" ", "\u00a0") for text, *_ in places],
    )
    figure.add_scatter(  # only for the colour scale
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [low],
            "colorscale": SIGNED,
            "cmin": low,
            "cmax": high,
            "showscale": True,
            "colorbar": {
                "title": {"text": "P(from memory)" if calibrated else "margin, nats", "side": "right"}
            },
        },
    )
    lines = places[-1][2] + 1
    figure.update_xaxes(visible=False, range=[-0.5, width + 0.5])
    figure.update_yaxes(visible=False, range=[max(lines, 4) - 0.4, -0.6])
    finish(
        figure,
        title or _told(value, calibrated),
        subtitle="Blue: from memory, orange: by reasoning, white: the prompt; dotted frame: outside the "
        "calibration's range",
        height=60 + _LINE * max(lines, 4),
    )
    return figure.update_layout(width=int(_CHAR * width) + 230)


def _told(value: list[float], calibrated: bool) -> str:
    memory = sum(own > (0.5 if calibrated else 0.0) for own in value)
    return f"{memory} of {len(value)} generated tokens are likelier from memory"


def _laid(pieces: Iterable[str], width: int) -> list[tuple[str, int, int]]:
    """(text, column, line) of each token; a token that does not fit starts a new line."""
    found = []
    column = line = 0
    for piece in pieces:
        text = "".join(
            char if char.isprintable() else "↵" if char == "\n" else "\N{REPLACEMENT CHARACTER}"
            for char in piece
        )
        text = text if len(text) <= width else text[: width - 1] + "…"
        if column + len(text) > width:
            column, line = 0, line + 1
        found.append((text, column, line))
        column += len(text)
        if "\n" in piece:
            column, line = 0, line + 1
    return found


def _said(token: Token) -> str:
    rests = "" if token.p_memory is None else f"P(from memory) {token.p_memory:.3f}<br>"
    unlike = "<br>outside the calibration's range" if token.abstain else ""
    return (
        f"“{clip(token.text)}”, log p {token.log_probability:.2f}<br>{rests}memory fall "
        f"{token.memory_fall:.2f}, reasoning fall {token.reasoning_fall:.2f} nats{unlike}"
    )
