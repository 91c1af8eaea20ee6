"""The tables of a trust study, from its falls; no model here.

A frame has one row for each decided prompt: `id, family, template, group`, `train` (in the first half),
`memory` (the outcome), `survived` (share of its changed versions on which the answer stays right; NaN:
none), the two falls for each of `items`, `templates`, `families` (unseen by the circuit), and plain
signals.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neurotrace.answers.answered import Answered
from neurotrace.answers.calibration import FEATURES, Calibration, fit_calibration, fit_familiar, logistic
from neurotrace.answers.rivals import RIVALS
from neurotrace.answers.score import CANDIDATES, MARGIN
from neurotrace.core.display import Cell, share
from neurotrace.detectors.judging import auroc, auroc_difference, auroc_interval, ece

UNSEEN = {
    "items": "family",
    "templates": "template",
    "families": "family",
}  # AUROC is computed within each
Array = np.ndarray
Scores = dict[str, Array]  # a score for each prompt, by what is unseen
COMBINED = "combined score"
_AGAIN = {  # what asking again gives the combined score, by what it is
    "asking again": ["log p without context", "largest drop"],
    "consistency": ["reordered context", "log-probability"],
}
_MARGIN_PASSES = "3"
_PARTS_PASSES = {
    COMBINED: "4 + sentences",
    f"{COMBINED} without margin": "2 + sentences",
    f"{COMBINED} without asking again": "4",
    f"{COMBINED} without consistency": "3 + sentences",
}
_FOLDS = 4
# of a confidence the sign of the risk
_CONFIDENCE = {"log-probability": -1, "self-consistency": -1, "entropy": 1, "semantic entropy": 1}
_COVERED = ("trust score", COMBINED, "log p without context", "largest drop", "log-probability", "entropy")


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


def strangers(frame: pd.DataFrame, streams: Array, kinds: Sequence[str], block: int) -> Array:
    """Whether each prompt of the second half is of another kind, by the other folds' groups."""
    held = np.flatnonzero(~frame["train"])
    groups, found = _dealt(frame["group"].to_numpy()[held]), np.zeros(len(frame), dtype=bool)
    for place in range(_FOLDS):
        own, others = held[groups == place], held[groups != place]
        familiar = fit_familiar(streams[others], np.array(kinds)[others], block)
        if familiar is not None and len(own):
            found[own] = familiar.strange(streams[own])
    return found


def _dealt(groups: Array) -> Array:
    """The fold of each row; whole groups, at random."""
    names = sorted(set(groups.tolist()))
    np.random.default_rng(0).shuffle(names)
    place = {name: number % _FOLDS for number, name in enumerate(names)}
    return np.array([place[each] for each in groups.tolist()])


def calibration(held: pd.DataFrame) -> Calibration:
    """A calibration fitted on prompts that had no part in finding the circuit."""
    changed = held[held["survived"].notna()]
    return fit_calibration(
        _parts(held), held["memory"].to_numpy(), _parts(changed), changed["survived"] > 0.5
    )


def signals(frame: pd.DataFrame, learned: Mapping[str, Scores], random_margins: Array) -> pd.DataFrame:
    """AUROC of every signal on the second half, for unseen items, templates and families.

    "mean" is the mean over families or templates. `behind` of a mean is the causal margin's AUROC minus the
    signal's, with its paired interval; `combined` is the same of the combined score. `auroc_lo` and
    `auroc_hi` are a 95 % interval, groups resampled; where `draws` is not 1 (random neurons) `auroc` is the
    mean of the draws, and they are the lowest and the highest draw's.

    Args:
        learned: of `rival_scores`.
        random_margins: [draw, prompt], NaN on the first half.
    """
    train = frame["train"].to_numpy()
    rows: list[dict[str, Any]] = []
    for unseen, column in UNSEEN.items():
        strata = frame[column].to_numpy()
        memory, reasoning = (frame[f"{unseen} {name}"].to_numpy() for name in FEATURES)
        if np.isnan(memory[~train]).all():
            continue
        found = {
            MARGIN: (memory - reasoning, _MARGIN_PASSES),
            "memory fall alone": (memory, _MARGIN_PASSES),
            "reasoning fall alone": (-reasoning, _MARGIN_PASSES),
            "random neurons, same layers": (random_margins, _MARGIN_PASSES),
        }
        found |= {name: (score, _PARTS_PASSES[name]) for name, score in combined(frame, unseen).items()}
        found |= {name: (own[unseen], RIVALS[name].passes) for name, own in learned.items()}
        best = found[COMBINED][0]
        for signal, (score, passes) in found.items():
            about = {"unseen": unseen, "signal": signal, "passes": passes}
            for stratum in sorted(set(strata)):
                at = ~train & (strata == stratum)
                rows.append(about | {"of": stratum} | _judged(score[..., at], frame[at]))
            mean = about | {"of": "mean"} | _judged(score[..., ~train], frame[~train], strata[~train])
            if score.ndim == 1:
                mean |= _behind("behind", memory - reasoning, score, frame, strata)
                mean |= _behind("combined", best, score, frame, strata)
            rows.append(mean)
    return pd.DataFrame(rows)


