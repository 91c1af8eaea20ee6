"""Exact ablation: do the intervention to one neuron, look, and go on to the next; and sets of them.

The judge of all estimates. A pass a neuron and pair in principle; the suffix engine (`suffix.py`)
recomputes only what changes, many neurons at once. Where no engine serves the model, full passes
with hooks give the same numbers within rounding. For the top k without the whole sweep see
`ablation_top.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from neurotrace import ablation_passes as passes
from neurotrace.ablation_passes import Precision, Task, Where
from neurotrace.activations import Moments, Reference
from neurotrace.display import Shown, View, frame_table
from neurotrace.errors import InputError
from neurotrace.hooks import ModelInfo
from neurotrace.interventions import Kind
from neurotrace.neurons import Neuron
from neurotrace.pairs import PromptPair
from neurotrace.scores import DIRECTIONS, Direction, Scores
from neurotrace.tokens import EncodedPairs, Progress, Side

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_ROW_BYTES = 40  # of the table that `ablation_effects` returns


def ablate(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    neurons: Sequence[Neuron] | None = None,
    *,
    mode: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) when the intervention is done to one neuron, meaned over pairs.

    The columns `low` and `high` are a 95 % interval of that mean, clustered by group: Student's t on
    the group sums (a normal approximation, not a bootstrap), NaN with a single group. `n` counts
    pairs. The provenance says which path and precision ran, and under `fast_rms_relative_error` what
    `fast` cost on a sample of exact evaluations.

    Args:
        neurons: those to measure; None: all of them. The others are NaN.
        mode: the kind of intervention, ``"zero"``, ``"patch"``, ``"shift:2"``, ... Done to the
            recipient's prompts: the memorization ones if `donor` is ``"reasoning"``.
        reference: class means for `set`, `mean` and `shift` (default: those of `pairs`); for `steer`
            what `nt.reference` returns. `steer` leaves neurons without a slope NaN.
        positions: ``"read"``, ``"all"``, or a list (negative: from the end).
        precision: ``"fast"``: bf16 deltas, about 1 % off; exact where the hardware has no such units.
        batch_size: neurons in one pass, or ``"auto"``: the fastest of a few sizes that fits.
        memory_gb: GiB that one pass may take, about. Default: 2, on a GPU half of what is free.

    Raises:
        InputError: what was passed can't be done, or an effect is not finite; names the neuron.
    """
    task = passes.prepare(
        model, pairs, mode, donor, reference=reference, positions=positions, precision=precision,
        batch_size=batch_size, memory_gb=memory_gb, progress=progress,
    )  # fmt: skip
    places = places_of(neurons, task)
    names = [pair.group for pair in task.encoded.pairs]
    sums = _GroupSums(task.info.n_neurons, names)
    for of, part, effect in passes.sweep(
        task, grouped(task.encoded.pairs), places, progress=progress
    ):
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
        "ablate", value, columns={"low": low, "high": high, "n": n},
        provenance=task.record(interval="95 %, Student's t on group sums", **error),
    )  # fmt: skip


