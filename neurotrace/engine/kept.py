"""Clean runs kept for a whole study: prompts are run once, and what they begin with in common once for all.

`keeping` puts a `Kept` on an engine. Inside the `with`, `Engine.clean` at the last position and
`slopes.prefix_of` take from it. Prompts are added together, best all of a study at once: their tokens form
a tree, and each branch is run once over the keys and values of its stem.

Usage::

    with keeping(engine, memory_gb=2.0):
        engine.kept.add(prompts)      # token ids; optional
        run = engine.clean(ids)       # as without, within rounding
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from neurotrace.engine.attention import Prefix
from neurotrace.engine.edits import Edit, Run
from neurotrace.engine.experts import Sent
from neurotrace.engine.parts import overridden

Tokens = tuple[int, ...]
_TOGETHER = 512  # prompts whose tokens form one tree
_LAST = 192  # prompts whose last positions run together
_PASS = 16  # tokens that a pass costs besides its own


@dataclass(frozen=True)
class _Clean:
    """One prompt's part of a `Run`; keys and values: [head, position, width] for each block."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...] = ()
    sent: tuple[Sent, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    hidden: Tensor | None = None

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in (*self.keys, *self.values, *self.inputs, *self.outputs))

    def copied(self) -> _Clean:
        def copies(own: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(x.clone() for x in own)

        keys, values, inputs = copies(self.keys), copies(self.values), copies(self.inputs)
        return replace(self, keys=keys, values=values, inputs=inputs, outputs=copies(self.outputs))


class Kept:
    """Clean runs of one engine; made by `keeping`.

    Attributes:
        bytes, limit: what is kept, and at most. Beyond it runs are made and not kept.
        passed: tokens that went through the model, of the prompts' `asked`.
    """

    def __init__(self, engine: Any, memory_gb: float) -> None:
        self.engine = engine
        self.limit = int(memory_gb * 2**30)
        self.bytes = self.passed = self.asked = 0
        self.screen: Any = None  # `tops.Screen` over these runs; False: it would save nothing
        self._of: dict[Tokens, _Clean] = {}
        self._layers: dict[int, list[Any]] = {}  # length of the prefix -> its cache's layers
        self._shapes: list[tuple[Any, ...] | None] = []  # what each block returns besides its output
        self._mixes: bool | None = (
            None  # whether prompts of several lengths share a run; None: not yet checked
        )
        self._branches: bool | None = None  # whether stems may be shared; None: not yet checked

    @torch.no_grad()
    def add(self, prompts: Iterable[Any]) -> bool:
        """Run the prompts that are not kept yet, while there is room; those of one token never.

        Returns:
            Whether all are kept now.
        """
        every = {tuple(ids.tolist()) for ids in prompts}
        new = sorted(every - self._of.keys())
        new = [ids for ids in new if len(ids) > 1]
        while new and self.bytes < self.limit:
            some, new = new[:_TOGETHER], new[_TOGETHER:]
            before = self._before({ids[:-1] for ids in some})
            for _, same in groupby(sorted(some, key=len), len):
                rows = list(same)
                for start in range(0, len(rows), _LAST):
                    self._finish(rows[start : start + _LAST], before)
        return every <= self._of.keys()

    def only(self, prompts: Iterable[Any]) -> None:
        """Forget all other prompts."""
        own = {tuple(ids.tolist()) for ids in prompts}
        # copies: what is kept may be a part of tensors of many prompts
        self._of = {ids: clean.copied() for ids, clean in self._of.items() if ids in own}
        self.bytes = sum(clean.bytes for clean in self._of.values())

    def run(self, ids: Tensor) -> Run | None:
        """The run of these prompts, Int[Tensor, "prompt pos"]; None if one of them is not kept."""
        own = self._kept(ids)
        return None if own is None else self._run(ids, own, ids.shape[1] - 1)

    def _run(self, ids: Tensor, own: Sequence[_Clean], last: int, places: Tensor | None = None) -> Run:
        outputs = _stacked([each.outputs for each in own])
        return Run(
            ids,
            (last,),
            last,
            self.engine.path,
            _stacked([each.inputs for each in own]),
            torch.stack([each.hidden for each in own if each.hidden is not None]),
            self._prefix(own, last, self.engine.path == "shared"),
            tuple(
                each if rest is None else (each, *rest)
                for each, rest in zip(outputs, self._shapes, strict=True)
            ),
            places=places,
            sent=tuple(Sent.stack(same) for same in zip(*(each.sent for each in own), strict=True)),
        )

    def mixed(self, prompts: Sequence[Tensor]) -> Run | None:
        """One run of kept prompts of any lengths, at their last tokens; None where that can't be.

        It holds for the shared attention alone, which passes over the places where a shorter prompt has no
        key. On first use a changed row of it is compared with that of a run of one length.
        """
        if self.engine.path != "shared" or not self.add(prompts):
            return None
        if self._mixes is False or not self._branches:
            return None
        if self._mixes is None:
            self._mixes = True  # until compared
            self._mixes = self._mixes_as_alone(prompts)
            return self.mixed(prompts)
        own = [self._of[tuple(ids.tolist())] for ids in prompts]
        device = self.engine.parts.device
        places = torch.tensor([len(ids) - 1 for ids in prompts], device=device)
        last = int(places.max())
        ids = torch.stack([F.pad(ids, (last + 1 - len(ids), 0)) for ids in prompts]).to(device)
        return self._run(ids, own, last, places)

    def _mixes_as_alone(self, prompts: Sequence[Tensor]) -> bool:
        two = [min(prompts, key=len), max(prompts, key=len)]
        if len(two[0]) == len(two[1]):
            return True
        try:
            both = self.mixed(two)
            alone = [self.run(ids[None]) for ids in two]
            assert both is not None
            edit = Edit.set([0], [0], both.inputs[0].abs().max() + 1)
            got = self.engine.sets(both, [edit] * 2)
            expected = torch.cat([self.engine.sets(run, [edit]) for run in alone if run is not None])
        except Exception:  # a model that takes no positions, or any other error of its code
            return False
        bound = 64 * torch.finfo(got.dtype).eps * expected.abs().max()
        return bool(((got - expected).abs() <= bound).all())

    def prefix(self, ids: Tensor, shared: bool = False) -> Prefix | None:
        """The keys and values before the last position, for any attention or `shared`; None as `run`."""
        own = self._kept(ids)
        return None if own is None else self._prefix(own, ids.shape[1] - 1, shared)

    def last_logits(self, ids: Tensor) -> Tensor:
        """Float["prompt vocabulary"] of kept prompts."""
        hidden = [self._of[tuple(row)].hidden for row in ids.tolist()]
        logits: Tensor = self.engine.logits(torch.stack([each for each in hidden if each is not None]))
        return logits

    def _kept(self, ids: Tensor) -> list[_Clean] | None:
        return [self._of[tuple(row)] for row in ids.tolist()] if self.add(ids) else None

    def _prefix(self, own: Sequence[_Clean], length: int, shared: bool) -> Prefix:
        lengths = [each.keys[0].shape[-2] for each in own]
        blank = None
        if len(set(lengths)) > 1:
            device = self.engine.parts.device
            blank = torch.arange(length, device=device) >= torch.tensor(lengths, device=device)[:, None]
            own = [_padded(each, length) for each in own]
        both = _stacked([each.keys for each in own]), _stacked([each.values for each in own])
        layers = []
        for layer, keys, values in zip(self._layers[length], *both, strict=True):
            layer = copy.copy(layer)
            layer.keys, layer.values = keys, values
            layers.append(layer)
        return Prefix(layers, shared, blank)

    def _finish(self, rows: list[Tokens], before: dict[Tokens, _Clean]) -> None:
        """The last position of prompts of one length."""
        ids = torch.tensor(rows, device=self.engine.parts.device)
        own = [before[row[:-1]] for row in rows]
        last = ids.shape[1] - 1
        prefix = self._prefix(own, last, self.engine.path == "shared")
        run = self.engine._record(ids, (last,), self.engine.path, prefix)
        self.passed += len(rows)
        self.asked += ids.numel()
        outputs = [each if isinstance(each, Tensor) else each[0] for each in run.outputs]
        self._shapes = [None if isinstance(each, Tensor) else each[1:] for each in run.outputs]
        for place, (row, clean) in enumerate(zip(rows, own, strict=True)):
            inputs = tuple(x[place] for x in run.inputs)
            sent = tuple(each.of(place) for each in run.sent)
            found = tuple(x[place] for x in outputs)
            self._of[row] = _Clean(clean.keys, clean.values, inputs, sent, found, run.hidden[place])
            self.bytes += self._of[row].bytes

    def _before(self, bodies: set[Tokens]) -> dict[Tokens, _Clean]:
        """Keys and values of each body, its stems run once."""
        found: dict[Tokens, _Clean] = {}
        self._branches = self._same(max(bodies, key=len)) if self._branches is None else self._branches
        begins = _tree(bodies) if self._branches else dict.fromkeys(bodies, 0)
        nodes = sorted(begins, key=lambda body: (begins[body], len(body)))
        for start, same in groupby(nodes, begins.__getitem__):
            for some in self._batches(list(same), start):
                found |= self._pass(some, start, [found[body[:start]] for body in some] if start else [])
        return found

    def _batches(self, bodies: list[Tokens], start: int) -> Iterator[list[Tokens]]:
        """Of bodies in the order of their lengths; padded, where few tokens are lost by that."""
        batch: list[Tokens] = []
        for body in bodies:
            longer = len(body) - len(batch[-1]) if batch else 0
            lost = longer * len(batch) if self._branches else longer * (_PASS + 1)
            if batch and (lost > _PASS or (len(body) - start) * (len(batch) + 1) > self.engine.batch_size):
                yield batch
                batch = []
            batch.append(body)
        yield batch

    def _pass(self, bodies: list[Tokens], start: int, stems: Sequence[_Clean]) -> dict[Tokens, _Clean]:
        cache = None
        if stems:
            cache = DynamicCache()
            both = _stacked([each.keys for each in stems]), _stacked([each.values for each in stems])
            for layer, (keys, values) in enumerate(zip(*both, strict=True)):
                cache.update(keys, values, layer)
        parts = self.engine.parts
        # behind a shorter one some token stands, which no position before it sees
        longest = max(map(len, bodies))
        padded = [[*body[start:], *[body[-1]] * (longest - len(body))] for body in bodies]
        ids = torch.tensor(padded, device=parts.device)
        self.passed += ids.numel()
        with torch.no_grad(), overridden([(parts.unembedding, lambda x: x[..., :1])]):  # no logits needed
            layers = parts.model(ids, past_key_values=cache, use_cache=True).past_key_values.layers
        for length in {len(body) for body in bodies} - set(self._layers):
            self._layers[length] = [_cut(layer, length) for layer in layers]
        return {
            body: _Clean(
                tuple(x.keys[row, :, : len(body)] for x in layers),
                tuple(x.values[row, :, : len(body)] for x in layers),
            )
            for row, body in enumerate(bodies)
        }

    def _same(self, body: Tokens) -> bool:
        """Whether this model's cache is plain, and a body in two passes is the body in one."""
        whole = self._pass([body], 0, [])[body]
        kinds = {type(layer).__name__ for layer in self._layers[len(body)]}
        if kinds != {"DynamicLayer"} or len(body) < 2:
            return False
        start = len(body) // 2
        stem = self._pass([body[:start]], 0, [])[body[:start]]
        branch = self._pass([body], start, [stem])[body]
        bound = 64 * torch.finfo(whole.keys[0].dtype).eps
        return all(
            bool((a - b).abs().max() <= bound * a.abs().max())
            for name in ("keys", "values")
            for a, b in zip(getattr(whole, name), getattr(branch, name), strict=True)
        )


@contextmanager
def keeping(engine: Any | None, memory_gb: float = 4.0) -> Iterator[None]:
    """Inside the `with`, clean runs at the last position are kept. The weights must not change there."""
    if engine is None or engine.kept is not None:
        yield
        return
    engine.kept = Kept(engine, memory_gb)
    try:
        yield
    finally:
        engine.kept = None


def _tree(bodies: set[Tokens]) -> dict[Tokens, int]:
    """Node (its tokens from the very start) -> where it begins: where the stem before it ends.

    All that begin at one place run together; a place that saves fewer than `_PASS` tokens is left out.
    """
    begins: dict[Tokens, int] = {}
    groups = [(sorted(bodies), 0)]
    while groups:
        group, start = groups.pop()
        longer = [body for body in group if len(body) > start]
        for _, same in groupby(longer, itemgetter(start)):
            branch = list(same)
            end = _common(branch[0], branch[-1])
            begins[branch[0][:end]] = start
            groups.append((branch, end))
    for place in sorted(set(begins.values()) - {0}):
        stems = [node for node in begins if len(node) == place and node not in bodies]
        after = [node for node, start in begins.items() if start == place]
        spared = sum(place - begins[node[:place]] for node in after)
        if spared - sum(place - begins[node] for node in stems) < _PASS:
            begins |= {node: begins[node[:place]] for node in after}
            for node in stems:
                del begins[node]
    return begins


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens two bodies begin with in common."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _stacked(each: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """For each block the prompts' tensors together."""
    return tuple(torch.stack(same) for same in zip(*each, strict=True))


def _cut(layer: Any, length: int) -> Any:
    """A layer's cache of the first positions."""
    layer = copy.copy(layer)
    layer.keys, layer.values = layer.keys[:1, :, :length], layer.values[:1, :, :length]
    return layer


def _padded(clean: _Clean, length: int) -> _Clean:
    """With zeros behind its keys and values."""
    more = (0, 0, 0, length - clean.keys[0].shape[-2])
    return _Clean(tuple(F.pad(x, more) for x in clean.keys), tuple(F.pad(x, more) for x in clean.values))
