"""Reads, differentiates and patches sites at the last tokens of two sets of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.engine import metrics
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Point, Site, inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import Tail, change_sites, end_logits, read_sites, site_slopes, tail_of

# (own values, the donor's) -> the new values, each at the last places of the prompt
Rule = Callable[[Float[Tensor, "batch place unit"], Float[Tensor, "batch place unit"]], Tensor]
Change = Mapping[Point, Rule]
Values = dict[Point, Float[Tensor, "pair place unit"]]

WHOLE: tuple[Site, ...] = ("attention", "mlp", "residual")
_SITES: tuple[Site, ...] = (*WHOLE, "heads")
_TOKENS = 256  # in a pass


def shared_tail(pairs: EncodedPairs, at_most: int) -> int:
    """Number of last tokens that are the same in both prompts of every pair; 1 at least."""
    shortest = at_most
    for first, second in zip(pairs.memorization, pairs.reasoning, strict=True):
        same = first.flip(0)[:at_most][: len(second)] == second.flip(0)[:at_most][: len(first)]
        shortest = min(shortest, int(same.long().cumprod(0).sum()))
    return max(1, shortest)


class Patching:
    """Training pairs give slopes and moves, test pairs are patched; both at the last `places` tokens.

    What stands before these tokens is the same whatever is patched, so it is run once (`models/sites.py`).
    """

    def __init__(
        self,
        model: HookedModel,
        train: EncodedPairs,
        test: EncodedPairs,
        *,
        places: int = 1,
        batch_size: int = 16,
    ):
        self.model, self.train, self.test, self.places = model, train, test, places
        self.groups = [pair.group for pair in test.pairs]
        self.n_layers = inspect_model(model).n_layers
        self.points: list[Point] = [(site, at) for site in _SITES for at in range(self.n_layers)]
        self.tails = {
            (part, side): [
                (rows, tail_of(model, ids, places)) for rows, ids in by_length(pairs.ids(side), batch_size)
            ]
            for part, pairs in (("train", train), ("test", test))
            for side in SIDES
        }
        self.given = {side: self._read("test", side) for side in SIDES}

    def _read(self, part: str, side: Side) -> Values:
        found: Values = {}
        count = len(self.train if part == "train" else self.test)
        for rows, tail in self.tails[part, side]:
            for point, values in read_sites(self.model, tail, self.points).items():
                found.setdefault(point, torch.empty(count, *values.shape[1:]))[rows] = values
        return found

    def slopes(
        self, side: Side, points: Sequence[Point] = (), progress: Progress = None
    ) -> tuple[Values, Values]:
        """(values, dL / d value) of the training prompts of one side, [pair place unit] each."""
        own: Values = {}
        found: Values = {}
        for rows, tail in over(progress, self.tails["train", side], "gradients of sites"):
            metric = partial(
                metrics.logit_difference,
                memorized=self.train.memorized[rows],
                reasoned=self.train.reasoned[rows],
            )
            for kept, got in zip(
                (own, found), site_slopes(self.model, tail, points or self.points, metric), strict=True
            ):
                for point, values in got.items():
                    kept.setdefault(point, torch.empty(len(self.train), *values.shape[1:]))[rows] = values
        return own, found

    def flips(
        self, changes: Sequence[Change], donor: Side, progress: Progress = None
    ) -> tuple[Float[Tensor, "change pair"], Bool[Tensor, "change pair"]]:
        """(change of L, whether the donor's answer is now top-1) on each held-out pair."""
        recipient = Direction.from_donor(donor).recipient
        wanted = self.test.reasoned if donor == "reasoning" else self.test.memorized
        after = torch.empty(len(changes), len(self.test))
        top = torch.empty(len(changes), len(self.test), dtype=torch.long)
        for rows, tail in over(progress, self.tails["test", recipient], "patching sites"):
            given = {point: values[rows] for point, values in self.given[donor].items()}
            answers = self.test.memorized[rows], self.test.reasoned[rows]
            for place, logits in self._changed(tail, changes, given):
                after[place, rows] = metrics.logit_difference(logits, *answers)
                top[place, rows] = logits.argmax(-1)
        return after - self.test.behaviour(recipient).logit_difference, top == wanted

    def damage(
        self, changes: Sequence[Change], means: Values, texts: Sequence[Tensor], progress: Progress = None
    ) -> list[float]:
        """Mean KL(before || after) of the next token after neutral texts, nats.

        There is no donor run: the donor side's means over training pairs, [1 place unit], stand for it.
        Texts with fewer tokens than places are left out; NaN if none remains.
        """
        long_enough = [ids for ids in texts if len(ids) >= self.places]
        if not long_enough:
            return [float("nan")] * len(changes)
        found = torch.empty(len(changes), len(long_enough))
        batches = list(by_length(long_enough, 32))
        for rows, ids in over(progress, batches, "damage"):
            given = {point: values.expand(len(ids), -1, -1) for point, values in means.items()}
            clean = end_logits(self.model, ids, 1)[:, -1].float().cpu()
            for place, logits in self._changed(tail_of(self.model, ids, self.places), changes, given):
                found[place, rows] = metrics.kl(clean, logits)
        return found.mean(dim=1).tolist()

    def _changed(
        self, tail: Tail, changes: Sequence[Change], given: Values
    ) -> Iterator[tuple[int, Float[Tensor, "prompt vocab"]]]:
        """(place of the change, its logits): as many changes in one pass as fill it."""
        prompts = len(tail.ids)
        many = max(1, _TOKENS // tail.ids.numel())
        for first in range(0, len(changes), many):
            some = changes[first : first + many]
            # rows in prompt order, as the kept prefix wants them
            wide = replace(tail, ids=tail.ids.repeat_interleave(len(some), dim=0))
            done = {
                point: partial(_each_its_own, [each.get(point) for each in some], given[point])
                for point in {point for each in some for point in each}
            }
            with torch.no_grad():
                logits = change_sites(self.model, wide, done).float().cpu()
            for place, own in enumerate(logits.unflatten(0, (prompts, len(some))).unbind(1)):
                yield first + place, own


def _each_its_own(
    rules: Sequence[Rule | None],
    donor: Float[Tensor, "prompt place unit"],
    own: Float[Tensor, "row place unit"],
) -> Float[Tensor, "row place unit"]:
    """The rows of each change by its rule."""
    changed = own.clone().unflatten(0, (len(donor), len(rules)))
    given = donor.to(own)
    for place, rule in enumerate(rules):
        if rule is not None:
            changed[:, place] = rule(changed[:, place], given)
    return changed.flatten(0, 1)
