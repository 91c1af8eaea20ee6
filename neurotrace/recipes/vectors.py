"""Recipes that add a vector to the residual stream behind blocks, at the prompt's last token.

A vector d behind a block is written by its neurons: h + d is what the block leaves if its activations are
moved by o with W_out^T o = d, the least-norm one o = W_out (W_out^T W_out)^-1 d. So a vector is an
`Intervention` on all neurons of the block, the suffix engine runs it, and damage and other families are
measured as for neurons. A test compares it with adding d to the stream.

The controls add a vector of equal norm, with equal entries in each block:

    random    the entries dealt to random dimensions of the same block
    sign      a random half of the entries with the opposite sign
    low_rho   of a recipe that changes few dimensions: the entries moved to the tenth with the lowest |rho|
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neurotrace.core import statistics
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction
from neurotrace.interventions.controls import QUIET
from neurotrace.interventions.damage import damage, still_answered
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.activations import Activations, Moments
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import Point, inspect_model, w_out
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import read_sites
from neurotrace.models.written import is_plain
from neurotrace.recipes.base import Prove
from neurotrace.studies.held_out import DRAWS, MOST_DRAWS, Flip
from neurotrace.studies.selection import Ground, RowFold, StudySettings, flips_at, halves_of
from neurotrace.studies.verdict import in_doubt

_TRIED = 8  # candidates whose controls are measured


@dataclass(frozen=True)
class Vector:
    """What is added behind each block.

    Attributes:
        units: how many units it counts as: dimensions, or 1 for a direction.
        rho: |rho| of each dimension, of a recipe that picks dimensions.
    """

    name: str
    values: Float[Tensor, "layer d_model"]
    units: int
    rho: Float[Tensor, "layer d_model"] | None = None

    def controls(self, role: str, seeds: Sequence[int]) -> list[Float[Tensor, "layer d_model"]]:
        """Vectors of equal norm in each block; none where the role does not apply."""
        if role == "low_rho" and self.rho is None:
            return []
        return [self._control(role, torch.Generator().manual_seed(seed)) for seed in seeds]

    def _control(self, role: str, draw: torch.Generator) -> Tensor:
        made = torch.zeros_like(self.values)
        for layer, own in enumerate(self.values):
            at = own.nonzero()[:, 0]
            if role == "sign":
                turned = at[torch.randperm(len(at), generator=draw)[: (len(at) + 1) // 2]]
                made[layer] = own
                made[layer, turned] *= -1
                continue
            pool = torch.arange(len(own))
            if self.rho is not None and 2 * len(at) <= len(own):  # dimensions that weren't picked
                order = self.rho[layer].argsort() if role == "low_rho" else pool
                pool = order[own[order] == 0]
                if role == "low_rho":
                    pool = pool[: max(len(at), len(own) // 10)]
            to = pool[torch.randperm(len(pool), generator=draw)[: len(at)]]
            made[layer, to] = own[at]
        return made


Propose = Callable[[Moments, Direction], Iterator[Vector]]
_ROLES = ("random", "sign", "low_rho")


def by_vectors(name: str, propose: Propose) -> Prove:
    """A recipe that adds one of the vectors proposed from training pairs' residual streams."""

    def proved(
        grounds: Sequence[Ground],
        folds: Sequence[RowFold],
        settings: StudySettings,
        progress: Progress,
    ) -> tuple[Flip, ...]:
        streams = _Streams(grounds[0])
        return tuple(
            _Proof(name, propose, each, settings, streams).flip(folds, progress) for each in grounds
        )

    return proved


def refuses(model: HookedModel) -> str:
    """Why no vector can be added by a block's neurons; empty: it can."""
    info = inspect_model(model)
    if info.experts is not None or not is_plain(model):
        return "it adds a vector, which takes a dense model whose MLPs write into the stream as they are"
    if info.d_mlp < info.d_model:
        return f"it adds a vector, and {info.d_mlp} neurons a block don't span {info.d_model} dimensions"
    return ""


