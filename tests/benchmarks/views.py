"""A model's own views, judged on families left out and groups not trained on.

    python tests/benchmarks/views.py fusion --model organism --probes arithmetic inference letters
    python tests/benchmarks/views.py fusion --model MODEL --probes conflicts --folder runs/views-smollm2
    python tests/benchmarks/views.py invariance --model MODEL --probes conflicts --folder runs/views-smollm2

`fusion`: single views, linear and deep fusion, the plain product. `invariance`: linear and invariant
detectors on all neurons and on those with an effect on the training prompts. What is read of the model
and each fit's scores stay in the folder, so that a run that was stopped goes on; `--out` gets the table.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone

import neurotrace as nt
from neurotrace.answers.tables import mean_auroc
from neurotrace.detectors import FusedDetector, InvariantDetector, LinearDetector
from neurotrace.detectors.base import Basis
from neurotrace.detectors.judging import auroc_difference, auroc_interval
from neurotrace.fusion import DeepFusion
from neurotrace.fusion.rivals import Rival

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from read_views import PARTS, Read, read
from spurious import OURS, eiil

Array = np.ndarray
Scores = dict[str, Array]
WIDE = 64  # principal axes of the training rows, for a network on a view with more features
CAUSAL = (102, 1024)  # neurons with the largest predicted effect on training prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["fusion", "invariance"])
    parser.add_argument("--model", default="organism")
    parser.add_argument("--probes", nargs="+", required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/views-organism"))
    parser.add_argument("--prompts", type=int, default=50, help="of each family and outcome")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    seen = read(asked.model, asked.probes, asked.folder, asked.prompts)
    fits = {"fusion": fused, "invariance": invariant}[asked.what]
    scores, weights = run(seen, fits, asked.folder / asked.what)
    beside = _deep if asked.what == "fusion" else _erm
    table = judged(seen.rows, scores, beside)
    if len(weights):
        table = pd.concat([table, spoken(seen.rows, weights)])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(asked.out, index=False)
    print(table.round(3).to_string())


def run(
    seen: Read, fits: Callable[..., tuple[Scores, pd.DataFrame | None]], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(score of each row by each method, each row's weights): a file for each family and part left out."""
    folder.mkdir(exist_ok=True)
    found, weights = [], []
    for left in sorted(set(seen.rows["family"])):
        for part in range(PARTS):
            name = folder / f"{left}-{part}.csv"
            if not name.is_file():
                train, test = seen.split(left, part)
                if not len(test):
                    continue
                scores, each = fits(seen, f"{left}/{part}", train, test)
                if each is not None:
                    each.to_csv(folder / f"{left}-{part}-weights.csv", index=False)
                pd.DataFrame({"at": test} | scores).to_csv(name, index=False)
                print(f"{left}, part {part}: {len(train)} training rows, {len(test)} test rows", flush=True)
            found.append(pd.read_csv(name))
            if name.with_stem(f"{left}-{part}-weights").is_file():
                weights.append(pd.read_csv(name.with_stem(f"{left}-{part}-weights")))
    return pd.concat(found), pd.concat(weights) if weights else pd.DataFrame()


def fused(seen: Read, key: str, train: Array, test: Array) -> tuple[Scores, pd.DataFrame]:
    """Scores of the test rows by each view, and by all of them."""
    y, groups, family = (seen.rows[name].to_numpy()[train] for name in ("memory", "group", "family"))
    views = seen.views | {"margin": seen.margins[key]}
    found: Scores = {}
    own, other = {}, {}
    inner: dict[str, float] = {}
    for name, view in views.items():
        X, Z = view[train].astype(float), view[test].astype(float)
        found[name] = LinearDetector().fit(X, y, groups).decision_function(Z)
        inner[name] = _away(X, y, groups, family)
        basis = Basis(X)
        own[name], other[name] = X, Z
        if X.shape[1] > WIDE:
            own[name], other[name] = (_axes(basis, rows) for rows in (X, Z))
    found["view chosen on training families"] = found[max(inner, key=lambda name: inner[name])]
    X, Z = (np.hstack(list(part.values())) for part in (own, other))
    ends = np.cumsum([0, *(view.shape[1] for view in own.values())])
    columns = {name: (int(a), int(b)) for name, a, b in zip(own, ends, ends[1:], strict=False)}
    found["linear fusion"] = FusedDetector(columns).fit(X, y, groups).decision_function(Z)
    weights = pd.DataFrame()
    count = len(set(family))
    for title, method in {
        "plain product": Rival("plain product", steps=150),
        "average": Rival("average", steps=150),
        "deep product": DeepFusion(steps=150),
        "deep mixture": DeepFusion("mixture", steps=150),
    }.items():
        for by, whole, folds in (("", groups, 3), (", weighed across families", family, count)):
            if by and title != "deep product":
                continue
            fitted = clone(method).set_params(folds=folds).fit(own, y, whole)
            found[title + by] = fitted.predict_proba(other)[:, 1]
            if title == "deep product":
                each = fitted.input_weights(other)[["row", "view", "strength"]]
                each = each.assign(at=test[each["row"]], method=title + by).drop(columns="row")
                weights = pd.concat([weights, each])
    return found, weights


