"""The report's sections: a card for each family, trust, detectors; text and figures from their tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.answers.calibration import FEATURES
from neurotrace.answers.tables import UNSEEN
from neurotrace.core.display import clip, percent
from neurotrace.core.errors import InputError
from neurotrace.core.sides import DIRECTIONS, spoken
from neurotrace.interventions.controls import CONTROLS
from neurotrace.locating.deciding import in_words
from neurotrace.plots.detectors import SHOWN, plot_transfer
from neurotrace.plots.trust import plot_coverage, plot_reliability, plot_signals
from neurotrace.plots.words import count, damage_word, kind_words, role_words, turn_words, why_words
from neurotrace.results.findings import read_findings, stability
from neurotrace.studies.verdict import verdicts_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from neurotrace.results.reading import Run
    from neurotrace.results.trust import JudgedTrust

SCORE = "trust score"
MARGIN, RANDOM = "causal margin", "random neurons, same layers"
_PARTS = ("memory fall alone", "reasoning fall alone")  # parts of the margin, not baselines
_AS_GOOD = 0.02  # AUROC: a signal this close to the margin counts as equal
_TELLS = 0.95  # AUROC, of either sign, at which a single signal suffices
_UNSURE = 0.1  # a probability this close to one half makes no claim
_FEW = 30  # minimum number of prompts of the rarer outcome for a rate


_NAMED = 3  # signals beside the trust score that the text names
_SHORT = 90  # characters of an example in a card
_LEAST, _DECADES = 1e-3, 4  # the scale of side effects: 0.001 to 10 nats


def family_cards(run: Run, figures: Iterable[tuple[str, go.Figure]]) -> list[dict[str, Any]]:
    """The data of `family.html.j2` and `evidence.html.j2`, one family each.

    Args:
        figures: single pairs and estimates; named "FAMILY, DIRECTION: WHAT".
    """
    flips, drawn = selected(run), list(figures)
    found: list[dict[str, Any]] = []
    for family, verdict in verdicts_of(run.summary["flips"]).items():
        own = [flip for flip in flips if flip["family"] == family]
        examples = [each for each in run.summary["examples"] if each["family"] == family]
        first, ways = own[0], {f"{family}, {spoken(direction)}" for direction in DIRECTIONS}
        why = [why_words(each) for each in verdict.why]
        found.append(
            {
                "number": len(found) + 1,
                "verdict": verdict,
                "why": why,
                "decided": _decided(run, family),
                "sides": [_side(flip, examples) for flip in own],
                "examples": [each | {"what": _example_words(each["what"])} for each in examples],
                "rests": f"{count(first['n'], 'held-out pair')} of {count(first['groups'], 'group')}, each "
                f"held out once in {count(run.summary['folds'], 'fold')} by "
                f"{first['split'].replace('+', ' and ')}",
                "figures": [(name, figure) for name, figure in drawn if name.rsplit(": ", 1)[0] in ways],
            }
        )
    return found


def _decided(run: Run, family: str) -> str:
    """What `neurotrace locate` says of the family; empty if it was not asked."""
    if run.decided is None or not (own := run.decided[run.decided["family"] == family]).size:
        return ""
    return in_words(own)


def selected(run: Run) -> list[dict[str, Any]]:
    """What training pairs chose, with `ks`, the numbers of neurons that its folds chose, and how far
    the folds agree on the neurons (None: a run of 0.1 saved none)."""
    chosen = run.effects.where(role="selected", chosen=True).to_frame()
    sizes = chosen.groupby(["family", "direction"])["k"].unique()
    stable = stability(read_findings(run.folder), run.manifest["model"]["neurons_per_layer"])
    side = run.summary.get("benchmark", {"after": []})
    beside = {
        (each["family"], each["direction"]): {"before": side["before"], "items": side["items"]} | each
        for each in side["after"]
    }
    # runs of 0.1 have none of these
    absent: dict[str, Any] = {"controls_worst": {}, "random_p": None, "regret": None}
    return [
        absent
        | flip
        | {
            "ks": sorted(int(k) for k in sizes[flip["family"], flip["direction"]]),
            "stability": stable.get((flip["family"], flip["direction"])),
            "benchmark": beside.get((flip["family"], str(flip["direction"]))),
        }
        for flip in run.selected()
    ]


def strongest_control(flip: dict[str, Any]) -> dict[str, Any] | None:
    """Words, rate and interval of the control that flips most."""
    rates = {name: flip["controls"].get(name) for name in CONTROLS}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if not known:
        return None
    name = max(known, key=lambda each: known[each])
    return {"words": role_words(name), "rate": known[name], "ci": flip["controls_ci"][name]}


def _side(flip: dict[str, Any], examples: list[dict[str, Any]]) -> dict[str, Any]:
    control = strongest_control(flip)
    track = [{"class": "chosen"} | _range(flip["answers"], flip["answers_ci"])]
    if control is not None:
        track.insert(0, {"class": "control"} | _range(control["rate"], control["ci"]))
    example = next((each for each in examples if each["direction"] == flip["direction"]), None)
    return {
        "flip": flip,
        "turn": turn_words(flip["direction"]),
        "change": kind_words(flip["intervention"]),
        "control": control,
        "track": track,
        "damage": damage_scale(flip["damage_kl"], flip["damage_ci"]),
        "example": example
        and {name: clip(" ".join(example[name].split()), _SHORT) for name in ("prompt", "before", "after")},
    }


def _range(value: float, ends: tuple[float, float]) -> dict[str, str]:
    """In percent of the track."""
    low, high = ends
    return {"at": f"{100 * value:.1f}", "low": f"{100 * low:.1f}", "width": f"{100 * (high - low):.1f}"}


def damage_scale(nats: float | None, ends: tuple[float, float] | None) -> dict[str, Any] | None:
    """On a scale of decades, with what the mean says of perplexity: on text that the unchanged model
    writes, KL is the rise of the log loss. None, where no neutral text was read."""
    if nats is None:
        return None

    def place(value: float) -> float:
        return min(1.0, max(0.0, math.log10(max(value, _LEAST) / _LEAST) / _DECADES))

    low, high = ends or (nats, nats)
    rise = math.expm1(min(nats, 50.0))
    perplexity = (
        "hardly changes"
        if rise < 0.005
        else f"rises by {rise:.0%}"
        if rise < 10
        else f"is {rise:.0f} times as high"
    )
    return {"word": damage_word(nats), "perplexity": perplexity} | _range(
        place(nats), (place(low), place(high))
    )


def _example_words(what: str) -> str:
    """ "steer:0.7 of 8 neurons" -> "steer ×0.7 of 8 neurons"."""
    kind, of, rest = what.partition(" of ")
    return f"{kind_words(kind)}{of}{rest}"


def trust_section(trust: JudgedTrust) -> dict[str, Any]:
    """The data of `trust.html.j2`."""
    signals = trust.signals
    kinds = [kind for kind in UNSEEN if kind in set(signals["unseen"])]
    rows = _mean_rows(signals, kinds)
    return {
        "summary": trust.summary,
        "command": trust.manifest.get("command", ""),
        "kinds": [
            {"name": kind, "mean": mean, "least": _least(signals, kind)}
            for kind, mean in zip(kinds, rows[MARGIN], strict=True)
        ],
        "rows": rows,
        "failures": trust.failures.set_index("signal", drop=False).to_dict("index"),
        "fails_best": _best_at_failures(trust.failures),
        "kept_half": _kept_half(trust.coverage),
        "caveats": _caveats(trust, kinds),
        "figures": _figures(trust),
    }


def detectors_section(table: pd.DataFrame, about: dict[str, Any]) -> dict[str, Any]:
    """The data of the report's section on `neurotrace detect`."""
    from neurotrace.answers.detection import summary

    figures = []
    for own in SHOWN:  # one panel each, which fits a phone
        try:
            name = own[0] if own[1] in own[0] else " on ".join(own)
            figures.append((f"Transfer between tasks, {name}", plot_transfer(table, shown=[own])))
        except InputError:  # this detector is not in the table
            continue
    means = summary(table)
    away = "others" if means["others"].notna().any() else "own"  # only one task
    inside = means["detector"] != "baseline"
    return {
        "command": about.get("command", ""),
        "away": away,
        "best": [
            part.loc[part[away].idxmax()].to_dict()
            for part in (means[inside], means[~inside])
            if part[away].notna().any()
        ],
        "means": means.to_dict("records"),
        "rows": table.to_dict("records"),
        "figures": figures,
    }


