"""The methods of `study.py` on pairs found by rephrasing, and by which units their answers are decided.

The prompts of a pair may differ anywhere, so that the units of the last position need not decide between
them. Therefore heads, neurons and a direction are patched beside, at the last token and at every token
from the first that differs on (`nt.locate`), on the same two halves of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from neurotrace.core.pairs import sample_pairs, split_pairs
from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.folders.units import JSON, NOTHING_KEPT, Units
from neurotrace.locating.locate import locate
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.paper.rephrased import Found, find_pairs
from neurotrace.paper.stories import Instance, agreeing, neutral
from neurotrace.paper.study import (
    ARMS,
    FEWEST,
    Arm,
    Family,
    Row,
    Texts,
    compare,
    read_family,
    sizes,
)

_KEPT = ("unit", "place", "layer", "k", "answers", "low", "high", "control", "damage", "n")
AT_MOST = 100  # pairs of a family, drawn at random


def compare_model(
    model: Any,
    instances: Mapping[str, Sequence[Instance]],
    *,
    arms: Sequence[Arm] = ARMS,
    ks: Sequence[int] | None = None,
    at_most: int = AT_MOST,
    n_neutral: int | None = None,
    located: bool = True,
    units: Units = NOTHING_KEPT,
) -> dict[str, list[Row]]:
    """Tables of one model: "pairs", "arms" (as in `study_model`) and "located" (as `nt.locate`).

    A family with fewer than `FEWEST` pairs is in "pairs" alone.

    Args:
        instances: of each family.
        ks: numbers of units; default: the paper's 5 and 10 % of the hidden dimensions, 5 % of the neurons.
        n_neutral: number of neutral prompts; default: all.
        located: patch heads, neurons and directions, too.
        units: keeps each arm and direction of a family, once it is measured; the same call goes on.
    """
    tables: dict[str, list[Row]] = {"pairs": [], "arms": [], "located": []}
    ks = sizes(model)[-3:] if ks is None else ks
    texts = neutral()[:n_neutral]
    units.begin(
        {
            "command": "paper",
            "arms": [asdict(arm) for arm in arms],
            "ks": ks,
            "at_most": at_most,
            "neutral": texts,
        }
    )
    for name, own in instances.items():
        found = find_pairs(model, own)
        tables["pairs"].append(_counted(model, name, found))
        drawn = sample_pairs(found.pairs, at_most) if found.pairs else []
        if len(drawn) < FEWEST:
            continue
        encoded = encode(model, drawn)
        family = read_family(model, encoded, name, Texts(texts, agreeing(name)))
        for arm in arms:
            for way in DIRECTIONS:
                made = partial(_arm, model, family, arm, way, ks)
                tables["arms"] += units.once(f"{name}, {arm.name}, {way}", JSON, made)
        if located:
            made = partial(_located, model, name, encoded, texts)
            tables["located"] += units.once(f"{name}, located", JSON, made)
    return tables


def _counted(model: Any, name: str, found: Found) -> Row:
    info = inspect_model(model)
    return {
        "family": name,
        "layers": info.n_layers,
        "width": info.d_model,
        "asked": found.asked,
        "memorized": found.memorized[0],
        "memorized_rephrased": found.memorized[1],
        "reasoned": found.reasoned[0],
        "reasoned_rephrased": found.reasoned[1],
        "changed": found.changed,
        "pairs": len(found.pairs),
        "groups": len({pair.group for pair in found.pairs}),
        # share of the pairs in which the order of the training text is answered from memory
        "recalled": sum(p.template == "recalled" for p in found.pairs) / max(1, len(found.pairs)),
    }


def _arm(model: Any, family: Family, arm: Arm, direction: Direction, ks: Sequence[int]) -> list[Row]:
    return _plain(row for row, _ in compare(model, family, arm, direction, ks))


def _located(model: Any, name: str, encoded: EncodedPairs, texts: Sequence[str]) -> list[Row]:
    """Sets of heads and neurons and a direction, patched on the held-out half."""
    train, test = (encoded.of(part) for part in split_pairs(encoded.pairs, seed=0))
    rows: list[Row] = []
    for direction in DIRECTIONS:
        donor, half = Direction(direction).donor, texts[: len(texts) // 2]
        found = locate(
            model, train, test, donor=donor, neutral=half, everywhere=False, where=("last", "anywhere")
        )
        own = {"family": name, "direction": direction}
        rows += [own | {str(key): row[key] for key in _KEPT} for row in found.table.to_dict("records")]
    return _plain(rows)


def _plain(rows: Iterable[Row]) -> list[Row]:
    """As JSON: what was not measured is None."""
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]