def rival_scores(frame: pd.DataFrame, values: Mapping[str, Array]) -> dict[str, Scores]:
    """Rival -> what is unseen -> scores. Trained on the first half, without what is tested and unseen."""
    y, first, groups = (frame[name].to_numpy() for name in ("memory", "train", "group"))
    tested: list[tuple[str, Array]] = [("items", np.ones(len(y), dtype=bool))]
    for unseen in ("templates", "families"):
        strata = frame[UNSEEN[unseen]].to_numpy()
        tested += [(unseen, strata == stratum) for stratum in sorted(set(strata))]
    trained = [first & (~own if unseen != "items" else own) for unseen, own in tested]
    able = [0 < y[rows].sum() < rows.sum() for rows in trained]
    found: dict[str, Scores] = {}
    for name, own in values.items():
        rows = [each for each, fits in zip(trained, able, strict=True) if fits]
        scores = iter(RIVALS[name].scores(own, rows, first, y, groups))
        found[name] = {unseen: np.full(len(y), np.nan) for unseen in UNSEEN}
        for (unseen, at), fits in zip(tested, able, strict=True):
            if fits:
                found[name][unseen][at] = next(scores)[at]
    return found


def combined(frame: pd.DataFrame, unseen: str) -> dict[str, Array]:
    """The combined score and the same without each of its parts: log-odds of memory, the second half only.

    A logistic regression on the margin's two parts and on what asking again says. The margins of the first
    half are not held out, so it learns on the second: each of `_FOLDS` sets of groups is scored by the
    regression of the others (without the tested template or family where that is unseen).
    """
    parts = {"margin": [f"{unseen} {name}" for name in FEATURES]} | _AGAIN
    held = frame[~frame["train"]]
    fold = _dealt(held["group"].to_numpy())
    y = held["memory"].to_numpy()
    strata = np.zeros(len(held)) if unseen == "items" else held[UNSEEN[unseen]].to_numpy()
    found = {}
    for name, left_out in [(COMBINED, ""), *((f"{COMBINED} without {part}", part) for part in parts)]:
        X = held[[c for part, own in parts.items() if part != left_out for c in own]].to_numpy(float)
        score = np.full(len(frame), np.nan)
        own = np.full(len(held), np.nan)
        known = ~np.isnan(X).any(axis=1)
        for place in range(_FOLDS):
            for stratum in sorted(set(strata)):
                at = known & (fold == place) & (strata == stratum)
                train = known & (fold != place)
                train &= (strata != stratum) | (unseen == "items")
                if at.any() and 0 < y[train].sum() < train.sum():
                    weights = logistic(X[train], y[train])
                    own[at] = weights[0] + X[at] @ weights[1:]
        score[np.flatnonzero(~frame["train"])] = own
        found[name] = score
    return found


def cheapest(frame: pd.DataFrame, learned: Mapping[str, Scores]) -> str:
    """The first of `CANDIDATES`, cheapest first, that is as good as the best: second half, unseen items."""
    held = ~frame["train"].to_numpy()
    y, groups, families = (frame[name].to_numpy()[held] for name in ("memory", "group", "family"))
    margin = frame[f"items {FEATURES[0]}"] - frame[f"items {FEATURES[1]}"]
    scores = {MARGIN: margin.to_numpy()} | {name: own["items"] for name, own in learned.items()}
    scores = {name: scores[name][held] for name in CANDIDATES if name in scores}
    means = {name: mean_auroc(score, y, families) for name, score in scores.items()}
    best = max(means, key=lambda name: means[name])
    for name, score in scores.items():
        ahead, _ = auroc_difference(scores[best], score, y, groups, families)
        if not ahead > 0:
            return name
    return best