def _figures(trust: JudgedTrust) -> list[tuple[str, go.Figure]]:
    found = [
        *(
            (f"AUROC of the signals, unseen {kind}", plot_signals(part))
            for kind, part in trust.signals.groupby("unseen", sort=False)
        ),
        ("Reliability of the probabilities", plot_reliability(trust.scores)),
    ]
    if len(trust.coverage):
        found.append(("Risk against coverage", plot_coverage(trust.coverage)))
    return found


def _mean_rows(signals: pd.DataFrame, kinds: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For each signal its mean AUROC with the interval, one cell per kind of shift."""
    mean = signals[signals["of"] == "mean"].drop_duplicates(["signal", "unseen"])
    cells = mean.set_index(["signal", "unseen"]).to_dict("index")
    return {signal: [cells[signal, kind] for kind in kinds] for signal in dict.fromkeys(signals["signal"])}


def _least(signals: pd.DataFrame, kind: str) -> dict[str, Any] | None:
    """The row with the margin's lowest AUROC, if they differ."""
    own = signals[
        (signals["signal"] == MARGIN) & (signals["unseen"] == kind) & (signals["of"] != "mean")
    ].dropna(subset="auroc")
    return own.loc[own["auroc"].idxmin()].to_dict() if own["auroc"].nunique() > 1 else None


def _best_at_failures(failures: pd.DataFrame) -> list[dict[str, Any]]:
    """The trust score, and the other signals that tell failures best."""
    own = failures[failures["signal"] == SCORE]
    others = failures[failures["signal"] != SCORE].sort_values("auroc", ascending=False, kind="stable")
    found: list[dict[str, Any]] = [*own.to_dict("records"), *others.head(_NAMED).to_dict("records")]
    return found


def _kept_half(coverage: pd.DataFrame) -> dict[str, float] | None:
    """The share of answers that fail: of the half with the highest trust, and of all."""
    own = coverage[coverage["signal"] == SCORE]
    if own.empty:
        return None
    half = own.iloc[(own["coverage"] - 0.5).abs().argmin()]
    return {"coverage": half["coverage"], "half": half["risk"], "all": own["risk"].iloc[-1]}


def _caveats(trust: JudgedTrust, kinds: list[str]) -> list[str]:
    """Limitations of the score that its own tables show."""
    signals, found = trust.signals, []
    mean = signals[signals["of"] == "mean"]
    equal: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        own = mean[mean["unseen"] == kind].set_index("signal")["auroc"]
        rivals = own.drop([MARGIN, *_PARTS], errors="ignore")
        rivals = rivals[~rivals.index.str.startswith("combined score")]  # of which the margin is a part
        as_good = rivals[rivals >= own.get(MARGIN, 1) - _AS_GOOD].index
        equal.setdefault(tuple(f"“{name}”" for name in as_good), []).append(kind)
    for names, where in equal.items():
        if names:
            do = "does" if len(names) == 1 else "do"
            found.append(
                f"On unseen {_listed(where)} {_listed(names)} {do} as well as "
                f"the margin, within {_AS_GOOD}: there, correlation suffices."
            )
    parts = signals[(signals["of"] != "mean") & (signals["unseen"] == "items")]
    parts = parts[parts["signal"].isin(("answer occurs in the prompt", "where it occurs last"))]
    told = parts[(parts["auroc"] - 0.5).abs() >= _TELLS - 0.5]
    if len(told):
        found.append(
            f"In {_listed(list(dict.fromkeys(told['of'])))} string matching suffices: whether, or where, "
            "the answer is in the prompt. Model internals are not needed there."
        )
    for kind in kinds:
        own = mean[mean["unseen"] == kind].set_index("signal")
        if RANDOM not in own.index:
            continue
        # the two kinds are assigned at random, so an AUROC of .2 is as predictive as .8
        low, high = own.loc[RANDOM, ["auroc_lo", "auroc_hi"]]
        best = max(high, 1 - low)
        if low > 0.5 or best >= own.loc[MARGIN, "auroc"] - _AS_GOOD:
            found.append(
                f"Random neurons of the same layers predict, too, on unseen {kind}: AUROC up to {best:.2f}."
            )
    found += _at_zero(trust)
    changed = trust.scores["survived"].dropna()
    failed = int((changed < 0.5).sum())
    if len(changed) and min(failed, len(changed) - failed) < _FEW:
        found.append(
            f"Of {len(changed)} answers with a changed version {failed} fail: too few for a reliable rate."
        )
    if not len(changed):
        found.append("No prompt has a changed version, so failures on changed questions were not measured.")
    abstains = trust.scores["abstain"].astype(bool)
    if abstains.any():
        found.append(
            f"Abstentions ({percent(float(abstains.mean()))}) are counted in every figure here as if the "
            "score had been given."
        )
    return found


def _at_zero(trust: JudgedTrust) -> list[str]:
    """The limitation at a margin of 0, where neither kind of neuron matters."""
    calibration, zero = trust.circuit.calibration, np.zeros((1, len(FEATURES)))
    if calibration is None or calibration.outside(zero)[0]:
        return []
    p = float(calibration.p_memory(zero)[0])
    if abs(p - 0.5) < _UNSURE:
        return []
    return [
        f"Where neither kind of neuron matters, at a margin of 0, the score is {percent(p)} “from memory” "
        "and it does not abstain. It was calibrated on questions on which memory and reasoning compete. "
        "For other questions read the margin; one near 0 has no meaning."
    ]


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
