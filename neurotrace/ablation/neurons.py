"""Exact effects of single neurons: apply the intervention to one neuron at a time.

They are the ground truth for rankers. In principle each neuron and pair takes a pass; the suffix engine
recomputes only what changes, for many neurons at once. Without an engine, full passes with hooks give
the same numbers within rounding. Sets of neurons: `sets.py`; the top k without the whole sweep:
`top.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from neurotrace.ablation import passes
from neurotrace.ablation.group_sums import GroupSums, grouped
from neurotrace.ablation.sets import SetEffects, ablate_sets, greedy_set
from neurotrace.ablation.task import Precision, Where, places_of, prepare
from neurotrace.core.display import Shown, View, frame_table
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.neurons import Experts, Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "NeuronEffects",
    "SetEffects",
    "ablate",
    "ablate_sets",
    "ablation_effects",
    "greedy_set",
]
_ROW_BYTES = 40  # of the table that `ablation_effects` returns


@renamed(mode="kind")
@takes_turns
def ablate(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    neurons: Sequence[Neuron] | None = None,
    *,
    kind: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) when the intervention is applied to one neuron; mean over pairs.

    The columns `low` and `high` are a 95 % interval of that mean, clustered by group: Student's t on
    the group sums (a normal approximation, not a bootstrap), NaN with a single group. `n` counts pairs.
    The provenance records the path and precision that ran, and under `fast_rms_relative_error` the
    error of `fast` on a sample of exact evaluations.

    Args:
        neurons: those to measure; None: all of them. The others are NaN.
        kind: the kind of intervention, ``"zero"``, ``"patch"``, ``"shift:2"``, ... It is applied to the
            recipient's prompts: the memorization prompts if `donor` is ``"reasoning"``.
        reference: class means for `set`, `mean` and `shift` (default: those of `pairs`); for `steer`
            what `nt.reference` returns. `steer` leaves neurons without a slope NaN.
        positions: ``"read"``, ``"all"``, or a list (negative: from the end).
        precision: ``"fast"``: bf16 deltas, about 1 % off; exact if the hardware has no bf16 units.
        batch_size: neurons in one pass, or ``"auto"``: the fastest of a few sizes that fits.
        memory_gb: approximate upper bound of one pass in GiB. Default: 2, on a GPU half of the free
            memory.

    Raises:
        InputError: an invalid argument, or an effect that is not finite (the message names the neuron).

    Example::

        effects = nt.ablate(model, pairs, scores.top(64), kind="mean")
        effects.to_frame().head()
    """
    task = prepare(
        model,
        pairs,
        kind,
        donor,
        reference=reference,
        positions=positions,
        precision=precision,
        batch_size=batch_size,
        memory_gb=memory_gb,
        progress=progress,
    )
    places = places_of(neurons, task)
    names = [pair.group for pair in task.encoded.pairs]
    sums = GroupSums(task.info.n_neurons, names)
    for of, part, effect in passes.sweep(task, grouped(task.encoded.pairs), places, progress=progress):
        sums.add(part, effect, names[of.row])
    error = {}
    if task.precision == "fast":
        error = {"fast_rms_relative_error": passes.fast_error(task, places)}
    columns = torch.full((4, task.info.n_neurons), torch.nan)
    columns[:3, places] = torch.stack(sums.close()).float()[:, places]
    columns[3] = 0
    columns[3, places] = len(names)
    value, low, high, n = columns.view(4, task.info.n_layers, task.info.d_mlp)
    return Scores(
        "ablate",
        value,
        columns={"low": low, "high": high, "n": n},
        provenance=task.record(interval="95 %, Student's t on group sums", **error),
    )


@dataclass(frozen=True)
class NeuronEffects(Shown):
    """The effect of each neuron on each pair.

    Columns: `pair, family, template, group, layer, neuron`; `L_before, L_after, effect` (nats).
    """

    table: pa.Table
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_frame(self) -> pd.DataFrame:
        return self.table.to_pandas()

    def _view(self) -> View:
        effects = self.to_frame().groupby(["layer", "neuron"])["effect"]
        table = effects.agg(["mean", "min", "max", "count"]).reset_index()
        if (experts := Experts.of(self.provenance.get("experts"))) is not None:
            each = zip(table["layer"], table["neuron"], strict=True)
            table.insert(0, "name", [experts.name(Neuron(layer, unit)) for layer, unit in each])
        order = table["mean"].abs().sort_values(ascending=False, kind="stable").index
        return View(
            f"{len(self):,} effects on L, nats: {len(table):,} neurons, pair by pair.",
            (frame_table(table.loc[order], "strongest on average", limit=8),),
            "All rows: .to_frame().",
        )

    def __repr__(self) -> str:
        return f"NeuronEffects({len(self)} rows)"


@renamed(mode="kind")
@takes_turns
def ablation_effects(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    neurons: Sequence[Neuron] | None = None,
    *,
    kind: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    table_gb: float = 4.0,
    progress: Progress = None,
) -> NeuronEffects:
    """Same as `ablate`, with one row for each (pair, neuron): pairs in order, neurons ascending.

    Raises:
        InputError: as for `ablate`; or the rows would take more than `table_gb` GiB.

    Example::

        rows = nt.ablation_effects(model, pairs, scores.top(8)).to_frame()
    """
    import numpy as np
    import pyarrow as pa

    task = prepare(
        model,
        pairs,
        kind,
        donor,
        reference=reference,
        positions=positions,
        precision=precision,
        batch_size=batch_size,
        memory_gb=memory_gb,
        progress=progress,
    )
    places = places_of(neurons, task)
    size = len(task.encoded) * len(places) * _ROW_BYTES / 2**30
    if size > table_gb:
        raise InputError(
            f"{len(task.encoded)} pairs × {len(places)} neurons take {size:.1f} GiB, table_gb is "
            f"{table_gb:g}: use nt.ablate for the means, name neurons=, or raise table_gb"
        )
    found: dict[str, list[Any]] = {name: [] for name in ("row", "place", "before", "effect")}
    for of, part, effect in passes.sweep(task, range(len(task.encoded)), places, progress=progress):
        found["row"].append(np.full(len(part), of.row, dtype="int32"))
        found["place"].append(part.numpy())
        found["before"].append(np.full(len(part), of.before, dtype="float32"))
        found["effect"].append(effect.numpy())
    row, place, before, effect_ = (np.concatenate(column) for column in found.values())
    columns: dict[str, Any] = {}
    for name, own in (
        ("pair", "id"),
        ("family", "family"),
        ("template", "template"),
        ("group", "group"),
    ):
        words = [getattr(pair, own) for pair in task.encoded.pairs]
        known = list(dict.fromkeys(words))
        codes = np.array([known.index(word) for word in words], dtype="int32")
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes[row]), known)
    columns["layer"] = (place // task.info.d_mlp).astype("int32")
    columns["neuron"] = (place % task.info.d_mlp).astype("int32")
    columns |= {"L_before": before, "L_after": before + effect_, "effect": effect_}
    return NeuronEffects(pa.table(columns), task.record())
