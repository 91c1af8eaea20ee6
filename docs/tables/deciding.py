"""Prints docs/thirteen-families.md's table of what decides each family.

python docs/tables/deciding.py               from deciding.csv
python docs/tables/deciding.py FOLDER ...    adds what folders of `neurotrace locate` and `neurotrace run`,
                                             or thirteen-families.csv, say, in place of earlier rows of the
                                             same family and kind; the first that says it counts
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from summary import markdown

import neurotrace as nt
from neurotrace.locating.deciding import DECIDED, in_words
from neurotrace.locating.studied import decided_in_study

TABLE = Path(__file__).parent / "deciding.csv"
KINDS = ("chosen", "neurons", "heads", "direction")
TITLES = {"chosen": "neurons, as a study chose", "neurons": "neurons, patched"}
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
    """A family in a row; *pairs* are those on which the study and the patches were measured."""
    rows = []
    for family, own in found.groupby("family", sort=False):
        kinds = own["unit"].where(own["change"] == "", "chosen")
        pairs = " / ".join(
            str(int(own.loc[kinds == kind, "n"].max())) for kind in KINDS[:2] if (kinds == kind).any()
        )
        rows.append([str(family), pairs, *(cell(own[kinds == kind]) for kind in KINDS)])
    return markdown(["family", "pairs", *(TITLES.get(kind, kind) for kind in KINDS)], rows)


def known() -> pd.DataFrame:
    """The table so far."""
    return pd.read_csv(TABLE, dtype={"change": str, "why": str}).fillna({"change": "", "why": ""})


def read(folder: Path) -> pd.DataFrame:
    """What a folder says of its families: patches of `locate`, and what a run's study chose."""
    if folder.suffix == ".csv":
        chosen = pd.read_csv(folder).rename(
            columns={"by": "intervention", "pairs": "n", "controls": "control_answers", "kl": "damage_kl"}
        )
        chosen["answers_ci"] = list(zip(chosen["low"], chosen["high"], strict=True))
        return decided_in_study(chosen.to_dict("records"))
    parts = []
    if (folder / DECIDED).is_file():
        parts.append(pd.read_parquet(folder / DECIDED))
    if (folder / "summary.json").is_file() and not any("change" in part for part in parts):
        parts.append(decided_in_study(nt.load_run(folder).selected()))
    return pd.concat(parts, ignore_index=True).fillna({"change": ""})


def first_of_each(found: pd.DataFrame) -> pd.DataFrame:
    """Of each family the rows of the first source that has patches, and of the first that has a study."""
    of = found.groupby(["family", found["change"] != ""])["folder"].transform("first")
    return found[found["folder"] == of].drop(columns="folder")


if __name__ == "__main__":
    found = known()
    if len(sys.argv) > 1:
        sources = [read(Path(folder)).assign(folder=folder) for folder in sys.argv[1:]]
        found = first_of_each(pd.concat([*sources, found.assign(folder="")], ignore_index=True))
        found.to_csv(TABLE, index=False, float_format="%.4f")
        found = known()
    print(table(found))
    decided = found[found["decides"]].groupby("family", sort=False)
    print(f"\n{decided.ngroups} of {found['family'].nunique()} families are decided by some unit:")
    for family, own in decided:
        print(f"  {family}: {in_words(own)}")
