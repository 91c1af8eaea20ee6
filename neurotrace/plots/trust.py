"""Figures of the trust score: risk against coverage, reliability, signals, margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurotrace.answers.trust import Trust
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import Prompt
from neurotrace.core.statistics import rate_interval
from neurotrace.plots.style import CONTROL, FAINT, INK, MEMORIZED, OTHERS, REASONED, clip, fade, finish
from neurotrace.plots.words import count

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_OWN = "trust score"
_SIGNALS = {
    "trust score": INK,
    "combined score": OTHERS[4],
    "log p without context": OTHERS[0],
    "largest drop": OTHERS[1],
    "log-probability": OTHERS[2],
    "entropy": OTHERS[3],
}


def plot_coverage(coverage: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Risk against coverage: share of kept answers that fail on a changed version of the question.

    Takes the `coverage` of a `TrustStudy`; bands are 95 %, groups resampled.

    Example::

        nt.plot_coverage(study.coverage)  # study = nt.trust_study(...)
    """
    import plotly.graph_objects as go

    if coverage.empty:
        raise InputError("no prompt has a changed version: expected some that name another in `perturbs`")
    figure = go.Figure()
    for name, line in coverage.groupby("signal", sort=False):
        own = str(name) == _OWN
        colour = _SIGNALS.get(str(name), CONTROL)
        x = line["coverage"]
        if own:  # bands of several lines mix to mud; the others' intervals are in their hover text
            figure.add_scatter(
                x=[*x, *x[::-1]],
                y=[*line["risk_hi"], *line["risk_lo"][::-1]],
                fill="toself",
                fillcolor=fade(colour),
                mode="none",
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=x,
            y=line["risk"],
            mode="lines",
            name=f"kept by {name}",
            line={"color": colour, "width": 3 if own else 1.5},
            customdata=line[["risk_lo", "risk_hi"]],
            hovertemplate=f"{name}: %{{x:.0%}} kept, %{{y:.1%}} of them fail "
            "[%{customdata[0]:.1%}, %{customdata[1]:.1%}]<extra></extra>",
        )
    everything = float(coverage.groupby("signal")["risk"].last().iloc[0])
    figure.add_scatter(
        x=[0, 1],
        y=[everything] * 2,
        mode="lines",
        name="all answers",
        hoverinfo="skip",
        line={"color": FAINT, "dash": "dot"},
    )
    figure.update_xaxes(title="share of answers kept, least risky first", tickformat=".0%", range=[0, 1.01])
    figure.update_yaxes(title="fail on a changed version", tickformat=".0%", range=[-0.02, 1.02])
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    return finish(
        figure,
        title or _risk_told(coverage, everything),
        subtitle="Held-out answers kept in order of each signal, the share of them that fail; band: 95 %",
    )


def _risk_told(coverage: pd.DataFrame, everything: float) -> str:
    own = coverage[coverage["signal"] == _OWN]
    if own.empty:
        return "Risk against coverage"
    half = own.iloc[(own["coverage"] - 0.5).abs().argmin()]
    return (
        f"Of the half that the trust score trusts most {half['risk']:.0%} fail on a changed question, "
        f"of all {everything:.0%}"
    )


def plot_reliability(scores: pd.DataFrame, *, bins: int = 8, title: str | None = None) -> go.Figure:
    """Reliability of the trust score's probabilities: rates in bins of equal counts, 95 % by group.

    Takes the `scores` of a `TrustStudy`.

    Example::

        nt.plot_reliability(study.scores)  # study = nt.trust_study(...)
    """
    import plotly.graph_objects as go

    changed = scores[scores["survived"].notna() & scores["p_survives"].notna()]
    kinds = [("from memory", MEMORIZED, scores["p_memory"], scores["memory"], scores["group"])]
    if len(changed):
        survived = changed["survived"] > 0.5
        kinds.append(
            (
                "stays right after a change",
                REASONED,
                changed["p_survives"],
                survived,
                changed["group"],
            )
        )
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="ideal",
        hoverinfo="skip",
        line={"color": FAINT, "dash": "dot"},
    )
    for name, colour, p, happened, group in kinds:
        rows = []
        for own in _equal_bins(p.to_numpy(), bins):
            hits = happened.to_numpy()[own]
            low, high = rate_interval(hits, group.to_numpy()[own].tolist())
            rows.append((p.to_numpy()[own].mean(), hits.mean(), low, high, len(hits)))
        x, y, low, high, n = np.array(rows).T
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=f"P({name})",
            marker={"size": 9, "color": colour, "symbol": "circle" if colour == MEMORIZED else "diamond"},
            error_y={"type": "data", "array": high - y, "arrayminus": y - low, "thickness": 1},
            customdata=np.stack([n, low, high], axis=1),
            hovertemplate=f"P({name}) %{{x:.3f}}: %{{y:.1%}} [%{{customdata[1]:.1%}}, "
            "%{customdata[2]:.1%}] of %{customdata[0]:.0f} prompts<extra></extra>",
        )
    figure.update_xaxes(title="predicted probability, mean of a bin", range=[-0.03, 1.03])
    figure.update_yaxes(title="observed share of prompts", tickformat=".0%", range=[-0.05, 1.05])
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    misses = _ece(scores)
    return finish(
        figure,
        title or f"The probability of “from memory” is {100 * misses:.0f} points off on average",
        subtitle="Predicted and observed shares of held-out prompts, in bins of equal counts; bars: 95 %",
    )


