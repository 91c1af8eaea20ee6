"""Prints the tables of docs/rankers.md from the CSV files beside this one.

python docs/tables/summary.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SEEDS = ("organism", "organism-seed1", "organism-seed2")
WAYS = ("to_reasoning", "to_memorization")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def worst(name: str) -> pd.DataFrame:
    """Each ranker's worst family."""
    table = pd.read_csv(HERE / f"rankers-{name}.csv")
    columns = [c for c in table.columns if c not in ("family", "ranker")]
    return table.groupby("ranker", sort=False)[columns].min()


def planted() -> str:
    seeds = [worst(name) for name in SEEDS]
    least = pd.concat(seeds).groupby(level=0, sort=False).min()
    switch, either = worst("switch"), worst("or")
    rows = [
        [
            name, f"{row.spearman:.2f}", f"{row.top1_overlap:.2f}", f"{row.recall_truth:.2f}",
            f"{row.flips_to_reasoning:.2f} / {row.flips_to_memorization:.2f}",
            f"{switch.loc[name, 'recall_truth']:.2f}",
            f"{either.loc[name, 'recall_to_reasoning']:.2f} / "
            f"{either.loc[name, 'recall_to_memorization']:.2f}",
            f"{either.loc[name, 'flips_to_reasoning']:.2f} / "
            f"{either.loc[name, 'flips_to_memorization']:.2f}",
            f"{row.cost_passes:g}",
        ]
        for name, row in least.iterrows()
    ]  # fmt: skip
    return markdown(
        ["ranker", "set: ρ", "top 1 %", "truth", "flips", "switch: truth", "OR: truth", "flips",
         "passes"],
        rows,
    )  # fmt: skip


def natural() -> str:
    flips = pd.read_csv(HERE / "flips-organism-natural.csv")
    sizes = sorted(set(flips["k"]))
    rows = []
    for name, own in flips.groupby("ranker", sort=False):
        cells = []
        for where in ("read", "all"):
            for k in sizes:
                part = own[(own["positions"] == where) & (own["k"] == k)]
                both = [part[part["direction"] == way]["answers"].mean() for way in WAYS]
                cells.append(" / ".join(f"{value:.2f}" for value in both))
        rows.append([str(name), *cells])
    header = [f"{where} {k}" for where in ("read position,", "all positions,") for k in sizes]
    return markdown(["ranker", *header], rows)


def injected(name: str) -> str:
    table = pd.read_csv(HERE / f"{name}.csv")
    fractions = list(dict.fromkeys(table["fraction"]))
    rows = []
    for ranker, own in table.groupby("ranker", sort=False):
        by = own.set_index("fraction")
        cells = [
            f"{by.loc[f, 'recall']:.3f} [{by.loc[f, 'low']:.3f}, {by.loc[f, 'high']:.3f}]"
            for f in fractions
        ]
        rows.append([str(ranker), *cells, f"{own['seconds'].mean():.1f}"])
    counts = table.groupby("fraction")["facts"].max()
    header = [f"{f:.1%} of rows, {counts[f]} facts" for f in fractions]
    return markdown(["ranker", *header, "seconds"], rows)


def overlaps() -> str:
    rows = []
    for model in ("organism", "organism-natural"):
        table = pd.read_csv(HERE / f"overlap-{model}-zero.csv")
        table[["family", "what"]] = table["first"].str.split(": ", expand=True)
        table[["family2", "what2"]] = table["second"].str.split(": ", expand=True)
        same_family, same_what = (
            table["family"] == table["family2"],
            table["what"] == table["what2"],
        )
        for text, part in (
            ("memory and reasoning, one family", table[same_family]),
            ("memory, two families", table[same_what & (table["what"] == "memory")]),
            ("reasoning, two families", table[same_what & (table["what"] == "reasoning")]),
            ("memory and reasoning, two families", table[~same_family & ~same_what]),
        ):
            rows.append(
                [f"{model}: {text}", f"{part['jaccard'].min():.2f} to {part['jaccard'].max():.2f}",
                 f"{part['low'].min():.2f} to {part['high'].max():.2f}",
                 f"{part['chance'].mean():.3f}", f"{(part['p'] <= 0.01).sum()} of {len(part)}"]
            )  # fmt: skip
    return markdown(
        ["top 1 % of", "Jaccard", "intervals", "chance", "beyond chance (p ≤ .01)"], rows
    )


def tables() -> dict[str, str]:
    found = {"planted": planted(), "natural": natural(), "overlaps": overlaps()}
    for path in sorted(HERE.glob("inject-*.csv")):
        found[path.stem] = injected(path.stem)
    return found


if __name__ == "__main__":
    for title, table in tables().items():
        print(f"{title}\n\n{table}\n")
