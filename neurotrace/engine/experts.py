"""The neurons of a sparse mixture's experts: one flat axis a layer, over transformers' own code.

`install` gives each MLP of a mixture a module `neurons` that hands on its input unchanged. Its input is
Float["token neuron"]: expert 0's neurons, expert 1's, …, then those of the shared expert. A neuron whose
expert the router does not send the token to is 0, and what it is changed to has no effect. While somebody
hooks `neurons`, the MLP runs twice: once to see the values, once more with what the hooks made of them;
otherwise once, with nothing added.

What neuron i writes is a_i * factor_i * row_i: `rows` are those of the experts' `down_proj`, the factor is
the router's weight of its expert (or the gate of a shared expert), taken in the same pass.

Only expert modules that transformers dispatches (`ALL_EXPERTS_FUNCTIONS`) are taken, under "batched_mm" and
"grouped_mm": both hand `_apply_gate`'s result to the down projection. "eager" is run as "grouped_mm".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAKEN = ("batched_mm", "grouped_mm")


class Sent(NamedTuple):
    """Where the router of one block sends the tokens of a clean run; the prompt is the first axis.

    Attributes:
        factors: Float[Tensor, "prompt position column"], see `Neurons.columns`.
        experts, weights: [prompt, q, used], at every recomputed place; None in a block without experts.
    """

    factors: Tensor
    experts: Tensor | None = None
    weights: Tensor | None = None

    def of(self, prompt: int | Tensor) -> Sent:
        """One prompt's part, or that of several."""
        return Sent(*(x[prompt] for x in self if x is not None))

    @classmethod
    def stack(cls, each: Sequence[Sent]) -> Sent:
        """Several prompts' parts together."""
        columns = [list(x) for x in zip(*each, strict=True)]
        return cls(*(torch.stack(x) for x in columns if x[0] is not None))