def risks(frame: pd.DataFrame, learned: Mapping[str, Scores]) -> dict[str, Array]:
    """Signal -> risk that an answer fails on a changed version: the trust score's and every rival's.

    A confidence's risk is its reverse; any other signal's is what stands for memory.
    """
    found = {
        "trust score": frame["p_memory"].to_numpy(),
        COMBINED: combined(frame, "items")[COMBINED],
    }
    found |= {name: own["items"] for name, own in learned.items()}
    for name, sign in _CONFIDENCE.items():
        if name in frame:
            found[name] = sign * frame[name].to_numpy()
    return found


def failures(frame: pd.DataFrame, risks: Mapping[str, Array]) -> pd.DataFrame:
    """AUROC for "the answer fails on a changed version" by each signal, on the second half.

    `behind`: the trust score's AUROC minus the signal's, paired, groups resampled; `combined`: the combined
    score's.
    """
    at = (~frame["train"] & frame["survived"].notna()).to_numpy()
    changed = frame[at].assign(memory=frame["survived"][at] < 0.5)
    failed, one = changed["memory"].to_numpy(), np.zeros(at.sum())
    rows: list[dict[str, Any]] = []
    for name, risk in risks.items():
        low, high = auroc_interval(risk[at], failed, changed["group"].to_numpy())
        about = {"signal": name, "auroc": auroc(risk[at], failed), "auroc_lo": low, "auroc_hi": high}
        about |= {"n": len(changed), "failed": int(failed.sum())}
        for column, best in (("behind", "trust score"), ("combined", COMBINED)):
            about |= _behind(column, risks[best][at], risk[at], changed, one)
        rows.append(about)
    return pd.DataFrame(rows)


def coverage(
    frame: pd.DataFrame, risks: Mapping[str, Array], *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Risk against coverage: the share of kept answers that fail on a changed version, least risky first.

    `risk_lo`, `risk_hi`: 95 %, groups resampled, of the risk above the same threshold.
    """
    at = (~frame["train"] & frame["survived"].notna()).to_numpy()
    changed = frame[at]
    failed = (changed["survived"] < 0.5).to_numpy()
    group = np.unique(changed["group"], return_inverse=True)[1]
    count = group.max(initial=0) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    if not len(changed):  # no prompt has a changed version
        return pd.DataFrame(columns=["signal", "coverage", "risk", "risk_lo", "risk_hi"], dtype=float)
    parts = []
    for name in _COVERED:
        order = np.argsort(risks[name][at], kind="stable")
        kept = np.arange(1, len(order) + 1)
        weight = drawn[:, group[order]]
        total = np.cumsum(weight, axis=1)
        each = np.where(total > 0, np.cumsum(weight * failed[order], axis=1) / np.maximum(total, 1), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no resample may hold the first prompts
            low, high = np.nanquantile(each, [0.025, 0.975], axis=0)
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
        "strange": float(held["strange"].mean()) if "strange" in held else float("nan"),
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


def _behind(name: str, best: Array, score: Array, frame: pd.DataFrame, strata: Array) -> dict[str, float]:
    """`best` minus a signal in mean AUROC, on the held-out prompts that have both; paired."""
    known = ~frame["train"].to_numpy() & ~np.isnan(score) & ~np.isnan(best)
    y, groups, within = frame["memory"].to_numpy()[known], frame["group"].to_numpy()[known], strata[known]
    both = [mean_auroc(each[known], y, within) for each in (best, score)]
    low, high = auroc_difference(best[known], score[known], y, groups, within)
    return {name: both[0] - both[1], f"{name}_lo": low, f"{name}_hi": high}


def _parts(frame: pd.DataFrame) -> Array:
    return frame[[f"items {name}" for name in FEATURES]].to_numpy()
