"""Resume a clean forward pass where an intervention begins, for many interventions at once.

An intervention on MLP neurons of block l at position t leaves everything before (l, t) as it was in
the clean run. So, for C interventions on one prompt:

1. *Clean run*, once: the keys and values of the prefix (the positions before the first changed one)
   and, from there on, every block's output and every neuron's activation.
2. *Enter*: block l runs once, at batch 1; what its MLP wrote is *widened* to C rows, each with its own
   neuron's change `(a' - a)·W_out[i]`, and the rest of the block (norms, multipliers, residual sums)
   runs on the C rows. A set of neurons changes the input of `W_out` instead.
3. *Resume*: the model is called with the suffix tokens, C rows. Blocks below l return their clean
   output as a constant; blocks above run as they are, over the prefix's keys and values.
4. *Read out*: the input of the unembedding is the result. Logits come from the requested rows of the
   unembedding, and from the model's own code behind it (soft cap, scale).

This file knows no architecture: the model's own `forward` does everything (its norms, positions and
masks), with the `forward` of a few modules overridden for one call. `proof.engine` compares with full
hooked passes before it returns, and falls back from *shared* to *frozen* to *naive* (`attention.py`;
naive = full passes) with a warning that gives the reason.

Usage::

    engine = proof.engine(hf_model)                      # .path, .reason; warns where it degraded
    run = engine.clean(ids)                              # ids: Int[Tensor, "pos"] or "prompt pos"
    run.activations                                      # Float["prompt layer neuron"], final token
    hidden = engine.single(run, layer, index, values)    # Float["row d_model"]: a'[index[c]]=values[c]
    hidden = engine.sets(run, [Edit.set(layers, indices, values), ...])      # one row an Edit
    engine.logit_difference(hidden, memorized_id, reasoned_id)               # Float["row"]
    engine.logits(hidden)                                # Float["row vocabulary"]; or tokens=[...]
    engine.logits(run.hidden)                            # the clean run's

`hidden` is the input of the unembedding behind the final norm, at the last position or, "row read d_model",
at the last `read` ones. Rows are in prompt order: prompt 0's, then prompt 1's. Prompts of one run have one
length (no padding).
Edits act at the last position, or at `clean(ids, positions=[...])`, or at `positions="all"`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurotrace.engine.attention import Prefix, PrefixError, attention_shared, spread
from neurotrace.engine.edits import Edit, Map, Path, Run, affine, affine_by_layer, together
from neurotrace.engine.experts import Neurons, frozen, only_routed, where_routed
from neurotrace.engine.modules import Delta, Forward, fused
from neurotrace.engine.parts import Parts, always, hooked, overridden, rows_at, seen_once

BATCH = 1536  # tokens a pass: above a thousand the rate of a matmul stops rising


class Engine:
    """Changed rows over a clean run; made by `proof.engine`, which has checked `path` on this model.

    Attributes:
        path, reason: the method at the last position, and why the faster ones were rejected.
        error: the largest error of any logit in the check, nats.
        batch_size: maximum number of tokens in one pass; halved when memory runs out.
        precision: "exact", or "fast" where `delta` holds the model's bf16 weights.
    """

    def __init__(
        self,
        parts: Parts,
        path: Path,
        *,
        batch_size: int = BATCH,
        widen: bool = True,
        light: bool = True,
        prove_early: Callable[[Engine], Path] | None = None,
    ) -> None:
        self.parts = parts
        self.path = path
        self.reason = ""
        self.error = 0.0
        self.batch_size = batch_size
        self.widen = widen
        self.fused = fused(parts.blocks) if light and path != "naive" else []
        self.delta: Delta | None = None
        self.plain_tail = False  # True: logits are the unembedding's output, nothing behind it
        self.early: Path | None = None  # the method for earlier positions, once checked
        self.prove_early = prove_early  # finds it; without one, only the last position works
        self.rivals: dict[int, None] = {}  # tokens that were on top, for `tops.is_top`
        self.routing: Literal["free", "frozen"] = "free"  # of a mixture's changed rows
        self.kept: Any = None  # clean runs, while `kept.keeping` is on

    @property
    def precision(self) -> Literal["exact", "fast"]:
        return "exact" if self.delta is None else "fast"

    @torch.no_grad()
    def clean(
        self, ids: Tensor, positions: Sequence[int] | Literal["all"] | None = None, *, read: int = 1
    ) -> Run:
        """Run prompts unchanged and keep the values that changed rows need.

        Args:
            ids: Int[Tensor, "pos"] or Int[Tensor, "prompt pos"].
            positions: where edits act; None: the last; "all"; or a list (negative: from the end).
            read: number of positions at the end whose `hidden` is returned.

        Raises:
            ValueError: empty ids, positions outside the prompt, one read before the first edit, NaN.
        """
        ids = torch.as_tensor(ids, device=self.parts.device)
        ids = ids[None] if ids.dim() == 1 else ids
        if not ids.numel():
            raise ValueError("a run needs at least one prompt of at least one token")
        length = ids.shape[-1]
        if positions is None or positions == "all":
            positions = range(length) if positions else (length - 1,)
        if not len(positions) or any(not -length <= p < length for p in positions):
            raise ValueError(f"positions {tuple(positions)} of a prompt of {length} tokens")
        positions = tuple(sorted({p % length for p in positions}))
        if not 1 <= read <= length - positions[0]:
            raise ValueError(f"read={read} of {length} positions, and edits from {positions[0]} on")
        path = self.path
        if positions != (length - 1,):
            path = self._early()
        run, prefix, at_read = None, None, positions[0] == length - read
        if self.kept is not None and at_read and path != "naive" and not self.delta:
            if read == 1:
                run = self.kept.run(ids)
            else:  # tokens behind a prompt that is kept
                prefix = self.kept.prefix(ids[:, : 1 - read], shared=path == "shared")
        run = run or self._record(ids, positions, path, prefix, read)
        if not torch.isfinite(run.hidden).all():
            raise ValueError("the clean run is not finite: the model's activations hold NaN or inf")
        return run

    def _early(self) -> Path:
        """The method for edits before the last position; checked on first use."""
        if self.early is None:
            if self.prove_early is None:
                raise ValueError("this engine was made without a proof for earlier positions")
            self.early = self.prove_early(self)
        return self.early

    def _record(
        self, ids: Tensor, positions: tuple[int, ...], path: Path, prefix: Any = None, read: int = 1
    ) -> Run:
        start = 0 if path == "naive" else positions[0]
        if start and prefix is None:
            with overridden([(self.parts.unembedding, lambda x: x[..., :1])]):  # no logits needed
                cache = self.parts.model(ids[:, :start], use_cache=True).past_key_values
            prefix = Prefix(cache.layers, shared=path == "shared")
        shape = len(ids), ids.shape[1] - start
        where = torch.tensor(positions, device=ids.device) - start
        inputs, outputs, calls, sent = [], [], [], []
        both: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def see_input(module: nn.Module, args: tuple, _: dict) -> None:
            inputs.append(args[0].reshape(*shape, -1)[:, where])
            if isinstance(module, Neurons):
                sent.append(module.sent(shape, where))

        hooks: list[Any] = [(p, "input", see_input) for p in self.parts.projections]
        if path != "naive":
            hooks += [(b, "input", lambda _, a, k: calls.append((a, k))) for b in self.parts.blocks]
            hooks += [(b, "output", lambda _, a, y: outputs.append(y)) for b in self.parts.blocks]
            hooks += seen_once(self.delta.weights, shape, both) if self.delta else []
        hidden = self._forward(ids[:, start:], prefix, hooks, shared=path == "shared", read=read)
        if len(inputs) != len(self.parts.blocks):
            raise PrefixError(f"{len(inputs)} of {len(self.parts.blocks)} projections were called")
        kept = (prefix, tuple(outputs), tuple(calls), both, None, read, tuple(sent))
        return Run(ids, positions, start, path, tuple(inputs), hidden, *kept)

    @torch.no_grad()
    def single(self, run: Run, layer: int, index: Tensor, values: Tensor, *, exact: bool = False) -> Tensor:
        """One neuron a row, all in one layer: neuron index[c] of `layer` becomes values[c].

        Args:
            index: Int[Tensor, "c"].
            values: Float[Tensor, "c"], "c position" (one for each of the run's positions) or
                "prompt c position".
            exact: float32 even if the engine is fast.

        Returns:
            Float[Tensor, "row d_model"], c rows a prompt in prompt order.
        """
        prompts, count = len(run.ids), len(index)
        index, values = index.to(run.ids.device), values.to(run.ids.device)
        if values.dim() < 3:
            values = values.reshape(1, count, -1)
        values = values.expand(prompts, count, len(run.positions))

        def set_each(part: slice) -> Tensor:
            units = index[part].repeat(prompts)
            rows = torch.arange(len(units), device=units.device)
            to = values[:, part].reshape(len(units), -1)
            change = affine(rows, units, torch.zeros_like(to[:, 0]), to, run.where)
            return self._edited(run, len(units), {layer: change}, exact)

        routed = where_routed(self.parts.projections[layer], run, layer, index)
        if routed is not None and not routed.any(dim=1).any(dim=0).all():
            return only_routed(self, run, layer, index, values, routed, exact)

        def widen(part: slice) -> Tensor:
            change = values[0, part] - run.inputs[layer][0][:, index[part]].t()
            if routed is not None:
                change = change * routed[0][:, part].t()
            written = rows_at(self.parts.projections[layer], index[part])
            return self._widened(run, layer, change[..., None] * written[:, None], exact)

        one_by_one = run.path == "naive" or not self.widen or prompts > 1 or not run.calls
        return self._chunks(run, count, set_each if one_by_one else widen)

    @torch.no_grad()
    def sets(self, run: Run, edits: Sequence[Edit], *, exact: bool = False) -> Tensor:
        """One `Edit` a row, in prompt order, equally many for each of the run's prompts.

        Returns:
            Float[Tensor, "row d_model"], or "row read d_model".

        Raises:
            ValueError: the number of edits is not a multiple of the number of prompts.
        """
        prompts = len(run.ids)
        if not edits or len(edits) % prompts:
            raise ValueError(f"{len(edits)} edits for {prompts} prompts: pass as many for each")
        count, depth = len(edits) // prompts, len(self.parts.blocks)
        firsts = [
            min((int(each.layers.min()) for each in edits[at::count] if len(each.layers)), default=depth)
            for at in range(count)
        ]
        found: Tensor | None = None
        for group in together(firsts, depth, prompts) if run.path != "naive" else [range(count)]:

            def perform(part: slice, group: Sequence[int] = group) -> Tensor:
                own = [edits[p * count + at] for p in range(prompts) for at in group[part]]
                return self._edited(run, len(own), affine_by_layer(own, run.where), exact)

            hidden = self._chunks(run, len(group), perform).unflatten(0, (prompts, len(group)))
            if found is None:
                found = hidden.new_empty(prompts, count, *hidden.shape[2:])
            found[:, list(group)] = hidden
        assert found is not None
        return found.flatten(0, 1)

    def _edited(self, run: Run, rows: int, maps: dict[int, Map], exact: bool) -> Tensor:
        """Rows whose projections' inputs go through `maps`."""

        def hook(edit: Map) -> Callable:
            def change(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
                x = args[0]
                y = edit(x.reshape(rows, -1, x.shape[-1]).clone())
                return (y.view(x.shape), *args[1:]), kwargs

            return change

        hooks = [(self.parts.projections[at], "input", hook(edit)) for at, edit in maps.items()]
        first = min(maps, default=len(self.parts.blocks))
        ids = spread(run.ids[:, run.start :], rows)
        places = None if run.places is None else spread(run.places[:, None], rows)
        lighter = [*self._lighter(run, exact), *self._constants(run, first, rows)]
        with frozen(self, run, rows), overridden(lighter):
            return self._forward(
                ids, run.prefix, hooks, shared=run.path == "shared", read=run.read, places=places
            )

    def _widened(self, run: Run, layer: int, written: Tensor, exact: bool) -> Tensor:
        """Rows in which the MLP of `layer` wrote `written` [row, position, d_model] more."""
        rows, block, where = len(written), self.parts.blocks[layer], run.where
        args, kwargs = run.calls[layer]
        own = block.forward

        def widen(_: nn.Module, __: tuple, result: Any) -> Any:
            y, *rest = result if isinstance(result, tuple) else (result,)
            y = y.expand(rows, *y.shape[1:]).clone()
            y[:, where] += written.to(y.dtype)
            return (y, *rest) if isinstance(result, tuple) else y

        def enter(*_: Any, **__: Any) -> Any:
            with hooked([(self.parts.writers[layer], "output", widen)]):
                return own(*args, **kwargs)

        ids = spread(run.ids[:, run.start :], rows)
        lighter = [*self._lighter(run, exact), *self._constants(run, layer, rows), (block, enter)]
        with frozen(self, run, rows, layer), overridden(lighter):
            return self._forward(ids, run.prefix, (), shared=run.path == "shared", read=run.read)

    def _lighter(self, run: Run, exact: bool) -> list[Forward]:
        """The lighter modules for changed rows; the clean run uses the model's own."""
        if run.path == "naive":
            return []
        delta = run.delta or self.delta
        return self.fused + (delta.forwards(run.linears) if delta and not exact else [])

    def _constants(self, run: Run, first: int, rows: int) -> Iterator[Forward]:
        """Blocks below `first`, each returning its clean output for `rows` rows."""
        if run.path == "naive":
            return
        for block, clean in zip(self.parts.blocks[:first], run.outputs, strict=False):
            residual, *rest = clean if isinstance(clean, tuple) else (clean,)
            residual = spread(residual, rows)
            constant = (residual, *rest) if isinstance(clean, tuple) else residual
            yield block, always(constant)

    def _forward(
        self, ids: Tensor, prefix: Any, hooks: Iterable, *, shared: bool, read: int = 1, places: Any = None
    ) -> Tensor:
        """The unembedding's input at the last position, [row, d_model]; or [row, read, d_model]."""
        seen: list[Tensor] = []

        def see(x: Tensor) -> Tensor:  # in place of the unembedding: these logits are not used
            seen.append(x[:, -1] if read == 1 else x[:, -read:])
            return x[..., :1]

        with ExitStack() as stack:
            if shared and prefix is not None:
                stack.enter_context(attention_shared(self.parts.model))
            stack.enter_context(overridden([(self.parts.unembedding, see)]))
            stack.enter_context(hooked(hooks))
            if prefix is None:
                self.parts.model(ids, use_cache=False)
            else:
                prefix.start()
                where = {} if places is None else {"position_ids": places}
                self.parts.model(ids, past_key_values=prefix, use_cache=True, **where)
                prefix.finish()
        if len(seen) != 1:
            raise PrefixError(f"the unembedding was called {len(seen)} times, expected once")
        return seen[0]

    def _chunks(self, run: Run, count: int, rows: Callable[[slice], Tensor]) -> Tensor:
        """`rows(slice)` over `count` rows a prompt, in batches; halves them when memory runs out."""
        prompts, tokens = len(run.ids), run.ids.numel() - run.start * len(run.ids)
        parts: list[Tensor] = []
        at = 0
        while at < count:
            most = max(1, self.batch_size // tokens)
            batches = math.ceil((count - at) / most)
            size = math.ceil((count - at) / batches)  # of nearly equal size
            try:
                got = rows(slice(at, min(at + size, count)))
            except RuntimeError as error:
                full = isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)
                if not full or size == 1:
                    raise
                self.batch_size = size * tokens // 2
                continue
            parts.append(got.reshape(prompts, -1, *got.shape[1:]))
            at += size
        return torch.cat(parts, dim=1).flatten(0, 1)

    @torch.no_grad()
    def logits(self, hidden: Tensor, tokens: Any = None) -> Tensor:
        """`logits_of`, without gradients."""
        return self.logits_of(hidden, tokens)

    def logits_of(self, hidden: Tensor, tokens: Any = None) -> Tensor:
        """The model's logits for `hidden`.

        Args:
            hidden: Float[Tensor, "row d_model"] or "row read d_model".
            tokens: None: the whole vocabulary; Int "k": these for every row; Int "row k": each
                row's own (of one position).

        Returns:
            Float[Tensor, "row vocabulary"], "row k" or "row read ...", soft cap and scale included.
        """
        if hidden.dim() == 3:
            return self.logits_of(hidden.flatten(0, 1), tokens).unflatten(0, hidden.shape[:2])
        unembedding = self.parts.unembedding
        if tokens is None:
            raw = unembedding(hidden)
        else:
            tokens = torch.as_tensor(tokens, device=hidden.device)
            weight, bias = unembedding.weight[tokens], getattr(unembedding, "bias", None)
            each = tokens.dim() == 2
            raw = (weight @ hidden[..., None])[..., 0] if each else hidden @ weight.t()
            raw = raw if bias is None else raw + bias[tokens]
        return raw if self.plain_tail else self._behind_unembedding(raw)

    def _behind_unembedding(self, raw: Tensor) -> Tensor:
        """The model's own code behind the unembedding, applied to its output: a pass over one token."""
        token = torch.zeros(1, 1, dtype=torch.long, device=raw.device)
        with overridden([(self.parts.unembedding, lambda _: raw[None])]):
            return self.parts.model(token, use_cache=False).logits[0]

    def logit_difference(self, hidden: Tensor, memorized: Any, reasoned: Any) -> Tensor:
        """L = logit(memorized) - logit(reasoned), in nats, Float[Tensor, "row"].

        Args:
            memorized, reasoned: a token id, or Int[Tensor, "row"].
        """
        tokens = torch.stack([torch.as_tensor(memorized), torch.as_tensor(reasoned)], dim=-1)
        both = self.logits(hidden, tokens)
        return both[:, 0] - both[:, 1]
