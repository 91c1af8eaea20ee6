"""Figure of patched sites: flips by block, for each kind of unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurotrace.core.display import percent
from neurotrace.locating.locate import Located
from neurotrace.plots.style import CONTROL, INK, OTHERS, fade, finish

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHOWN = {
    "attention": "attention output",
    "mlp": "MLP output",
    "residual": "residual stream",
    "direction": "one direction of it",
}


def plot_located(located: Located, *, title: str | None = None) -> go.Figure:
    """Share of held-out answers that flip if a unit of a block takes the donor's value; band: 95 %.

    Example::

        nt.plot_located(nt.locate(model, train, test))
    """
    import plotly.graph_objects as go

    table = located.table
    figure = go.Figure()
    best = table.loc[table["answers"].idxmax()]  # its band alone: several mix to mud
    for colour, (unit, name) in zip((OTHERS[0], OTHERS[4], INK, OTHERS[1]), _SHOWN.items(), strict=True):
        own = table[table["unit"] == unit].sort_values("layer")
        layers = own["layer"].tolist()
        if unit == best["unit"]:
            figure.add_scatter(
                x=layers + layers[::-1],
                y=own["high"].tolist() + own["low"].tolist()[::-1],
                fill="toself",
                mode="lines",
                fillcolor=fade(colour),
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=unit,
                showlegend=False,
            )
        figure.add_scatter(
            x=layers,
            y=own["answers"],
            mode="lines+markers",
            name=name,
            legendgroup=unit,
            line={"color": colour},
            customdata=own[["effect", "low", "high"]],
            hovertemplate="layer %{x}<br>%{y:.1%} flip [%{customdata[1]:.1%}, %{customdata[2]:.1%}]"
            "<br>%{customdata[0]:.2f} nats<extra></extra>",
        )
        if own["control"].notna().any():
            figure.add_scatter(
                x=layers,
                y=own["control"],
                mode="lines",
                name="equal move, random direction",
                line={"color": CONTROL, "dash": "dot"},
                hovertemplate="layer %{x}<br>%{y:.1%} flip<extra>random direction</extra>",
            )
    figure.update_xaxes(title="layer", dtick=max(1, int(located.table["layer"].max() + 1) // 10))
    figure.update_yaxes(title="held-out answers flipped", tickformat=".0%", range=[-0.02, 1.02])
    to = "reasoning" if located.donor == "reasoning" else "memory"
    what = _SHOWN.get(str(best["unit"]), str(best["unit"]))
    return finish(
        figure,
        title
        or f"The {what} of layer {int(best['layer'])} flips {percent(float(best['answers']))} to {to}",
        subtitle=f"{located.model}: held-out answers that flip when one unit of a layer takes the donor's "
        "value; band: 95 %",
    )
