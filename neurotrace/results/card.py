"""A claim card: one finding of a run as a small HTML page or image that can be passed on.

The page holds no script, fetches nothing and is at most 300 kB, as is its image: long lists and texts are
cut. All text is data, which jinja2 escapes. The figures are those of the run's report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurotrace.core.display import clip
from neurotrace.core.errors import READ_WRONG, InputError
from neurotrace.core.sides import Direction
from neurotrace.plots.words import CONTROLS, why_words
from neurotrace.results.findings import stability
from neurotrace.results.report import environment
from neurotrace.results.report_sections import damage_scale
from neurotrace.studies.verdict import verdicts_of

if TYPE_CHECKING:
    from neurotrace.results.reading import Run

LIMIT = 300_000  # bytes
_NAMED = 36  # neurons
_LONG = 400  # characters of a prompt, a name; ten times as many of a command


def claim_card(run: Run, *, family: str | None = None, direction: Direction | str | None = None) -> str:
    """The card of one family and direction, as the text of an HTML page.

    Args:
        family: needed where the run has several.
        direction: ``"to_reasoning"`` or ``"to_memorization"``; the same.

    Raises:
        InputError: several findings and none named, none that fits, a run that lacks what is shown.

    Example::

        from neurotrace.results.card import claim_card

        page = claim_card(nt.load_run("runs/demo"), family="letters", direction="to_reasoning")
    """
    import jinja2

    change = run.intervention(family=family, direction=direction)
    own, to = str(change.provenance["family"]), change.direction
    try:
        manifest, summary = run.manifest, run.summary
        (flip,) = [f for f in run.selected() if (f["family"], f["direction"]) == (own, to)]
        stable = stability(
            run.interventions(family=own, direction=to), manifest["model"]["neurons_per_layer"]
        )[own, to]
        side = summary.get("benchmark")
        page: str = (
            environment()
            .get_template("card.html.j2")
            .render(
                flip=flip,
                verdict=(verdict := verdicts_of(summary["flips"])[own]),
                why=[why_words(each) for each in verdict.why],
                damage=damage_scale(flip["damage_kl"], flip["damage_ci"]),
                family=clip(own, _LONG),
                named=stable.named[:_NAMED],
                count=len(change),
                stable=stable,
                bars=_bars(flip),
                manifest=manifest,
                summary=summary,
                command=clip(str(manifest["command"]), 10 * _LONG),
                model=clip(str(manifest["model"]["name"]), _LONG),
                probes=clip(", ".join(map(str, manifest["probes"])), _LONG),
                versions=clip(", ".join(f"{k} {v}" for k, v in manifest["versions"].items()), 2 * _LONG),
                examples=[
                    {name: clip(_line(each[name]), _LONG) for name in ("prompt", "before", "after")}
                    for each in summary["examples"]
                    if (each["family"], each["direction"]) == (own, to)
                ][:1],
                task=None
                if side is None
                else {
                    **side,
                    "file": clip(str(side["file"]), _LONG),
                    "own": next(
                        each
                        for each in side["after"]
                        if (each["family"], each["direction"]) == (own, str(to))
                    ),
                },
            )
        )
    except InputError:
        raise
    except (*READ_WRONG, jinja2.UndefinedError) as error:
        raise InputError(
            f"{run.folder}: the run lacks what the card shows ({error}): run the study again"
        ) from error
    if (size := len(page.encode())) > LIMIT:
        raise InputError(f"{run.folder}: the card would have {size:,} bytes, expected {LIMIT:,}")
    return page


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _bars(flip: dict[str, Any]) -> list[dict[str, Any]]:
    """The flip rate of the chosen neurons, then of each control, with intervals."""
    rows = [
        {"name": "the chosen neurons", "rate": flip["answers"], "ci": flip["answers_ci"], "worst": None}
    ]
    for name, words in CONTROLS.items():
        if flip["controls"].get(name) is not None:
            rows.append(
                {
                    "name": words + (" (not part of the rule)" if name == "other_donor" else ""),
                    "rate": flip["controls"][name],
                    "ci": flip["controls_ci"][name],
                    "worst": flip["controls_worst"].get(name),
                }
            )
    return rows