@dataclass(frozen=True)
class NeuronEffects(Shown):
    """What each neuron did on each pair.

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
        order = table["mean"].abs().sort_values(ascending=False, kind="stable").index
        return View(
            f"{len(self):,} effects on L, nats: {len(table):,} neurons, pair by pair.",
            (frame_table(table.loc[order], "strongest on average", limit=8),),
            "All rows: .to_frame().",
        )

    def __repr__(self) -> str:
        return f"NeuronEffects({len(self)} rows)"


def ablation_effects(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    neurons: Sequence[Neuron] | None = None,
    *,
    mode: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    table_gb: float = 4.0,
    progress: Progress = None,
) -> NeuronEffects:
    """The same as `ablate`, a row for each (pair, neuron): pairs in order, neurons ascending.

    Raises:
        InputError: as `ablate`; or the rows would take more than `table_gb` GiB.
    """
    import numpy as np
    import pyarrow as pa

    task = passes.prepare(
        model, pairs, mode, donor, reference=reference, positions=positions, precision=precision,
        batch_size=batch_size, memory_gb=memory_gb, progress=progress,
    )  # fmt: skip
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
    for name, own in (("pair", "id"), ("family",) * 2, ("template",) * 2, ("group",) * 2):
        words = [getattr(pair, own) for pair in task.encoded.pairs]
        known = list(dict.fromkeys(words))
        codes = np.array([known.index(word) for word in words], dtype="int32")
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes[row]), known)
    columns["layer"] = (place // task.info.d_mlp).astype("int32")
    columns["neuron"] = (place % task.info.d_mlp).astype("int32")
    columns |= {"L_before": before, "L_after": before + effect_, "effect": effect_}
    return NeuronEffects(pa.table(columns), task.record())


@dataclass(frozen=True)
class SetEffects(Shown):
    """What the first k of `neurons` do together, for each k, pair by pair."""

    neurons: tuple[Neuron, ...]
    ks: tuple[int, ...]
    before: Float[Tensor, pair]  # L, nats
    after: Float[Tensor, "pair k"]
    pairs: tuple[PromptPair, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def effect(self) -> Float[Tensor, "pair k"]:
        """Change of L, nats."""
        return self.after - self.before[:, None]

    def to_frame(self) -> pd.DataFrame:
        """A row for each k: `k, neuron` (the last of the k), `effect, low, high, n`; see `ablate`."""
        import pandas as pd

        names = [pair.group for pair in self.pairs]
        sums = _GroupSums(len(self.ks), names)
        for row in grouped(self.pairs):
            sums.add(torch.arange(len(self.ks)), self.effect[row], names[row])
        mean, low, high = (column.numpy() for column in sums.close())
        last = [str(self.neurons[k - 1]) for k in self.ks]
        return pd.DataFrame(
            {"k": self.ks, "neuron": last, "effect": mean, "low": low, "high": high}
        ).assign(n=len(names))

    def _view(self) -> View:
        table = self.to_frame()
        some = table.iloc[:: max(1, len(table) // 8)]
        return View(
            f"The first k of {len(self.neurons)} neurons changed together, on {len(self.pairs)} "
            "pairs: the mean change of L, nats, with a 95 % interval.",
            (frame_table(some),),
            "Every k: .to_frame(); pair by pair: .effect.",
        )

    def __repr__(self) -> str:
        return f"SetEffects({len(self.ks)} sizes on {len(self.pairs)} pairs)"


def ablate_sets(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    ranking: Sequence[Neuron],
    ks: Sequence[int] | None = None,
    *,
    mode: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> SetEffects:
    """The cumulative curve: the intervention on the first k neurons of a ranking, for each of `ks`.

    Args:
        ks: None: 1 to all of them. The other arguments are those of `ablate`.
    """
    task = passes.prepare(
        model, pairs, mode, donor, reference=reference, positions=positions, precision=precision,
        batch_size=batch_size, memory_gb=memory_gb, progress=progress,
    )  # fmt: skip
    neurons = tuple(dict.fromkeys(ranking))
    places_of(neurons, task)
    wanted = tuple(range(1, len(neurons) + 1)) if ks is None else tuple(ks)
    if not wanted or any(not 1 <= k <= len(neurons) for k in wanted):
        raise InputError(f"ks={list(wanted)}: wanted numbers from 1 to {len(neurons)}, the neurons")
    made = [passes.made_on(task, neurons[:k]) for k in wanted]
    rows = range(len(task.encoded))
    before = torch.empty(len(rows))
    after = torch.empty(len(rows), len(wanted))
    for row in progress(rows, description="ablating sets") if progress else rows:
        of = passes.clean(task, row)
        before[row], after[row] = of.before, passes.sets(task, of, made)
    return SetEffects(neurons, wanted, before, after, task.encoded.pairs, task.record())


def greedy_set(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    candidates: Sequence[Neuron],
    k: int,
    *,
    direction: Direction | None = None,
    mode: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> SetEffects:
    """k of the candidates, each the one that does most *given those already chosen*.

    Exact at every step: about k × candidates × pairs evaluations.

    Args:
        direction: lower L (``"to_reasoning"``) or raise it; None: move it, whichever way.

    Returns:
        The curve of the chosen neurons in their order, ks 1 to k.
    """
    task = passes.prepare(
        model, pairs, mode, donor, reference=reference, positions=positions, precision=precision,
        batch_size=batch_size, memory_gb=memory_gb, progress=progress,
    )  # fmt: skip
    left = sorted(set(candidates))
    places_of(left, task)
    if not 1 <= k <= len(left):
        raise InputError(f"k={k}: wanted 1 to {len(left)}, the number of candidates")
    check_direction(direction)
    chosen: list[Neuron] = []
    curve: list[Tensor] = []
    before = torch.empty(len(task.encoded))
    work = [(step, row) for step in range(k) for row in range(len(task.encoded))]
    for _, row in progress(work, description="choosing neurons") if progress else work:
        if row == 0:
            made = [passes.made_on(task, [*chosen, one]) for one in left]
            after = torch.empty(len(task.encoded), len(left))
        of = passes.clean(task, row)
        before[row], after[row] = of.before, passes.sets(task, of, made)
        if row == len(task.encoded) - 1:
            best = int(strength((after - before[:, None]).mean(dim=0), direction).argmax())
            chosen.append(left.pop(best))
            curve.append(after[:, best])
    return SetEffects(
        tuple(chosen), tuple(range(1, k + 1)), before, torch.stack(curve, dim=1),
        task.encoded.pairs, task.record(direction_of_search=direction),
    )  # fmt: skip


def strength(effect: Tensor, direction: Direction | None) -> Tensor:
    """How far an effect goes the wanted way; None: how far it goes."""
    if direction is None:
        return effect.abs()
    return -effect if direction == "to_reasoning" else effect


def check_direction(direction: Direction | None) -> None:
    if direction is not None and direction not in DIRECTIONS:
        raise InputError(f"direction={direction!r}: wanted {' or '.join(DIRECTIONS)}, or None")


def places_of(neurons: Sequence[Neuron] | None, task: Task) -> Int[Tensor, place]:
    """Sorted places of these neurons (None: all that the intervention can be done to).

    Raises:
        InputError: none are left, or one lies outside the model.
    """
    info: ModelInfo = task.info
    if neurons is None:
        places = torch.arange(info.n_neurons)
    elif not len(neurons):
        raise InputError("neurons is empty: name those to measure, or None for all")
    else:
        for one in neurons:
            if one.layer >= info.n_layers or one.index >= info.d_mlp:
                raise InputError(
                    f"{one} is outside the model's {info.n_layers} layers × {info.d_mlp} neurons"
                )
        places = torch.tensor(sorted({one.layer * info.d_mlp + one.index for one in neurons}))
    if isinstance(task.reference, Reference) and task.kind.startswith("steer"):
        can = ~passes.steps(task.reference, task.kind, task.direction).isnan().flatten()
        places = places[can[places]]
        if not len(places):
            raise InputError("steer: none of these neurons has a slope to move along")
    return places


def grouped(pairs: Sequence[PromptPair]) -> list[int]:
    """Rows with each group's pairs one after another."""
    first: dict[str, int] = {}
    for row, pair in enumerate(pairs):
        first.setdefault(pair.group, row)
    return sorted(range(len(pairs)), key=lambda row: (first[pairs[row].group], row))


