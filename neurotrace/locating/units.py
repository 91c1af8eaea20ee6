"""What is patched at once, and changes of the same size beside it.

- *attention*, *mlp*, *residual*: the whole output of a block's attention or MLP, or the residual stream
  behind the block, takes the donor's value at one place (Vig et al. 2020; Meng et al. 2022).
- *heads*: attention heads chosen on training pairs (`pursuit.py`), at all places together. Controls: as
  many other heads of the same blocks.
- *neurons*: chosen likewise. Controls: as many random ones of the same layers.
- *direction*: at the last token, only the coordinate along the difference of the two sides' means on
  training pairs takes the donor's value. Controls: as long a move along a random direction.

Scores predict the effect towards the donor from training pairs, nats. Of outputs and directions it is that
on L: the donor's value minus the recipient's, times dL/d value averaged over both runs (as in `two_ended`).
Of heads and neurons it is that on log p of the donor's answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.neurons import Neuron, NeuronSet
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.locating.patching import WHOLE, Change, Patching, Rule, Values
from neurotrace.locating.pursuit import Place, pursue
from neurotrace.models.hooks import Point

Name = Literal["attention", "mlp", "residual", "direction", "head", "heads", "neurons"]
DRAWS = 3  # of each random control
_SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01)  # of all neurons, patched at once


@dataclass(frozen=True)
class Unit:
    """One change of the model, and `DRAWS` random ones of the same size, if there are any."""

    unit: Name
    layer: int
    change: Change
    score: float = math.nan
    head: int = -1
    k: int = 1
    back: int = -1  # the one place that is changed, counted from the last (0); -1: all of them
    controls: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Learned:
    """Of the training pairs: dL/d value averaged over both runs, and the donor's value minus the own."""

    slopes: Values
    moves: Values

    def predicted(self, point: Point) -> Float[Tensor, "pair place unit"]:
        """Effect on L of each value's move, nats."""
        return self.slopes[point] * self.moves[point]


def learn(patching: Patching, donor: Side, points: Sequence[Point]) -> Learned:
    """From one forward and one backward pass on both sides of the training pairs."""
    recipient = Direction.from_donor(donor).recipient
    own, other = (patching.values("train", side) for side in (recipient, donor))
    near, far = (patching.slopes(side, points) for side in SIDES)
    return Learned(
        {point: (near[point] + far[point]) / 2 for point in near},
        {point: other[point] - own[point] for point in near},
    )


def outputs(patching: Patching, learned: Learned, back: int, donor: Side) -> list[Unit]:
    """Every block's whole outputs at the place so many before the last."""
    sign = Direction.from_donor(donor).sign
    return [
        Unit(
            site,  # type: ignore[arg-type]
            layer,
            {(site, layer): partial(_whole, back)},
            sign * float(learned.predicted((site, layer))[:, -1 - back].sum(1).mean()),
            back=back,
        )
        for site in WHOLE
        for layer in range(patching.n_layers)
    ]


def heads(
    patching: Patching, count: int, most: int, donor: Side, seed: int, progress: Progress = None
) -> list[Unit]:
    """1, 2, 4, … `most` heads (of `count` in a block) together; at the last token the best also alone."""
    layers = patching.n_layers
    size = patching.values("train", donor)["heads", 0].shape[-1] // count
    most = min(most, layers * count)
    sizes = sorted({1, *(2**n for n in range(1, 12) if 2**n < most), most})
    change = partial(_of_heads, size=size)
    sets, alone = pursue(patching, "heads", count, sizes, change, donor, progress)
    found: list[Unit] = []
    if patching.where == "last":
        best = alone.flatten().topk(most)
        for score, place in zip(*(each.tolist() for each in best), strict=True):
            layer, head = divmod(place, count)
            found.append(Unit("head", layer, change([(layer, head)]), score, head, back=0))
    for chosen in sets:
        k = len(chosen.units)
        drawn = [_as_many(chosen.units, layers, count, seed + draw) for draw in range(DRAWS)]
        enough = all(len(each) == k for each in drawn)  # or fewer others are left than were chosen
        controls = tuple(change(each) for each in drawn) if enough else ()
        found.append(Unit("heads", -1, change(chosen.units), chosen.score, k=k, controls=controls))
    return found


