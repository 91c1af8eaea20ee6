"""What a study chose, as a row of the table of what decides a family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from neurotrace.locating.deciding import FLIPPED, QUIET, WAYS, why_not

if TYPE_CHECKING:
    import pandas as pd


def decided_in_study(flips: Iterable[Mapping[str, Any]], place: str = "last") -> pd.DataFrame:
    """Rows as of `decided_by`, with `family`: the neurons that a study chose, changed as it chose.

    Args:
        flips: records of the chosen rows (`selected` of a study or of a run), both directions of a family;
            a family with one direction is left out.
        place: where the study changed them.

    Returns:
        `change` names the interventions, to reasoning / to memory (the folds' joined by +); `k` is the
        larger number; `control` the largest of the study's controls.
    """
    import pandas as pd

    own: dict[str, dict[str, Mapping[str, Any]]] = {}
    for flip in flips:
        own.setdefault(flip["family"], {})[str(flip["direction"])] = flip
    rows = []
    for family, found in own.items():
        if len(found) < len(WAYS):
            continue
        ways = {way: found[direction] for way, direction in WAYS.items()}
        change = " / ".join(dict.fromkeys(flip["intervention"] for flip in ways.values()))
        least = min(flip["answers"] for flip in ways.values())
        control = max(flip["control_answers"] for flip in ways.values())
        decides = least >= FLIPPED and control <= QUIET
        row = {"unit": "neurons", "place": place, "change": change, "decides": decides}
        row |= {
            "k": max(flip["k"] for flip in ways.values()),
            "why": "" if decides else why_not(least, control),
        }
        for way, flip in ways.items():
            row |= {f"layer_{way}": -1, f"answers_{way}": flip["answers"]}
            row |= dict(zip((f"low_{way}", f"high_{way}"), flip["answers_ci"], strict=True))
            row[f"damage_{way}"] = flip["damage_kl"]
        rows.append(row | {"control": control, "n": ways["to_memory"]["n"], "family": family})
    return pd.DataFrame(rows)
