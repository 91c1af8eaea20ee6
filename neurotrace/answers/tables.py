"""The tables of a trust study, from its falls; no model here.

A frame has one row for each decided prompt: `id, family, template, group`, `train` (in the first half),
`memory` (the outcome), `survived` (share of its changed versions on which the answer stays right; NaN:
none), the two falls for each of `items`, `templates`, `families` (unseen by the circuit), and plain
signals.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neurotrace.answers.answered import Answered
from neurotrace.answers.baselines import PLAIN, by_features, by_words
from neurotrace.answers.calibration import FEATURES, Calibration, fit_calibration
from neurotrace.answers.reasking import ASKED_AGAIN
from neurotrace.core.display import Cell, share
from neurotrace.detectors.judging import auroc, auroc_difference, auroc_interval, ece

UNSEEN = {
    "items": "family",
    "templates": "template",
    "families": "family",
}  # AUROC is computed within each
Array = np.ndarray


def frame_of(
    asked: Answered, train: Array, falls: Mapping[str, Array], survived: Mapping[str, float]
) -> pd.DataFrame:
    """The frame, without the plain signals."""
    frame = pd.DataFrame(
        {
            name: [getattr(prompt, name) for prompt in asked.prompts]
            for name in ("id", "family", "template", "group")
        }
    )
    frame["train"] = train
    frame["memory"] = [outcome == "memory" for outcome in asked.outcome]
    frame["survived"] = [survived.get(name, np.nan) for name in frame["id"]]
    for name, own in falls.items():
        for place, feature in enumerate(FEATURES):
            frame[f"{name} {feature}"] = own[:, place]
    return frame


def outcomes(everything: Answered) -> pd.DataFrame:
    """Counts of answers from memory, by reasoning and otherwise, for each template."""
    frame = pd.DataFrame(
        {
            "family": [prompt.family for prompt in everything.prompts],
            "template": [prompt.template for prompt in everything.prompts],
            "outcome": everything.outcome,
        }
    )
    counts = frame.groupby(["family", "template"], sort=False)["outcome"].value_counts()
    table = counts.unstack(fill_value=0).reindex(columns=["memory", "reasoning", "other"])
    return table.fillna(0).astype(int).reset_index()


def calibrated(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The frame with `p_memory`, `p_survives` and `abstain` for the second half, cross-fitted.

    One half of its groups is scored by the calibration of the other half.
    """
    frame = frame.assign(p_memory=np.nan, p_survives=np.nan, abstain=False)
    held = frame[~frame["train"]]
    groups = sorted(set(held["group"]))
    np.random.default_rng(seed).shuffle(groups)
    first = held["group"].isin(groups[: len(groups) // 2])
    for fitted, scored in ((held[first], held[~first]), (held[~first], held[first])):
        own = calibration(fitted)
        parts = _parts(scored)
        frame.loc[scored.index, "p_memory"] = own.p_memory(parts)
        frame.loc[scored.index, "p_survives"] = own.p_survives(parts)
        frame.loc[scored.index, "abstain"] = own.outside(parts)
    return frame


def calibration(held: pd.DataFrame) -> Calibration:
    """A calibration fitted on prompts that had no part in finding the circuit."""
    changed = held[held["survived"].notna()]
    return fit_calibration(
        _parts(held), held["memory"].to_numpy(), _parts(changed), changed["survived"] > 0.5
    )


def signals(
    frame: pd.DataFrame, asked: Answered, features: Mapping[str, Array], random_margins: Array
) -> pd.DataFrame:
    """AUROC of every signal on the second half, for unseen items, templates and families.

    One detector is trained on each of the `features`; "mean" is the mean over families or templates.
    `behind` of a mean is the causal margin's AUROC minus the signal's, with its paired interval.
    `auroc_lo` and `auroc_hi` are a 95 % interval, groups resampled; where `draws` is not 1 (random
    neurons) `auroc` is the mean of the draws, and they are the lowest and the highest draw's.

    Args:
        random_margins: [draw, prompt], NaN on the first half.
    """
    y, train = frame["memory"].to_numpy(), frame["train"].to_numpy()
    plain = {name: _oriented(frame[name].to_numpy(), train, y) for name in (*ASKED_AGAIN, *PLAIN)}
    rows: list[dict[str, Any]] = []
    for unseen, column in UNSEEN.items():
        strata = frame[column].to_numpy()
        memory, reasoning = (frame[f"{unseen} {name}"].to_numpy() for name in FEATURES)
        if np.isnan(memory[~train]).all():
            continue
        found = {
            "causal margin": memory - reasoning,
            "memory fall alone": memory,
            "reasoning fall alone": -reasoning,
            "random neurons, same layers": random_margins,
            "the prompt's words": _learned(by_words, _texts(asked), strata, unseen, train, y),
        }
        for name, X in features.items():
            found[name] = _learned(by_features, X, strata, unseen, train, y)
        for signal, score in (found | plain).items():
            about = {"unseen": unseen, "signal": signal}
            for stratum in sorted(set(strata)):
                at = ~train & (strata == stratum)
                rows.append(about | {"of": stratum} | _judged(score[..., at], frame[at]))
            within = strata[~train]
            mean = about | {"of": "mean"} | _judged(score[..., ~train], frame[~train], within)
            rows.append(mean | _behind(memory - reasoning, score, frame, ~train, strata))
    return pd.DataFrame(rows)


def failures(held: pd.DataFrame) -> pd.DataFrame:
    """AUROC for "the answer fails on a changed version" by the trust score and by plain confidence."""
    changed = held[held["survived"].notna()]
    failed = (changed["survived"] < 0.5).to_numpy()
    rows = []
    for name, risk in _risks(changed).items():
        low, high = auroc_interval(risk, failed, changed["group"].to_numpy())
        rows.append(
            {
                "signal": name,
                "auroc": auroc(risk, failed),
                "auroc_lo": low,
                "auroc_hi": high,
                "n": len(changed),
                "failed": int(failed.sum()),
            }
        )
    return pd.DataFrame(rows)


def coverage(held: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Risk against coverage: the share of kept answers that fail on a changed version, least risky first.

    `risk_lo`, `risk_hi`: 95 %, groups resampled, of the risk above the same threshold.
    """
    changed = held[held["survived"].notna()]
    failed = (changed["survived"] < 0.5).to_numpy()
    group = np.unique(changed["group"], return_inverse=True)[1]
    count = group.max(initial=0) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    if not len(changed):  # no prompt has a changed version
        return pd.DataFrame(columns=["signal", "coverage", "risk", "risk_lo", "risk_hi"], dtype=float)
    parts = []
    for name, risk in _risks(changed).items():
        order = np.argsort(risk, kind="stable")
        kept = np.arange(1, len(order) + 1)
        weight = drawn[:, group[order]]
        total = np.cumsum(weight, axis=1)
        risks = np.where(
            total > 0, np.cumsum(weight * failed[order], axis=1) / np.maximum(total, 1), np.nan
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no resample may hold the first prompts
            low, high = np.nanquantile(risks, [0.025, 0.975], axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "signal": name,
                    "coverage": kept / max(len(order), 1),
                    "risk": np.cumsum(failed[order]) / kept,
                    "risk_lo": low,
                    "risk_hi": high,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def summary(held: pd.DataFrame, everything: Answered, survived: Mapping[str, float]) -> dict[str, Any]:
    """Counts, ECE, abstentions, how many answers stay the same on a changed version."""
    decided = sum(outcome != "other" for outcome in everything.outcome)
    changed = held[held["survived"].notna()]
    trusted = changed["p_memory"] < 0.5
    kept = float(np.mean(list(survived.values()))) if survived else float("nan")
    return {
        "prompts": len(everything),
        "decided": decided,
        "held_out": len(held),
        "ece": ece(held["p_memory"].to_numpy(), held["memory"].to_numpy()),
        "accuracy": float(((held["p_memory"] > 0.5) == held["memory"]).mean()),
        "abstains": float(held["abstain"].mean()),
        "survive": kept,
        "survive_where_p_memory_below_half": float((changed["survived"][trusted] > 0.5).mean()),
        "survive_where_p_memory_above_half": float((changed["survived"][~trusted] > 0.5).mean()),
    }


def mean_rows(signals: pd.DataFrame) -> list[tuple[Cell, ...]]:
    """For each signal its mean AUROC by what was unseen, as a table shows it."""
    mean = signals[signals["of"] == "mean"].pivot(index="signal", columns="unseen", values="auroc")
    mean = mean.reindex(index=dict.fromkeys(signals["signal"]), columns=list(UNSEEN))
    return [(str(row[0]), *map(share, row[1:])) for row in mean.itertuples()]


def mean_auroc(score: Array, y: Array, strata: Array) -> float:
    """Mean of the AUROCs within strata; strata without both outcomes or a score are left out."""
    found = []
    for stratum in sorted(set(strata)):
        own = (strata == stratum) & ~np.isnan(score)
        if own.any() and 0 < y[own].sum() < own.sum():
            found.append(auroc(score[own], y[own]))
    return float(np.mean(found)) if found else float("nan")


def _judged(score: Array, part: pd.DataFrame, strata: Array | None = None) -> dict[str, Any]:
    y, groups = part["memory"].to_numpy(), part["group"].to_numpy()
    within = np.zeros(len(y)) if strata is None else strata
    if score.ndim > 1:
        drawn = [mean_auroc(own, y, within) for own in score]
        return {
            "auroc": float(np.mean(drawn)),
            "auroc_lo": min(drawn),
            "auroc_hi": max(drawn),
            "n": len(y),
            "memory": int(y.sum()),
            "draws": len(drawn),
        }
    known = ~np.isnan(score)
    low, high = auroc_interval(score[known], y[known], groups[known], strata=within[known])
    return {
        "auroc": mean_auroc(score[known], y[known], within[known]),
        "auroc_lo": low,
        "auroc_hi": high,
        "n": int(known.sum()),
        "memory": int(y[known].sum()),
        "draws": 1,
    }


def _behind(
    margin: Array, score: Array, frame: pd.DataFrame, held: Array, strata: Array
) -> dict[str, float]:
    """How far a signal is behind the causal margin in mean AUROC, on the prompts that have both."""
    if score.ndim > 1:
        return {}
    known = held & ~np.isnan(score) & ~np.isnan(margin)
    y, groups, within = frame["memory"].to_numpy()[known], frame["group"].to_numpy()[known], strata[known]
    both = [mean_auroc(each[known], y, within) for each in (margin, score)]
    low, high = auroc_difference(margin[known], score[known], y, groups, within)
    return {"behind": both[0] - both[1], "behind_lo": low, "behind_hi": high}


def _learned(learn: Any, X: Any, strata: Array, unseen: str, train: Array, y: Array) -> Array:
    """Trained on the first half; for unseen templates and families without the tested one."""
    if unseen == "items":
        return learn(X, train, y)
    found = np.full(len(y), np.nan)
    for stratum in sorted(set(strata)):
        others = train & (strata != stratum)
        if 0 < y[others].sum() < others.sum():
            found[strata == stratum] = learn(X, others, y)[strata == stratum]
    return found


def _risks(changed: pd.DataFrame) -> dict[str, Array]:
    return {
        "trust score": changed["p_memory"].to_numpy(),
        "log p without context": changed["log p without context"].to_numpy(),
        "largest drop": -changed["largest drop"].to_numpy(),
        "log-probability": -changed["log-probability"].to_numpy(),
        "entropy": changed["entropy"].to_numpy(),
    }


def _oriented(signal: Array, train: Array, y: Array) -> Array:
    """With reversed sign if lower values mean memory on the first half."""
    return -signal if auroc(signal[train], y[train]) < 0.5 else signal


def _parts(frame: pd.DataFrame) -> Array:
    return frame[[f"items {name}" for name in FEATURES]].to_numpy()


def _texts(asked: Answered) -> Array:
    return np.array([prompt.prompt for prompt in asked.prompts], dtype=object)
