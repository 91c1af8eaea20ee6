"""By what a family's answers are decided: of each kind of unit the fewest that flip them both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.locating.locate import Located
    from neurotrace.models.encoding import EncodedPairs
    from neurotrace.models.protocol import HookedModel

DECIDED = "decided.parquet"  # the file
# columns of the table that words are made of
WORDS, NUMBERS = ("unit", "why"), ("places", "k", "decides")
PAIRS, TEXTS = 64, 32  # by default: of a family, halved; neutral, for the damage
FLIPPED, QUIET = 0.9, 0.05  # of held-out answers: at least by a unit, at most by its control
_NAMES = {
    "neurons": ("neuron", "neurons"),
    "heads": ("attention head", "attention heads"),
    "direction": ("direction of the residual stream", "directions"),
}


def decided_by(to_reasoning: Located, to_memory: Located) -> pd.DataFrame:
    """For each kind of unit the fewest that flip 90 % of held-out answers both ways, controls at most 5 %.

    Returns:
        One row a kind (`neurons`, `heads`, `direction`) and number of `places`: `decides`, else `why` not;
        `k`; of a direction the `layer`; both ways the share of flips with its interval and the `damage`;
        `control`, the larger of the two. Where no number of units suffices, the row is of the one whose
        smaller share is the largest. The direction is of the layer with the largest effect predicted on
        training pairs.

    Example::

        to_reasoning = nt.locate(model, train, test, donor="reasoning")
        to_memory = nt.locate(model, train, test, donor="memorization")
        nt.decided_by(to_reasoning, to_memory)
    """
    import pandas as pd

    rows = []
    both = [to_reasoning.table, to_memory.table]
    for kind in _NAMES:
        for places in sorted(set(both[0].loc[both[0]["unit"] == kind, "places"])):
            tables = [each[(each["unit"] == kind) & (each["places"] == places)] for each in both]
            rows.append({"unit": kind, "places": int(places)} | _fewest(kind, tables))
    return pd.DataFrame(rows)


def _fewest(kind: str, tables: list[pd.DataFrame]) -> dict[str, Any]:
    """Of one kind at the same places."""
    import pandas as pd

    if kind == "direction":
        tables = [each.loc[[each["score"].idxmax()]] for each in tables]
    pairs = pd.merge(*tables, on="k", suffixes=("_to_reasoning", "_to_memory")).sort_values("k")
    least = pairs[["answers_to_reasoning", "answers_to_memory"]].min(axis=1)
    control = pairs[["control_to_reasoning", "control_to_memory"]].max(axis=1, skipna=False)
    enough = pairs[(least >= FLIPPED) & (control <= QUIET)]
    found = enough.iloc[0] if len(enough) else pairs.loc[least.idxmax()]
    ways = {
        f"{what}_{way}": found[f"{what}_{way}"]
        for way in ("to_reasoning", "to_memory")
        for what in ("layer", "answers", "low", "high", "damage")
    }
    why = "" if len(enough) else _why(float(least[found.name]), float(control[found.name]))
    own = {"decides": bool(len(enough)), "k": int(found["k"]), "why": why}
    return own | ways | {"control": float(control[found.name]), "n": found["n_to_memory"]}


def decided_families(
    model: HookedModel,
    pairs: EncodedPairs,
    *,
    at_most: int = 0,
    seed: int = 0,
    progress: Progress = None,
    **how: Any,
) -> Iterator[tuple[str, tuple[Located, Located], pd.DataFrame]]:
    """Of each family: its name, what `locate` finds to reasoning and to memory, and `decided_by`.

    Half of the family's groups choose the units, the other half measures them.

    Args:
        at_most: pairs of each family, drawn at random; 0: all.
        how: further arguments of `locate`.
    """
    from neurotrace.core.pairs import sample_pairs, split_pairs
    from neurotrace.locating.locate import locate

    for family in over(progress, list(dict.fromkeys(p.family for p in pairs.pairs)), "family", outer=True):
        own = [pair for pair in pairs.pairs if pair.family == family]
        drawn = sample_pairs(own, at_most, seed=seed) if at_most else own
        train, test = (pairs.of(part) for part in split_pairs(drawn, seed=seed))
        both = [
            locate(model, train, test, donor=donor, seed=seed, progress=progress, **how)
            for donor in SIDES[::-1]
        ]
        yield family, (both[0], both[1]), decided_by(*both).assign(family=family)


def in_words(decided: pd.DataFrame) -> str:
    """What `decided_by` found: "decided by … or by …; not by …"."""
    by: list[str] = []
    not_by: list[str] = []
    for row in decided.itertuples():
        one, more = _NAMES[str(row.unit)]
        count = f"{row.k} {more}" if row.k > 1 else f"one {one}"
        count += " at the last token" if row.places == 1 else f" at each of the last {row.places} tokens"
        (by if row.decides else not_by).append(count + (f" ({row.why})" if row.why else ""))
    said = f"decided by {' or by '.join(by)}" if by else "decided by no unit tried"
    return said + (f"; not by {', '.join(not_by)}" if not_by else "")


def _why(flipped: float, control: float) -> str:
    if flipped < FLIPPED:
        return f"{flipped:.0%} flip"
    return "no control of that size is left" if control != control else f"the control flips {control:.0%}"
