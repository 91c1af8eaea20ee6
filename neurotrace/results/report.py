"""The report: one self-contained HTML page from a run's folder.

Text from prompts is data: jinja2 escapes all of it, and data in scripts is JSON without a "<". Nothing
is fetched: plotly's script is inside, compressed, and used when a figure comes into view.
"""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.display import POLICY, percent
from neurotrace.core.errors import READ_WRONG, InputError
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS, spoken
from neurotrace.plots import words
from neurotrace.plots.effects import plot_curves, plot_flips
from neurotrace.plots.pairs import plot_pairs
from neurotrace.plots.scores import plot_estimates
from neurotrace.plots.style import bare, said
from neurotrace.results.report_sections import detectors_section, family_cards, trust_section
from neurotrace.studies.verdict import RULE

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from neurotrace.results.reading import Run
    from neurotrace.studies.comparison import Comparison

_TEMPLATES = Path(__file__).parent / "templates"
_DROPPED_SHOWN = 200


def write_report(run: Run) -> str:
    """The page, as text.

    Example::

        Path("report.html").write_text(nt.write_report(nt.load_run("runs/demo")))
    """
    import jinja2
    from markupsafe import Markup

    from neurotrace.results.explorer import style_and_script

    try:
        cards = family_cards(run, figures(run))
        return _template("report.html.j2").render(
            summary=run.summary,
            manifest=run.manifest,
            cards=[
                card | {"figures": [_embedded(name, figure) for name, figure in card["figures"]]}
                for card in cards
            ],
            words=Counter(card["verdict"].word for card in cards).most_common(),
            chosen_on=min((flip.get("chosen_on") or 0 for flip in run.selected()), default=0),
            others=[flip for flip in run.summary["flips"] if not flip["selected"]],
            rankers=_rankers(run),
            rule=str(RULE),
            dropped=run.dropped.head(_DROPPED_SHOWN).to_dict("records"),
            dropped_total=len(run.dropped),
            curves=[
                _embedded(name, figure) | {"over": True, "subtitle": ""} for name, figure in _curves(run)
            ],
            columns=min(3, max(2, len({flip["family"] for flip in run.selected()}))),
            explorer=Markup(run.explorer.fragment()) if run.explorer else None,
            explorer_code=Markup(style_and_script()) if run.explorer else None,
            trust=_drawn(None if run.trust is None else trust_section(run.trust)),
            detectors=_drawn(
                None if run.detectors is None else detectors_section(run.detectors, run.detected)
            ),
            left_out=run.left_out,
        )
    except InputError:
        raise
    except (*READ_WRONG, jinja2.UndefinedError) as error:
        raise InputError(
            f"{run.folder}: the run lacks what the report shows ({error}): run the study again"
        ) from error


def write_comparison(comparison: Comparison, record: dict[str, Any]) -> str:
    """The page of `neurotrace rank`, as text."""
    import pandas as pd

    shown = [plot_curves(comparison.curves)] if len(comparison.curves) else []
    return _template("rankers.html.j2").render(
        record=record,
        comparison=comparison,
        rows=comparison.rankers.astype(object).where(pd.notna(comparison.rankers), None).to_dict("records"),
        flips=comparison.flips.to_dict("records"),
        figures=[_embedded("necessity and sufficiency", figure) for figure in shown],
    )


def _curves(run: Run) -> list[tuple[str, go.Figure]]:
    """(name, flip curves) of each family and direction: one panel each, which fits a phone."""
    return [
        (
            f"{flip['family']}, {words.turn_words(flip['direction'])}",
            plot_flips(run.effects.where(family=flip["family"], direction=flip["direction"])),
        )
        for direction in DIRECTIONS  # a row of panels each
        for flip in run.selected()
        if flip["direction"] == direction
    ]


