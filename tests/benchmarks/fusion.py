"""Deep fusion at length: `planted` informativeness, real modalities with the strongest one `missing`, and
`questions` about images. A model's own views: `views.py`.

    python tests/benchmarks/fusion.py planted --out runs/fusion-planted.csv
    python tests/benchmarks/fusion.py missing --out runs/fusion-missing.csv [--folder FASHION_MNIST]
    python tests/benchmarks/fusion.py questions --out runs/fusion-questions.csv [--folder EASY_VQA]
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

from neurotrace.detectors.judging import ece
from neurotrace.fusion import DeepFusion
from neurotrace.fusion.modalities import modalities
from neurotrace.fusion.planted import planted_views
from neurotrace.fusion.questions import FOLDER, easy_vqa
from neurotrace.fusion.rivals import WEIGHINGS, Rival

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from paired import told

SPOIL = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
SETTINGS, SEEDS, ROWS = 24, 5, 700
VQA = ["image", "question", "both"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["planted", "missing", "questions", "summary"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--folder", type=Path, help="Fashion-MNIST (without it, digits only), or easy-VQA, unpacked."
    )
    asked = parser.parse_args()
    if asked.what == "summary":
        summary(pd.read_csv(asked.out))
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(asked.out) if asked.out.is_file() else pd.DataFrame()
    work = {
        "planted": planted,
        "missing": lambda: missing(asked.folder),
        "questions": lambda: questions(asked.folder or FOLDER),
    }[asked.what]
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


def questions(folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """A row a method: accuracy on easy-VQA with all its views, without the question, without the image."""
    one = DeepFusion(hidden=128, steps=1000)
    rival = {weighing: Rival(weighing, hidden=128, steps=1000) for weighing in WEIGHINGS}
    methods: dict[str, tuple[Any, list[str]]] = {f"{name} alone": (one, [name]) for name in VQA}
    methods["deep product, image and question"] = (one, VQA[:2])
    methods["deep product"] = (one, VQA)
    methods["plain product"] = (rival["plain product"], VQA)
    methods["equal weights"] = (rival["equal weights"], VQA)
    for seed in range(SEEDS):
        for name in methods:

            def rows(seed: int = seed, name: str = name) -> list[dict[str, Any]]:
                (method, used), (train, test) = methods[name], easy_vqa(folder, seed=seed)
                answer = np.array(test.names)[test.y]
                kinds = np.where(np.isin(answer, ["yes", "no"]), "yes or no", "colour")
                kinds[np.isin(answer, ["circle", "rectangle", "triangle"])] = "shape"
                own, rest = ({view: part.views[view] for view in used} for part in (train, test))
                fitted = method.set_params(seed=seed).fit(own, train.y)
                row: dict[str, Any] = judged(fitted.predict_proba(rest), test.y, "all")
                right = fitted.predict(rest) == test.y
                row |= {f"accuracy {kind}": right[kinds == kind].mean() for kind in np.unique(kinds)}
                for gone in VQA[:2]:  # what needs both goes with either
                    less = {view: rest[view] for view in used if view not in (gone, "both")}
                    if less and len(used) > 1:
                        row |= judged(fitted.predict_proba(less), test.y, f"without {gone}")
                if name.startswith("deep"):
                    weights = fitted.weights().set_index("view")
                    each = fitted.input_weights(rest)
                    each["kind"] = kinds[each["row"]]
                    by_kind = each.groupby(["view", "kind"])["weight"].mean()
                    row |= {f"weight of {view}": weights.loc[view, "weight"] for view in used}
                    row |= {f"{view} adds": weights.loc[view, "adds"] for view in used}
                    row |= {f"weight of {view}, {kind}": own for (view, kind), own in by_kind.items()}
                return [row]

            yield {"things": "questions", "seed": seed, "method": name}, rows


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
    if "accuracy without image" in table:
        print(table.drop(columns="things").groupby("method", sort=False).mean().T.round(3).to_string())
        told(table.pivot(index="seed", columns="method", values="accuracy all"), "deep product")
        return
    names = [name for name in table if name.split()[0] in ("accuracy", "ece", "log")]
    print(table.groupby(["things", "method"], sort=False)[names].mean().round(3).to_string())
    for things, part in table.groupby("things"):
        wide = part.pivot(index="seed", columns="method", values="accuracy missing")
        told(wide, "deep product", f"{things}: ")


if __name__ == "__main__":
    main()
