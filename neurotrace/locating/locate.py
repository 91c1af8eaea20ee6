"""By which units, and where, is an answer decided? Each is patched on held-out pairs, with controls.

The units are those of `units.py`; sets of heads and neurons are chosen in rounds on training pairs
(`pursuit.py`; a mixture's neurons by `two_ended`). The recipient's values are replaced by the donor's at
the prompt's last token, at the tokens in which a pair's prompts differ (`cue`), at every token from the
first of them on (`anywhere`; before it nothing differs), or at a part of the prompts that all pairs name
(`PromptPair.spans`). Whole answers are written behind the prompt, and the prompt alone is patched.

A patch of a block's whole residual stream copies the donor's whole state and flips nearly everything
from some depth on. It shows by which depth the answer is decided, not which unit decides it.

`deciding.py` states for each kind the fewest units that flip nine answers in ten both ways.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from neurotrace.core import statistics
from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.places import Where
from neurotrace.decoding.spans import spans_of
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.damage import neutral_ids
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import patch
from neurotrace.locating.patching import WHOLE, Patching
from neurotrace.locating.units import (
    Unit,
    directions,
    heads as heads_of,
    learn,
    neuron_sets,
    neurons as neurons_of,
    outputs,
)
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.two_ended import two_ended

if TYPE_CHECKING:
    import pandas as pd

_SETS = ("heads", "direction", "neurons")  # what may decide: not a whole output, not one head


@dataclass(frozen=True)
class Located(Shown):
    """Each unit's effect on held-out pairs.

    Columns of the table: `unit`, `layer`, `head`; `k`, number patched at once; `place`: `last`, `cue`,
    `anywhere`, a span (`places.py`), or `one` token, `back` before the last; `tokens`, the largest number
    of tokens of a pair that are patched; `unmatched`, of its tokens without a counterpart; `score`, the
    effect predicted on the training pairs (nats, towards the donor, `units.py`; NaN if there is none);
    `effect`, measured on the held-out pairs (nats); `answers` with its interval, the share that flip;
    `control`, this share for as many random heads of the same layers, for as long a move along a random
    direction, or for as many random neurons of the same layers, mean of three draws; `damage`, mean KL of
    the next token after neutral texts (nats; NaN without texts); `n`.
    """

    table: pd.DataFrame = field(repr=False)
    donor: Side
    model: str
    texts: tuple[str, ...] = ()  # of the token so many before the last; "" where it is not the same

    def to_frame(self) -> pd.DataFrame:
        return self.table

    def with_rows(self, other: Located) -> Located:
        """With another measurement's rows below."""
        import pandas as pd

        return replace(self, table=pd.concat([self.table, other.table], ignore_index=True))

    def _view(self) -> View:
        best = self.table.sort_values("answers", ascending=False, kind="stable")
        best = best.groupby("unit", sort=False).head(2)
        rows = [
            (
                row.unit,
                "" if row.layer < 0 else row.layer,
                "" if row.head < 0 else row.head,
                row.k,
                row.place if row.place != "one" else f"{row.back} before",
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
    where: Sequence[Where] | None = None,
    kinds: Sequence[str] = _SETS,
    control_from: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    kept: dict[str, Patching] | None = None,
    progress: Progress = None,
) -> Located:
    """Patch attention, MLPs, heads, the residual stream, a direction of it, and sets of neurons.

    Args:
        train: pairs that give the directions and the choice of heads and neurons (1, 2, 4, … `heads`
            together; at the last token the best are measured alone, too).
        test: other pairs, for all measurements.
        donor: ``"reasoning"`` for flips to reasoning, ``"memorization"`` for flips to memory.
        places: the outputs of every block are patched at each of so many last tokens, one token at a time,
            as far back as the first difference and as every token has a counterpart; 1: at the last only.
        neutral: texts on which the damage is measured.
        everywhere: patch the outputs and the direction of every block, and heads alone; False: only what
            `decided_by` reads.
        where: at which tokens sets of heads and neurons are patched (`places.py`); None: `last`, `cue`,
            `anywhere`, and each span that all pairs name.
        kinds: of these the sets: ``"neurons"``, ``"heads"``, ``"direction"`` (at the last token alone).
        control_from: controls and damage are measured only for sets that flip at least this share of the
            answers, and for the one of each kind that flips most.
        kept: a dict in which what is read of these pairs is kept for the same call with the other donor.

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
        if not len(pairs):
            raise InputError("locate needs pairs that the model answers both ways, in train and in test")
    if places < 1:
        raise InputError(f"places={places}: expected 1 or more last tokens")
    texts = neutral_ids(model, neutral)
    blocks, dense = range(info.n_layers), not info.experts
    rows: list[dict[str, Any]] = []
    kept = {} if kept is None else kept
    rowed = partial(_rows, donor=donor, texts=texts, control_from=control_from, progress=progress)
    if where is None:
        where = ["last", "cue", "anywhere", *spans_of(own.pairs + other.pairs)]
    for at in where:
        if at not in kept:
            kept[at] = Patching(model, own, other, where=at, batch_size=batch_size)
        patching = kept[at]
        if not patching.least:
            warnings.warn(
                f"{at}: a pair's prompts have no token there that corresponds; left out", stacklevel=2
            )
            continue
        whole = WHOLE if everywhere and at == "last" else ("residual",) if at == "last" else ()
        sites = (*whole, "heads", "neurons") if dense else (*whole, "heads")
        patching.points = [(site, layer) for site in sites for layer in blocks]
        tried: list[Unit] = []
        if whole and (everywhere or "direction" in kinds):
            learned = learn(patching, donor, [(site, layer) for site in whole for layer in blocks])
            tried += outputs(patching, learned, 0, donor) if everywhere else []
            if "direction" in kinds:
                best, every = directions(patching, learned, donor, seed)
                tried += every if everywhere else [best]
        if "heads" in kinds:
            found = heads_of(patching, int(model.cfg.n_heads), heads, donor, seed, progress)
            tried += [each for each in found if everywhere or each.unit == "heads"]
        if "neurons" in kinds and dense:
            tried += neurons_of(patching, info.d_mlp, donor, seed, progress)
        rows += rowed(patching, tried) if tried else []
        if "neurons" in kinds and not dense and at == "last":
            rows += _of_experts(patching, two_ended(model, own, donor=donor), donor, seed)
    said: tuple[str, ...] = ()
    if everywhere:
        patching = Patching(model, own, other, where="end", at_most=places, batch_size=batch_size)
        patching.points = [(site, layer) for site in WHOLE for layer in blocks]
        learned = learn(patching, donor, patching.points)
        for back in range(1, patching.least):
            rows += rowed(patching, outputs(patching, learned, back, donor))
        said = _texts(model, patching, Direction.from_donor(donor).recipient)
    if not rows:
        raise InputError(
            f"nothing to patch at {', '.join(where)}: no tokens of the pairs' prompts correspond"
        )
    return Located(pd.DataFrame(rows), donor, info.name, said)


def _texts(model: HookedModel, patching: Patching, side: Side) -> tuple[str, ...]:
    """Of the map's tokens, from the last on; "" where the pairs' are not the same."""
    found = []
    for back in range(1, patching.least + 1):
        at = zip(patching.test.ids(side), patching.places["test"].at[side], strict=True)
        same = {int(ids[own[-back]]) for ids, own in at}
        found.append(tokenizer_of(model).decode([same.pop()]) if len(same) == 1 else "")
    return tuple(found)


def _rows(
    patching: Patching,
    tried: Sequence[Unit],
    *,
    donor: Side,
    texts: Sequence[torch.Tensor],
    control_from: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A row for each unit, many patched in a pass; then the controls and the damage."""
    effects, flipped = patching.flips([each.change for each in tried], donor, progress)
    shares = flipped.float().mean(1).tolist()
    best = {each.unit: share for share, each in sorted(zip(shares, tried, strict=True), key=lambda x: x[0])}
    worth = [share >= min(control_from, best[each.unit]) for share, each in zip(shares, tried, strict=True)]
    own = [each.controls if asked else () for each, asked in zip(tried, worth, strict=True)]
    controls = [change for each in own for change in each]
    drawn = iter(patching.flips(controls, donor, progress)[1].float().mean(1).tolist())
    harmful = [each.unit in _SETS and asked for each, asked in zip(tried, worth, strict=True)]
    changes = [each.change for each, harms in zip(tried, harmful, strict=True) if harms]
    damage = iter(patching.damage(changes, donor, texts, progress))
    sign = Direction.from_donor(donor).sign  # L decreases towards reasoning
    return [
        {"unit": each.unit, "layer": each.layer, "head": each.head, "k": each.k, "score": each.score}
        | _at(patching, each.back)
        | _measured(sign * float(effect.mean()), flips, patching, [next(drawn) for _ in some])
        | {"damage": next(damage) if harms else math.nan}
        for each, some, harms, effect, flips in zip(tried, own, harmful, effects, flipped, strict=True)
    ]


def _at(patching: Patching, back: int = -1) -> dict[str, Any]:
    one, both = patching.where == "last" or back >= 0, patching.places.values()
    place = "one" if back > 0 else "last" if back == 0 else patching.where
    return {
        **{"place": place, "back": max(back, 0) if one else -1, "tokens": 1 if one else patching.width},
        "unmatched": max(each.unmatched for each in both),
    }


def _measured(
    effect: float, flipped: Bool[Tensor, " pair"], patching: Patching, drawn: Sequence[float]
) -> dict[str, Any]:
    low, high = statistics.rate_interval(flipped.numpy(), patching.groups)
    return {
        **{"effect": effect, "answers": float(flipped.float().mean()), "low": low, "high": high},
        **{"control": float(np.mean(drawn)) if len(drawn) else math.nan, "n": len(flipped)},
    }


def _of_experts(patching: Patching, scores: Scores, donor: Side, seed: int) -> list[dict[str, Any]]:
    """Rows of a mixture's neurons, on the suffix engine, which knows experts; without their damage."""
    rows = []
    for of_one in neuron_sets(scores, donor, seed):
        tried = [replace(patch(each, donor=donor), label=str(n)) for n, each in enumerate(of_one)]
        table = measure(patching.model, patching.test, tried).to_frame()
        own = table[table["label"] == "0"].set_index("pair").loc[[pair.id for pair in patching.test.pairs]]
        effect = float((own["L_after"] - own["L_before"]).mean()) * Direction.from_donor(donor).sign
        controls = [float(table.loc[table["label"] != "0", "answers"].mean())]
        flips = torch.tensor(own["answers"].tolist())
        named = {"unit": "neurons", "layer": -1, "head": -1, "k": len(of_one[0]), "score": math.nan}
        measured = _measured(effect, flips, patching, controls)
        rows.append(named | _at(patching) | measured | {"damage": math.nan})
    return rows
