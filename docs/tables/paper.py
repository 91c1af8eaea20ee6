"""Prints the tables of docs/paper.md from the CSV files beside this one.

python docs/tables/paper.py
python docs/tables/paper.py all     those that the page leaves out, too
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import WAYS, markdown

from neurotrace.paper.study import HARM, QUIET

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
FAMILIES = ("addition", "addition-mem", "colours")
ENOUGH = 0.95


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / f"paper-{name}.csv")


def side_by_side(family: str) -> str:
    """Flips: mean over the seeds (and the worst seed's); of the rest the worst seed and direction."""
    table = read("arms")
    table = table[(table["family"] == family) & table["k"].isin([8, 19, 38, 77])]
    rows = []
    for (k, arm), own in table.groupby(["k", "arm"], sort=False):
        flips = [own[own["direction"] == way]["flips"] for way in WAYS]
        foreign = own["other_donor"].mean()
        rows.append(
            [
                f"{k}, {arm}",
                *(f"{way.mean():.2f} ({way.min():.2f})" for way in flips),
                "" if pd.isna(foreign) else f"{foreign:.2f}",
                f"{own['control'].max():.3f}",
                f"{own['kl'].max():.3f}",
                f"{own['same_kept'].min():.2f}",
            ]
        )
    rows.sort(key=lambda row: int(row[0].split(",")[0]))
    header = [
        f"{family}: units",
        "to reasoning",
        "to memory",
        "another pair's values",
        "controls ≤",
        "KL ≤",
        "same answers kept ≥",
    ]
    return markdown(header, rows)


def at_most(units: int) -> str:
    """Of all numbers of units up to that many, what flips most training answers; of ours only what
    met the rule on training pairs. The best of sites and numbers that each method has."""
    table = read("arms")
    ours = table["arm"].str.startswith("ours")
    table = table[(table["k"] <= units) & (~ours | met(table))]
    rows = []
    for family in FAMILIES:
        for arm in dict.fromkeys(table["arm"]):
            own = table[(table["family"] == family) & (table["arm"] == arm)]
            best = [
                first(own[(own["direction"] == way) & (own["seed"] == seed)])
                for way in WAYS
                for seed in SEEDS
            ]
            cells = [f"{row['flips']:.2f} ({row['k']})" if row is not None else "–" for row in best]
            there = [row for row in best if row is not None]
            worst = [
                f"{max(row[name] for row in there):.3f}" if there else "–" for name in ("control", "kl")
            ]
            half = len(SEEDS)
            rows.append([f"{family}: {arm}", ", ".join(cells[:half]), ", ".join(cells[half:]), *worst])
    header = [f"at most {units} units", "to reasoning", "to memory", "controls ≤", "KL ≤"]
    return markdown(header, rows)


def met(table: pd.DataFrame) -> pd.Series:
    return (table["train_kl"] <= HARM) & (table["train_control"] <= QUIET)


def first(rows: pd.DataFrame) -> pd.Series | None:
    if rows.empty:
        return None
    return rows.sort_values(["train_flips", "k"], ascending=[False, True]).iloc[0]


def how_few() -> str:
    """The fewest units that flip 95 % of training answers, and what they do held out."""
    table = read("arms")
    rows = []
    for family in FAMILIES:
        for arm in dict.fromkeys(table["arm"]):
            cells = []
            for way in WAYS:
                own = table[(table["family"] == family) & (table["arm"] == arm)]
                own = own[own["direction"] == way]
                found = []
                for _, one in own.groupby("seed"):
                    enough = one[one["train_flips"] >= ENOUGH].sort_values("k")
                    found.append(
                        f"{enough['k'].iloc[0]} ({enough['flips'].iloc[0]:.2f})" if len(enough) else "–"
                    )
                cells.append(", ".join(found))
            rows.append([f"{family}: {arm}", *cells])
    return markdown(["fewest units, seed by seed", "to reasoning", "to memory"], rows)


def where() -> str:
    table = read("where")
    names = {
        "neurons": "MLP neurons",
        "residual": "residual stream",
        "attention": "attention output",
    }
    rows = []
    for (site, layer), own in table.groupby(["site", "layer"], sort=False):
        cells = []
        for family in FAMILIES:
            part = own[own["family"] == family]
            for column in ("shifted", "patched"):
                both = [part[part["direction"] == way][column].mean() for way in WAYS]
                cells.append(" / ".join(f"{value:.2f}" for value in both))
        rows.append([f"{names[site]}, layer {layer}", *cells])
    header = [f"{family}: {what}" for family in FAMILIES for what in ("shifted", "patched")]
    return markdown(["all units of", *header], rows)


def consistency() -> str:
    table = read("consistency")
    rows = []
    for arm, own in table.groupby("arm", sort=False):
        for source in FAMILIES:
            cells = []
            for target in FAMILIES:
                part = own[(own["source"] == source) & (own["target"] == target)]
                both = [part[part["direction"] == way]["flips"].mean() for way in WAYS]
                cells.append(
                    " / ".join(f"{value:.2f}" for value in both) + f" ({part['shared'].mean():.2f})"
                )
            rows.append([f"{arm}: {source}", *cells])
    return markdown(["found on", *(f"on {family}" for family in FAMILIES)], rows)


if __name__ == "__main__":
    others = [*map(side_by_side, FAMILIES), at_most(38), how_few(), consistency()]
    for part in [at_most(19), where(), *(others if sys.argv[1:] == ["all"] else ())]:
        print(f"{part}\n")
