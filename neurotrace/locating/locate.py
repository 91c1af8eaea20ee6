"""By which units is an answer decided? Each is patched on held-out pairs, beside changes of the same size.

The units are those of `units.py`, and sets of neurons: the best k by `two_ended` on training pairs, at the
last token or at each of the last tokens that a pair's prompts share. The recipient's value is replaced by
the donor's.

A patch of a block's whole residual stream copies the donor's whole state and flips nearly everything
from some depth on. It shows by which depth the answer is decided, not which unit decides it.

`deciding.py` states for each kind the fewest units that flip nine answers in ten both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neurotrace.core import statistics
from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.damage import neutral_ids
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import patch
from neurotrace.locating.patching import Patching, shared_tail
from neurotrace.locating.units import (
    DRAWS,
    Learned,
    Unit,
    directions,
    heads as heads_of,
    learn,
    of_neurons,
    outputs,
)
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.two_ended import two_ended

if TYPE_CHECKING:
    import pandas as pd

_SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01)  # of all neurons, patched at once


@dataclass(frozen=True)
class Located(Shown):
    """Each unit's effect on held-out pairs.

    Columns of the table: `unit`, `layer`, `head`; `k`, number patched at once; `places`, number of last
    tokens at which; `score`, the effect predicted on the training pairs (nats, towards the donor; NaN if
    there is none); `effect`, measured on the held-out pairs (nats); `answers` with its interval, the share
    of their answers that flip; `control`, this share for as many random heads of the same layers, for as
    long a move along a random direction, or for as many random neurons of the same layers, mean of three
    draws; `damage`, mean KL of the next token after neutral texts (nats; NaN without texts); `n`.
    """

    table: pd.DataFrame = field(repr=False)
    donor: Side
    model: str

    def to_frame(self) -> pd.DataFrame:
        return self.table

    def _view(self) -> View:
        best = self.table.sort_values("answers", ascending=False, kind="stable")
        best = best.groupby("unit", sort=False).head(2)
        rows = [
            (
                row.unit,
                "" if row.layer < 0 else row.layer,
                "" if row.head < 0 else row.head,
                row.k,
                "last" if row.places == 1 else f"last {row.places}",
                f"{row.effect:.2f}",
                rate(row.answers),
                f"{row.low:.0%}–{row.high:.0%}",
                None if row.control != row.control else rate(row.control),
            )
            for row in best.itertuples()
        ]
        columns = ("unit", "layer", "head", "k", "at", "effect", "flipped", "95 %", "control")
        return View(
            f"Flip rates of {self.model} on {int(self.table['n'].max())} held-out pairs, one unit patched "
            f"at a time; donor: {self.donor}.",
            (Table(columns, rows, "The two that flip most, of each kind"),),
            "All of them: .to_frame(); as a figure: nt.plot_located(located).",
        )


@takes_turns
def locate(
    model: HookedModel,
    train: Sequence[PromptPair] | EncodedPairs,
    test: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    heads: int = 8,
    places: int = 6,
    neutral: Sequence[str] = (),
    everywhere: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress = None,
) -> Located:
    """Patch attention, MLPs, heads, the residual stream, a direction of it, and sets of neurons.

    Args:
        train: pairs that give the directions and the choice of heads and neurons (each head is measured
            alone, and the best 1, 2, 4, … of `heads` together).
        test: other pairs, for all measurements.
        donor: ``"reasoning"`` for flips to reasoning, ``"memorization"`` for flips to memory.
        places: heads and neurons are patched at the last token, and at each of as many last tokens as the
            two prompts of every pair share, at most so many; 1: at the last token only.
        neutral: texts on which the damage is measured.
        everywhere: patch the outputs and the direction of every block, and heads alone; False: only what
            `decided_by` reads, a sixth of the patches.

    Raises:
        InputError: the model lacks one of the hooks (the message names it).

    Example::

        train, test = nt.split_pairs(nt.load_pairs("arithmetic"))
        nt.plot_located(nt.locate(model, train, test))
    """
    import pandas as pd

    info = inspect_model(model)
    own, other = encode(model, train), encode(model, test)
    for pairs in (own, other):
        refuse_whole(pairs, "locate")
        if not len(pairs):
            raise InputError("locate needs pairs that the model answers both ways, in train and in test")
    if places < 1:
        raise InputError(f"places={places}: expected 1 or more last tokens")
    texts = neutral_ids(model, neutral)
    dense = () if info.experts else range(info.n_layers)
    rows: list[dict[str, Any]] = []
    for at in sorted({1, min(shared_tail(pairs, places) for pairs in (own, other))}):
        patching = Patching(model, own, other, places=at, batch_size=batch_size)
        learned = learn(patching, donor, [*patching.points, *(("neurons", layer) for layer in dense)])
        tried = heads_of(patching, learned, int(model.cfg.n_heads), heads, donor, seed)
        if at == 1:
            best, every = directions(patching, learned, donor, seed)
            if everywhere:
                tried = [*outputs(patching, learned), *tried, *every]
            else:
                tried = [*(each for each in tried if each.unit == "heads"), best]
        rows += _rows(patching, learned, tried, donor, texts, progress)
        if at == 1:
            rows += _neurons(patching, learned, two_ended(model, own, donor=donor), donor, seed, texts)
        elif dense:
            rows += _neurons(patching, learned, _summed(learned, len(dense)), donor, seed, texts)
    return Located(pd.DataFrame(rows), donor, info.name)


def _rows(
    patching: Patching,
    learned: Learned,
    tried: Sequence[Unit],
    donor: Side,
    texts: Sequence[torch.Tensor],
    progress: Progress,
) -> list[dict[str, Any]]:
    """A row for each unit, all of them and their controls patched together."""
    changes = [change for each in tried for change in (each.change, *each.controls)]
    effects, flipped = patching.flips(changes, donor, progress)
    harmful = [each.change for each in tried if _is_small(each)]
    harms = iter(patching.damage(harmful, learned.means, texts, progress))
    sign = Direction.from_donor(donor).sign  # L decreases towards reasoning
    rows, place = [], 0
    for each in tried:
        drawn = flipped[place + 1 : place + 1 + len(each.controls)].float().mean(dim=1).tolist()
        at = (each.unit, each.layer, each.head, each.k, each.places)
        effect = sign * float(effects[place].mean())
        row = _measured(at, effect, flipped[place].numpy(), patching.groups, drawn)
        harm = next(harms) if _is_small(each) else math.nan
        rows.append(row | {"score": sign * each.score, "damage": harm})
        place += 1 + len(each.controls)
    return rows


def _is_small(each: Unit) -> bool:
    """Not a whole output, and not one of the heads alone: something that may decide."""
    return each.unit in ("heads", "direction")


def _measured(
    at: tuple[str, int, int, int, int],
    effect: float,
    flipped: np.ndarray,
    groups: list[str],
    drawn: Sequence[float],
) -> dict[str, Any]:
    low, high = statistics.rate_interval(flipped, groups)
    return {
        **dict(zip(("unit", "layer", "head", "k", "places"), at, strict=True)),
        **{"effect": effect, "answers": float(flipped.mean()), "low": low, "high": high},
        **{"control": float(np.mean(drawn)) if len(drawn) else math.nan, "n": len(flipped)},
    }


def _summed(learned: Learned, layers: int) -> Scores:
    """`two_ended` summed over the places."""
    found = [learned.predicted(("neurons", layer)).sum(1).mean(0) for layer in range(layers)]
    return Scores("two_ended", torch.stack(found))


def _neurons(
    patching: Patching,
    learned: Learned,
    scores: Scores,
    donor: Side,
    seed: int,
    texts: Sequence[torch.Tensor],
) -> list[dict[str, Any]]:
    """Rows of the best k neurons, patched together; control: as many random ones of the same layers."""
    places = patching.places
    sizes = sorted({max(1, round(share * scores.n_neurons)) for share in _SHARES})
    best = [scores.top(k, direction=Direction.from_donor(donor)) for k in sizes]
    drawn = [[scores.random_like(each, seed=seed + draw) for draw in range(DRAWS)] for each in best]
    tried = [patch(each, donor=donor) for each in best]
    tried += [patch(each, donor=donor, role="random") for of_one in drawn for each in of_one]
    at = tuple(range(-places, 0)) if places > 1 else "read"
    table = measure(patching.model, patching.test, tried, positions=at).to_frame()  # type: ignore[arg-type]
    harms = [math.nan] * len(best)
    if ("neurons", 0) in learned.means:
        changes = [of_neurons([(n.layer, n.index) for n in each], places) for each in best]
        harms = patching.damage(changes, learned.means, texts)
    rows = []
    for neurons, harm in zip(best, harms, strict=True):
        mine = table[table["k"] == len(neurons)]
        own, random = (mine[mine["role"] == role] for role in ("selected", "random"))
        moved = float((own["L_after"] - own["L_before"]).mean())
        effect = moved * Direction.from_donor(donor).sign
        row = _measured(
            ("neurons", -1, -1, len(neurons), places),
            effect,
            own["answers"].to_numpy(),
            own["group"].tolist(),
            [float(random["answers"].mean())],
        )
        rows.append(row | {"score": math.nan, "damage": harm})
    return rows
