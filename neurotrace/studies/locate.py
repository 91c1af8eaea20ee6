"""Is the answer decided in the MLPs? Patching of attention, heads, MLPs and the residual stream.

The units, all at the final token position, are: the output of a block's attention or its MLP, one
attention head, the residual stream behind a block, and one *direction* of it, the difference of the two
sides' means on training pairs. The recipient's value is replaced by the donor's (activation patching,
Vig et al. 2020; Meng et al. 2022); for a direction, only the coordinate along it.

A patch of a block's whole residual stream copies the donor's whole state and flips nearly everything
from some depth on. It shows by which depth the answer is decided, not which unit decides it.

Beside them, sets of neurons are patched at the same token: the best k by `two_ended` on training pairs.
`neurotrace locate` states for each kind the fewest units that flip nine answers in ten both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neurotrace.core import statistics
from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.metrics import logit_difference
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import patch
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import Point, Site, inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import change_sites, read_sites, site_slopes
from neurotrace.rankers.two_ended import two_ended

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["attention", "mlp", "residual", "direction", "head", "heads", "random heads", "neurons"]
_SHARES = (0.0005, 0.002, 0.01)  # of all neurons, patched at once
_WHOLE: tuple[Literal["attention", "mlp", "residual"], ...] = ("attention", "mlp", "residual")
# (own values, the donor's) -> the new values
_Rule = Callable[[Float[Tensor, "batch unit"], Float[Tensor, "batch unit"]], Tensor]
_Change = Mapping[Point, _Rule]


@dataclass(frozen=True)
class Located(Shown):
    """Each unit's effect on held-out pairs.

    Columns of the table: `unit`, `layer`, `head`; `k`, number patched at once; `score`, the effect
    predicted by the gradient on the training pairs (nats, towards the donor; NaN if there is none);
    `effect`, measured on the held-out pairs (nats); `answers` with its interval, the share of their
    answers that flip; `control`, this share for as many random heads of the same layers, or for an
    equal move along a random direction, or for as many random neurons; `n`.
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
                f"{row.effect:.2f}",
                rate(row.answers),
                f"{row.low:.0%}–{row.high:.0%}",
                None if row.control != row.control else rate(row.control),
            )
            for row in best.itertuples()
        ]
        columns = ("unit", "layer", "head", "k", "effect", "flipped", "95 %", "control")
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
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress = None,
) -> Located:
    """Patch attention, MLPs, heads, the residual stream and a direction of it, block by block.

    Args:
        train: pairs that give the directions and the choice of heads (each is measured alone, and all
            `heads` together).
        test: other pairs, for all measurements.
        donor: ``"reasoning"`` for flips to reasoning, ``"memorization"`` for flips to memory.

    Raises:
        InputError: the model lacks one of the hooks (the message names it).

    Example::

        train, test = nt.split_pairs(nt.load_pairs("arithmetic"))
        nt.plot_located(nt.locate(model, train, test))
    """
    import pandas as pd

    info = inspect_model(model)
    work = _Work(model, encode(model, train), encode(model, test), donor, batch_size)
    refuse_whole(work.train, "locate")
    refuse_whole(work.test, "locate")
    if not len(work.train) or not len(work.test):
        raise InputError("locate needs pairs that the model answers both ways, in train and in test")
    tried = _tried(work, int(model.cfg.n_heads), heads, seed, progress)
    sign = -1.0 if donor == "reasoning" else 1.0  # L decreases towards reasoning
    rows = []
    for each in over(progress, tried, "patching sites"):
        effect, flipped = work.measure(each.change)
        low, high = statistics.rate_interval(flipped.numpy(), work.groups)
        rows.append(
            {
                "unit": each.unit,
                "layer": each.layer,
                "head": each.head,
                "k": each.k,
                "score": sign * each.score,
                "effect": sign * float(effect.mean()),
                "answers": float(flipped.float().mean()),
                "low": low,
                "high": high,
                "control": _control(work, each),
                "n": len(work.test),
            }
        )
    table = pd.DataFrame(rows)
    return Located(pd.concat([table, _neurons(work, seed)], ignore_index=True), donor, info.name)


