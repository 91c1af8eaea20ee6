"""Prints docs/trust.md's tables of real models from trust-signals.csv and trust-failures.csv.

python docs/tables/trust.py                  prints
python docs/tables/trust.py SET=FOLDER ...   first writes both files from folders of `neurotrace circuit`;
                                             a set of another model is called "SET, MODEL"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from summary import markdown

HERE = Path(__file__).parent
UNSEEN = ("items", "templates", "families")
FILES = {"signals": "trust-signals.csv", "failures": "trust-failures.csv"}
WHOLE = "conflicts"  # the set whose table has every signal
SHOWN = (
    "causal margin",
    "random neurons, same layers",
    "combined score",
    "combined score without margin",
    "log p without context",
    "largest drop",
    "drop of each half",
    "first answer token",
    "what each layer writes",
    "residual stream",
    "all neurons",
    "answer occurs in the prompt",
    "the prompt's words",
    "log-probability",
)
MARGIN, COMBINED, TRUST = "causal margin", "combined score", "trust score"
# what uses the circuit is no rival
OURS = (MARGIN, COMBINED, TRUST, "memory fall alone", "reasoning fall alone", "random neurons, same layers")


def collect(folders: Mapping[str, Path]) -> None:
    """Write these sets into both files, other sets stay; numbers to four places."""
    for name in ("signals", "failures"):
        path = HERE / FILES[name]
        parts = [pd.read_parquet(own / f"{name}.parquet").assign(set=key) for key, own in folders.items()]
        if path.is_file():
            before = read(name)
            parts.insert(0, before[~before["set"].isin(folders)])
        pd.concat(parts).round(4).to_csv(path, index=False)


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / FILES[name])


def table(signals: pd.DataFrame) -> str:
    """Mean, its 95 % interval, and the lowest and highest of the families or templates."""
    kinds = [name for name in UNSEEN if name in set(signals["unseen"])]
    rows = []
    for signal in dict.fromkeys(signals["signal"]):
        of_signal = signals[signals["signal"] == signal]
        cells = [str(of_signal["passes"].iloc[0])]
        for unseen in kinds:
            own = of_signal[of_signal["unseen"] == unseen]
            mean, each = own[own["of"] == "mean"].iloc[0], own[own["of"] != "mean"]["auroc"]
            cells.append(f"{auroc(mean)} ({each.min():.2f}–{each.max():.2f})")
        rows.append([signal, *cells])
    return markdown(["signal", "passes", *(f"unseen {name}" for name in kinds)], rows)


def beside_best(signals: pd.DataFrame, failures: pd.DataFrame) -> str:
    """For each set the margin, the combined score and the best rival, with the paired differences."""
    rows = []
    for name in dict.fromkeys(signals["set"]):
        own = signals[(signals["set"] == name) & (signals["of"] == "mean")]
        for unseen in UNSEEN:
            part = own[own["unseen"] == unseen].dropna(subset="auroc")
            if len(part):
                rows.append(_row(f"{name}, memory, unseen {unseen}", part, MARGIN))
        if len(failed := failures[failures["set"] == name]):
            rows.append(_row(f"{name}, fails", failed, TRUST))
    header = ["", "margin", "combined", "best rival", "", "margin minus it", "combined minus it"]
    return markdown(header, rows)


def _row(title: str, part: pd.DataFrame, margin: str) -> list[str]:
    named = part.set_index("signal")
    rivals = [each for each in named.index if each not in OURS and not each.startswith(COMBINED)]
    best = named.loc[rivals].sort_values("auroc").iloc[-1]
    ahead = [difference(best, column) for column in ("behind", "combined")]
    both = [auroc(named.loc[each]) if each in named.index else "" for each in (margin, COMBINED)]
    return [title, *both, str(best.name), auroc(best), *ahead]


def auroc(row: pd.Series) -> str:
    return f"{row['auroc']:.3f} [{row['auroc_lo']:.3f}, {row['auroc_hi']:.3f}]"


def difference(row: pd.Series, column: str) -> str:
    if pd.isna(row[column]):
        return ""
    cells = [f"{row[key]:+.3f}" for key in (column, f"{column}_lo", f"{column}_hi")]
    return f"{cells[0]} [{cells[1]}, {cells[2]}]".replace("-", "−")


if __name__ == "__main__":
    if given := [each.split("=", 1) for each in sys.argv[1:]]:
        collect({name: Path(folder) for name, folder in given})
    signals, failures = read("signals"), read("failures")
    print(beside_best(signals, failures))
    for name, own in signals.groupby("set", sort=False):
        shown = own if name == WHOLE else own[own["signal"].isin(SHOWN)]
        print(f"\n{name}\n\n{table(shown)}")
