"""Prints docs/trust.md's table of SmolLM2 from trust-smollm2.csv: signals.parquet of `neurotrace circuit`.

python docs/tables/trust.py [SIGNALS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import markdown

UNSEEN = ("items", "templates", "families")


def table(signals: pd.DataFrame) -> str:
    """Mean, its 95 % interval, and the lowest and highest of the families or templates."""
    rows = []
    for signal in dict.fromkeys(signals["signal"]):
        cells = []
        for unseen in UNSEEN:
            own = signals[(signals["signal"] == signal) & (signals["unseen"] == unseen)]
            mean, each = own[own["of"] == "mean"].iloc[0], own[own["of"] != "mean"]["auroc"]
            cells.append(
                f"{mean['auroc']:.3f} [{mean['auroc_lo']:.3f}, {mean['auroc_hi']:.3f}] "
                f"({each.min():.2f}–{each.max():.2f})"
            )
        rows.append([signal, *cells])
    return markdown(["signal", *(f"unseen {name}" for name in UNSEEN)], rows)


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "trust-smollm2.csv"
    print(table(pd.read_parquet(given) if given.suffix == ".parquet" else pd.read_csv(given)))