def _neurons(work: _Work, seed: int) -> pd.DataFrame:
    """Rows of the best k neurons by `two_ended`, patched together; the control: as many random ones."""
    import pandas as pd

    info = inspect_model(work.model)
    scores = two_ended(work.model, work.train, donor=work.donor)
    sizes = sorted({max(1, round(share * info.n_neurons)) for share in _SHARES})
    best = [scores.top(k, direction=Direction.from_donor(work.donor)) for k in sizes]
    flipped, random = (
        measure(work.model, work.test, [patch(each, donor=work.donor) for each in sets]).to_frame()
        for sets in (best, [scores.random_like(each, seed=seed) for each in best])
    )
    rows = []
    for k, own in flipped.groupby("k"):
        low, high = statistics.rate_interval(own["answers"].to_numpy(), own["group"].tolist())
        moved = (own["L_after"] - own["L_before"]).mean()
        rows.append(
            {
                **{"unit": "neurons", "layer": -1, "head": -1, "k": k, "score": math.nan},
                **{"effect": -moved if work.donor == "reasoning" else moved},
                **{"answers": own["answers"].mean(), "low": low, "high": high},
                **{"control": random.loc[random["k"] == k, "answers"].mean(), "n": len(work.test)},
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Tried:
    unit: Unit
    layer: int
    change: _Change
    score: float = math.nan
    head: int = -1
    k: int = 1
    control: _Change | None = None


def _tried(work: _Work, count: int, heads: int, seed: int, progress: Progress) -> list[_Tried]:
    """Every block's units, the `heads` heads with the largest gradient scores, and as many random ones."""
    slopes, moves = work.learn(progress)
    layers = range(work.n_layers)
    predicted = {point: slopes[point] * moves[point] for point in work.points}
    tried = [
        _Tried(site, layer, {(site, layer): _donors}, float(predicted[site, layer].sum(1).mean()))
        for site in _WHOLE
        for layer in layers
    ]
    by_head = torch.stack(
        [predicted["heads", layer].unflatten(1, (count, -1)).sum(2).mean(0) for layer in layers]
    )
    wanted = -by_head if work.donor == "reasoning" else by_head
    chosen = [divmod(int(place), count) for place in wanted.flatten().argsort(descending=True)[:heads]]
    size = moves["heads", 0].shape[1] // count
    tried += [
        _Tried("head", layer, _of_heads([(layer, head)], size), float(by_head[layer, head]), head)
        for layer, head in chosen
    ]
    for k in sorted({1, *(2**n for n in range(1, 12) if 2**n < len(chosen)), len(chosen)}):
        drawn = _of_heads(_as_many(chosen[:k], len(layers), count, seed), size)
        few = _size(drawn, size) < k  # fewer others are left than were chosen
        tried.append(_Tried("heads", -1, _of_heads(chosen[:k], size), k=k, control=None if few else drawn))
    if drawn:
        tried.append(_Tried("random heads", -1, drawn, k=_size(drawn, size)))
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        move, slope = moves["residual", layer], slopes["residual", layer]
        along = move.mean(dim=0)
        along = along / along.norm().clamp(min=1e-12)
        other = torch.randn(along.shape, generator=generator)
        step: _Change = {("residual", layer): _Direction(along, other / other.norm())}
        tried.append(_Tried("direction", layer, step, float(((slope @ along) * (move @ along)).mean())))
    return tried


def _control(work: _Work, tried: _Tried) -> float:
    """Flip rate of random heads, or of an equal move along a random direction; NaN for other units."""
    moved = {at: rule.elsewhere() for at, rule in tried.change.items() if isinstance(rule, _Direction)}
    control = tried.control or moved
    return float(work.measure(control)[1].float().mean()) if control else math.nan


def _donors(own: Tensor, donor: Tensor) -> Tensor:
    return donor


@dataclass(frozen=True)
class _Direction:
    """Move along `along` to the donor's coordinate; `elsewhere`: equally far along `control`."""

    along: Float[Tensor, " unit"]
    control: Float[Tensor, " unit"]
    controlled: bool = False

    def elsewhere(self) -> _Direction:
        return _Direction(self.along, self.control, controlled=True)

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        step = (donor - own) @ self.along.to(own)
        return own + step[:, None] * (self.control if self.controlled else self.along).to(own)


@dataclass(frozen=True)
class _Heads:
    """The donor's values at these places of all heads' values, side by side."""

    places: Tensor

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        changed = own.clone()
        changed[:, self.places] = donor[:, self.places]
        return changed


def _of_heads(chosen: Sequence[tuple[int, int]], size: int) -> _Change:
    found: dict[Point, _Rule] = {}
    for layer in sorted({layer for layer, _ in chosen}):
        heads = [head for own, head in chosen if own == layer]
        places = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads])
        found["heads", layer] = _Heads(places)
    return found


