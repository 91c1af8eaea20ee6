"""Prints the tables of docs/paper.md on pairs found by rephrasing, from the CSV files beside this one.

python docs/tables/rephrased.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from summary import WAYS, markdown

HERE = Path(__file__).parent


def read(name: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / f"paper-rephrased-{name}.csv")
    return table.assign(size=table["model"].str.rsplit("-", n=1).str[0])


def pairs() -> str:
    rows = []
    for (size, family), own in read("pairs").groupby(["size", "family"], sort=False):
        rows.append(
            [
                f"{size}: {family}",
                str(own["asked"].iloc[0]),
                *(
                    _each(own[column])
                    for column in ("memorized", "memorized_rephrased", "reasoned_rephrased", "changed")
                ),
                ", ".join(map(str, own["pairs"])),
            ]
        )
    header = [
        "model: task",
        "instances",
        "memorized answer",
        "the same, rephrased",
        "reasoned answer, rephrased",
        "changed",
        "pairs",
    ]
    return markdown(header, rows)


def _each(values: pd.Series) -> str:
    return ", ".join("–" if pd.isna(value) else f"{value:.2f}" for value in values)


def at_shares(size: str, family: str) -> str:
    """Each method at each number of units: flips seed by seed, the rest the worst of seeds and ways."""
    table = read("arms")
    table = table[(table["size"] == size) & (table["family"] == family)]
    wanted = sorted(table["k"].unique())
    rows = []
    for k in wanted:
        for arm, own in table[table["k"] == k].groupby("arm", sort=False):
            cells = [_flips(own[own["direction"] == way]) for way in WAYS]
            foreign = own["other_donor"].max()
            rows.append(
                [
                    f"{k}, {arm} ({own['share'].iloc[0]:.1%})",
                    *cells,
                    f"{own['control'].max():.2f}",
                    f"{own['kl'].max():.3f}",
                    f"{own['same_kept'].min():.2f}",
                    "" if pd.isna(foreign) else f"{foreign:.2f}",
                ]
            )
    header = [
        f"{size}, {family}: units",
        "to reasoning",
        "to memory",
        "controls ≤",
        "KL ≤",
        "right answers kept ≥",
        "another pair's values",
    ]
    return markdown(header, rows)


def _flips(own: pd.DataFrame, column: str = "flips") -> str:
    return ", ".join(
        f"{row[column]:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for _, row in own.iterrows()
    )


def located() -> str:
    """Heads, neurons and directions patched together; of the numbers of neurons the one that flips most.

    A direction is patched at the last token, heads and neurons at every token that may differ; the CSV has
    them at the last token, too.
    """
    table = read("located")
    table = table[(table["place"] == "anywhere") | (table["unit"] == "direction")]
    rows = []
    for (size, family, unit), own in table.groupby(["size", "family", "unit"], sort=False):
        if unit not in ("heads", "neurons", "direction"):
            continue
        some = own if unit == "heads" else own.loc[own.groupby(["seed", "direction"])["answers"].idxmax()]
        for k, part in some.groupby("k") if unit == "heads" else [("best", some)]:
            named = (
                f"{k} {'head' if k == 1 else 'heads'}"
                if unit == "heads"
                else f"neurons (≤ {own['k'].max()})"
                if unit == "neurons"
                else "direction, last token"
            )
            rows.append(
                [
                    f"{size}, {family}: {named}",
                    *(_flips(part[part["direction"] == way], "answers") for way in WAYS),
                    _most(part["control"], 2),
                    _most(part["damage"], 3),
                ]
            )
    return markdown(["model, task: patched", "to reasoning", "to memory", "control ≤", "KL ≤"], rows)


def _most(values: pd.Series, digits: int) -> str:
    return "–" if values.isna().all() else f"{values.max():.{digits}f}"


if __name__ == "__main__":
    print(f"{pairs()}\n")
    for size, family in read("arms").groupby(["size", "family"], sort=False).groups:
        print(f"{at_shares(size, family)}\n")
    print(located())
