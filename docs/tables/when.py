"""Prints the tables on training in docs/rankers.md from the CSV files beside this one.

python docs/tables/when.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from summary import markdown

HERE = Path(__file__).parent
MODELS = {
    "organism, planted": ("organism",),
    "organism, natural": ("organism-natural",),
    "paper's tasks": ("paper-seed0", "paper-seed1", "paper-seed2"),
}
_ORGANISMS = ("arithmetic", "inference", "letters")
TABLES = (
    ("organism, planted", _ORGANISMS),
    ("organism, natural", _ORGANISMS),
    ("paper's tasks", ("addition", "addition-mem")),
    ("paper's tasks", ("colours",)),
)
# column, at least, what it says
MARKS = (
    ("recalls", 0.9, "memory ≥ 90 %"),
    ("reasons", 0.9, "reasoning ≥ 90 %"),
    ("flips_to_reasoning", 0.9, "flips to reasoning ≥ 90 %"),
    ("flips_to_memorization", 0.9, "to memory ≥ 90 %"),
    ("settled_to_reasoning", 0.5, "Jaccard with the final top ≥ .5"),
    ("settled_to_reasoning", 0.8, "≥ .8"),
)
# the two directions of `two_ended` have one ranking
SHOWN = {
    "flips_to_reasoning": "flips to reasoning",
    "flips_to_memorization": "to memory",
    "kept_to_reasoning": "Jaccard with the previous top",
    "settled_to_reasoning": "with the final one",
    "stable_to_reasoning": "with a resample's",
    "concentrated_to_reasoning": "concentrated",
}


def read(name: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / f"when-{name}.csv")
    last = ~table["checkpoint"].str.startswith("step-")
    return table.assign(checkpoint=table["checkpoint"].str.removeprefix("step-").where(~last, "end"))


def from_when_on(steps: pd.Series, values: pd.Series, least: float) -> str:
    """The first checkpoint from which on the value never falls below; a dash: it ends below."""
    below = [place for place, value in enumerate(values) if not value >= least]
    place = below[-1] + 1 if below else 0
    if place == len(values):
        return "–"
    step = str(steps.iloc[place])
    return step.lstrip("0") or "0"


def when() -> str:
    rows = []
    for model, names in MODELS.items():
        tables = [read(name) for name in names]
        for family in dict.fromkeys(tables[0]["family"]):
            own = [table[table["family"] == family] for table in tables]
            rows.append(
                [f"{model}: {family}"]
                + [
                    ", ".join(from_when_on(t["checkpoint"], t[column], least) for t in own)
                    for column, least, _ in MARKS
                ]
            )
    return markdown(["first step from which on", *(name for *_, name in MARKS)], rows)


def along(model: str, families: tuple[str, ...]) -> str:
    """Means over families and seeds: of accuracy over all, of the rest over those with pairs enough."""
    tables = pd.concat([read(name) for name in MODELS[model]])
    tables = tables[tables["family"].isin(families)]
    rows = []
    for step, own in tables.groupby("checkpoint", sort=False):
        known = own[own["flips_to_reasoning"].notna()]
        mean = known[list(SHOWN)].mean()
        loudest = known[["random_to_reasoning", "random_to_memorization"]].max().max()
        cells = [own["recalls"].mean(), own["reasons"].mean(), *mean, loudest]
        rows.append(
            [
                str(step).lstrip("0") or "0",
                f"{len(known)} of {len(own)}",
                *("" if pd.isna(cell) else f"{cell:.2f}" for cell in cells),
            ]
        )
    title = f"{model}: {', '.join(families)}"
    header = [title, "measured", "memory", "reasoning", *SHOWN.values(), "random ≤"]
    return markdown(header, rows)


if __name__ == "__main__":
    for part in (when(), *(along(*each) for each in TABLES)):
        print(f"{part}\n")
