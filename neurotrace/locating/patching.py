"""Reads, differentiates and patches sites at given places of two sets of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.decoding.places import Where, in_tail, places_of
from neurotrace.engine import metrics
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Point, Site, inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import Tail, change_sites, end_logits, read_sites, site_slopes, tail_of

# (own values, the donor's) -> the new values, each at the places
Rule = Callable[[Float[Tensor, "batch place unit"], Float[Tensor, "batch place unit"]], Tensor]
Change = Mapping[Point, Rule]
Values = dict[Point, Float[Tensor, "pair place unit"]]

WHOLE: tuple[Site, ...] = ("attention", "mlp", "residual")
_SITES: tuple[Site, ...] = (*WHOLE, "heads")
_TOKENS = 256  # in a pass


@dataclass(frozen=True)
class _Part:
    """Prompts of one length: their rows, their last tokens, and the places in these (`in_tail`)."""

    rows: list[int]
    tail: Tail
    at: Int[Tensor, "row place"]

    def taken(self, values: Float[Tensor, "row token unit"]) -> Float[Tensor, "row place unit"]:
        """The values at the places; zeros where a row has fewer."""
        padded = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)
        return padded[torch.arange(len(values))[:, None], self.at]


class Patching:
    """Training pairs give slopes and moves, test pairs are patched; both at their places.

    What stands before the first place is the same whatever is patched, so it is run once
    (`models/sites.py`). Values are [pair place unit], aligned at the last place; zeros before the first of
    a pair that has fewer.
    """

    def __init__(
        self,
        model: HookedModel,
        train: EncodedPairs,
        test: EncodedPairs,
        *,
        where: Where = "last",
        at_most: int = 1,
        batch_size: int = 16,
    ):
        self.model, self.train, self.test, self.where = model, train, test, where
        self.groups = [pair.group for pair in test.pairs]
        self.n_layers = inspect_model(model).n_layers
        self.points: list[Point] = [(site, at) for site in _SITES for at in range(self.n_layers)]
        self.places = both = {
            part: places_of(pairs.memorization, pairs.reasoning, where, at_most)
            for part, pairs in (("train", train), ("test", test))
        }
        self.width = max(each.width for each in both.values())
        self.parts = {
            (part, side): [
                self._part(rows, ids, places.at[side])
                for rows, ids in by_length(getattr(self, part).ids(side), batch_size)
            ]
            for part, places in both.items()
            for side in SIDES
        }

    @property
    def least(self) -> int:
        """The fewest places of a pair."""
        return min(each.least for each in self.places.values())

    @cached_property
    def given(self) -> dict[Side, Values]:
        """The test prompts' own values, of each side."""
        return {side: self._read(side) for side in SIDES}

    @property
    def present(self) -> Int[Tensor, " place"]:
        """Number of training pairs that have each place."""
        counts = [len(each) for each in self.places["train"].at["reasoning"]]
        return (torch.tensor(counts)[:, None] >= torch.arange(self.width, 0, -1)).sum(0)

    def _part(self, rows: list[int], ids: Tensor, at: Sequence[tuple[int, ...]]) -> _Part:
        read, places = in_tail([at[row] for row in rows], self.width)
        return _Part(rows, tail_of(self.model, ids, read), places)

    def _read(self, side: Side) -> Values:
        found: Values = {}
        for part in self.parts["test", side]:
            for point, values in read_sites(self.model, part.tail, self.points).items():
                own = part.taken(values)
                found.setdefault(point, torch.empty(len(self.test), *own.shape[1:]))[part.rows] = own
        return found

    def slopes(
        self, side: Side, points: Sequence[Point] = (), progress: Progress = None
    ) -> tuple[Values, Values]:
        """(values, dL / d value) of the training prompts of one side, [pair place unit] each."""
        own: Values = {}
        found: Values = {}
        for part in over(progress, self.parts["train", side], "gradients of sites"):
            metric = partial(
                metrics.logit_difference,
                memorized=self.train.memorized[part.rows],
                reasoned=self.train.reasoned[part.rows],
            )
            for kept, got in zip(
                (own, found),
                site_slopes(self.model, part.tail, points or self.points, metric),
                strict=True,
            ):
                for point, values in got.items():
                    taken = part.taken(values)
                    shape = len(self.train), *taken.shape[1:]
                    kept.setdefault(point, torch.empty(shape))[part.rows] = taken
        return own, found

    def flips(
        self, changes: Sequence[Change], donor: Side, progress: Progress = None
    ) -> tuple[Float[Tensor, "change pair"], Bool[Tensor, "change pair"]]:
        """(change of L, whether the donor's answer is now top-1) on each held-out pair."""
        recipient = Direction.from_donor(donor).recipient
        wanted = self.test.reasoned if donor == "reasoning" else self.test.memorized
        after = torch.empty(len(changes), len(self.test))
        top = torch.empty(len(changes), len(self.test), dtype=torch.long)
        for part in over(progress, self.parts["test", recipient], "patching sites"):
            given = {point: values[part.rows] for point, values in self.given[donor].items()}
            answers = self.test.memorized[part.rows], self.test.reasoned[part.rows]
            for place, logits in self._changed(part, changes, given):
                after[place, part.rows] = metrics.logit_difference(logits, *answers)
                top[place, part.rows] = logits.argmax(-1)
        return after - self.test.behaviour(recipient).logit_difference, top == wanted

    def damage(
        self, changes: Sequence[Change], means: Values, texts: Sequence[Tensor], progress: Progress = None
    ) -> list[float]:
        """Mean KL(before || after) of the next token after neutral texts, nats.

        There is no donor run, and nothing that differs: the donor side's means over training pairs,
        [1 place unit], are put at as many last tokens of the text, or at all of its tokens where it has
        fewer. NaN without texts.
        """
        if not texts:
            return [float("nan")] * len(changes)
        found = torch.empty(len(changes), len(texts))
        batches = list(by_length(texts, 32))
        for rows, ids in over(progress, batches, "damage"):
            read = min(int(self.present.count_nonzero()), ids.shape[1])
            at = torch.arange(read).expand(len(ids), -1)
            part = _Part(rows, tail_of(self.model, ids, read), at)
            given = {point: values[:, -read:].expand(len(ids), -1, -1) for point, values in means.items()}
            clean = end_logits(self.model, ids, 1)[:, -1].float().cpu()
            for place, logits in self._changed(part, changes, given):
                found[place, rows] = metrics.kl(clean, logits)
        return found.mean(dim=1).tolist()

    def _changed(
        self, part: _Part, changes: Sequence[Change], given: Values
    ) -> Iterator[tuple[int, Float[Tensor, "prompt vocab"]]]:
        """(place of the change, its logits): as many changes in one pass as fill it."""
        tail = part.tail
        prompts = len(tail.ids)
        many = max(1, _TOKENS // tail.ids.numel())
        for first in range(0, len(changes), many):
            some = changes[first : first + many]
            # rows in prompt order, as the kept prefix wants them
            wide = replace(tail, ids=tail.ids.repeat_interleave(len(some), dim=0))
            done = {
                point: partial(_each_its_own, [each.get(point) for each in some], given[point], part)
                for point in {point for each in some for point in each}
            }
            with torch.no_grad():
                logits = change_sites(self.model, wide, done).float().cpu()
            for place, own in enumerate(logits.unflatten(0, (prompts, len(some))).unbind(1)):
                yield first + place, own


def _each_its_own(
    rules: Sequence[Rule | None],
    donor: Float[Tensor, "prompt place unit"],
    part: _Part,
    values: Float[Tensor, "row token unit"],
) -> Float[Tensor, "row token unit"]:
    """The rows of each change by its rule, at their places."""
    # one more token, which takes what a row without that place is given
    padded = torch.cat([values, values[:, :1]], dim=1).unflatten(0, (len(donor), len(rules)))
    given, prompts = donor.to(values), torch.arange(len(donor))[:, None]
    for number, rule in enumerate(rules):
        if rule is not None:
            own = padded[prompts, number, part.at]
            padded[prompts, number, part.at] = rule(own, given)
    return padded.flatten(0, 1)[:, :-1]
