"""Prints docs/detectors.md's table of SmolLM2 from detectors-smollm2.csv.

python docs/tables/detectors.py            prints
python docs/tables/detectors.py FOLDER     first writes the file from a folder of `neurotrace detect`
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import markdown

TABLE = Path(__file__).parent / "detectors-smollm2.csv"
KEYS = ["detector", "view"]
KINDS = ("own", "another", "others")
ROWS = (
    ("causal margin", "margin", "**causal margin**"),
    ("linear", "margin", "linear, the margin's two parts"),
    ("baseline", "again", "asking again, less of the prompt"),
    ("linear", "neurons", "linear, all neurons"),
    ("linear, no floor", "neurons", "linear, no floor, all neurons"),
    ("linear, re-standardised", "neurons", "linear, re-standardised by task, all neurons"),
    ("invariant generated", "neurons", "invariant, generated, all neurons"),
    ("invariant vrex", "neurons", "invariant, V-REx (relations, templates), all neurons"),
    ("fused product", "fused", "fused product, eight views"),
    ("fused mixture", "fused", "fused mixture, eight views"),
    ("layer classifier", "best layer's neurons", "best layer's neurons"),
    ("baseline", "words", "the prompt's words"),
    ("baseline", "occurs", "answer occurs in the prompt"),
    ("baseline", "confidence", "log-probability and entropy"),
)


def collect(folder: Path) -> None:
    """Of each detector the mean, lowest and highest AUROC over tasks."""
    table = pd.read_parquet(folder / "detectors.parquet")
    left_out, own = table["train_family"] == "others", table["train_family"] == table["test_family"]
    where = dict(zip(KINDS, (own, ~own & ~left_out, left_out), strict=True))
    found = [
        table[rows].groupby(KEYS, sort=False)["auroc"].agg(["mean", "min", "max"]).add_prefix(f"{kind}_")
        for kind, rows in where.items()
    ]
    pd.concat(found, axis=1).reset_index().round(4).to_csv(TABLE, index=False)


def show() -> str:
    found = pd.read_csv(TABLE).set_index(KEYS)
    rows = [[title, *(cell(found.loc[(a, b)], kind) for kind in KINDS)] for a, b, title in ROWS]
    return markdown(["detector, view", "own relation", "another relation", "the relation left out"], rows)


def cell(row: pd.Series, kind: str) -> str:
    return f"{row[f'{kind}_mean']:.2f} ({row[f'{kind}_min']:.2f}–{row[f'{kind}_max']:.2f})"


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        collect(Path(folder))
    print(show())
