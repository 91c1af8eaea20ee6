"""By what a family's answers are decided: of each kind of unit the fewest that flip them both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.locating.locate import Located

DECIDED = "decided.parquet"  # the file
# columns of the table that words are made of
WORDS, NUMBERS = ("unit", "place", "why"), ("k", "decides")
FLIPPED, QUIET = 0.9, 0.05  # of held-out answers: at least by a unit, at most by its control
WAYS = {"to_reasoning": "to_reasoning", "to_memory": "to_memorization"}  # of the columns -> the direction
_NAMES = {
    "neurons": ("neuron", "neurons"),
    "heads": ("attention head", "attention heads"),
    "direction": ("direction of the residual stream", "directions"),
}
_PLACES = {
    "last": "at the last token",
    "cue": "at the tokens that differ",
    "anywhere": "at every token from the first that differs on",
    "onward": "at the last token and at each token of the answer",
}


def decided_by(to_reasoning: Located, to_memory: Located) -> pd.DataFrame:
    """For each kind of unit the fewest that flip 90 % of held-out answers both ways, controls at most 5 %.

    Returns:
        One row a kind (`neurons`, `heads`, `direction`) and `place` (`last`, `cue`, `anywhere`, a span);
        `change` is empty, for the donor's values. `decides`, else `why` not; `k`; of a direction the
        `layer`; both ways the share of flips with its interval and the `damage`; `control`, the larger one
        measured. Where no number of units suffices, the row is of the one whose smaller share is the
        largest. The direction is of the layer with the largest effect predicted on training pairs.

    Example::

        to_reasoning = nt.locate(model, train, test, donor="reasoning")
        to_memory = nt.locate(model, train, test, donor="memorization")
        nt.decided_by(to_reasoning, to_memory)
    """
    import pandas as pd

    rows = []
    both = [to_reasoning.table, to_memory.table]
    spans = [place for place in both[0]["place"].unique() if place not in (*_PLACES, "one")]
    for kind in _NAMES:
        for place in (*_PLACES, *spans):
            tables = [each[(each["unit"] == kind) & (each["place"] == place)] for each in both]
            if all(len(each) for each in tables):
                rows.append({"unit": kind, "place": place, "change": ""} | _fewest(kind, tables))
    return pd.DataFrame(rows)


def _fewest(kind: str, tables: list[pd.DataFrame]) -> dict[str, Any]:
    """Of one kind at the same places."""
    import pandas as pd

    if kind == "direction":
        tables = [each.loc[[each["score"].idxmax()]] for each in tables]
    pairs = pd.merge(*tables, on="k", suffixes=[f"_{way}" for way in WAYS]).sort_values("k")
    least = pairs[[f"answers_{way}" for way in WAYS]].min(axis=1)
    controls = pairs[[f"control_{way}" for way in WAYS]]
    enough = pairs[(least >= FLIPPED) & (controls.max(axis=1, skipna=False) <= QUIET)]
    control = controls.max(axis=1)
    found = enough.iloc[0] if len(enough) else pairs.loc[least.idxmax()]
    ways = {
        f"{what}_{way}": found[f"{what}_{way}"]
        for way in WAYS
        for what in ("layer", "answers", "low", "high", "damage")
    }
    loudest = float(controls.loc[found.name].max(skipna=False))
    why = "" if len(enough) else why_not(float(least[found.name]), loudest)
    own = {"decides": bool(len(enough)), "k": int(found["k"]), "why": why}
    return own | ways | {"control": float(control[found.name]), "n": found["n_to_memory"]}


def in_words(decided: pd.DataFrame) -> str:
    """What `decided_by` found: "decided by … or by …; not by …"."""
    by: list[str] = []
    not_by: list[str] = []
    for row in decided.itertuples():
        one, more = _NAMES[str(row.unit)]
        count = f"{row.k} {more}" if row.k > 1 else f"one {one}"
        count += f" {_PLACES.get(str(row.place), f'at the tokens of “{row.place}”')}"
        change = getattr(row, "change", "")  # absent in older files
        count += f" by {change}, which the study chose" if change else ""
        (by if row.decides else not_by).append(count + (f" ({row.why})" if row.why else ""))
    said = f"decided by {' or by '.join(by)}" if by else "decided by no unit tried"
    return said + (f"; not by {', '.join(not_by)}" if not_by else "")


def why_not(flipped: float, control: float) -> str:
    """Why units that flip this share, beside such a control, do not decide."""
    if flipped < FLIPPED:
        return f"{flipped:.0%} flip"
    return "no control of that size is left" if control != control else f"the control flips {control:.0%}"
