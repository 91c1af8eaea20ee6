"""Prints a table of what decides each family, from folders of `neurotrace locate`.

python docs/tables/deciding.py FOLDER ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import markdown

KINDS = (("neurons", False), ("neurons", True), ("heads", False), ("heads", True), ("direction", False))
HEAD = ("neurons, last", "neurons, more", "heads, last", "heads, more", "direction, last")


def cell(row: pd.Series) -> str:
    """Number of units (in bold where it decides), flips both ways, the larger control."""
    ways = " / ".join(f"{row[f'answers_{way}']:.0%}" for way in ("to_reasoning", "to_memory"))
    count = f"**{row['k']}**" if row["decides"] else str(row["k"])
    where = f" at {row['places']}" if row["places"] > 1 else ""
    return f"{count}{where}: {ways} ({row['control']:.0%})"


def table(found: pd.DataFrame) -> str:
    """A family in a row."""
    rows = []
    for family, own in found.groupby("family", sort=False):
        cells = []
        for kind, more in KINDS:
            mine = own[(own["unit"] == kind) & ((own["places"] > 1) == more)]
            cells.append(cell(mine.iloc[0]) if len(mine) else "–")
        rows.append([str(family), str(int(own["n"].iloc[0])), *cells])
    return markdown(["family", "pairs", *HEAD], rows)


if __name__ == "__main__":
    found = pd.concat([pd.read_csv(Path(folder) / "decided.csv") for folder in sys.argv[1:]])
    print(table(found))
    decided = found[found["decides"]]["family"].nunique()
    print(f"\n{decided} of {found['family'].nunique()} families are decided by some unit")
