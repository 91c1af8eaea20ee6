"""Of each family, by what it is decided: at the last token, or at others where nothing decides there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES
from neurotrace.folders.units import JSON, NOTHING_KEPT, TABLE, Form, Units, several
from neurotrace.locating.deciding import FLIPPED, decided_by

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.locating.locate import Located
    from neurotrace.models.encoding import EncodedPairs
    from neurotrace.models.protocol import HookedModel

PAIRS, TEXTS = 96, 32  # by default: of a family; neutral, for the damage
_MEASURED = 1 / 3  # of the pairs; choosing a few hundred units takes more pairs than measuring them
Both = tuple["Located", "Located"]  # to reasoning, to memory


def decided_families(
    model: HookedModel,
    pairs: EncodedPairs,
    *,
    at_most: int = 0,
    seed: int = 0,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
    **how: Any,
) -> Iterator[tuple[str, Both, pd.DataFrame]]:
    """Of each family: its name, what `locate` finds to reasoning and to memory, and `decided_by`.

    Two thirds of the family's groups choose the units, the others measure them.

    Args:
        at_most: pairs of each family, drawn at random; 0: all.
        units: keep each finished family, and go on after an interruption; the caller begins them.
        how: further arguments of `locate`.
    """
    from neurotrace.core.pairs import sample_pairs, split_pairs
    from neurotrace.decoding.spans import places_named, spans_of
    from neurotrace.models.origins import tokenizer_of

    for family in over(progress, list(dict.fromkeys(p.family for p in pairs.pairs)), "family", outer=True):
        own = [pair for pair in pairs.pairs if pair.family == family]
        drawn = sample_pairs(own, at_most, seed=seed) if at_most else own
        train, test = (pairs.of(part) for part in split_pairs(drawn, test_share=_MEASURED, seed=seed))
        make = partial(_both, model, train, test, seed=seed, progress=progress, **how)
        narrower = [
            name
            for name in ("cue", *spans_of(train.pairs + test.pairs))
            if all(places_named(tokenizer_of(model), part, name).least for part in (train, test))
        ]
        both = units.once(f"decided {family}", _BOTH, partial(_found, make, narrower, **how))
        yield family, both, decided_by(*both).assign(family=family)


def _save(both: Both, folder: Path) -> None:
    rest = [{"donor": each.donor, "model": each.model, "texts": each.texts} for each in both]
    _FIELDS.save({"first": both[0].table, "second": both[1].table, "rest": rest}, folder)


def _load(folder: Path) -> Both:
    from neurotrace.locating.locate import Located

    kept = _FIELDS.load(folder)
    first, second = (
        Located(kept[name], rest["donor"], rest["model"], tuple(rest["texts"]))
        for name, rest in zip(("first", "second"), kept["rest"], strict=True)
    )
    return first, second


_FIELDS = several(first=TABLE, second=TABLE, rest=JSON)
_BOTH = Form(_save, _load)


def _both(
    model: HookedModel, train: EncodedPairs, test: EncodedPairs, progress: Progress, **how: Any
) -> Both:
    from neurotrace.locating.locate import locate

    kept: dict[str, Any] = {}
    first, second = (
        locate(model, train, test, donor=donor, kept=kept, progress=progress, **how)
        for donor in over(progress, SIDES[::-1], "direction", outer=True)
    )
    return first, second


def _found(both: Callable[..., Both], narrower: Sequence[str], everywhere: bool = True, **_: Any) -> Both:
    """Without the map other tokens are asked only for a kind of unit that decides nothing at the last one.

    Of these, the tokens that differ and those of spans only for a kind that decides anywhere.
    """
    if everywhere:
        return both()
    sparing = partial(both, control_from=FLIPPED)
    found = sparing(where=["last"])
    kinds = _left(found, "last", decide=False)
    for place in ("anywhere", *narrower):
        if kinds:
            more = sparing(where=[place], kinds=kinds)
            found = found[0].with_rows(more[0]), found[1].with_rows(more[1])
            kinds = _left(found, "anywhere", decide=True)
    return found


def _left(found: Both, place: str, decide: bool) -> list[str]:
    """Kinds of sets that decide there, or that don't."""
    rows = decided_by(*found)
    rows = rows[(rows["place"] == place) & (rows["unit"] != "direction")]
    return rows.loc[rows["decides"] == decide, "unit"].tolist()
