"""Whether a token is a row's top-1, for many changed rows: the answers of full logits, for less.

`is_top` asks first the tokens that were on top before: one of them that is ahead settles a row.

`Screen` runs the rows in bf16 first, where the processor is fast at it. Each Linear, the unembedding too,
computes its clean output plus W·bf16(change) (`modules.Delta`), so its error grows with the change. A row
is settled if its token is ahead or behind by more than `slack` times the norm of the change of the
unembedding's input; all others are run again in full precision. `slack` is four times the largest error of
a margin, per norm, that was seen: on the first rows, which all run twice, and on every row run again since.
So an answer differs from full precision only where an error is four times any seen so far.

Usage::

    with keeping(engine):
        run = engine.kept.mixed(prompts)
        is_top(engine, engine.sets(run, edits), tokens)         # Bool["row"]
        Screen.of(engine).tops(prompts, run, edits, tokens)[0]  # the same
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurotrace.engine.edits import Edit, Run
from neurotrace.engine.experts import Neurons
from neurotrace.engine.modules import Delta, bf16_missing, linears
from neurotrace.engine.parts import seen_once

_RIVALS = 512  # maximum number of tokens that are asked first
_LOGITS = 2**23  # numbers held at the same time: what a processor keeps near it
_ROUNDING = 1e-4  # of a logit: products of other shapes are rounded otherwise
_FIRST = 96  # rows that all run twice, by which errors are known
_SAFETY = 4  # times the largest error seen
_AGAIN = 256  # rows that run again together
_LEAST = 192  # rows: of fewer, those that run again cost as much as all
_HELD = 2**28  # bytes, of what the prompts' Linear modules take and give
_COPIES = 2**31  # bytes: no screen where bf16 copies of the weights would take more


@torch.no_grad()
def is_top(engine: Any, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Bool["row"]: whether `tokens[row]` has the highest logit of the row.

    Rows in which no token that was on top before is ahead are answered from all logits, so the answers are
    those of `argmax`.

    Args:
        hidden: Float[Tensor, "row d_model"], as `Engine.sets` returns it.
        tokens: Int[Tensor, "row"].
    """
    tokens = tokens.to(hidden.device)
    found = torch.zeros(len(tokens), dtype=torch.bool, device=hidden.device)
    rest = torch.arange(len(tokens), device=hidden.device)
    if engine.plain_tail and engine.rivals:
        own, first = _own_and_rivals(engine, hidden, tokens)
        rest = (first <= own + _ROUNDING * (1 + own.abs())).nonzero()[:, 0]
    for some in rest.split(max(1, _LOGITS // len(engine.parts.unembedding.weight))):
        tops = engine.logits(hidden[some]).argmax(dim=-1)
        found[some] = tops == tokens[some]
        _remember(engine, tops)
    return found


def _own_and_rivals(engine: Any, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Float["row"] twice: the token's own logit, and the highest of those that were on top before."""
    own = engine.logits(hidden, tokens[:, None])[:, 0]
    rivals = torch.tensor(list(engine.rivals), device=hidden.device)
    logits = engine.logits(hidden, rivals)
    logits = logits.masked_fill(rivals == tokens[:, None], float("-inf"))
    return own, logits.amax(dim=-1)


def _remember(engine: Any, tops: Tensor) -> None:
    for token in dict.fromkeys(tops.tolist()):
        engine.rivals.pop(token, None)
        engine.rivals[token] = None  # the latest last
    for token in list(engine.rivals)[:-_RIVALS]:
        del engine.rivals[token]


class Screen:
    """Top-1 questions in bf16 first (see the file's docstring), over runs that a `Kept` has made.

    Attributes:
        slack: by how much a margin may be off, per norm of the change of the unembedding's input.
        asked, again: rows so far, and how many of them ran in full precision, too.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.delta = Delta(linears(engine.parts.blocks))
        self.unembedding = engine.parts.unembedding.weight.detach().to(torch.bfloat16)
        self.slack = 0.0
        self.asked = self.again = 0
        self._bytes = 0  # of one prompt
        self._of: dict[tuple[int, ...], dict[nn.Module, tuple[Tensor, Tensor]]] = {}  # of each prompt

    @classmethod
    def of(cls, engine: Any, rows: int = _LEAST) -> Screen | None:
        """That of the engine's kept runs; None where it would save nothing at so many rows."""
        if engine.kept is None or rows < _LEAST:
            return None
        if engine.kept.screen is None:
            engine.kept.screen = cls(engine) if _saves(engine) else False
        own: Screen | None = engine.kept.screen or None
        return None if own is None or own.again > max(4 * _FIRST, own.asked / 2) else own

    @torch.no_grad()
    def tops(
        self, prompts: Sequence[Tensor], run: Run, edits: Sequence[Edit], tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whether each row's token is its top-1.

        Args:
            prompts: those of `run`, which `Kept.mixed` has made.
            edits: one a row, in prompt order, equally many for each prompt.
            tokens: Int["row"].

        Returns:
            Bool["row"]; and Float["row d_model"], the unembedding's input, of settled rows nearly.
        """
        tokens = tokens.to(run.hidden.device)
        of = torch.arange(len(prompts), device=tokens.device)
        of = of.repeat_interleave(len(edits) // len(prompts))
        hidden = self.engine.sets(self._recorded(prompts, run), edits)
        size = (hidden - run.hidden[of]).norm(dim=-1)
        margins, whole = self._margins(run, hidden, of, tokens, size)
        found, known = margins > 0, torch.zeros_like(margins, dtype=torch.bool)
        if self.asked:
            unsure = ~self._settled(margins, size)
        else:
            unsure = torch.arange(len(edits), device=of.device) % max(1, len(edits) // _FIRST) == 0
        while unsure.any():
            for rows in unsure.nonzero()[:, 0].split(_AGAIN):
                hidden[rows], exact = self._exactly(run, edits, of, rows, tokens)
                found[rows], known[rows] = exact > 0, True
                errors = ((margins[rows] - exact).abs() / size[rows].clamp_min(_ROUNDING))[whole[rows]]
                self.slack = max([self.slack, *(_SAFETY * errors[torch.isfinite(errors)]).tolist()])
                self.again += len(rows)
            unsure = ~known & ~self._settled(margins, size)
        self.asked += len(edits)
        return found, hidden

    def _settled(self, margins: Tensor, size: Tensor) -> Tensor:
        """Of a margin that is no number: False."""
        return margins.abs() > self.slack * size + _ROUNDING * (1 + margins.abs())

    def _recorded(self, prompts: Sequence[Tensor], run: Run) -> Run:
        """The run with the clean input and output of each Linear."""
        keys = [tuple(ids.tolist()) for ids in prompts]
        if len(self._of) * self._bytes > _HELD:
            self._of.clear()
        if new := list(dict.fromkeys(key for key in keys if key not in self._of)):
            self._record(new)
        own = [self._of[key] for key in keys]
        both = {
            module: (torch.stack([of[module][0] for of in own]), torch.stack([of[module][1] for of in own]))
            for module in own[0]
        }
        return replace(run, linears=both, delta=self.delta)

    def _record(self, prompts: Sequence[tuple[int, ...]]) -> None:
        run = self.engine.kept.mixed([torch.tensor(ids) for ids in prompts])
        both: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        hooks = seen_once(self.delta.weights, (len(prompts), 1), both)
        places = None if run.places is None else run.places[:, None]
        self.engine._forward(run.ids[:, run.start :], run.prefix, hooks, shared=True, places=places)
        for place, ids in enumerate(prompts):
            self._of[ids] = {module: (x[place], y[place]) for module, (x, y) in both.items()}
        self._bytes = sum(x[0].nbytes + y[0].nbytes for x, y in both.values())

    def _margins(
        self, run: Run, hidden: Tensor, of: Tensor, tokens: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Float["row"], the token's logit minus the highest other one, in nats; and Bool["row"]: of all.

        Once errors are known, the tokens that were on top before come first, and where one of them is far
        enough ahead the margin is that to them.
        """
        margins = torch.zeros_like(size)
        rest = torch.arange(len(size), device=size.device)
        if self.asked and self.engine.rivals:
            own, first = _own_and_rivals(self.engine, hidden, tokens)
            margins = own - first
            rest = (~((margins < 0) & self._settled(margins, size))).nonzero()[:, 0]
        whole = torch.zeros_like(margins, dtype=torch.bool).index_fill_(0, rest, True)
        if not len(rest):
            return margins, whole
        clean, tops = self.engine.logits(run.hidden), torch.zeros_like(tokens)
        for some in rest.split(max(1, _LOGITS // len(self.unembedding))):
            change = (hidden[some] - run.hidden[of[some]]).to(torch.bfloat16)
            logits = F.linear(change, self.unembedding).float()
            for row, prompt in zip(logits, of[some].tolist(), strict=True):
                row += clean[prompt]
            margins[some], tops[some] = _ahead(logits, tokens[some])
        _remember(self.engine, tops[rest])
        return margins, whole

    def _exactly(
        self, run: Run, edits: Sequence[Edit], of: Tensor, rows: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The unembedding's input and the margins of these rows in full precision."""
        hidden = self.engine.sets(run.at(of[rows]), [edits[row] for row in rows.tolist()])
        margins, tops = _ahead(self.engine.logits(hidden), tokens[rows])
        _remember(self.engine, tops)
        return hidden, margins


def _saves(engine: Any) -> bool:
    """Whether bf16 is faster here, and its copies of the weights are not too large."""
    parts = engine.parts
    if engine.path != "shared" or not engine.plain_tail or engine.delta is not None:
        return False
    if bf16_missing(parts.device) or isinstance(parts.projections[0], Neurons):
        return False  # a mixture's router may send a token elsewhere for an error of any size
    weights = [module.weight for module in linears(parts.blocks)] + [parts.unembedding.weight]
    plain = len(weights) > 1 and parts.unembedding.weight.dtype == torch.float32
    return plain and 2 * sum(weight.numel() for weight in weights) <= _COPIES


def _ahead(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Float["row"], the token's logit minus the highest other one; and Int["row"], that other token.

    Changes `logits`.
    """
    own = logits.gather(-1, tokens[:, None])
    others, tops = logits.scatter_(-1, tokens[:, None], float("-inf")).max(dim=-1)
    return own[:, 0] - others, tops