class _Streams:
    """The residual streams of a family's pairs behind every block, and how neurons write into them."""

    def __init__(self, ground: Ground) -> None:
        self.model, self.own = ground.model, ground.own

    @cached_property
    def values(self) -> Float[Tensor, "side pair layer d_model"]:
        info = inspect_model(self.model)
        points: list[Point] = [("residual", layer) for layer in range(info.n_layers)]
        found = torch.empty(2, len(self.own), info.n_layers, info.d_model)
        for place, side in enumerate(SIDES):
            for rows, ids in by_length(self.own.ids(side), 32):
                read = read_sites(self.model, ids, points)
                found[place, rows] = torch.stack([read[point] for point in points], dim=1)
        return found

    def moments(self, rows: Sequence[int]) -> Moments:
        return Activations(self.values[:, list(rows)], tuple(self.own.pairs[row] for row in rows)).moments()

    @cached_property
    def inverse(self) -> Float[Tensor, "layer neuron d_model"]:
        return inverse_writes(self.model)


def inverse_writes(model: HookedModel) -> Float[Tensor, "layer neuron d_model"]:
    """W_out (W_out^T W_out)^-1 of every block: the least change of activations that writes a vector.

    Raises:
        InputError: a block's neurons don't span the residual stream.
    """
    found = []
    for layer in range(inspect_model(model).n_layers):
        w = w_out(model, layer).double().cpu()
        factor, wrong = torch.linalg.cholesky_ex(w.T @ w)
        if wrong:
            raise InputError(f"the neurons of block {layer} don't write into every dimension: leave it out")
        found.append(torch.cholesky_solve(w.T, factor).T.float())
    return torch.stack(found)


def written(
    values: Float[Tensor, "layer d_model"],
    inverse: Float[Tensor, "layer neuron d_model"],
    direction: Direction,
    *,
    kind: str = "vector",
    role: str = "selected",
) -> Intervention:
    """The intervention on neurons that adds `values` behind the blocks."""
    layers = values.abs().sum(dim=1).nonzero()[:, 0].tolist()
    width = inverse.shape[1]
    offset = torch.cat([inverse[layer] @ values[layer] for layer in layers])
    neurons = tuple(Neuron(layer, index) for layer in layers for index in range(width))
    keep, gain = torch.ones(len(neurons)), torch.zeros(len(neurons))
    return Intervention(kind, neurons, direction, keep, gain, offset, role)


