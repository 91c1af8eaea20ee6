"""The report: numbers and provenance in, one self-contained HTML page out.

Text that comes from prompts is data: jinja2 escapes all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.plotting import plot_curves, plot_estimates, plot_flips, plot_pairs, plot_scores
from neurotrace.scores import DIRECTIONS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from neurotrace.comparison import Comparison
    from neurotrace.studies import Study


def write_comparison(comparison: Comparison, record: dict[str, Any]) -> str:
    """The page of `neurotrace rank`, as text."""
    import pandas as pd
    from markupsafe import Markup

    shown = [plot_curves(comparison.curves)] if len(comparison.curves) else []
    return _template("rankers.html.j2", len(shown) > 0).render(
        record=record, comparison=comparison,
        rows=comparison.rankers.astype(object).where(pd.notna(comparison.rankers), None)
        .to_dict("records"),
        flips=comparison.flips.to_dict("records"),
        figures=[Markup(_fragment(figure, number)) for number, figure in enumerate(shown)],
    )  # fmt: skip


def write_report(study: Study, summary: dict[str, Any], manifest: dict[str, Any]) -> str:
    """The page, as text. It opens offline: plotly's script is inside."""
    from markupsafe import Markup

    return _template("report.html.j2", True).render(
        summary=summary,
        manifest=manifest,
        selected=[flip for flip in summary["flips"] if flip["selected"]],
        others=[flip for flip in summary["flips"] if not flip["selected"]],
        verdicts=summary["verdict"]["small_set_decides"],
        dropped=study.encoded.dropped[:200],
        dropped_total=len(study.encoded.dropped),
        figures=[
            (name, Markup(_fragment(figure, number)))
            for number, (name, figure) in enumerate(figures(study))
        ],
    )


def figures(study: Study) -> list[tuple[str, go.Figure]]:
    """(what it shows, figure), in the report's order."""
    found = [("Flip curves", plot_flips(study.effects))]
    for flip in study.selected():
        rows = study.effects.where(
            family=flip.family, direction=flip.direction, role="selected", chosen=True
        )
        kind, k = rows.to_frame()[["intervention", "k"]].value_counts().index[0]
        one = rows.where(intervention=kind, k=int(k))
        found.append(
            (
                f"{flip.family}, {flip.direction}: single pairs",
                plot_pairs(one, pairs=study.encoded, limit=12),
            )
        )
    for family, direction, estimate, truth in study.estimates:
        name = f"{family}, {direction}: the estimate against the exact effect"
        found.append((name, plot_estimates(estimate, truth)))
    for (family, method, direction), scores in study.scores.items():
        if direction == DIRECTIONS[0] or scores.signed:
            title = f"{family}, {direction.replace('_', ' ')}: {method} ({scores.unit})"
            found.append((f"{family}, {direction}: map", plot_scores(scores, title=title)))
    return found


def _template(name: str, with_figures: bool) -> Any:
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    environment.filters["nats"] = lambda value: "–" if value is None else f"{value:.3f}"
    found = environment.get_template(name)
    found.globals["plotly_js"] = Markup(get_plotlyjs()) if with_figures else ""
    return found


def _fragment(figure: go.Figure, number: int) -> str:
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"figure-{number}",
        config={"responsive": True, "displaylogo": False},
    )  # fmt: skip
