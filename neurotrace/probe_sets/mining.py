"""Select, from candidate pairs, those that a given model answers correctly on both prompts.

The model is asked both prompts of every candidate. A pair *behaves* if the top-1 token begins the
memorized answer after the memorization prompt and the reasoned answer after the reasoning prompt. Only
such a pair can be flipped. The share of pairs that behave says how far results on a template represent
all of its pairs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neurotrace.core import statistics
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.pairs import PromptPair, load_pairs, pair_again, pair_record
from neurotrace.core.process import Progress, over
from neurotrace.core.records import Source
from neurotrace.core.sides import SIDES
from neurotrace.decoding.tokens import Dropped
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import ARRAYS, JSON, NOTHING_KEPT, Form, Units, tuples
from neurotrace.models.encoding import Behaviour, EncodedPairs, Reading, ask, join
from neurotrace.models.hooks import inspect_model
from neurotrace.models.identity import json_hash, model_record, surroundings
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

_CHUNK, _FEW = 256, 64  # candidates asked together: of all; before checking whether there are enough


@dataclass(frozen=True)
class Mined:
    """The candidates that were asked: kept pairs, and dropped pairs with the reason."""

    encoded: EncodedPairs

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        return self.encoded.pairs

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        return self.encoded.dropped

    def reasons(self) -> dict[str, int]:
        """Reason -> number of candidates dropped for it, most frequent first."""
        return self.encoded.reasons()

    def shares(self) -> pd.DataFrame:
        """One row per family and template: the shares `recalls`, `reasons` and `behaves` (both).

        The interval is that of `behaves`, clustered by group. Candidates that could not be asked
        (answers with the same first token, too long) count as failures.
        """
        import pandas as pd

        told = [(pair, True, True) for pair in self.pairs]
        told += [
            (each.pair, each.reason == "no reasoned answer", each.reason == "no memorized answer")
            for each in self.dropped
        ]
        table = pd.DataFrame(
            [(p.family, p.template, p.group, m, r, m and r) for p, m, r in told],
            columns=["family", "template", "group", "recalls", "reasons", "behaves"],
        )
        rows = []
        for (family, template), part in table.groupby(["family", "template"], sort=False):
            low, high = statistics.rate_interval(part["behaves"].to_numpy(), part["group"].tolist())
            means = part[["recalls", "reasons", "behaves"]].mean()
            rows.append((family, template, len(part), *means, low, high))
        columns = ["family", "template", "pairs", "recalls", "reasons", "behaves", "low", "high"]
        return pd.DataFrame(rows, columns=columns).sort_values(["family", "template"], ignore_index=True)


@renamed(at_most="max_pairs")
@takes_turns
def mine_pairs(
    model: HookedModel,
    candidates: Source | Sequence[PromptPair],
    *,
    max_pairs: int | None = None,
    answers: Reading = "first",
    seed: int = 0,
    batch_size: int = 32,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> Mined:
    """The candidates that this model answers both ways, in their original order.

    Args:
        candidates: pairs, or anything that `load_pairs` reads.
        max_pairs: stop asking a family when this many of its pairs are kept; candidates are then asked in
            an order drawn with `seed`, so that the pairs found are a random part. Default: ask all.
        answers: ``"first"`` or ``"whole"``, as in `encode`.
        batch_size: prompts of equal length that run together; changes no result.
        units: ``nt.Units("runs/mine")`` keeps each 256 candidates that were asked (64 with
            `max_pairs`); the same call goes on.

    Example::

        mined = nt.mine_pairs(model, nt.load_pairs("arithmetic"), max_pairs=50)
        mined.pairs
    """
    if max_pairs is not None and max_pairs < 1:
        raise InputError(f"max_pairs={max_pairs}: expected at least 1, or None for all")
    pairs = _as_pairs(candidates)
    place = {pair.id: number for number, pair in enumerate(pairs)}
    waiting = list(pairs)
    together, chunks = _CHUNK, ceil(len(pairs) / _CHUNK)
    if max_pairs is not None:
        random.Random(seed).shuffle(waiting)
        waiting.sort(key=lambda pair: pair.family)  # a family's prompts begin alike, and that is run once
        together = _FEW
        chunks = sum(ceil(count / _FEW) for count in Counter(pair.family for pair in pairs).values())
    units.begin(
        {"command": "mine", "model": {"name": inspect_model(model).name} | model_record(model)}
        | {"candidates_sha256": json_hash([pair_record(pair) for pair in pairs]), "max_pairs": max_pairs}
        | {"answers": answers, "together": together}
        | {"seed": seed, "batch_size": batch_size, "surroundings": surroundings(model)}
    )
    parts: list[EncodedPairs] = []
    for _ in over(progress, range(chunks), "part of the candidates", outer=True):
        counts = Counter(pair.family for part in parts for pair in part.pairs)
        if max_pairs is not None:
            waiting = [pair for pair in waiting if counts[pair.family] < max_pairs]
        chunk = waiting[:together]
        if max_pairs is not None:
            chunk = [pair for pair in chunk if pair.family == chunk[0].family]
        waiting = waiting[len(chunk) :]
        if chunk:
            asking = partial(ask, model, chunk, answers=answers, batch_size=batch_size, progress=progress)
            parts.append(units.once(f"candidates {len(parts)}", _ENCODED, asking))
    found = join(parts or [ask(model, [], answers=answers)])
    kept = found.pairs if max_pairs is None else first_of_each_family(found.pairs, max_pairs)
    return Mined(
        replace(
            found.of(sorted(kept, key=lambda pair: place[pair.id])),
            dropped=tuple(sorted(found.dropped, key=lambda each: place[each.pair.id])),
        )
    )


def _save_encoded(found: EncodedPairs, folder: Path) -> None:
    told = [(pair_record(each.pair), each.reason, each.detail) for each in found.dropped]
    pairs = [pair_record(pair) for pair in found.pairs]
    record = {"pairs": pairs, "dropped": told, "changed": found.changed, "answers": found.answers}
    JSON.save(record, folder)
    arrays = {name: getattr(found, name).numpy() for name in _ANSWERS}
    for side in SIDES:
        ids = found.ids(side)
        arrays[f"{side} ids"] = np.array([token for row in ids for token in row.tolist()], dtype="int64")
        arrays[f"{side} lengths"] = np.array([len(row) for row in ids], dtype="int64")
        for each in fields(Behaviour):
            arrays[f"{side} {each.name}"] = getattr(found.behaviour(side), each.name).numpy()
    ARRAYS.save(arrays, folder)


def _load_encoded(folder: Path) -> EncodedPairs:
    told = JSON.load(folder)
    arrays = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.load(folder).items()}
    made: dict[str, Any] = {name: arrays[name] for name in _ANSWERS}
    for side in SIDES:
        lengths = arrays[f"{side} lengths"].tolist()
        made[side] = arrays[f"{side} ids"].split(lengths) if lengths else ()
        numbers = (arrays[f"{side} {each.name}"] for each in fields(Behaviour))
        made[f"on_{side}"] = Behaviour(*numbers)
    dropped = tuple(Dropped(pair_again(pair), *why) for pair, *why in told["dropped"])
    pairs = tuple(pair_again(each) for each in told["pairs"])
    made["answers"] = None if told["answers"] is None else tuples(told["answers"])
    return EncodedPairs(pairs, dropped=dropped, changed=told["changed"], **made)


_ANSWERS = ("memorized", "reasoned")
_ENCODED = Form(_save_encoded, _load_encoded)


def _as_pairs(candidates: Any) -> list[PromptPair]:
    if isinstance(candidates, (str, Path)):
        return load_pairs(candidates)
    given = list(candidates)
    if given and all(isinstance(each, PromptPair) for each in given):
        return given
    return load_pairs(given)


def first_of_each_family(pairs: Sequence[PromptPair], max_pairs: int) -> list[PromptPair]:
    """At most this many pairs of each family, in their order."""
    counts: Counter[str] = Counter()
    kept: list[PromptPair] = []
    for pair in pairs:
        counts[pair.family] += 1
        if counts[pair.family] <= max_pairs:
            kept.append(pair)
    return kept
