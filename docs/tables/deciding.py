"""Prints docs/thirteen-families.md's table of what decides each family.

python docs/tables/deciding.py               from deciding.csv
python docs/tables/deciding.py FOLDER ...    from folders of `neurotrace locate`, which it keeps there
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import markdown

TABLE = Path(__file__).parent / "deciding.csv"
KINDS = ("neurons", "heads", "direction")
PLACES = {"last": "last", "cue": "where they differ", "anywhere": "anywhere"}


def cell(own: pd.DataFrame) -> str:
    """Of one kind at each place: units (in bold where they decide), flips both ways, control and KL."""
    said = []
    for row in own.to_dict("records"):
        ways = " / ".join(f"{row[f'answers_{way}']:.0%}" for way in ("to_reasoning", "to_memory"))
        count = f"**{row['k']}**" if row["decides"] else str(row["k"])
        control = "–" if pd.isna(row["control"]) else f"{row['control']:.0%}"
        harm = pd.Series([row["damage_to_reasoning"], row["damage_to_memory"]]).max()
        place = PLACES.get(row["place"], row["place"])
        said.append(f"{place}: {count}: {ways} ({control}; {harm:.1f})".replace("nan", "–"))
    return "<br>".join(said) or "–"


def table(found: pd.DataFrame) -> str:
    """A family in a row."""
    rows = []
    for family, own in found.groupby("family", sort=False):
        cells = [cell(own[own["unit"] == kind]) for kind in KINDS]
        rows.append([str(family), str(int(own["n"].iloc[0])), *cells])
    return markdown(["family", "pairs", *KINDS], rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        found = pd.concat([pd.read_csv(Path(folder) / "decided.csv") for folder in sys.argv[1:]])
        found.to_csv(TABLE, index=False, float_format="%.4f")
    found = pd.read_csv(TABLE)
    print(table(found))
    decided = found[found["decides"]]["family"].nunique()
    print(f"\n{decided} of {found['family'].nunique()} families are decided by some unit")
