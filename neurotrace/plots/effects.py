"""Figures of effects: flips against the number of neurons, curves of necessity and sufficiency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.core.display import percent
from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.core.statistics import rate_interval
from neurotrace.interventions.controls import CONTROLS
from neurotrace.interventions.effects import Effects
from neurotrace.plots.style import CONTROL, FAINT, INK, MEMORIZED, OTHERS, REASONED, clip, fade, finish
from neurotrace.plots.words import count, kind_words, ranker_words, role_words, turn_words

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_APART, _LOWEST = 0.085, 0.05  # of the height: between labels, and above the zero line
_FEW = 3  # interventions that are all drawn at once


def plot_flips(effects: Effects, *, title: str | None = None) -> go.Figure:
    """Share of flipped answers against the number of neurons, one panel per family and direction.

    Drawn at first: what training pairs chose (without a study: the intervention that flips most), in the
    colour of the side that it turns answers to; random neurons, dashed grey; the strongest other control, a
    grey mark. The button "show all tried" shows the rest. Bands and bars are 95 % intervals.

    Example::

        changes = [nt.patch(scores.top(k)) for k in (1, 4, 16)]
        nt.plot_flips(nt.measure(model, test, changes))
    """
    from plotly.subplots import make_subplots

    table = effects.to_frame()
    if "chosen" not in table:
        table = table.assign(chosen=False, fold=0)
    families = list(dict.fromkeys(table["family"]))
    directions = [d for d in DIRECTIONS if d in set(table["direction"])]
    panels = [(family, direction) for family in families for direction in directions]
    figure = make_subplots(
        rows=len(families),
        cols=len(directions),
        shared_yaxes=True,
        shared_xaxes=True,
        vertical_spacing=0.24 / max(2, len(families)),
        horizontal_spacing=0.06,
        subplot_titles=[f"{clip(family)}: {turn_words(direction)}" for family, direction in panels]
        if len(panels) > 1
        else None,
    )
    drawn = _Drawn(figure)
    told = []
    for place, (family, direction) in enumerate(panels):
        drawn.at = {"row": place // len(directions) + 1, "col": place % len(directions) + 1}
        part = table[(table["family"] == family) & (table["direction"] == direction)]
        told.append(_panel(drawn, part, Direction(direction)))
    ks = sorted(set(table["k"]))
    figure.update_xaxes(type="log", tickvals=ks, ticktext=[f"{k:,}" for k in ks])
    room = 0.62 * max(0.3, np.log10(ks[-1] / ks[0]))  # for the labels
    figure.update_xaxes(range=[np.log10(ks[0]) - 0.06, np.log10(ks[-1]) + room])
    figure.update_xaxes(title="neurons changed", row=len(families))
    figure.update_yaxes(range=[-0.06, 1.08], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_yaxes(title="answers flipped", col=1)
    (first, *_) = told
    finish(
        figure,
        title or (first if len(panels) == 1 else _summary(table)),
        subtitle=(f"{families[0]}, {turn_words(directions[0])}: s" if len(panels) == 1 else "S")
        + "hare of answers that become the other named answer, with 95 % intervals; grey: controls",
        height=110 + 165 * len(families),
    )
    drawn.buttons()
    return figure


@dataclass
class _Drawn:
    """The figure with what is shown at first, and what only on demand."""

    figure: Any
    at: dict[str, int] = field(default_factory=dict)
    more: list[bool] = field(default_factory=list)  # a trace each: shown on demand only

    def add(self, more: bool = False, **options: Any) -> None:
        self.figure.add_scatter(**options, **self.at, visible=not more, showlegend=False)
        self.more.append(more)

    def buttons(self) -> None:
        if not any(self.more):
            return
        first = [not more for more in self.more]
        self.figure.update_layout(
            margin={"b": 88},
            updatemenus=[
                {
                    "type": "buttons",
                    "direction": "right",
                    "x": 1,
                    "xanchor": "right",
                    "y": 0,
                    "yanchor": "top",
                    "pad": {"t": 48},
                    "font": {"size": 11},
                    "showactive": True,
                    "buttons": [
                        {
                            "label": "chosen and controls",
                            "method": "update",
                            "args": [{"visible": first}],
                        },
                        {
                            "label": "show all tried",
                            "method": "update",
                            "args": [{"visible": [True] * len(first)}],
                        },
                    ],
                }
            ],
        )


def _panel(drawn: _Drawn, part: pd.DataFrame, direction: Direction) -> str:
    """Draw one family and direction; returns its finding."""
    colour = REASONED if direction == Direction.TO_REASONING else MEMORIZED
    main, random = part[part["role"] == "selected"], part[part["role"] == "random"]
    chosen = main[main["chosen"]]
    kinds = list(dict.fromkeys(main["intervention"]))
    labels: list[tuple[float, float, str, bool]] = []  # k, rate, words, bold
    if len(chosen):  # each fold's own choice, at every number of neurons
        own = {(row.fold, row.intervention) for row in chosen.itertuples()}
        alike = [(f, i) in own for f, i in zip(main["fold"], main["intervention"], strict=True)]
        line = _rates(main[alike])
        name = kind_words("+".join(dict.fromkeys(chosen["intervention"])))
        _line(drawn, line, f"chosen: {name}", colour)
        rate, rings = float(chosen["answers"].mean()), _rates(chosen)
        folds = [chosen.loc[chosen["k"] == k, "fold"].nunique() for k in rings["k"]]
        drawn.add(
            x=rings["k"],
            y=rings["answers"],
            mode="markers",
            marker={"size": 15, "color": colour, "symbol": "circle-open", "line": {"width": 2.5}},
            customdata=folds,
            hovertemplate="%{x} neurons: chosen in %{customdata} of "
            f"{chosen['fold'].nunique()} folds<br>"
            "%{y:.1%} of their held-out answers flipped<extra></extra>",
        )
        labels.append((float(line["k"].iloc[-1]), rate, f"chosen {percent(rate)}", True))
        sizes = sorted(set(chosen["k"].tolist()))
        told = f"{_span(sizes)} flip {percent(rate)}"
        shown = {kind for _, kind in own}
    else:
        best = (
            kinds
            if len(kinds) <= _FEW
            else [main.groupby("intervention", sort=False)["answers"].mean().idxmax()]
        )
        for number, kind in enumerate(best):
            line = _rates(main[main["intervention"] == kind])
            _line(drawn, line, kind_words(kind), (colour, *OTHERS)[number])
            k, rate = float(line["k"].iloc[-1]), float(line["answers"].iloc[-1])
            labels.append((k, rate, f"{kind_words(kind)} {percent(rate)}", number == 0))
        top = max(labels, key=lambda each: each[1])
        told, shown = f"{count(int(top[0]), 'neuron')} flip {percent(top[1])}", set(best)
    if len(random):
        line = _rates(random)
        _line(drawn, line, role_words("random"), CONTROL, dash="dash")
        k, rate = float(line["k"].iloc[-1]), float(line["answers"].iloc[-1])
        labels.append((k, rate, f"random {percent(rate)}", False))
        if "chosen" in random and random["chosen"].any():  # the title is about the numbers that were chosen
            rate = float(random.loc[random["chosen"], "answers"].mean())
        told += f", random ones {percent(rate) if rate else 'none'}"
    roles = [r for r in (*CONTROLS, "other_donor") if r != "random" and (part["role"] == r).any()]
    rule = [role for role in roles if role in CONTROLS]
    rates = {role: float(part.loc[part["role"] == role, "answers"].mean()) for role in roles}
    strongest = max(rule, key=lambda role: rates[role], default=None)
    for role, symbol in zip(roles, ("x", "triangle-up", "square", "diamond-open"), strict=False):
        line = _rates(part[part["role"] == role])
        words = role_words(role)
        drawn.add(
            more=role != strongest,
            x=line["k"],
            y=line["answers"],
            mode="markers",
            marker={"symbol": symbol, "size": 9, "color": CONTROL},
            hovertemplate=f"{words}, %{{x}} neurons<br>%{{y:.1%}} flipped<extra></extra>",
        )
        if role == strongest and not (len(random) and rates[role] <= random["answers"].mean()):
            labels.append(
                (float(line["k"].iloc[-1]), rates[role], f"strongest {percent(rates[role])}", False)
            )
    for number, kind in enumerate(k for k in kinds if k not in shown):
        line = _rates(main[main["intervention"] == kind])
        _line(drawn, line, kind_words(kind), OTHERS[number % len(OTHERS)], more=True)
    _label(drawn, labels)
    return told


def _span(ks: list[int]) -> str:
    """ "8 neurons", "8 to 64 neurons"."""
    return count(ks[0], "neuron") if len(ks) == 1 else f"{ks[0]:,} to {ks[-1]:,} neurons"


def _rates(rows: pd.DataFrame) -> pd.DataFrame:
    """k, answers, low, high, n: the flip rate at each number of neurons."""
    import pandas as pd

    found = []
    for k, part in rows.groupby("k"):
        low, high = rate_interval(part["answers"].to_numpy(), part["group"].tolist())
        found.append((int(str(k)), float(part["answers"].mean()), low, high, part["pair"].nunique()))
    return pd.DataFrame(found, columns=["k", "answers", "answers_low", "answers_high", "n"])


def _line(
    drawn: _Drawn, line: pd.DataFrame, name: str, colour: str, *, dash: str = "solid", more: bool = False
) -> None:
    """A line with a band around it; a single point with a bar."""
    bars = None
    if len(line) > 1 and not more:
        drawn.add(
            x=[*line["k"], *line["k"].iloc[::-1]],
            y=[*line["answers_high"], *line["answers_low"].iloc[::-1]],
            fill="toself",
            fillcolor=fade(colour),
            mode="none",
            hoverinfo="skip",
        )
    elif not more:
        bars = {
            "type": "data",
            "thickness": 1.5,
            "array": line["answers_high"] - line["answers"],
            "arrayminus": line["answers"] - line["answers_low"],
        }
    drawn.add(
        more=more,
        x=line["k"],
        y=line["answers"],
        error_y=bars,
        mode="lines+markers",
        name=name,
        line={"color": colour, "dash": dash, "width": 1.5 if more else 2.5},
        marker={"size": 6 if more else 8},
        customdata=line[["answers_low", "answers_high", "n"]],
        hovertemplate=f"{name}, %{{x}} neurons<br>%{{y:.1%}} flipped [%{{customdata[0]:.1%}}, "
        "%{customdata[1]:.1%}], %{customdata[2]} pairs<extra></extra>",
    )


def _label(drawn: _Drawn, labels: list[tuple[float, float, str, bool]]) -> None:
    """Words at the right end of what they name, moved apart where they would lie over each other."""
    if not labels:
        return
    end = max(k for k, *_ in labels)
    heights: list[float] = []
    for _, rate, words, bold in sorted(labels, key=lambda each: each[1]):
        height = max(rate, _LOWEST, heights[-1] + _APART if heights else 0.0)
        heights.append(height)
        text = clip(words, 46)
        drawn.figure.add_annotation(
            x=np.log10(end),
            y=height,
            text=f"<b>{text}</b>" if bold else text,
            showarrow=False,
            xanchor="left",
            xshift=12,
            font={"size": 12, "color": INK},
            align="left",
            **drawn.at,
        )


def _summary(table: pd.DataFrame) -> str:
    """The title of several panels: the lowest and highest rate of what was chosen, and of random ones."""
    main = table[table["role"] == "selected"]
    own = main[main["chosen"]] if main["chosen"].any() else main[main["k"] == main["k"].max()]
    rates = own.groupby(["family", "direction"])["answers"].mean()
    ends = sorted({percent(rates.min()), percent(rates.max())}, key=lambda each: float(each.rstrip("%")))
    said = f"At most {own['k'].max():,} neurons flip {' to '.join(ends)} of held-out answers"
    random = table[(table["role"] == "random") & (table["k"] <= own["k"].max())]
    if len(random):
        most = random.groupby(["family", "direction", "k"])["answers"].mean().max()
        said += f"; as many random neurons at most {percent(float(most))}"
    return said


def plot_curves(curves: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Necessity and sufficiency against k: one row of panels per family and direction, one line per
    ranker.

    Takes what `nt.curves` returns, or the `curves` of a `Comparison`.

    Example::

        nt.plot_curves(nt.curves(model, pairs, scores))
    """
    import plotly.express as px
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
            f"{clip(row.family)}, {turn_words(row.direction)}: {name}"
            for row in rows
            for name in ("necessity", "sufficiency")
        ],
    )
    named: set[str] = set()
    for place, row in enumerate(rows):
        part = curves[(curves["family"] == row.family) & (curves["direction"] == row.direction)]
        for ranker, line in part.groupby("ranker", sort=False):
            words = ranker_words(str(ranker))
            for column, name in enumerate(("necessity", "sufficiency")):
                figure.add_scatter(
                    x=line["k"],
                    y=line[name],
                    mode="lines",
                    name=words,
                    legendgroup=words,
                    showlegend=words not in named,
                    line={
                        "color": CONTROL if ranker == "random" else colours.get(str(ranker), FAINT),
                        "dash": "dot" if ranker == "random" else "solid",
                    },
                    row=place + 1,
                    col=column + 1,
                    hovertemplate=f"{words}, %{{x}} neurons<br>%{{y:.2f}}<extra></extra>",
                )
                named.add(words)
    figure.update_xaxes(type="log")
    figure.update_xaxes(title="neurons", row=len(rows))
    figure.update_yaxes(range=[-0.3, 1.3])
    figure.update_layout(legend={"orientation": "h", "y": -0.3 / len(rows)})
    figure.update_annotations(font_size=12)
    areas = curves.groupby("ranker", sort=False)[["necessity", "sufficiency"]].mean().mean(axis=1)
    found = f"{ranker_words(str(areas.idxmax()))} is highest on average" if len(areas) > 1 else ""
    return finish(
        figure,
        title or (found[:1].upper() + found[1:] or "Necessity and sufficiency of the top neurons"),
        subtitle="Share of the effect of all neurons: lost without the top ones (necessity), kept with "
        "them alone (sufficiency)",
        height=90 + 240 * len(rows),
    )
