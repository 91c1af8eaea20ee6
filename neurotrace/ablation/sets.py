"""Exact effects of sets: the cumulative curve of a ranking, and a set chosen greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.ablation import passes
from neurotrace.ablation.group_sums import GroupSums, grouped
from neurotrace.ablation.task import Precision, Where, check_direction, places_of, prepare, strength
from neurotrace.core.display import Shown, View, frame_table
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.neurons import Experts, Neuron, name_of
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SetEffects(Shown):
    """The joint effect of the first k of `neurons`, for each k, pair by pair."""

    neurons: tuple[Neuron, ...]
    ks: tuple[int, ...]
    before: Float[Tensor, " pair"]  # L, nats
    after: Float[Tensor, "pair k"]
    pairs: tuple[PromptPair, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def effect(self) -> Float[Tensor, "pair k"]:
        """Change of L, nats."""
        return self.after - self.before[:, None]

    def to_frame(self) -> pd.DataFrame:
        """One row for each k: `k, neuron` (the last of the k), `effect, low, high, n`; see `ablate`."""
        import pandas as pd

        names = [pair.group for pair in self.pairs]
        sums = GroupSums(len(self.ks), names)
        for row in grouped(self.pairs):
            sums.add(torch.arange(len(self.ks)), self.effect[row], names[row])
        mean, low, high = (column.numpy() for column in sums.close())
        experts = Experts.of(self.provenance.get("experts"))
        last = [name_of(self.neurons[k - 1], experts) for k in self.ks]
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


@renamed(mode="kind")
@takes_turns
def ablate_sets(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    ranking: Sequence[Neuron],
    ks: Sequence[int] | None = None,
    *,
    kind: Kind = "zero",
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

    Example::

        curve = nt.ablate_sets(model, pairs, scores.top(64), ks=[1, 4, 16, 64])
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
    neurons = tuple(dict.fromkeys(ranking))
    places_of(neurons, task)
    wanted = tuple(range(1, len(neurons) + 1)) if ks is None else tuple(ks)
    if not wanted or any(not 1 <= k <= len(neurons) for k in wanted):
        raise InputError(f"ks={list(wanted)}: expected numbers from 1 to {len(neurons)}, the neurons")
    made = [passes.made_on(task, neurons[:k]) for k in wanted]
    rows = range(len(task.encoded))
    before = torch.empty(len(rows))
    after = torch.empty(len(rows), len(wanted))
    for row in over(progress, rows, "ablating sets"):
        of = passes.clean(task, row)
        before[row], after[row] = of.before, passes.sets(task, of, made)
    return SetEffects(neurons, wanted, before, after, task.encoded.pairs, task.record())


@renamed(mode="kind")
@takes_turns
def greedy_set(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    candidates: Sequence[Neuron],
    k: int,
    *,
    direction: Direction | str | None = None,
    kind: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> SetEffects:
    """k of the candidates; each step adds the one with the largest effect *given those already chosen*.

    Exact at every step: about k × candidates × pairs evaluations.

    Args:
        direction: lower L (``"to_reasoning"``) or raise it; None: the largest change of either sign.

    Returns:
        The curve of the chosen neurons in their order, ks 1 to k.

    Example::

        found = nt.greedy_set(model, pairs, scores.top(32), 4)
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
    left = sorted(set(candidates))
    places_of(left, task)
    if not 1 <= k <= len(left):
        raise InputError(f"k={k}: expected 1 to {len(left)}, the number of candidates")
    direction = check_direction(direction)
    chosen: list[Neuron] = []
    curve: list[Tensor] = []
    before = torch.empty(len(task.encoded))
    work = [(step, row) for step in range(k) for row in range(len(task.encoded))]
    for _, row in over(progress, work, "choosing neurons"):
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
        tuple(chosen),
        tuple(range(1, k + 1)),
        before,
        torch.stack(curve, dim=1),
        task.encoded.pairs,
        task.record(direction_of_search=direction),
    )