def _size(change: _Change, size: int) -> int:
    """Number of heads that it changes."""
    return sum(len(rule.places) // size for rule in change.values() if isinstance(rule, _Heads))


def _as_many(
    chosen: Sequence[tuple[int, int]], layers: int, count: int, seed: int
) -> list[tuple[int, int]]:
    """As many other heads in each layer; all remaining ones if too few are left."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for layer in range(layers):
        own = {head for at, head in chosen if at == layer}
        left = [h for h in torch.randperm(count, generator=generator).tolist() if h not in own]
        drawn += [(layer, head) for head in left[: len(own)]]
    return drawn


class _Work:
    """Reads and patches the two sets of pairs."""

    def __init__(
        self,
        model: HookedModel,
        train: EncodedPairs,
        test: EncodedPairs,
        donor: Side,
        batch_size: int,
    ):
        self.model, self.train, self.test, self.donor = model, train, test, donor
        self.batch_size = batch_size
        self.recipient: Side = Direction.from_donor(donor).recipient
        self.groups = [pair.group for pair in test.pairs]
        self.n_layers = inspect_model(model).n_layers
        sites: tuple[Site, ...] = (*_WHOLE, "heads")
        self.points: list[Point] = [(site, at) for site in sites for at in range(self.n_layers)]
        self.given = self._read(test, donor)

    def _read(self, pairs: EncodedPairs, side: Side) -> dict[Point, Float[Tensor, "pair unit"]]:
        found: dict[Point, Tensor] = {}
        for rows, ids in by_length(pairs.ids(side), self.batch_size):
            for point, values in read_sites(self.model, ids, self.points).items():
                found.setdefault(point, torch.empty(len(pairs), values.shape[1]))[rows] = values
        return found

    def learn(self, progress: Progress = None) -> tuple[dict[Point, Tensor], dict[Point, Tensor]]:
        """(dL/d value, donor's value minus recipient's) on the training pairs, [pair unit] each."""
        other = self._read(self.train, self.donor)
        moves = {point: torch.empty_like(values) for point, values in other.items()}
        slopes = {point: torch.empty_like(values) for point, values in other.items()}
        batches = list(by_length(self.train.ids(self.recipient), self.batch_size))
        label = "gradients of sites"
        for rows, ids in over(progress, batches, label):
            answers = {
                "memorized": self.train.memorized[rows],
                "reasoned": self.train.reasoned[rows],
            }
            metric = partial(logit_difference, **answers)
            own, found = site_slopes(self.model, ids, self.points, metric)
            for point in self.points:
                moves[point][rows] = other[point][rows] - own[point]
                slopes[point][rows] = found[point]
        return slopes, moves

    def measure(self, change: _Change) -> tuple[Float[Tensor, " pair"], Bool[Tensor, " pair"]]:
        """(change of L, whether the donor's answer is now top-1) on each held-out pair."""
        wanted = self.test.reasoned if self.donor == "reasoning" else self.test.memorized
        after = torch.empty(len(self.test))
        top = torch.empty(len(self.test), dtype=torch.long)
        for rows, ids in by_length(self.test.ids(self.recipient), 2 * self.batch_size):
            done = {
                point: lambda own, rule=rule, donor=self.given[point][rows]: rule(own, donor.to(own))
                for point, rule in change.items()
            }
            with torch.no_grad():
                logits = change_sites(self.model, ids, done).float().cpu()
            after[rows] = logit_difference(logits, self.test.memorized[rows], self.test.reasoned[rows])
            top[rows] = logits.argmax(-1)
        return after - self.test.behaviour(self.recipient).logit_difference, top == wanted
