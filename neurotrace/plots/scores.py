"""Figures of scores: a map of all neurons, estimates with intervals, a volcano."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.scores import Scores
from neurotrace.core.sides import spoken
from neurotrace.plots.style import CONTROL, FAINT, INK, OTHERS, SIGNED, finish
from neurotrace.plots.words import ranker_words

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FOUND, _SURE = OTHERS[0], INK
_AGREES = 0.9  # Spearman from which an estimate is said to order neurons like the exact effect


def plot_scores(scores: Scores, *, title: str | None = None) -> go.Figure:
    """Layer × neuron heat map of one ranking, layer 0 on top; white is zero, blank is not measured.

    Example::

        nt.plot_scores(nt.gradient(model, pairs))
    """
    import plotly.graph_objects as go

    values = scores.value.numpy()
    # a few neurons carry the effect; a scale up to the largest would hide all others
    bound = float(np.nanquantile(np.abs(values), 0.9995)) or float(np.nanmax(np.abs(values))) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            zmin=-bound,
            zmax=bound,
            colorscale=SIGNED,
            colorbar={"thickness": 14},
            **_named(scores),
        )
    )
    figure.update_xaxes(title="neuron")
    figure.update_yaxes(title="layer", dtick=max(1, values.shape[0] // 10), autorange="reversed")
    direction = spoken(str(scores.provenance.get("direction", "")))
    method = f"{ranker_words(scores.method)}, {direction}" if direction else ranker_words(scores.method)
    layers = np.nansum(np.abs(values) > bound / 2, axis=1)
    told = f"Layer {layers.argmax()} holds {layers.max():.0f} of the {layers.sum():.0f} strongest neurons"
    signs = "; blue: towards memory, orange: towards reasoning" if scores.signed else ""
    return finish(
        figure,
        title or told,
        subtitle=f"Score of every neuron by {method}, {scores.unit}{signs}",
        height=320,
    )


def _named(scores: Scores) -> dict[str, Any]:
    """The text under the pointer; a mixture's neurons have names that their places don't tell."""
    if scores.experts is None:
        return {"hovertemplate": "L%{y}.N%{x}<br>%{z:.4f}<extra></extra>"}
    layers, width = scores.value.shape
    every = [[Neuron(layer, unit) for unit in range(width)] for layer in range(layers)]
    names = [[scores.name(n) if scores.experts.exists(n) else "" for n in row] for row in every]
    return {"text": names, "hovertemplate": "%{text}<br>%{z:.4f}<extra></extra>"}


def plot_estimates(estimate: Scores, truth: Scores, *, title: str | None = None) -> go.Figure:
    """A ranker's prediction against the exact effect, for the neurons with both.

    Example::

        some = scores.top(64)
        nt.plot_estimates(scores, nt.exact(model, pairs, neurons=some))
    """
    import plotly.graph_objects as go
    from scipy.stats import spearmanr

    both = ~(estimate.value.isnan() | truth.value.isnan())
    if not both.any():
        raise InputError("no neuron has both scores: measure the exact effect of some of them")
    x, y = truth.value[both].numpy(), estimate.value[both].numpy()
    names = [truth.name(Neuron(*place)) for place in both.nonzero().tolist()]
    layers = both.nonzero()[:, 0].numpy()
    bar = {"title": "layer", "dtick": max(1, len(truth.value) // 10)}
    figure = go.Figure()
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
    dotted = {"color": FAINT, "dash": "dot"}
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line=dotted, hoverinfo="skip")
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        name="neuron",
        text=names,
        marker={"color": layers, "colorscale": "Viridis", "size": 7, "colorbar": bar},
        hovertemplate="%{text}<br>exact %{x:.3f}<br>estimate %{y:.3f}<extra></extra>",
    )
    rho = f": Spearman {spearmanr(x, y).statistic:.2f}" if len(x) > 2 else ""
    method = ranker_words(estimate.method)
    figure.update_xaxes(title="exact effect, nats")
    figure.update_yaxes(title="estimate, nats")
    figure.update_layout(showlegend=False)
    return finish(
        figure,
        title or f"The {method} orders {len(x)} neurons like their exact effects{rho}"
        if rho and spearmanr(x, y).statistic > _AGREES
        else title or f"The {method}'s estimates beside exact effects of {len(x)} neurons{rho}",
        subtitle="Effect of one neuron on the logit difference L of the two answers; dotted: equal",
        height=340,
    )


def plot_volcano(scores: Scores, *, level: float = 0.05, title: str | None = None) -> go.Figure:
    """Each neuron's score against -log10 p; significant neurons are coloured.

    Args:
        scores: from `nt.assess`, with the columns `p`, `q`, `p_family` and `kept`.
        level: of false discoveries among the neurons with q below it; of one false neuron anywhere
            among those with p_family below it.

    Raises:
        InputError: scores without these columns.

    Example::

        nt.plot_volcano(nt.assess(nt.group_scores(nt.gradient, model, pairs), k=8))
    """
    import plotly.graph_objects as go

    if not {"p", "q", "p_family", "kept"} <= set(scores.columns):
        raise InputError("no p-values in these scores: assess them with nt.assess(...) first")
    table = scores.to_frame()
    sure, found = table["p_family"] <= level, table["q"] <= level
    figure = go.Figure()
    for name, rows, colour, mark in (
        ("could be chance", table[~found & ~sure], CONTROL, "circle"),
        (f"false discovery rate at most {level:g}", table[found & ~sure], _FOUND, "circle"),
        (f"p corrected for all neurons at most {level:g}", table[sure], _SURE, "diamond"),
    ):
        figure.add_scattergl(
            x=rows["score"],
            y=-np.log10(rows["p"]),
            mode="markers",
            name=f"{name} ({len(rows)})",
            marker={"color": colour, "size": 6, "opacity": 0.7, "symbol": mark},
            text=[scores.name(Neuron(row.layer, row.neuron)) for row in rows.itertuples()],
            customdata=rows[["q", "kept", "p_family"]],
            hovertemplate="%{text}<br>score %{x:.4f}<br>q %{customdata[0]:.2g}, corrected p "
            "%{customdata[2]:.2g}, in the top k of %{customdata[1]:.0%} of resamples<extra></extra>",
        )
    figure.update_xaxes(title=scores.unit, zeroline=True)
    figure.update_yaxes(title="−log₁₀ p (sign-flip over groups)")
    figure.update_layout(legend={"orientation": "h", "y": -0.18})
    told = f"{int((found | sure).sum())} of {len(table):,} neurons differ from chance"
    resolution = str(scores.provenance.get("resolution", "")).replace("p_family", "corrected p")
    return finish(
        figure,
        title or told,
        subtitle=f"Score by {ranker_words(scores.method)} against p, neuron by neuron. {resolution}",
    )