def invariant(seen: Read, key: str, train: Array, test: Array) -> tuple[Scores, None]:
    """Scores of the test rows by detectors on neurons; known or generated environments."""
    rows = seen.rows.iloc[train]
    y, groups = rows["memory"].to_numpy(), rows["group"].to_numpy()
    family, template = rows["family"].to_numpy(), (rows["family"] + "/" + rows["template"]).to_numpy()
    order = np.argsort(-np.abs(seen.effects[key]))
    drawn = np.random.default_rng(0).permutation(len(order))
    which = {"all neurons": slice(None)} | {f"{n} neurons with an effect": order[:n] for n in CAUSAL}
    which |= {f"{n} neurons at random": drawn[:n] for n in CAUSAL}
    found: Scores = {}
    for name, columns in which.items():
        X, Z = (seen.views["neurons"][part][:, columns].astype(float) for part in (train, test))
        found[f"linear, {name}"] = LinearDetector().fit(X, y, groups).decision_function(Z)
        if "random" in name:
            continue
        known = InvariantDetector()
        for title, detector, environment in (
            ("ERM", InvariantDetector("none"), None),
            ("V-REx, families", known, family),
            ("V-REx, templates", known, template),
            ("generated", known, None),
            ("generated, no L_IP", InvariantDetector(preserve=0.0), None),
            ("generated, settings of the ground", InvariantDetector(**OURS), None),
            ("EIIL", known, eiil(X, y, 0)),
            # a detector that separates its training rows has no losses that could differ
            ("ERM, l2 = .3", InvariantDetector("none", l2=0.3), None),
            ("V-REx, families, l2 = .3", InvariantDetector(l2=0.3), family),
            ("generated, l2 = .3", InvariantDetector(l2=0.3), None),
        ):
            fitted = clone(detector).fit(X, y, environment=environment)
            found[f"{title}, {name}"] = fitted.decision_function(Z)
    parts = seen.margins[key]
    found["causal margin's two parts"] = (
        LinearDetector().fit(parts[train], y).decision_function(parts[test])
    )
    return found, None


def judged(rows: pd.DataFrame, scores: pd.DataFrame, beside: Callable[[str], str]) -> pd.DataFrame:
    """Mean AUROC over families left out, and its gain over that of `beside`; groups resampled."""
    scores = scores.set_index("at").sort_index()
    about = rows.loc[scores.index]
    y, groups, family = (about[name].to_numpy() for name in ("memory", "group", "family"))
    # each part has detectors of its own, so it is judged within itself
    within = (about["family"] + "/" + about["part"].astype(str)).to_numpy()
    made = []
    for method in scores:
        known = scores[method].notna().to_numpy()
        score, best = (scores[name].to_numpy()[known] for name in (method, beside(method)))
        args = y[known], groups[known]
        means = [mean_auroc(each, args[0], within[known]) for each in (score, best)]
        low, high = auroc_interval(score, *args, strata=within[known])
        row = {"method": method, "auroc": means[0], "low": low, "high": high}
        row |= {"beside": beside(method), "gain": means[0] - means[1]}
        row["gain_low"], row["gain_high"] = auroc_difference(score, best, *args, within[known])
        for name in np.unique(family):
            own = family[known] == name
            row[name] = mean_auroc(score[own], args[0][own], within[known][own])
        made.append(row | {"n": int(known.sum())})
    return pd.DataFrame(made)


def spoken(rows: pd.DataFrame, weights: pd.DataFrame) -> pd.DataFrame:
    """Each view's share of the strength on prompts answered by reasoning, and on those from memory.

    A mean of the prompts' own weights would be that of the few on which the views cancel.
    """
    weights = weights.assign(memory=rows["memory"].to_numpy()[weights["at"]])
    total = weights.pivot_table(
        index=["method", "view"], columns="memory", values="strength", aggfunc="sum"
    )
    share = (total / total.groupby("method").sum()).reset_index()
    share["method"] = "weight of " + share["view"] + share["method"].str.removeprefix("deep product")
    return share.drop(columns="view").rename(columns={0: "on reasoning", 1: "on memory"})


def _deep(_: str) -> str:
    return "deep product"


def _erm(method: str) -> str:
    """The same neurons without any penalty on differences between environments."""
    which = method.split(", ")[-1].replace("at random", "with an effect")
    which = f"l2 = .3, {which}" if "l2" in method else which
    return f"ERM, {which}" if "neurons" in which else "ERM, all neurons"


def _axes(basis: Basis, rows: Array) -> Array:
    turned = basis.turn(rows)
    return turned[:, -WIDE:] * np.sqrt(WIDE) if basis.axes is not None else turned


def _away(X: Array, y: Array, groups: Array, family: Array) -> float:
    """Mean AUROC on each training family of a detector that was trained on the others."""
    found = []
    for name in np.unique(family):
        own = family == name
        if not np.ptp(X[~own], axis=0).any():  # a view that never changes
            found.append(0.5)
            continue
        score = LinearDetector(C=1.0).fit(X[~own], y[~own]).decision_function(X[own])
        found.append(nt.judge(score, y[own], groups[own], resamples=2).auroc)
    return float(np.mean(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
