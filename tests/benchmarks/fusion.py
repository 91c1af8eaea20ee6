"""Deep fusion at length: `planted` informativeness, real modalities with the strongest one `missing`, and
a model's own `views` on families left out.

    python tests/benchmarks/fusion.py planted --out runs/fusion-planted.csv
    python tests/benchmarks/fusion.py missing --out runs/fusion-missing.csv [--folder FASHION_MNIST]
    python tests/benchmarks/fusion.py views --out runs/fusion-views.csv  # the organism's own views
    python tests/benchmarks/fusion.py summary --out runs/fusion-missing.csv

Rows that are in the table already are not computed again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score

import neurotrace as nt
from neurotrace.detectors import FusedDetector, LinearDetector
from neurotrace.detectors.judging import ece
from neurotrace.fusion import DeepFusion
from neurotrace.fusion.modalities import modalities
from neurotrace.fusion.planted import planted_views
from neurotrace.fusion.rivals import WEIGHINGS, Rival

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from paired import told

SPOIL = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
SETTINGS, SEEDS, ROWS = 24, 5, 700
PROMPTS = 30  # of each family and outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["planted", "missing", "views", "summary"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="Fashion-MNIST; without it, digits only.")
    asked = parser.parse_args()
    if asked.what == "summary":
        summary(pd.read_csv(asked.out))
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(asked.out) if asked.out.is_file() else pd.DataFrame()
    work = {"planted": planted, "missing": lambda: missing(asked.folder), "views": views}[asked.what]
    for keys, rows in work():
        if len(done) and (done[list(keys)] == pd.Series(keys)).all(axis=1).any():
            continue
        done = pd.concat([done, pd.DataFrame([keys | row for row in rows()])], ignore_index=True)
        done.round(4).to_csv(asked.out, index=False)
        print(done.tail(1).to_string(header=False), flush=True)
    summary(done)


def planted() -> Iterator[tuple[dict[str, Any], Any]]:
    """A row a view: the share of rows on which it is noise, its weight, what it adds, AUROC of its strength
    for the rows on which it is noise (held-out)."""
    rng = np.random.default_rng(0)
    for setting in range(SETTINGS):
        spoil = rng.choice(SPOIL, 4, replace=False)

        def rows(setting: int = setting, spoil: Any = spoil) -> list[dict[str, Any]]:
            drawn = planted_views(spoil, rows=ROWS + 400, seed=setting)
            fusion = DeepFusion(folds=2, seed=setting)
            fusion.fit({name: view[:ROWS] for name, view in drawn.views.items()}, drawn.y[:ROWS])
            each = fusion.input_weights({name: view[ROWS:] for name, view in drawn.views.items()})
            table = fusion.weights()
            for place, name in enumerate(table["view"]):
                spoilt = drawn.spoilt[ROWS:, place]
                strength = each.loc[each["view"] == name, "strength"]
                mixed = 0 < spoilt.mean() < 1
                table.loc[place, "auroc"] = roc_auc_score(spoilt, -strength) if mixed else np.nan
            table["spoil"] = spoil
            table["planted"] = (1 - spoil) / (1 - spoil).sum()
            return table.to_dict("records")

        yield {"setting": setting}, rows


def missing(folder: Path | None) -> Iterator[tuple[dict[str, Any], Any]]:
    """A row a method: accuracy, ECE and log-loss with all views, and with the strongest one missing."""
    methods: dict[str, Any] = {"deep product": DeepFusion(), "deep mixture": DeepFusion("mixture")}
    methods |= {weighing: Rival(weighing) for weighing in WEIGHINGS}
    for things in ("digits", "clothes") if folder else ("digits",):
        for seed in range(SEEDS):

            def rows(things: str = things, seed: int = seed) -> list[dict[str, Any]]:
                train, test = modalities(things, snr=-6, seed=seed, folder=folder)
                found = []
                # which view is the strongest is read off experts trained apart, on training rows' folds
                first = DeepFusion(seed=seed).fit(train.views, train.y)
                strong = str(first.weights().set_index("view")["weight"].idxmax())
                rest = {name: view for name, view in test.views.items() if name != strong}
                for name, method in methods.items():
                    fitted = method.set_params(seed=seed).fit(train.views, train.y)
                    whole, less = fitted.predict_proba(test.views), fitted.predict_proba(rest)
                    row: dict[str, Any] = {"method": name, "strongest": strong}
                    found.append(row | judged(whole, test.y, "all") | judged(less, test.y, "missing"))
                return found

            yield {"things": things, "seed": seed}, rows


def views() -> Iterator[tuple[dict[str, Any], Any]]:
    """A row a method and a row a view's weight: trained on two families, tested on the third, on
    groups that were not trained on."""
    model = nt.load_model("organism")
    families = ("arithmetic", "inference", "letters")
    prompts = [each for name in families for each in nt.load_prompts(name) if each.perturbs is None]
    answered = nt.answer(model, prompts).decided()
    rng = np.random.default_rng(0)
    kept: list[int] = []
    for name in families:
        for outcome in ("memory", "reasoning"):
            pairs = zip(answered.prompts, answered.outcome, strict=True)
            own = [at for at, (each, what) in enumerate(pairs) if each.family == name and what == outcome]
            kept += rng.permutation(own)[:PROMPTS].tolist()
    answered = answered.at(kept)
    last = nt.inspect_model(model).n_layers - 1
    names = ["neurons", f"residual@{last}", f"attention@{last}", "confidence", "occurs", "length"]
    read = nt.read_views(model, answered, names)
    y = np.array([outcome == "memory" for outcome in answered.outcome]).astype(int)
    family = np.array([each.family for each in answered.prompts])
    group = np.array([each.group for each in answered.prompts])
    fold = (
        pd.Series(group).map({g: n % 2 for n, g in enumerate(rng.permutation(np.unique(group)))}).to_numpy()
    )
    for left in families:
        for part in range(2):

            def rows(left: str = left, part: int = part) -> list[dict[str, Any]]:
                train = np.flatnonzero((family != left) & (fold != part))
                test = np.flatnonzero((family == left) & (fold == part))
                circuit = nt.find_circuit(model, [answered.prompts[at] for at in train[:40]], k=4)
                mine = read | nt.read_views(model, answered, ["margin"], circuit=circuit)
                own = {name: view[train] for name, view in mine.items()}
                other = {name: view[test] for name, view in mine.items()}
                found: dict[str, Any] = {}
                for name in mine:
                    found[name] = LinearDetector().fit(own[name], y[train]).decision_function(other[name])
                ends = np.cumsum([0, *(view.shape[1] for view in mine.values())])
                columns = {name: (int(a), int(b)) for name, a, b in zip(mine, ends, ends[1:], strict=False)}
                linear = FusedDetector(columns).fit(np.hstack(list(own.values())), y[train], group[train])
                found["linear fusion"] = linear.decision_function(np.hstack(list(other.values())))
                deep = DeepFusion(steps=150).fit(own, y[train], group[train])
                found["deep product"] = deep.predict_proba(other)[:, 1]
                mixture = DeepFusion("mixture", steps=150).fit(own, y[train], group[train])
                found["deep mixture"] = mixture.predict_proba(other)[:, 1]
                rival = Rival("plain product", steps=150).fit(own, y[train], group[train])
                found["plain product"] = rival.predict_proba(other)[:, 1]
                each = deep.input_weights(other)
                each["memory"] = y[test][each["row"]]
                speaks = each.pivot_table(index="view", columns="memory", values="weight", aggfunc="mean")
                scores = {name: roc_auc_score(y[test], score) for name, score in found.items()}
                return [
                    {"method": name, "auroc": score, "n": len(test)} for name, score in scores.items()
                ] + [
                    {"method": f"weight of {name}", "on reasoning": row[0], "on memory": row[1]}
                    for name, row in zip(speaks.index, speaks.to_numpy(), strict=True)
                ]

            yield {"left out": left, "part": part}, rows


def judged(p: Any, y: Any, name: str) -> dict[str, float]:
    right = p.argmax(axis=1) == y
    return {
        f"accuracy {name}": right.mean(),
        f"ece {name}": ece(p.max(axis=1), right.astype(int)),
        f"log loss {name}": log_loss(y, p, labels=range(p.shape[1])),
    }


def summary(table: pd.DataFrame) -> None:
    if "planted" in table:
        pooled = spearmanr(table["planted"], table["weight"])[0]
        within = table.groupby("setting").apply(lambda t: spearmanr(t["planted"], t["weight"])[0])
        print(f"Spearman {pooled:.3f} over all, {within.min():.2f} to {within.max():.2f} within settings")
        print(f"weight of noise: at most {table.loc[table['spoil'] == 1, 'weight'].abs().max():.4f}")
        print(table.groupby("spoil")[["weight", "adds", "auroc"]].mean().round(3).to_string())
        return
    if "auroc" in table:
        shown = table.pivot_table(index="method", columns="left out", values="auroc", sort=False)
        print(shown.assign(mean=shown.mean(axis=1)).round(3).to_string())
        print(table.groupby("method")[["on reasoning", "on memory"]].mean().dropna().round(3).to_string())
        return
    names = [name for name in table if name.split()[0] in ("accuracy", "ece", "log")]
    print(table.groupby(["things", "method"], sort=False)[names].mean().round(3).to_string())
    for things, part in table.groupby("things"):
        wide = part.pivot(index="seed", columns="method", values="accuracy missing")
        told(wide, "deep product", f"{things}: ")


if __name__ == "__main__":
    main()
