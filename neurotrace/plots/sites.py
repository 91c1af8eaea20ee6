"""Figures of patched sites: flips by block for each kind of unit, and by block and token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurotrace.core.display import TOWARDS_MEMORY, TOWARDS_REASONING, percent
from neurotrace.core.errors import InputError
from neurotrace.locating.locate import Located
from neurotrace.plots.style import CONTROL, INK, OTHERS, fade, finish

if TYPE_CHECKING:
    import pandas as pd
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

    table = located.table[located.table["place"] == "last"]
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


def plot_places(located: Located, *, title: str | None = None) -> go.Figure:
    """Share of held-out answers that flip, by block and token whose output takes the donor's value.

    One panel below another for attention, MLPs and the residual stream behind the block. Tokens count from
    the prompt's end; the text of one that is the same in all prompts is shown with it.

    Example::

        nt.plot_places(nt.locate(model, train, test))
    """
    from plotly.subplots import make_subplots

    table = located.table[located.table["back"] >= 0]
    kinds = [unit for unit in _SHOWN if unit in set(table["unit"]) and unit != "direction"]
    if not kinds:
        raise InputError("nothing to draw: locate with everywhere=True patches every block's outputs")
    names = [_SHOWN[unit] for unit in kinds]
    figure = make_subplots(len(kinds), 1, subplot_titles=names, shared_xaxes=True, vertical_spacing=0.08)
    tokens = sorted(set(table["back"]))
    for row, unit in enumerate(kinds, start=1):
        flips = table[table["unit"] == unit].pivot_table(index="back", columns="layer", values="answers")
        figure.add_heatmap(
            x=flips.columns.tolist(),
            y=[_token(located, back) for back in flips.index],
            z=flips.to_numpy(),
            coloraxis="coloraxis",
            hovertemplate=f"{_SHOWN[unit]}, layer %{{x}}<br>%{{y}}<br>%{{z:.1%}} flip<extra></extra>",
            row=row,
            col=1,
        )
    figure.update_xaxes(title="layer", dtick=max(1, int(table["layer"].max() + 1) // 10), row=len(kinds))
    figure.update_yaxes(autorange="reversed")
    own = TOWARDS_REASONING if located.donor == "reasoning" else TOWARDS_MEMORY
    bar = {"title": "flipped", "tickformat": ".0%"}
    figure.update_layout(
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": [[0, "#f7f7f5"], [1, own]], "colorbar": bar}
    )
    to = "reasoning" if located.donor == "reasoning" else "memory"
    answer = (table["unit"] == "residual") & (table["layer"] == table["layer"].max())  # flips by definition
    table = table[table["unit"].isin(kinds) & ~answer]
    early = table[table["back"] > 0]
    said = f"One output of a layer at the last token flips {_most(table[table['back'] == 0])} to {to}"
    if len(early):
        said += f", at an earlier one {_most(early)}"
    return finish(
        figure,
        title or said,
        subtitle=f"{located.model}: held-out answers that flip when one output of a layer, at one token, "
        "takes the donor's value",
        height=70 + len(kinds) * (50 + 22 * len(tokens)),
    )


def _most(table: pd.DataFrame) -> str:
    return f"at most {percent(float(table['answers'].max()))}"


def _token(located: Located, back: int) -> str:
    where = "last" if not back else f"{back} before"
    text = located.texts[back] if back < len(located.texts) else ""
    return f"{text.strip()} ({where})" if text.strip() else where
