"""The report's sections on trust and on detectors: text and figures from their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace.answers.calibration import FEATURES
from neurotrace.answers.tables import UNSEEN
from neurotrace.core.display import percent
from neurotrace.core.errors import InputError
from neurotrace.plots.detectors import plot_transfer
from neurotrace.plots.trust import plot_coverage, plot_reliability, plot_signals

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from neurotrace.results.trust import JudgedTrust

MARGIN, RANDOM = "causal margin", "random neurons, same layers"
_PARTS = ("memory fall alone", "reasoning fall alone")  # parts of the margin, not baselines
_AS_GOOD = 0.02  # AUROC: a signal this close to the margin counts as equal
_TELLS = 0.95  # AUROC, of either sign, at which a single signal suffices
_UNSURE = 0.1  # a probability this close to one half makes no claim
_FEW = 30  # minimum number of prompts of the rarer outcome for a rate


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
        "failures": trust.failures.to_dict("records"),
        "kept_half": _kept_half(trust.coverage),
        "caveats": _caveats(trust, kinds),
        "figures": _figures(trust),
    }


def detectors_section(table: pd.DataFrame, about: dict[str, Any]) -> dict[str, Any]:
    """The data of the report's section on `neurotrace detect`."""
    from neurotrace.answers.detection import summary

    try:
        figures = [("Transfer of detectors between tasks", plot_transfer(table))]
    except InputError:  # none of the detectors of this figure is in the table
        figures = []
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
        ("AUROC of the signals", plot_signals(trust.signals)),
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


def _kept_half(coverage: pd.DataFrame) -> dict[str, float] | None:
    """The share of answers that fail: of the half with the highest trust, and of all."""
    own = coverage[coverage["signal"] == "trust score"]
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
