"""Figures of detectors: transfer between tasks, depth, and the weights of fused views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurotrace.core.errors import InputError
from neurotrace.plots.style import CHANCE, CONTROL, FAINT, OTHERS, clip, finish

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SITE_COLOURS = {"neurons": OTHERS[0], "residual": OTHERS[4], "attention": OTHERS[1]}
SHOWN = (
    ("causal margin", "margin"),
    ("fused product", "fused"),
    ("fused mixture", "fused"),
    ("linear", "neurons"),
    ("linear, re-standardised", "neurons"),
    ("invariant generated", "neurons"),
    ("invariant vrex", "neurons"),
    ("baseline", "words"),
    ("baseline", "confidence"),
    ("baseline", "again"),
)


def plot_transfer(
    table: pd.DataFrame, *, shown: Sequence[tuple[str, str]] = SHOWN, title: str | None = None
) -> go.Figure:
    """AUROC, one panel per (detector, view): trained on the row, tested on the column; white is chance.

    Example::

        nt.plot_transfer(detection.table)  # detection = nt.detect(...)
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    there = [own for own in shown if len(_rows(table, *own))]
    if not there:
        raise InputError("none of the detectors in shown= is in the table: name others")
    trains = list(dict.fromkeys(table["train_family"]))
    tests = sorted(set(table["test_family"]))
    columns = min(3 if len(tests) < 6 else 2 if len(tests) < 12 else 1, len(there))
    deep = -(-len(there) // columns)
    height = 110 + deep * (110 + 34 * len(trains))
    figure = make_subplots(
        rows=deep,
        cols=columns,
        subplot_titles=[_title(*own) for own in there] if len(there) > 1 else None,
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=60 / (height - 130),
        horizontal_spacing=0.03,
    )
    for place, own in enumerate(there):
        part = _rows(table, *own).set_index(["train_family", "test_family"])
        cells = [[_cell(part, train, test) for test in tests] for train in trains]
        values = [[np.nan if cell is None else cell["auroc"] for cell in row] for row in cells]
        words = [
            [_said(cell, train, test) for cell, test in zip(row, tests, strict=True)]
            for row, train in zip(cells, trains, strict=True)
        ]
        figure.add_trace(
            go.Heatmap(
                z=values,
                zmin=0,
                zmax=1,
                colorscale=CHANCE,
                showscale=False,
                text=[["" if v != v else f"{v:.2f}" for v in row] for row in values],
                texttemplate="%{text}",
                customdata=words,
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=place // columns + 1,
            col=place % columns + 1,
        )
    figure.update_annotations(font_size=13)
    # by position: two long names may be cut to the same label
    figure.update_xaxes(tickvals=list(range(len(tests))), ticktext=[clip(own, 24) for own in tests])
    figure.update_yaxes(
        tickvals=list(range(len(trains))),
        ticktext=[clip(own, 24) for own in trains],
        autorange="reversed",
    )
    figure.update_xaxes(title="tested on", row=deep)
    for column in range(columns):  # the last row may be short: its neighbours end a row above
        lowest = (len(there) - 1 - column) // columns + 1
        figure.update_xaxes(showticklabels=True, row=lowest, col=column + 1)
    figure.update_yaxes(title="trained on", col=1)
    return finish(
        figure,
        title or _transfer_told(table, there),
        subtitle="AUROC for “from memory” on groups not seen in training; trained on the row, tested "
        "on the column; white: chance",
        height=height - 60,
    )


def plot_sites(table: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """AUROC of a linear detector at each site and depth, mean over tasks.

    Solid: tested on the training task. Dashed: tested on another one.

    Example::

        nt.plot_sites(detection.table)  # detection = nt.detect(...)
    """
    import plotly.graph_objects as go

    part = table[(table["detector"] == "linear") & table["view"].str.contains("@")].copy()
    if part.empty:
        raise InputError("no view of a single depth in the table: read some with depths=")
    part[["site", "layer"]] = part["view"].str.split("@", expand=True)
    part["layer"] = part["layer"].astype(int)
    part["own"] = part["train_family"] == part["test_family"]
    figure = go.Figure()
    for (site, own), line in part.groupby(["site", "own"], sort=False):
        mean = line.groupby("layer")["auroc"].mean()
        figure.add_scatter(
            x=mean.index,
            y=mean.values,
            mode="lines+markers",
            name=f"{site}, {'own task' if own else 'other tasks'}",
            line={"color": _SITE_COLOURS.get(site, CONTROL), "dash": "solid" if own else "dash"},
            hovertemplate=f"{site}, layer %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0.5, line={"color": FAINT, "dash": "dot"})
    figure.update_xaxes(title="layer", dtick=1 if part["layer"].max() < 12 else None)
    figure.update_yaxes(title="AUROC", range=[0, 1.03])
    means = part[~part["own"]] if (~part["own"]).any() else part
    means = means.groupby(["site", "layer"])["auroc"].mean()
    site, layer = means.idxmax()
    return finish(
        figure,
        title
        or f"A linear detector transfers best from the {site} of layer {layer}: AUROC {means.max():.2f}"
        if (~part["own"]).any()
        else title or f"A linear detector is best on the {site} of layer {layer}: AUROC {means.max():.2f}",
        subtitle="Mean AUROC over tasks, on groups not seen in training; dotted: chance",
    )


def plot_weights(weights: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Posterior weight ± sd of each view in the fused detectors, mean over folds and training tasks.

    Example::

        nt.plot_weights(detection.weights)  # detection = nt.detect(...)
    """
    import plotly.graph_objects as go

    if weights.empty:
        raise InputError("no fused detector was trained: nothing to weigh")
    figure = go.Figure()
    for name, part in weights.groupby("detector", sort=False):
        mean = part.groupby("view", sort=False)[["weight", "sd"]].mean()
        figure.add_bar(
            x=[clip(view) for view in mean.index],
            y=mean["weight"],
            name=str(name),
            error_y={
                "type": "data",
                "array": mean["sd"],
                "arrayminus": np.minimum(mean["sd"], mean["weight"]),  # a share is never below 0
            },
        )
    figure.update_yaxes(title="share of all weight", rangemode="tozero")
    mean = weights.groupby("view", sort=False)["weight"].mean()
    return finish(
        figure,
        title or f"The fused detectors rest most on {mean.idxmax()}: {mean.max():.0%} of the weight",
        subtitle="Posterior weight of each view ± standard deviation, mean over folds and training tasks",
    )


def _transfer_told(table: pd.DataFrame, there: list[tuple[str, str]]) -> str:
    """The worst AUROC of each detector on a task that it was not trained on, the best of them."""
    worst = {}
    for own in there:
        rows = _rows(table, *own)
        away = rows[rows["train_family"] != rows["test_family"]]["auroc"].dropna()
        if len(away):
            worst[own] = float(away.min())
    if not worst:
        return "AUROC of each detector on its own task"
    detector, view = best = max(worst, key=lambda own: worst[own])
    name = detector if view in detector else f"{detector} on {view}"
    return f"On a task not seen in training, “{name}” has an AUROC of at least {worst[best]:.2f}"


def _title(detector: str, view: str) -> str:
    """Two lines: panels are narrow on a phone."""
    return clip(detector) if view in detector else f"{clip(detector)}<br>{clip(view)}"


def _said(cell: pd.Series | None, train: str, test: str) -> str:
    if cell is None:
        return ""
    return (
        f"trained on {clip(train)}, tested on {clip(test)}<br>{cell['auroc']:.2f} "
        f"[{cell['auroc_lo']:.2f}, {cell['auroc_hi']:.2f}], {cell['n']:.0f} prompts"
    )


def _rows(table: pd.DataFrame, detector: str, view: str) -> pd.DataFrame:
    return table[(table["detector"] == detector) & (table["view"] == view)]


def _cell(part: pd.DataFrame, train: str, test: str) -> pd.Series | None:
    return part.loc[train, test] if (train, test) in part.index else None