def _equal_bins(p: np.ndarray, bins: int) -> list[np.ndarray]:
    """Row numbers of each bin: about equally many, and equal probabilities never divided."""
    order = np.argsort(p, kind="stable")
    edges = [0]
    for target in np.arange(1, bins) * len(p) / bins:
        at = int(np.searchsorted(p[order], p[order][int(target)], side="left"))
        if at > edges[-1]:
            edges.append(at)
    return [order[a:b] for a, b in zip(edges, [*edges[1:], len(p)], strict=True) if b > a]


def _ece(scores: pd.DataFrame) -> float:
    """Expected calibration error over the same bins."""
    p, happened = scores["p_memory"].to_numpy(), scores["memory"].to_numpy(dtype=float)
    parts = _equal_bins(p, 8)
    return float(sum(len(own) * abs(p[own].mean() - happened[own].mean()) for own in parts) / len(p))


def plot_signals(signals: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """AUROC for "from memory" of every signal; one panel per kind of shift, one mark per family or
    template.

    Takes the `signals` of a `TrustStudy`; bars are 95 %, groups resampled; the line is the mean.

    Example::

        nt.plot_signals(study.signals)  # study = nt.trust_study(...)
    """
    from plotly.subplots import make_subplots

    kinds = list(dict.fromkeys(signals["unseen"]))
    names = list(dict.fromkeys(signals["signal"]))[::-1]
    figure = make_subplots(
        rows=1,
        cols=len(kinds),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"unseen {kind}" for kind in kinds] if len(kinds) > 1 else None,
    )
    for place, kind in enumerate(kinds):
        part = signals[signals["unseen"] == kind]
        own, mean = part[part["of"] != "mean"], part[part["of"] == "mean"]
        lifts = np.linspace(-0.25, 0.25, num=max(2, own["of"].nunique()))
        lift = dict(zip(dict.fromkeys(own["of"]), lifts, strict=False))
        figure.add_scatter(
            x=own["auroc"],
            y=[names.index(row.signal) + lift[row.of] for row in own.itertuples()],
            mode="markers",
            marker={"color": CONTROL, "size": 5},
            showlegend=False,
            error_x={
                "type": "data",
                "array": own["auroc_hi"] - own["auroc"],
                "arrayminus": own["auroc"] - own["auroc_lo"],
                "thickness": 1,
                "width": 0,
                "color": fade(CONTROL, 0.5),
            },
            text=[f"{clip(row.signal)}, {clip(row.of)}" for row in own.itertuples()],
            customdata=own[["auroc_lo", "auroc_hi", "n"]],
            hovertemplate="%{text}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], "
            "%{customdata[2]} prompts<extra></extra>",
            row=1,
            col=place + 1,
        )
        figure.add_scatter(
            x=mean["auroc"],
            y=[names.index(signal) for signal in mean["signal"]],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 20, "color": INK, "line": {"width": 3}},
            showlegend=False,
            text=[clip(signal) for signal in mean["signal"]],
            hovertemplate="%{text}, mean: %{x:.3f}<extra></extra>",
            row=1,
            col=place + 1,
        )
        figure.add_vline(x=0.5, line={"color": FAINT, "dash": "dot"}, row=1, col=place + 1)
    figure.update_annotations(font_size=13)  # the panels' names, which are narrow on a phone
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[clip(name) for name in names],
        range=[-0.7, len(names) - 0.3],
    )
    figure.update_xaxes(title="AUROC", range=[-0.03, 1.03])
    return finish(
        figure,
        title or _best_told(signals),
        subtitle="AUROC for “from memory” on held-out prompts: .5 is chance. Bars: mean; dots: families or "
        "templates, with 95 %",
        height=90 + 22 * len(names),
    )


