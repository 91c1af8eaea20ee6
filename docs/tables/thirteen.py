"""Prints docs/thirteen-families.md's table from its CSV, or from a run's folder (and writes the CSV).

python docs/tables/thirteen.py [RUN]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from summary import markdown

TABLE = Path(__file__).parent / "thirteen-families.csv"
WAYS = ("to_reasoning", "to_memorization")


def read(run: Path) -> pd.DataFrame:
    """One row for each family and direction: what was chosen on training pairs, on held-out pairs."""
    found = json.loads((run / "summary.json").read_text("utf-8"))
    rows = []
    for flip in found["flips"]:
        if flip["selected"]:
            low, high = flip["answers_ci"]
            rows.append(
                {
                    "family": flip["family"],
                    "direction": flip["direction"],
                    "pairs": flip["n"],
                    "by": flip["intervention"],
                    "k": flip["k"],
                    "answers": flip["answers"],
                    "low": low,
                    "high": high,
                    "controls": flip["control_answers"],
                    "worst_draw": max(flip["controls_worst"].values()),
                    "kl": flip["damage_kl"],
                    "kept": flip["other_families_kept"],
                    "verdict": found["verdict"]["families"][flip["family"]]["word"],
                }
            )
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> str:
    """Both directions of a family in a row."""
    rows = []
    for family in dict.fromkeys(found["family"]):
        own = found[found["family"] == family].set_index("direction")
        first, second = (own.loc[way] for way in WAYS)
        rows.append(
            [
                family,
                str(int(first["pairs"])),
                *(
                    f"{each['answers']:.0%} ({each['low']:.0%}–{each['high']:.0%})"
                    for each in (first, second)
                ),
                f"{own['controls'].max():.1%}",
                f"{first['kl']:.2f} / {second['kl']:.2f}",
                f"{first['kept']:.0%} / {second['kept']:.0%}",
                first["verdict"],
            ]
        )
    head = ["family", "pairs", "to reasoning", "to memory", "controls", "KL", "elsewhere kept", "verdict"]
    return markdown(head, rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(Path(sys.argv[1])).to_csv(TABLE, index=False)
    print(table(pd.read_csv(TABLE)))
