"""The report's sections on trust and on detectors: what their tables say, in words and figures."""

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
_PARTS = ("memory fall alone", "reasoning fall alone")  # of the margin: no rivals of it
_AS_GOOD = 0.02  # AUROC: no further below the margin than this
_TELLS = 0.95  # AUROC at which a signal alone, either way round, leaves little to find out
_UNSURE = 0.1  # no further from one half than this, a probability claims nothing
_FEW = 30  # prompts of the rarer outcome below which a rate says little


def trust_section(trust: JudgedTrust) -> dict[str, Any]:
    """What `trust.html.j2` shows."""
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
    """What the report shows of `neurotrace detect`."""
    from neurotrace.answers.detection import summary

    try:
        figures = [("Where detectors hold", plot_transfer(table))]
    except InputError:  # none of the detectors that it draws is in the table
        figures = []
    means = summary(table)
    away = "others" if means["others"].notna().any() else "own"  # one task: there is no other
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
        ("What tells memory from reasoning", plot_signals(trust.signals)),
        ("Reliability of the probabilities", plot_reliability(trust.scores)),
    ]
    if len(trust.coverage):
        found.append(("Risk against coverage", plot_coverage(trust.coverage)))
    return found


def _mean_rows(signals: pd.DataFrame, kinds: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For each signal its mean AUROC with the interval, a cell a kind of shift."""
    mean = signals[signals["of"] == "mean"].drop_duplicates(["signal", "unseen"])
    cells = mean.set_index(["signal", "unseen"]).to_dict("index")
    return {
        signal: [cells[signal, kind] for kind in kinds]
        for signal in dict.fromkeys(signals["signal"])
    }


def _least(signals: pd.DataFrame, kind: str) -> dict[str, Any] | None:
    """Where the margin does worst, if anywhere worse than elsewhere."""
    own = signals[
        (signals["signal"] == MARGIN) & (signals["unseen"] == kind) & (signals["of"] != "mean")
    ].dropna(subset="auroc")
    return own.loc[own["auroc"].idxmin()].to_dict() if own["auroc"].nunique() > 1 else None


def _kept_half(coverage: pd.DataFrame) -> dict[str, float] | None:
    """The share of answers that fail, of the half that the score trusts most and of all."""
    own = coverage[coverage["signal"] == "trust score"]
    if own.empty:
        return None
    half = own.iloc[(own["coverage"] - 0.5).abs().argmin()]
    return {"coverage": half["coverage"], "half": half["risk"], "all": own["risk"].iloc[-1]}


def _caveats(trust: JudgedTrust, kinds: list[str]) -> list[str]:
    """What to hold against the score, as far as its own tables tell."""
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
                f"the margin, within {_AS_GOOD}: there, correlation is enough."
            )
    parts = signals[(signals["of"] != "mean") & (signals["unseen"] == "items")]
    parts = parts[parts["signal"].isin(("answer occurs in the prompt", "where it occurs last"))]
    told = parts[(parts["auroc"] - 0.5).abs() >= _TELLS - 0.5]
    if len(told):
        found.append(
            f"In {_listed(list(dict.fromkeys(told['of'])))} a string match tells: whether, or where, the "
            "answer stands in the prompt. Nothing there needs a look inside the model."
        )
    for kind in kinds:
        own = mean[mean["unseen"] == kind].set_index("signal")
        if RANDOM not in own.index:
            continue
        # which neurons are called memory is drawn, too: an AUROC of .2 tells as much as one of .8
        low, high = own.loc[RANDOM, ["auroc_lo", "auroc_hi"]]
        best = max(high, 1 - low)
        if low > 0.5 or best >= own.loc[MARGIN, "auroc"] - _AS_GOOD:
            found.append(
                f"Random neurons of the same layers tell, too, on unseen {kind}: AUROC up to {best:.2f}."
            )
    found += _at_zero(trust)
    changed = trust.scores["survived"].dropna()
    failed = int((changed < 0.5).sum())
    if len(changed) and min(failed, len(changed) - failed) < _FEW:
        found.append(
            f"Of {len(changed)} answers with a changed version {failed} fail: few to judge from."
        )
    if not len(changed):
        found.append("No prompt has a changed version: whether answers survive one was not judged.")
    abstains = trust.scores["abstain"].astype(bool)
    if abstains.any():
        found.append(
            f"Abstentions ({percent(float(abstains.mean()))}) are counted in every figure here as if a "
            "score had been given."
        )
    return found


def _at_zero(trust: JudgedTrust) -> list[str]:
    """What the score says where neither kind of neuron matters: it knows nothing there."""
    calibration, zero = trust.circuit.calibration, np.zeros((1, len(FEATURES)))
    if calibration is None or calibration.outside(zero)[0]:
        return []
    p = float(calibration.p_memory(zero)[0])
    if abs(p - 0.5) < _UNSURE:
        return []
    return [
        f"Where neither kind of neuron matters, at a margin of 0, it says {percent(p)} “from memory” and "
        "doesn't abstain. It was calibrated on questions on which memory and reasoning compete; about "
        "any other, read the margin, and nothing into one near 0."
    ]


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