def directions(patching: Patching, learned: Learned, donor: Side, seed: int) -> tuple[Unit, list[Unit]]:
    """In each block the residual stream's direction between the sides' means; the best one, and all.

    The best has the largest predicted effect towards the donor and `DRAWS` controls, the others have one.
    """
    generator, sign = torch.Generator().manual_seed(seed), Direction.from_donor(donor).sign
    found = []
    for layer in range(patching.n_layers):
        move = learned.moves["residual", layer][:, -1]
        slope = learned.slopes["residual", layer][:, -1]
        along = move.mean(dim=0)
        along = along / along.norm().clamp(min=1e-12)
        others = [torch.randn(along.shape, generator=generator) for _ in range(DRAWS)]
        found.append(
            Unit(
                "direction",
                layer,
                {("residual", layer): _Along(along, along)},
                sign * float(((slope @ along) * (move @ along)).mean()),
                controls=tuple({("residual", layer): _Along(along, each / each.norm())} for each in others),
            )
        )
    best = max(found, key=lambda each: each.score)
    return best, [each if each is best else replace(each, controls=each.controls[:1]) for each in found]


def neurons(
    patching: Patching, width: int, donor: Side, seed: int, progress: Progress = None
) -> list[Unit]:
    """.05 to 1 % of all neurons (`width` in a block) together; controls: random ones of the same layers."""
    total = patching.n_layers * width

    def change(units: Sequence[Place]) -> Change:
        return of_neurons([Neuron(*place) for place in units])

    sets, alone = pursue(patching, "neurons", width, _sizes(total), change, donor, progress)
    scores, found = Scores("pursuit", alone), []
    for chosen in sets:
        drawn = _drawn(scores, NeuronSet(Neuron(*place) for place in chosen.units), seed)
        controls = tuple(of_neurons(each) for each in drawn)
        k = len(chosen.units)
        found.append(Unit("neurons", -1, change(chosen.units), chosen.score, k=k, controls=controls))
    return found


def neuron_sets(scores: Scores, donor: Side, seed: int) -> list[list[NeuronSet]]:
    """For each size the best of a ranking, and `DRAWS` random sets."""
    direction = Direction.from_donor(donor)
    best = [scores.top(k, direction=direction) for k in _sizes(scores.n_neurons)]
    return [[each, *_drawn(scores, each, seed)] for each in best]


def _drawn(scores: Scores, best: NeuronSet, seed: int) -> list[NeuronSet]:
    return [scores.random_like(best, seed=seed + draw) for draw in range(DRAWS)]


def _sizes(total: int) -> list[int]:
    return sorted({max(1, round(share * total)) for share in _SHARES})


def of_neurons(neurons: Sequence[Neuron]) -> Change:
    """These (layer, index) take the donor's values at all places."""
    found: dict[Point, Rule] = {}
    for layer in sorted({each.layer for each in neurons}):
        units = torch.tensor([each.index for each in neurons if each.layer == layer])
        found["neurons", layer] = _At(units)
    return found


def _whole(back: int, own: Tensor, donor: Tensor) -> Tensor:
    changed = own.clone()
    changed[:, -1 - back] = donor[:, -1 - back]
    return changed


@dataclass(frozen=True)
class _Along:
    """Move the last token's value along `to` as far as it is to the donor's coordinate along `along`."""

    along: Float[Tensor, " unit"]
    to: Float[Tensor, " unit"]

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        step = (donor[:, -1] - own[:, -1]) @ self.along.to(own)
        changed = own.clone()
        changed[:, -1] += step[:, None] * self.to.to(own)
        return changed


@dataclass(frozen=True)
class _At:
    """The donor's values of these units at all places."""

    units: Int[Tensor, " unit"]

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        changed = own.clone()
        changed[..., self.units] = donor[..., self.units]
        return changed


def _of_heads(chosen: Sequence[tuple[int, int]], size: int) -> Change:
    found: dict[Point, Rule] = {}
    for layer in sorted({layer for layer, _ in chosen}):
        units = [torch.arange(head * size, (head + 1) * size) for own, head in chosen if own == layer]
        found["heads", layer] = _At(torch.cat(units))
    return found


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
