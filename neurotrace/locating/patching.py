"""Reads, differentiates and patches sites at given places of two sets of pairs.

Whole answers are written behind the prompt; only the prompt's tokens are patched. Slopes are those of each
answer's first accepted form, flips count all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction, Side
from neurotrace.decoding.endings import WordEnds
from neurotrace.decoding.places import Where, in_tail
from neurotrace.decoding.sequences import Judged, judge
from neurotrace.decoding.spans import places_named
from neurotrace.engine import metrics
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Point, Site, inspect_model
from neurotrace.models.origins import tokenizer_of
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
            part: places_named(tokenizer_of(model), pairs, where, at_most)
            for part, pairs in (("train", train), ("test", test))
        }
        self.width = max(each.width for each in both.values())
        self.parts = {
            (part, side): [
                self._part(rows, ids, places.at[side])
                for rows, ids in _alike(getattr(self, part), side, batch_size)
            ]
            for part, places in both.items()
            for side in SIDES
        }
        self._values: dict[tuple[str, Side], Values] = {}
        self._plain: dict[tuple[Side, Side | None], Values] = {}  # slopes of runs without a change

    @property
    def least(self) -> int:
        """The fewest places of a pair."""
        return min(each.least for each in self.places.values())

    def values(self, part: Literal["train", "test"], side: Side) -> Values:
        """The prompts' own values, of one side; read once."""
        if not set(self.points) <= self._values.get((part, side), {}).keys():
            self._values[part, side] = self._read(part, side)
        return self._values[part, side]

    @property
    def present(self) -> Int[Tensor, " place"]:
        """Number of training pairs that have each place."""
        counts = [len(each) for each in self.places["train"].at["reasoning"]]
        return (torch.tensor(counts)[:, None] >= torch.arange(self.width, 0, -1)).sum(0)

    def _part(self, rows: list[int], ids: Tensor, at: Sequence[tuple[int, ...]]) -> _Part:
        read, places = in_tail([at[row] for row in rows], self.width)
        return _Part(rows, tail_of(self.model, ids, read), places)

    def _read(self, name: Literal["train", "test"], side: Side) -> Values:
        found: Values = {}
        for part in self.parts[name, side]:
            for point, values in read_sites(self.model, part.tail, self.points).items():
                own = part.taken(values)
                shape = len(getattr(self, name)), *own.shape[1:]
                found.setdefault(point, torch.empty(shape))[part.rows] = own
        return found

    def slopes(
        self,
        side: Side,
        points: Sequence[Point] = (),
        progress: Progress = None,
        *,
        answer: Side | None = None,
        change: Change | None = None,
    ) -> Values:
        """d / d value on the training prompts of one side, [pair place unit].

        Args:
            answer: differentiate log p(this side's answer); None: L.
            change: made before, with the other side's values.
        """
        points = points or self.points
        if change or not set(points) <= set(self.points):
            return self._sloped(side, points, answer, change or {}, progress)
        if not set(points) <= self._plain.get((side, answer), {}).keys():  # of all points in one pass
            self._plain[side, answer] = self._sloped(side, self.points, answer, {}, progress)
        return {point: self._plain[side, answer][point] for point in points}

    def _sloped(
        self, side: Side, points: Sequence[Point], answer: Side | None, change: Change, progress: Progress
    ) -> Values:
        found: Values = {}
        given = self.values("train", SIDES[SIDES.index(side) - 1]) if change else {}
        for part in over(progress, self.parts["train", side], "gradients of sites"):
            done = {
                point: partial(_each_its_own, [rule], given[point][part.rows], part)
                for point, rule in change.items()
            }
            for point, slope in self._slopes(part, points, answer, done).items():
                taken = part.taken(slope)
                shape = len(self.train), *taken.shape[1:]
                found.setdefault(point, torch.empty(shape))[part.rows] = taken
        return found

    def _slopes(
        self, part: _Part, points: Sequence[Point], answer: Side | None, done: Mapping[Point, Any]
    ) -> Values:
        both = [answers_of(self.train, row) for row in part.rows]
        memorized, reasoned = (torch.tensor(each) for each in zip(*both, strict=True))
        if answer is None and memorized.shape[1] == reasoned.shape[1] == 1:
            metric = partial(metrics.logit_difference, memorized=memorized[:, 0], reasoned=reasoned[:, 0])
            return site_slopes(self.model, part.tail, points, metric, done)[1]
        terms: list[tuple[int, Tensor]] = [(1, memorized)] if answer != "reasoning" else [(1, reasoned)]
        terms += [(-1, reasoned)] if answer is None else []
        found: Values = {}
        for sign, tokens in terms:
            metric = partial(metrics.sequence_log_probability, tokens=tokens)
            tail = part.tail.followed(tokens[:, :-1])
            for point, slope in site_slopes(self.model, tail, points, metric, done)[1].items():
                found[point] = found[point] + sign * slope if point in found else sign * slope
        return found

    def flips(
        self, changes: Sequence[Change], donor: Side, progress: Progress = None
    ) -> tuple[Float[Tensor, "change pair"], Bool[Tensor, "change pair"]]:
        """(change of L, whether the donor's answer is written) on each held-out pair."""
        recipient = Direction.from_donor(donor).recipient
        wanted = self.test.reasoned if donor == "reasoning" else self.test.memorized
        after = torch.empty(len(changes), len(self.test))
        wrote = torch.empty(len(changes), len(self.test), dtype=torch.bool)
        for part in over(progress, self.parts["test", recipient] if changes else [], "patching sites"):
            values = self.values("test", donor)
            given = {point: each[part.rows] for point, each in values.items()}
            if self.test.answers is not None:
                judged = self._judged(part, changes, given, recipient)
                after[:, part.rows] = judged.log_p[0] - judged.log_p[1]
                wrote[:, part.rows] = judged.wrote[1 if donor == "reasoning" else 0]
                continue
            answers = self.test.memorized[part.rows], self.test.reasoned[part.rows]
            for place, logits in self._changed(part, changes, given):
                after[place, part.rows] = metrics.logit_difference(logits, *answers)
                wrote[place, part.rows] = logits.argmax(-1) == wanted[part.rows]
        return after - self.test.behaviour(recipient).logit_difference, wrote

    def _judged(self, part: _Part, changes: Sequence[Change], given: Values, recipient: Side) -> Judged:
        """Whole answers behind these prompts, under each change."""
        assert self.test.answers is not None
        prompts = torch.stack([self.test.ids(recipient)[row] for row in part.rows])

        def run(
            rows: list[int], tokens: Int[Tensor, "row token"]
        ) -> Iterator[tuple[int, Float[Tensor, "row position vocab"]]]:
            every = rows == list(range(len(part.rows)))
            tail = part.tail if every else tail_of(self.model, prompts[rows], part.tail.read)
            own = _Part(rows, tail.followed(tokens), part.at[rows])
            values = {point: each[rows] for point, each in given.items()}
            for number, logits in self._changed(own, changes, values):
                yield number, logits if tokens.shape[1] else logits[:, None]

        answers = [self.test.answers[row] for row in part.rows]
        likely = 1 if recipient == "memorization" else 0
        return judge(answers, run, len(changes), WordEnds(tokenizer_of(self.model)), likely=likely)

    def damage(
        self, changes: Sequence[Change], donor: Side, texts: Sequence[Tensor], progress: Progress = None
    ) -> list[float]:
        """Mean KL(before || after) of the next token after neutral texts, nats.

        There is no donor run, and nothing that differs: the donor side's means over training pairs,
        [place unit], are put at as many last tokens of the text, or at all of its tokens where it has
        fewer. NaN without texts.
        """
        if not texts or not changes:
            return [float("nan")] * len(changes)
        count = self.present.clamp(min=1)[:, None]
        means = {point: each.sum(0) / count for point, each in self.values("train", donor).items()}
        found = torch.empty(len(changes), len(texts))
        batches = list(by_length(texts, 32))
        for rows, ids in over(progress, batches, "damage"):
            read = min(int(self.present.count_nonzero()), ids.shape[1])
            at = torch.arange(read).expand(len(ids), -1)
            part = _Part(rows, tail_of(self.model, ids, read), at)
            given = {point: values[-read:].expand(len(ids), -1, -1) for point, values in means.items()}
            clean = end_logits(self.model, ids, 1)[:, -1].float().cpu()
            for place, logits in self._changed(part, changes, given):
                found[place, rows] = metrics.kl(clean, logits)
        return found.mean(dim=1).tolist()

    def _changed(
        self, part: _Part, changes: Sequence[Change], given: Values
    ) -> Iterator[tuple[int, Float[Tensor, "prompt *token vocab"]]]:
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


def answers_of(pairs: EncodedPairs, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the memorized and the reasoned answer, as they are read; of several forms the first."""
    if pairs.answers is None:
        return (int(pairs.memorized[row]),), (int(pairs.reasoned[row]),)
    memorized, reasoned = pairs.answers[row]
    return memorized[0], reasoned[0]


def _alike(pairs: EncodedPairs, side: Side, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts of one length whose answers have equally many tokens: (rows, ids)."""
    for rows, ids in by_length(pairs.ids(side), batch_size):
        sizes: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            sizes.setdefault(tuple(map(len, answers_of(pairs, row))), []).append(place)
        for places in sizes.values():
            yield [rows[place] for place in places], ids[places]


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