class _Proof:
    """Choice on training pairs and measurement on held-out pairs, of one family and direction."""

    def __init__(
        self, name: str, propose: Propose, ground: Ground, settings: StudySettings, streams: _Streams
    ) -> None:
        self.name, self.propose, self.ground = name, propose, ground
        self.settings, self.streams = settings, streams

    def _proposed(self, rows: Sequence[int]) -> dict[tuple[str, int], Vector]:
        found = self.propose(self.streams.moments(rows), self.ground.direction)
        return {(each.name, each.units): each for each in found}

    def _flipped(
        self, rows: Sequence[int], vectors: Sequence[Tensor], progress: Progress = None
    ) -> Bool[Tensor, "vector pair"]:
        direction = self.ground.direction
        parts = []
        for start in range(0, len(vectors), 16):  # bounds the number of rows at once
            made = [written(each, self.streams.inverse, direction) for each in vectors[start : start + 16]]
            parts += flips_at(self.ground, progress, [(rows, made)])
        return torch.cat(parts)

    def choose(self, fold: RowFold) -> Vector:
        """Proposed on one half of the training groups, measured on the other, and vice versa."""
        hits: dict[tuple[str, int], float] = {}
        parts = []
        for ranked, tried in halves_of(self.ground, fold, self.settings.seed):
            rows = tried[:: max(1, -(-2 * len(tried) // self.settings.tried_on))]
            made = self._proposed(ranked)
            found = self._flipped(rows, [each.values for each in made.values()])
            for key, own in zip(made, found, strict=True):
                hits[key] = hits.get(key, 0.0) + float(own.float().mean())
            parts.append((made, rows))
        order = sorted(hits, key=lambda key: (-hits[key], key[1]))[:_TRIED]
        loud: dict[tuple[str, int], float] = {}
        for key in order:  # the first whose controls are quiet
            loud[key] = self._loudest(key, parts)
            if loud[key] <= QUIET:
                return self._proposed(fold.train)[key]
        furthest = max(order, key=lambda key: hits[key] / len(parts) - loud[key])
        return self._proposed(fold.train)[furthest]

    def _loudest(self, key: tuple[str, int], parts: Sequence[tuple[Any, Sequence[int]]]) -> float:
        """The largest share of training answers that a control flips, over its draws; of the first one
        that is too loud."""
        rates = [0.0]
        for role in _ROLES:
            if rates[-1] > QUIET:
                break
            own = [
                self._flipped(rows, controls).float().mean()
                for made, rows in parts
                if (controls := made[key].controls(role, range(DRAWS)))
            ]
            rates += [float(torch.stack(own).mean())] if own else []
        return max(rates)

    def flip(self, folds: Sequence[RowFold], progress: Progress) -> Flip:
        ground, own = self.ground, self.ground.own
        chosen: list[Vector] = []
        hits: list[Tensor] = []
        drawn: dict[str, list[Tensor]] = {role: [] for role in _ROLES}
        for fold in over(progress, list(folds), "fold"):
            best = self.choose(fold)
            chosen.append(best)
            hits.append(self._flipped(fold.test, [best.values])[0])
            for role, found in drawn.items():
                if others := best.controls(role, range(DRAWS)):
                    found.append(self._flipped(fold.test, others))
        groups = [own.pairs[row].group for fold in folds for row in fold.test]
        for role, found in drawn.items():  # further draws, by the rule of `held_out`
            if role == "random" or (found and _in_doubt(torch.cat(found, dim=1), groups)):
                for place, (fold, best) in enumerate(zip(folds, chosen, strict=True)):
                    others = best.controls(role, range(DRAWS, MOST_DRAWS))
                    found[place] = torch.cat([found[place], self._flipped(fold.test, others)])
        flat = torch.cat(hits).numpy()
        controls: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float] | None] = {}
        worst: dict[str, float] = {}
        for role, found in drawn.items():
            if found:
                table = torch.cat(found, dim=1).float()
                controls[role] = float(table.mean())
                intervals[role] = _interval(table, groups)
                worst[role] = float(table.mean(dim=1).max())
                if role == "random":
                    p = (1 + int((table.mean(dim=1) >= flat.mean()).sum())) / (1 + len(table))
        made = [written(each.values, self.streams.inverse, ground.direction) for each in chosen]
        means = [ground.evidence.moments(fold.train).mean_of(ground.direction.donor) for fold in folds]
        harm = None
        if texts := self.settings.neutral:
            harm = damage(ground.model, texts, made, donor_means=means).mean(dim=0)
        info = inspect_model(ground.model)
        units = max(each.units for each in chosen)
        answers, interval = float(flat.mean()), statistics.rate_interval(flat, groups)
        return Flip(
            family=ground.family,
            method=self.name,
            direction=ground.direction,
            intervention="+".join(dict.fromkeys(each.name for each in chosen)),
            k=units,
            fraction=units / (info.n_layers * info.d_model),
            answers=answers,
            answers_ci=interval,
            prefers=answers,
            prefers_ci=interval,
            n=len(groups),
            groups=len(set(groups)),
            split=self.settings.split,
            selected=True,
            controls=controls,
            controls_ci=intervals,
            controls_worst=worst,
            control_answers=max(rate for rate in controls.values() if rate is not None),
            random_p=p,
            damage_kl=None if harm is None else float(harm.mean()),
            damage_ci=None if harm is None else statistics.mean_interval(harm.numpy(), range(len(harm))),
            other_families_kept=still_answered(
                ground.model, ground.others, made, means, positions=ground.positions
            ),
            per_fold=tuple(f"{each.name} {each.units}" for each in chosen),
        )


def _interval(hits: Bool[Tensor, "draw pair"], groups: Sequence[str]) -> tuple[float, float]:
    """Of the rate over draws and pairs; groups of pairs are resampled."""
    return statistics.rate_interval(hits.numpy().ravel(), [*groups] * len(hits))


def _in_doubt(hits: Bool[Tensor, "draw pair"], groups: Sequence[str]) -> bool:
    return in_doubt(float(hits.float().mean()), *_interval(hits, groups))
