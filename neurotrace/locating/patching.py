"""Reads, differentiates and patches sites at the last tokens of two sets of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    def flips(self, change: Change, donor: Side) -> tuple[Float[Tensor, " pair"], Bool[Tensor, " pair"]]:
        """(change of L, whether the donor's answer is now top-1) on each held-out pair."""
        recipient = Direction.from_donor(donor).recipient
        wanted = self.test.reasoned if donor == "reasoning" else self.test.memorized
        after = torch.empty(len(self.test))
        top = torch.empty(len(self.test), dtype=torch.long)
        for rows, tail in self.tails["test", recipient]:
            given = {point: self.given[donor][point][rows] for point in change}
            logits = self._changed(tail, change, given)
            after[rows] = metrics.logit_difference(
                logits, self.test.memorized[rows], self.test.reasoned[rows]
            )
            top[rows] = logits.argmax(-1)
        return after - self.test.behaviour(recipient).logit_difference, top == wanted

    def damage(self, change: Change, means: Values, texts: Sequence[Tensor]) -> float:
        """Mean KL(before || after) of the next token after neutral texts, nats.

        There is no donor run: the donor side's means over training pairs, [1 place unit], stand for it.
        Texts with fewer tokens than places are left out; NaN if none remains.
        """
        found = []
        for _, ids in by_length([ids for ids in texts if len(ids) >= self.places], 32):
            given = {point: means[point].expand(len(ids), -1, -1) for point in change}
            logits = self._changed(Tail(ids, self.places), change, given)
            clean = end_logits(self.model, ids, 1)[:, -1].float().cpu()
            found.append(metrics.kl(clean, logits))
        return float(torch.cat(found).mean()) if found else float("nan")

    def _changed(self, tail: Tail, change: Change, given: Values) -> Float[Tensor, "batch vocab"]:
        done = {
            point: lambda own, rule=rule, donor=given[point]: rule(own, donor.to(own))
            for point, rule in change.items()
        }
        with torch.no_grad():
            return change_sites(self.model, tail, done).float().cpu()
