"""Figure of a training run: when do a behaviour and its neurons appear?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurotrace.plots.style import CONTROL, MEMORIZED, OTHERS, REASONED, clip, fade, finish

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_PANELS = ("answered correctly", "answers flipped", "top neurons")
# panel, column, name, colour, dash
_LINES = (
    (1, "recalls", "recalls", MEMORIZED, "solid"),
    (1, "reasons", "reasons", REASONED, "solid"),
    (2, "flips_to_reasoning", "flips to reasoning", REASONED, "solid"),
    (2, "flips_to_memorization", "flips to memory", MEMORIZED, "solid"),
    (2, "random_to_reasoning", "random neurons, to reasoning", CONTROL, "solid"),
    (2, "random_to_memorization", "random neurons, to memory", CONTROL, "dot"),
    (3, "settled_to_reasoning", "shared with the last checkpoint", OTHERS[0], "solid"),
    (3, "kept_to_reasoning", "shared with the previous one", OTHERS[2], "solid"),
    (3, "stable_to_reasoning", "shared with a resample's", CONTROL, "dash"),
    (3, "concentrated_to_reasoning", "effect concentrated in few", OTHERS[1], "dot"),
)


def plot_timeline(table: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """One row of panels per family: accuracy, flips with 95 % bands and controls, and the top neurons.

    Takes the table of `nt.timeline`. The third panel shows the top neurons for flips to reasoning.

    Example::

        nt.plot_timeline(nt.timeline(["organism"], nt.load_pairs("arithmetic")))
    """
    from plotly.subplots import make_subplots

    families = list(dict.fromkeys(table["family"]))
    figure = make_subplots(
        rows=len(families),
        cols=len(_PANELS),
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.24 / max(2, len(families)),
        subplot_titles=[f"{clip(family)}: {panel}" for family in families for panel in _PANELS],
    )
    for row, family in enumerate(families, start=1):
        own = table[table["family"] == family]
        for panel, column, name, colour, dash in _LINES:
            at: dict[str, Any] = {"row": row, "col": panel, "legendgroup": name}
            known = own[own[column].notna()]
            if f"{column}_low" in own:
                x, low, high = (
                    known[c].tolist() for c in ("checkpoint", f"{column}_low", f"{column}_high")
                )
                figure.add_scatter(
                    x=x + x[::-1],
                    y=high + low[::-1],
                    fill="toself",
                    fillcolor=fade(colour),
                    mode="none",
                    hoverinfo="skip",
                    showlegend=False,
                    **at,
                )
            figure.add_scatter(
                x=own["checkpoint"],
                y=own[column],
                mode="lines+markers",
                name=name,
                line={"color": colour, "dash": dash},
                showlegend=row == 1,
                hovertemplate=f"%{{x}}<br>{name}: %{{y:.2f}}<extra></extra>",
                **at,
            )
    order = list(dict.fromkeys(table["checkpoint"]))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, tickangle=-45)
    figure.update_annotations(font_size=12)
    figure.update_yaxes(range=[-0.03, 1.05])
    figure.update_layout(legend={"orientation": "h", "y": -0.5 / len(families)})
    last = table[table["checkpoint"] == order[-1]]
    flips = last[["flips_to_reasoning", "flips_to_memorization"]].min(axis=1)
    told = ", ".join(
        f"{family} {flip:.0%}" for family, flip in zip(last["family"], flips, strict=True) if flip == flip
    )
    return finish(
        figure,
        title or (f"At the last checkpoint both ways flip at least: {told}" if told else "Along training"),
        subtitle="Accuracy, flips of held-out answers with 95 % bands, and how far the top neurons agree",
        height=180 + 220 * len(families),
    )
