"""Prints docs/replicate.md's tables from the CSV files that `neurotrace replicate` wrote.

python docs/tables/claims.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from summary import markdown

HERE = Path(__file__).parent
WAYS = ("to_reasoning", "to_memorization")


def table(name: str) -> str:
    """Both directions of a recipe in a row."""
    found = pd.read_csv(HERE / f"replicate-{name}.csv")
    rows = []
    for (_, recipe), own in found.groupby(["family", "recipe"], sort=False):
        both = own.set_index("direction").loc[list(WAYS)]
        flips = [f"{r.flipped:.0%} ({r.low:.0%}–{r.high:.0%})" for r in both.itertuples()]
        numbers = [
            " / ".join(f"{value:{form}}" for value in both[column])
            for column, form in (("k", ""), ("controls", ".1%"), ("kl", ".2f"))
        ]
        one_way = " / ".join(both["one_way"])
        rows.append([str(recipe), *flips, *numbers, one_way, both["verdict"].iloc[0]])
    family = str(found["family"].iloc[0])
    head = [family, "to reasoning", "to memory", "k", "controls", "KL", "one way", "verdict"]
    return markdown(head, rows)


if __name__ == "__main__":
    for path in sorted(HERE.glob("replicate-*.csv")):
        print(table(path.stem.removeprefix("replicate-")) + "\n")