def _best_told(signals: pd.DataFrame) -> str:
    mean = signals[signals["of"] == "mean"]
    mean = mean[mean["unseen"] == mean["unseen"].iloc[0]] if len(mean) else mean
    own = mean[mean["signal"] == "causal margin"]["auroc"]
    if own.empty:
        return "AUROC of every signal"
    better = int((mean["auroc"] > own.iloc[0]).sum())
    told = (
        f"{better} of {len(mean) - 1} other signals are better" if better else "no other signal is better"
    )
    return f"The causal margin's mean AUROC on unseen {mean['unseen'].iloc[0]} is {own.iloc[0]:.2f}; {told}"


def plot_margins(
    scored: Trust | pd.DataFrame, *, prompts: Sequence[Prompt] = (), title: str | None = None
) -> go.Figure:
    """The two parts of each prompt's margin; prompts with a positive margin are below the diagonal.

    Args:
        scored: from `nt.trust`, or the `scores` of a `TrustStudy`, whose outcomes colour the marks.
        prompts: the prompts for the hover text, by id.

    Example::

        nt.plot_margins(nt.trust(model, prompts, circuit), prompts=prompts)
    """
    import plotly.graph_objects as go

    if isinstance(scored, Trust):
        table = scored.to_frame()
        x, y, names = table["memory_fall"], table["reasoning_fall"], table["id"]
        said = dict(zip(names, table["prompt"], strict=True))
        kinds = np.where(table["p_memory"] > 0.5, "likelier from memory", "likelier reasoned")
    else:
        table = scored
        x, y, names = table["items memory_fall"], table["items reasoning_fall"], table["id"]
        said = {}
        kinds = np.where(table["memory"], "answered from memory", "answered by reasoning")
    if table.empty:
        raise InputError("no prompt is scored: nothing to draw")
    if x.isna().all():
        raise InputError(
            f"these scores were read from {table['signal'].iloc[0]}, a margin has two parts: "
            "nt.trust(model, prompts, circuit, margin=True)"
        )
    said |= {prompt.id: prompt.prompt for prompt in prompts}
    text = np.array([clip(said.get(n, str(n)), 90) for n in names])
    p_memory, abstain = table["p_memory"].to_numpy(), table["abstain"].to_numpy(dtype=bool)
    figure = go.Figure()
    ends = [float(min(x.min(), y.min(), 0)), float(max(x.max(), y.max()))]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="equal",
        line={"color": FAINT, "dash": "dot"},
        hoverinfo="skip",
    )
    for kind in sorted(set(kinds), key=lambda name: "memory" not in name):
        own = kinds == kind
        figure.add_scatter(
            x=x[own],
            y=y[own],
            mode="markers",
            name=f"{kind} ({own.sum()})",
            text=text[own],
            marker={
                "color": MEMORIZED if "memory" in kind else REASONED,
                "size": 8,
                "opacity": 0.7,
                "symbol": np.where(abstain[own], "x-thin-open", "circle"),
            },
            customdata=p_memory[own],
            hovertemplate="%{text}<br>memory fall %{x:.2f}, reasoning fall %{y:.2f} nats<br>"
            "P(from memory) %{customdata:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="memory fall: drop of log p(answer) with the memory neurons off, nats")
    figure.update_yaxes(title="reasoning fall, nats")
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    own = ((x - y) > 0).to_numpy()
    memory = np.array(["memory" in kind for kind in kinds])
    return finish(
        figure,
        title
        or f"The margin's sign agrees with how {(own == memory).mean():.0%} of {count(len(x), 'prompt')} "
        + ("were answered" if not isinstance(scored, Trust) else "are scored"),
        subtitle="A prompt below the diagonal rests on the memory neurons, one above it on the reasoning "
        "neurons; ×: outside the calibration's range",
    )