class Neurons(nn.Module):
    """The neurons of one MLP of a mixture; its input and output are Float["token neuron"].

    Attributes:
        experts, width: number of routed experts, neurons of each (0 in a dense block).
        shared: neurons of the shared expert, or of a dense block's MLP.
        total: length of the axis, the same in every block; what is behind the last neuron is 0.
    """

    def __init__(self, mlp: nn.Module, experts: Any | None, shared: Any | None) -> None:
        super().__init__()
        self.experts, self.width, self.shared = 0, 0, 0
        if experts is not None:
            self.experts = int(experts.num_experts)
            self.width = int(experts.down_proj.shape[1 if experts.is_transposed else 2])
        if shared is not None:
            self.shared = int(shared.weight.shape[1])
        self.total = self.experts * self.width + self.shared
        self._held: list[Any] = [mlp, experts, shared]  # a list: they are no parts of this module
        self._factors: Tensor | None = None  # of the pass that called it last
        self._routes: tuple[Tensor, Tensor] | None = None  # the same: experts and weights, "token used"
        self._frozen: tuple[Tensor, Tensor] | None = None  # what to go by instead of the router

    def forward(self, x: Tensor) -> Tensor:
        """Hand on `x`."""
        return x

    @property
    def mlp(self) -> nn.Module:
        """The module that returns what these neurons write."""
        mlp: nn.Module = self._held[0]
        return mlp

    @property
    def routed(self) -> Any:
        """The module of the routed experts; None in a dense block."""
        return self._held[1]

    @property
    def down(self) -> Any:
        """The down projection of the shared expert, or of a dense block."""
        return self._held[2]

    @property
    def watched(self) -> bool:
        """Whether somebody reads or changes the neurons in this pass."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    @property
    def factors(self) -> Tensor:
        """Float["token column"] of the pass that called it last: see `columns`."""
        assert self._factors is not None
        return self._factors

    def sent(self, shape: tuple[int, int], where: Tensor) -> Sent:
        """Where the pass that called it last sent its "prompt q" tokens; factors at the places `where`."""
        routes = None if self._routes is None else tuple(x.reshape(*shape, -1) for x in self._routes)
        return Sent(self.factors.reshape(*shape, -1)[:, where], *(routes or (None, None)))

    def columns(self, index: Tensor) -> Tensor:
        """The column of `factors` of each neuron: its expert; then the shared expert's; then a zero."""
        at = self.experts * self.width
        behind = torch.where(index < at + self.shared, self.experts, self.experts + 1)
        return torch.where(index < at, index // max(self.width, 1), behind)

    def rows(self) -> Tensor:
        """Float["neuron d_model"]: the rows of the down projections, without the router's weight."""
        parts = []
        if self.routed is not None:
            weight = self.routed.down_proj
            parts.append((weight if self.routed.is_transposed else weight.transpose(1, 2)).flatten(0, 1))
        if self.down is not None:
            parts.append(self.down.weight.t())
        rows = torch.cat(parts)
        return F.pad(rows, (0, 0, 0, self.total - len(rows)))

    def some_rows(self, index: Tensor) -> Tensor:
        """`rows()[index]`, without the others."""
        at = self.experts * self.width
        if self.down is not None:
            found = self.down.weight.new_zeros(len(index), self.down.weight.shape[0])
        else:
            weight = self.routed.down_proj
            found = weight.new_zeros(len(index), weight.shape[2 if self.routed.is_transposed else 1])
        own, behind = index < at, (index >= at) & (index < at + self.shared)
        if own.any():
            expert, unit = index[own] // self.width, index[own] % self.width
            weight = self.routed.down_proj
            found[own] = weight[expert, unit] if self.routed.is_transposed else weight[expert, :, unit]
        if behind.any():
            found[behind] = self.down.weight[:, index[behind] - at].t()
        return found

    def written(self, x: Tensor) -> Tensor:
        """Float["token d_model"]: what the MLP returns for neurons `x`, from rows, factors and biases."""
        factors = self.factors
        every = factors[:, self.columns(torch.arange(self.total, device=x.device))]
        found = (x * every).float() @ self.rows().float()
        bias = getattr(self.routed, "down_proj_bias", None)
        if bias is not None:
            found = found + factors[:, : self.experts].float() @ bias.float()
        if self.down is not None and self.down.bias is not None:
            found = found + factors[:, self.experts, None].float() * self.down.bias.float()
        return found


class Routed:
    """What `install` puts before the class of an MLP."""

    neurons: Neurons

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The MLP's own, around the hooks of `neurons`."""
        own: Callable = super().forward  # type: ignore[misc]
        if self.neurons._frozen is not None:
            with _by_routes(self.neurons):
                return self._around(own, args, kwargs)
        return self._around(own, args, kwargs)

    def _around(self, own: Callable, args: Any, kwargs: Any) -> Any:
        if not self.neurons.watched:
            return own(*args, **kwargs)
        seen = _Seen(self.neurons)
        with _at_neurons(self.neurons, seen.see_routed, seen.see_shared, seen.see_routing):
            own(*args, **kwargs)
        self.neurons._factors = seen.factors(self)
        if self.neurons.routed is not None:
            self.neurons._routes = seen.experts, seen.weights.detach()
        put = self.neurons(seen.flat())
        with _at_neurons(self.neurons, lambda _: seen.routed_of(put), lambda _: seen.shared_of(put)):
            return own(*args, **kwargs)


class _Seen:
    """One pass of an MLP: the activations of its experts, and where the router sent each token."""

    def __init__(self, neurons: Neurons) -> None:
        self.neurons = neurons
        self.routed: Tensor | None = None
        self.shared: Tensor | None = None
        self.hidden: Any = None
        self.experts = self.weights = self.token = self.expert = torch.empty(0)

    def see_routing(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> None:
        self.hidden, self.experts, self.weights = hidden, experts, weights
        flat = experts.reshape(-1)
        order = torch.arange(len(flat), device=flat.device)
        if self.neurons.routed.config._experts_implementation == "grouped_mm":
            order = torch.sort(flat)[1]  # as transformers does
        self.token, self.expert = order // experts.shape[-1], flat[order]

    def see_routed(self, x: Tensor) -> Tensor:
        self.routed = x
        return x

    def see_shared(self, x: Tensor) -> Tensor:
        self.shared = x
        return x

    def flat(self) -> Tensor:
        own, parts = self.neurons, []
        if self.routed is not None:
            grid = self.routed.new_zeros(len(self.hidden), own.experts, own.width)
            parts.append(grid.index_put((self.token, self.expert), self.routed).flatten(1))
        if self.shared is not None:
            parts.append(self.shared.reshape(-1, own.shared))
        x = torch.cat(parts, dim=1)
        return F.pad(x, (0, own.total - x.shape[1]))

    def routed_of(self, flat: Tensor) -> Tensor:
        own = self.neurons
        grid = flat[:, : own.experts * own.width].unflatten(1, (own.experts, own.width))
        return grid[self.token, self.expert]

    def shared_of(self, flat: Tensor) -> Tensor:
        at = self.neurons.experts * self.neurons.width
        assert self.shared is not None
        return flat[:, at : at + self.neurons.shared].reshape(self.shared.shape)

    def factors(self, mlp: Any) -> Tensor:
        own = self.neurons
        some = next(x for x in (self.routed, self.shared) if x is not None)
        count = len(self.hidden) if self.hidden is not None else some.shape[:-1].numel()
        found = some.new_zeros(count, own.experts + 2)
        if self.routed is not None:
            tokens = torch.arange(count, device=found.device)[:, None].expand_as(self.experts)
            found = found.index_put((tokens, self.experts), self.weights.to(found.dtype))
        if self.shared is not None:
            gate = getattr(mlp, "shared_expert_gate", None)
            found[:, own.experts] = 1.0 if gate is None else torch.sigmoid(gate(self.hidden))[:, 0]
        return found.detach()


@contextmanager
def _at_neurons(
    neurons: Neurons,
    routed: Callable[[Tensor], Tensor],
    shared: Callable[[Tensor], Tensor],
    routing: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Inside the `with`, the activations of the experts go through these functions."""
    handles = []
    experts, down = neurons.routed, neurons.down
    try:
        if experts is not None:
            own = type(experts)._apply_gate
            object.__setattr__(experts, "_apply_gate", lambda x: routed(own(experts, x)))
            if routing is not None:
                handles.append(experts.register_forward_pre_hook(lambda _, args: routing(*args)))
        if down is not None:
            handles.append(down.register_forward_pre_hook(lambda _, args: (shared(args[0]),)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        if experts is not None:
            object.__delattr__(experts, "_apply_gate")


@contextmanager
def _by_routes(neurons: Neurons) -> Iterator[None]:
    """Inside the `with`, the experts and weights of `neurons._frozen` stand in for the router's."""

    def stand_in(_: nn.Module, args: tuple) -> tuple:
        assert neurons._frozen is not None
        return args[0], *neurons._frozen

    handle = neurons.routed.register_forward_pre_hook(stand_in)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def frozen(engine: Any, run: Any, rows: int, above: int = -1) -> Iterator[None]:
    """Inside the `with`, `rows` rows go to the clean run's experts, in the blocks above `above`.

    Nothing is done while the engine's routing is "free".
    """
    chosen = []
    try:
        if engine.routing == "frozen":
            for neurons, sent in list(zip(engine.parts.projections, run.sent, strict=True))[above + 1 :]:
                if sent.experts is not None:
                    both = sent.experts, sent.weights
                    experts, weights = (x.repeat_interleave(rows // len(x), 0).flatten(0, 1) for x in both)
                    neurons._frozen = experts, weights
                    chosen.append(neurons)
        yield
    finally:
        for neurons in chosen:
            neurons._frozen = None


@contextmanager
def as_clean(engine: Any, ids: Tensor, length: int, read: int) -> Iterator[None]:
    """`frozen` for a pass over the last `length` tokens of `ids`, by a clean run of its own."""
    if engine.routing == "free":
        yield
        return
    run = engine.clean(ids, range(ids.shape[1] - length, ids.shape[1]), read=read)
    with frozen(engine, run, len(ids)):
        yield


def where_routed(projection: Any, run: Any, layer: int, index: Tensor) -> Tensor | None:
    """Float["prompt position neuron"]: the factors of these neurons in a clean run; None: no mixture."""
    if not isinstance(projection, Neurons):
        return None
    return run.sent[layer].factors[..., projection.columns(index)]


def only_routed(
    engine: Any, run: Any, layer: int, index: Tensor, values: Tensor, routed: Tensor, exact: bool
) -> Tensor:
    """`Engine.single`, without passes for neurons whose expert no token of the run is sent to."""
    live = routed.any(dim=1).any(dim=0)
    found: Tensor = run.hidden.repeat_interleave(len(index), dim=0)
    if live.any():
        changed = engine.single(run, layer, index[live], values[:, live], exact=exact)
        found[live.repeat(len(run.ids))] = changed
    return found


def neurons_of(block: nn.Module) -> Neurons | None:
    """The module that holds a block's neurons; None: its model is no mixture, or not installed."""
    return next((each for each in block.modules() if isinstance(each, Neurons)), None)


def install(model: nn.Module, blocks: list[nn.Module]) -> None:
    """Give every MLP of a mixture its `neurons`. A model without experts stays as it is.

    Raises:
        ValueError: experts that transformers does not dispatch, or under another name; the message says
            which.
    """
    found = [_sparse(block) for block in blocks]
    if not any(found):
        return
    every = []
    for layer, (block, mlp) in enumerate(zip(blocks, found, strict=True)):
        if mlp is None:
            mlp = _dense(block, layer)
            every.append(Neurons(mlp, None, mlp.down_proj))
            continue
        experts: Any = mlp.experts
        kind = type(experts).__name__
        if not hasattr(experts, "is_transposed") or not hasattr(experts, "num_experts"):
            raise ValueError(
                f"its experts ({kind}) compute in a way of their own, not through transformers' "
                "ALL_EXPERTS_FUNCTIONS"
            )
        if not experts.has_gate or experts.has_post_expert_norm:
            raise ValueError(f"its experts ({kind}) have no gate, or a norm behind their down projection")
        if experts.config._experts_implementation == "eager":
            experts.config._experts_implementation = "grouped_mm"
        if experts.config._experts_implementation not in TAKEN:
            raise ValueError(
                f"its experts run by {experts.config._experts_implementation!r}, expected 'eager' or one "
                f"of {TAKEN}: model.set_experts_implementation('grouped_mm')"
            )
        others = [m for m in mlp.children() if m is not experts and hasattr(m, "down_proj")]
        if len(others) > 1:
            raise ValueError(f"block {layer} has {len(others)} shared experts, expected at most one module")
        every.append(Neurons(mlp, experts, others[0].down_proj if others else None))
    total = max(each.total for each in every)
    for each in every:
        each.total = total
        mlp = each.mlp
        mlp.neurons = each
        own = type(mlp)
        mlp.__class__ = type(own.__name__, (Routed, own), {"__module__": own.__module__})


def _sparse(block: nn.Module) -> Any | None:
    """The MLP of a block that has experts."""
    return next((m for m in block.modules() if "experts" in m._modules), None)


def _dense(block: nn.Module, layer: int) -> Any:
    found = [m for m in block.modules() if isinstance(m._modules.get("down_proj"), nn.Linear)]
    if len(found) != 1:
        raise ValueError(f"block {layer}: no experts, and {len(found)} MLPs with a down_proj; expected one")
    return found[0]