def figures(run: Run) -> list[tuple[str, go.Figure]]:
    """(title, figure) after the flip curves, in the report's order."""
    found = []
    for flip in run.selected():
        rows = run.effects.where(
            family=flip["family"], direction=flip["direction"], role="selected", chosen=True
        )
        kinds = rows.to_frame()[["intervention", "k", "label"]].value_counts()
        kind, k, label = kinds.index[0]
        one = rows.where(intervention=kind, k=int(k), label=label)
        name = f"{flip['family']}, {spoken(flip['direction'])}: single pairs"
        own = [pair for pair in run.pairs if pair.family == flip["family"]]
        figure = plot_pairs(one, pairs=own, limit=12)
        if len(one) < len(rows):
            figure.layout.title.subtitle.text = (
                f"Pairs of the folds that chose this: {figure.layout.title.subtitle.text}"
            )
        found.append((name, figure))
    for (family, direction), part in run.estimates.groupby(["family", "direction"], sort=False):
        which = f"{family}, {spoken(direction)}"
        figure = plot_estimates(*(_scores(run, part, column) for column in ("estimate", "exact")))
        found.append((f"{which}: the estimate against the exact effect", figure))
    return found


def _scores(run: Run, table: Any, column: str) -> Scores:
    import torch

    model = run.manifest["model"]
    value = torch.full((model["layers"], model["neurons_per_layer"]), torch.nan)
    layer, neuron = (torch.tensor(table[name].to_numpy()) for name in ("layer", "neuron"))
    value[layer, neuron] = torch.tensor(table[column].to_numpy(), dtype=value.dtype)
    method = "gradient" if column == "estimate" else "exact"
    return Scores(method, value, provenance={"experts": model.get("experts")})


def _rankers(run: Run) -> list[dict[str, Any]]:
    """For each family and direction the flip rate of every ranker's neurons, at the chosen kind and k."""
    from scipy.stats import spearmanr

    rows = []
    for chosen in run.selected():
        same = [
            flip
            for flip in run.summary["flips"]
            if all(flip[name] == chosen[name] for name in ("family", "direction", "intervention", "k"))
        ]
        estimates = run.estimates
        part = estimates[
            (estimates["family"] == chosen["family"]) & (estimates["direction"] == chosen["direction"])
        ]
        rho = spearmanr(part["estimate"], part["exact"]).statistic if len(part) > 2 else None
        for flip in same:
            rows.append(flip | {"spearman": rho if flip["method"] == "gradient" else None})
    order = {direction: place for place, direction in enumerate(DIRECTIONS)}
    return sorted(rows, key=lambda row: (row["family"], order[row["direction"]], -row["answers"]))


def _drawn(section: dict[str, Any] | None) -> dict[str, Any] | None:
    """The section with its figures in the page's form."""
    if section is None:
        return None
    return section | {"figures": [_embedded(name, figure) for name, figure in section["figures"]]}


def _nats(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def environment() -> Any:
    """The templates, with all text escaped, and the filters of numbers and directions."""
    import jinja2
    from markupsafe import Markup

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = percent
    found.filters["nats"] = _nats
    found.filters["words"] = spoken
    found.filters |= {"kind": words.kind_words, "ranker": words.ranker_words, "role": words.role_words}
    found.filters["interval"] = lambda ends: words.interval(*ends)
    found.filters["best"] = words.candidate_words
    found.filters["plain"] = lambda name: str(name).replace("_", " ")
    found.globals["policy"] = Markup(POLICY)
    return found


def _template(name: str) -> Any:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    own = environment()
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    own.globals["plotly"] = Markup(packed)
    for part, file in (("style", "report.css"), ("script", "report.js")):
        own.globals[part] = Markup((_TEMPLATES / file).read_text("utf-8"))
    return own.get_template(name)


def _embedded(name: str, figure: go.Figure) -> dict[str, Any]:
    """For `figures.html.j2`: title and subtitle become the page's text, which breaks its own lines."""
    from markupsafe import Markup

    title, subtitle = said(figure)
    own = bare(figure)
    text = own.to_json().replace("<", "\\u003c")
    return {
        "name": name,
        "title": title,
        "subtitle": subtitle,
        "over": False,
        "height": int(own.layout.height),
        "json": Markup(text),
    }