class _GroupSums:
    """Sums over groups, from which a mean and its cluster-robust interval follow.

    Only the group that is being added to is held: memory doesn't grow with their number.
    """

    def __init__(self, columns: int, groups: Sequence[str]) -> None:
        self.sizes = Counter(groups)
        self.total, self.squares, self.sized, self.own = torch.zeros(
            4, columns, dtype=torch.float64
        )  # over groups: S, S^2, n*S (S a group's sum, n its pairs); and S of the present group
        self.group: str | None = None

    def add(self, columns: Tensor, effect: Tensor, group: str) -> None:
        """One pair's effects; a group's pairs come one after another."""
        if group != self.group:
            self._fold()
            self.group = group
        self.own[columns] += effect.double()

    def close(self, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, low, high); the ends are NaN where there is but one group."""
        self._fold()
        self.group = None
        count, pairs = len(self.sizes), sum(self.sizes.values())
        mean = self.total / pairs
        if count < 2:
            return mean, torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
        spread = self.squares - 2 * mean * self.sized
        spread += mean**2 * sum(size**2 for size in self.sizes.values())
        error = (spread.clamp(min=0) * count / (count - 1)).sqrt() / pairs
        half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
        return mean, mean - half, mean + half

    def _fold(self) -> None:
        if self.group is not None:
            self.total += self.own
            self.squares += self.own**2
            self.sized += self.sizes[self.group] * self.own
        self.own.zero_()
