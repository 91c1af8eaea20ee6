"""Figures of effects: flips, curves, pairs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.sides import DIRECTIONS
from neurotrace.interventions.effects import Effects
from neurotrace.models.encoding import EncodedPairs
from neurotrace.plots.style import COLOURS, MEMORIZED, REASONED, clip, fade, finish

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_TITLES = {"to_reasoning": "memory → reasoning", "to_memorization": "reasoning → memory"}


def plot_flips(effects: Effects, *, title: str | None = None) -> go.Figure:
    """Share of flipped answers against the number of neurons, with 95 % bands and controls.

    One row of panels per family, one column per direction. Solid: the ranked neurons, one line for each
    intervention. Grey: random neurons. Other controls are single markers at the k at which they were
    measured.

    Example::

        changes = [nt.patch(scores.top(k)) for k in (1, 4, 16)]
        nt.plot_flips(nt.measure(model, test, changes))
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rates = effects.rates()
    families = list(dict.fromkeys(rates["family"]))
    directions = [d for d in DIRECTIONS if d in set(rates["direction"])]
    figure = make_subplots(
        rows=len(families),
        cols=len(directions),
        shared_yaxes=True,
        shared_xaxes=True,
        vertical_spacing=0.24 / max(2, len(families)),
        horizontal_spacing=0.06,
        subplot_titles=[
            f"{clip(family)}: {_TITLES[direction]}" for family in families for direction in directions
        ],
    )
    named: set[str] = set()
    for place, (family, direction) in enumerate([(f, d) for f in families for d in directions]):
        at = {"row": place // len(directions) + 1, "col": place % len(directions) + 1}
        part = rates[(rates["family"] == family) & (rates["direction"] == direction)]
        main = part[part["role"] == "selected"]
        for kind, line in main.groupby("intervention", sort=False):
            _line(
                figure,
                line,
                str(kind),
                COLOURS.get(str(kind).partition(":")[0], "#000000"),
                named,
                at,
            )
        random = part[part["role"] == "random"]
        for _, line in random.groupby("intervention", sort=False):
            _line(figure, line, "random neurons", COLOURS["random"], named, at)
        for role, symbol in (
            ("norm", "x"),
            ("sign", "triangle-up"),
            ("low_rho", "square"),
            ("other_donor", "diamond-open"),
        ):
            dots = part[part["role"] == role]
            if len(dots):
                figure.add_scatter(
                    x=dots["k"],
                    y=dots["answers"],
                    mode="markers",
                    name=f"control: {role}",
                    marker={"symbol": symbol, "size": 9, "color": "#444444"},
                    legendgroup=role,
                    showlegend=role not in named,
                    **at,
                    hovertemplate=f"{role}, k=%{{x}}<br>%{{y:.1%}} flipped<extra></extra>",
                )
                named.add(role)
    figure.update_xaxes(
        type="log", tickvals=sorted(set(rates["k"])), ticktext=[str(k) for k in sorted(set(rates["k"]))]
    )
    figure.update_xaxes(title="neurons changed, k", row=len(families))
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%")
    figure.update_yaxes(title="answers flipped", col=1)
    if isinstance(figure, go.Figure):
        figure.update_layout(legend={"orientation": "h", "y": -0.14 / len(families) - 0.08})
    height = 150 + 270 * len(families)
    return finish(figure, title or "Flipped answers on held-out pairs", height=height)


def plot_curves(curves: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Necessity and sufficiency against k: one row of panels per family and direction, one line per
    ranker.

    Takes what `nt.curves` returns, or the `curves` of a `Comparison`.

    Example::

        nt.plot_curves(nt.curves(model, pairs, scores))
    """
    import plotly.express as px
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = list(curves[["family", "direction"]].drop_duplicates().itertuples(index=False))
    colours = dict(
        zip(
            dict.fromkeys(curves["ranker"]),
            px.colors.qualitative.Safe + px.colors.qualitative.Dark2,
            strict=False,
        )
    )
    figure = make_subplots(
        rows=len(rows),
        cols=2,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=0.24 / max(2, len(rows)),
        subplot_titles=[
            f"{clip(row.family)}, {_TITLES[row.direction]}: {name}"
            for row in rows
            for name in ("necessity", "sufficiency")
        ],
    )
    named: set[str] = set()
    for place, row in enumerate(rows):
        part = curves[(curves["family"] == row.family) & (curves["direction"] == row.direction)]
        for ranker, line in part.groupby("ranker", sort=False):
            for column, name in enumerate(("necessity", "sufficiency")):
                figure.add_scatter(
                    x=line["k"],
                    y=line[name],
                    mode="lines",
                    name=str(ranker),
                    legendgroup=str(ranker),
                    showlegend=str(ranker) not in named,
                    line={
                        "color": colours.get(str(ranker), "#000000"),
                        "dash": "dot" if ranker == "random" else "solid",
                    },
                    row=place + 1,
                    col=column + 1,
                    hovertemplate=f"{ranker}, k=%{{x}}<br>%{{y:.2f}}<extra></extra>",
                )
                named.add(str(ranker))
    figure.update_xaxes(type="log")
    figure.update_xaxes(title="neurons, k", row=len(rows))
    figure.update_yaxes(range=[-0.3, 1.3])
    if isinstance(figure, go.Figure):
        figure.update_layout(legend={"orientation": "v"})
    return finish(figure, title or "Share of the effect of all neurons", height=160 + 240 * len(rows))


def plot_pairs(
    effects: Effects,
    *,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    limit: int = 24,
    title: str | None = None,
) -> go.Figure:
    """Before and after, pair by pair: the probabilities of both named answers on the recipient prompt.

    Takes the rows of one intervention in one direction; see `Effects.where`.

    Args:
        pairs: the pairs whose prompts and answers the hover text shows.

    Example::

        effects = nt.measure(model, test, [nt.patch(scores.top(8))])
        nt.plot_pairs(effects, pairs=test)
    """
    import plotly.graph_objects as go

    table = effects.to_frame()
    kinds = table[["direction", "intervention", "role", "k", "label"]].drop_duplicates()
    if len(kinds) != 1:
        raise InputError(
            f"these effects hold {len(kinds)} interventions; pick one: "
            "effects.where(direction=..., intervention=..., role='selected', k=...)"
        )
    table = table.drop_duplicates("pair").head(limit).iloc[::-1]
    found = {pair.id: pair for pair in (pairs.pairs if isinstance(pairs, EncodedPairs) else pairs)}
    hover = [_both_prompts(name, found.get(name)) for name in table["pair"]]
    figure = go.Figure()
    for answer, colour in (("memorized", MEMORIZED), ("reasoned", REASONED)):
        before, after = table[f"p_{answer}_before"], table[f"p_{answer}_after"]
        for row, (start, end) in enumerate(zip(before, after, strict=True)):
            figure.add_scatter(
                x=[start, end],
                y=[row, row],
                mode="lines",
                line={"color": colour, "width": 1.5},
                opacity=0.5,
                hoverinfo="skip",
                showlegend=False,
            )
        for values, symbol, when in ((before, "circle-open", "before"), (after, "circle", "after")):
            figure.add_scatter(
                x=values,
                y=list(range(len(table))),
                mode="markers",
                name=f"{answer}, {when}",
                marker={"color": colour, "symbol": symbol, "size": 9},
                text=hover,
                hovertemplate="%{text}<br>p = %{x:.3f}<extra></extra>",
            )
    figure.update_yaxes(tickvals=list(range(len(table))), ticktext=[clip(name) for name in table["pair"]])
    read = "answer" if "first_before" in table else "answer's first token"
    figure.update_xaxes(title=f"probability of the {read}", range=[-0.03, 1.03])
    one = kinds.iloc[0]
    what = f"{_TITLES[one['direction']]}, {one['intervention']} of {one['k']} neurons"
    figure.update_layout(legend={"orientation": "h", "y": -0.18})
    return finish(figure, title or f"Single held-out pairs, {what}", height=170 + 19 * len(table))


def _both_prompts(name: str, pair: PromptPair | None) -> str:
    if pair is None:
        return clip(name)
    return "<br>".join(
        f"{clip(prompt, 90)} → {clip(answer)}"
        for prompt, answer in (
            (pair.memorization, pair.memorized_answer),
            (pair.reasoning, pair.reasoned_answer),
        )
    )


def _line(figure: Any, line: Any, name: str, colour: str, named: set[str], at: dict[str, int]) -> None:
    line = line.sort_values("k").drop_duplicates("k")
    ks = list(line["k"])
    bars = None
    if len(ks) > 1:
        figure.add_scatter(
            x=[*ks, *reversed(ks)],
            y=[*line["answers_high"], *line["answers_low"].iloc[::-1]],
            fill="toself",
            fillcolor=fade(colour),
            mode="none",
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
            **at,
        )
    else:  # a single point has no area around it
        bars = {
            "type": "data",
            "thickness": 1.5,
            "array": line["answers_high"] - line["answers"],
            "arrayminus": line["answers"] - line["answers_low"],
        }
    kind, _, strength = name.partition(":")
    dash, symbol = "dash" if kind.startswith("random") else "solid", "circle"
    if strength:  # strengths of one kind share its colour
        looks = (("dot", "diamond"), ("dashdot", "square"), ("longdash", "triangle-up"))
        dash, symbol = looks[bisect_right((0.8, 1.0), float(strength))]
    figure.add_scatter(
        x=ks,
        y=line["answers"],
        error_y=bars,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour, "dash": dash},
        marker={"symbol": symbol, "size": 8},
        showlegend=name not in named,
        customdata=line[["answers_low", "answers_high", "n"]],
        **at,
        hovertemplate=f"{name}, k=%{{x}}<br>%{{y:.1%}} flipped [%{{customdata[0]:.1%}}, "
        "%{customdata[1]:.1%}], %{customdata[2]} pairs<extra></extra>",
    )
    named.add(name)
