"""The figure of deep fusion: weights, what each view adds, which views agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurotrace.plots.style import CHANCE, OTHERS, clip, finish

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def plot_fusion(weights: pd.DataFrame, agreement: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Each view's weight and what it adds, with 95 % intervals, and the agreement of each two views.

    Args:
        weights: `DeepFusion.weights()`.
        agreement: `DeepFusion.agreement()`, Cohen's κ.

    Example::

        nt.plot_fusion(fusion.weights(), fusion.agreement())  # fusion = nt.DeepFusion().fit(views, y)
    """
    from plotly.subplots import make_subplots

    names = [clip(str(name), 20) for name in weights["view"]]
    figure = make_subplots(
        rows=1,
        cols=3,
        column_widths=[0.3, 0.3, 0.4],
        horizontal_spacing=0.12,
        subplot_titles=["weight", "adds, nats a row", "agreement (Cohen's κ)"],
    )
    for column, (value, low, high) in enumerate(
        [("weight", "low", "high"), ("adds", "adds_low", "adds_high")], start=1
    ):
        figure.add_bar(
            y=names,
            x=weights[value],
            orientation="h",
            marker={"color": OTHERS[0 if column == 1 else 4]},
            error_x={
                "type": "data",
                "array": weights[high] - weights[value],
                "arrayminus": weights[value] - weights[low],
            },
            showlegend=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.add_heatmap(
        z=agreement.to_numpy(),
        x=names,
        y=names,
        zmin=-1,
        zmax=1,
        colorscale=CHANCE,
        showscale=False,
        texttemplate="%{z:.2f}",
        hovertemplate="%{y}, %{x}: %{z:.2f}<extra></extra>",
        row=1,
        col=3,
    )
    figure.update_yaxes(autorange="reversed")
    most = weights.loc[weights["weight"].idxmax()]
    return finish(
        figure,
        title or f"“{most['view']}” has the largest weight: {most['weight']:.0%}",
        subtitle="Weight of each view and what it adds, with 95 % intervals; how far each two views agree",
        height=110 + 40 * len(names),
    )
