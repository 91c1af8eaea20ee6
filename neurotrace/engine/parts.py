"""Find, by shape, the parts of a causal language model that the suffix engine needs to touch.

Three parts: the list of blocks; in each block the one module that maps d_mlp to d_model (its input
holds the neurons, its weight their `W_out` rows); the unembedding. Everything else (norms, multipliers,
positions, masks, soft caps) stays the model's own code. Two context managers override that code for one
call and restore it on any exit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from neurotrace.engine.experts import Neurons, neurons_of

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """A model's blocks, their neurons' output projections, and its unembedding.

    In a mixture of experts `projections` are the `Neurons`, whose input holds a block's neurons as well.
    """

    model: nn.Module
    blocks: tuple[nn.Module, ...]
    projections: tuple[nn.Module, ...]  # one a block; input: [..., d_mlp], output: [..., d_model]
    unembedding: Any  # its weight: Float["vocabulary d_model"]

    @property
    def device(self) -> torch.device:
        return self.unembedding.weight.device

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons in each block."""
        return tuple(
            p.total if isinstance(p, Neurons) else write_rows(p).shape[0] for p in self.projections
        )

    @property
    def writers(self) -> tuple[nn.Module, ...]:
        """The module of each block that returns what its neurons write."""
        return tuple(p.mlp if isinstance(p, Neurons) else p for p in self.projections)


def write_rows(projection: Any) -> Tensor:
    """`W_out` as Float["d_mlp d_model"]: row i is what neuron i writes. A view, but of experts."""
    if isinstance(projection, Neurons):
        return projection.rows()
    weight = projection.weight
    return weight if isinstance(projection, Conv1D) else weight.t()


def rows_at(projection: Any, index: Tensor) -> Tensor:
    """`write_rows(projection)[index]`, without the others."""
    if isinstance(projection, Neurons):
        return projection.some_rows(index)
    return write_rows(projection)[index]


def find_parts(
    model: nn.Module,
    blocks: Iterable[nn.Module] | None = None,
    projection: str | None = None,
    unembedding: nn.Module | None = None,
) -> Parts:
    """Find the parts of `model`, or check the ones given.

    Args:
        model: a transformers causal LM (or a module that behaves like one: `config`,
            `model(ids).logits`, `past_key_values`).
        blocks: the blocks in order, if they are not the only `ModuleList` of `num_hidden_layers` modules.
        projection: the projection's path inside a block, e.g. "mlp.down_proj", if its shape is ambiguous.
        unembedding: if `model.get_output_embeddings()` does not return it.

    Raises:
        ValueError: a part is missing or ambiguous; the message names the candidates and what to pass.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no config: pass a transformers causal LM")
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if blocks is None:
        blocks = find_blocks(model)
    blocks = tuple(blocks)
    projections = tuple(
        block.get_submodule(projection) if projection else _find_projection(block, config, layer)
        for layer, block in enumerate(blocks)
    )
    if unembedding is None:
        outer: Any = model
        unembedding = outer.get_output_embeddings()
    if unembedding is None or getattr(unembedding, "weight", None) is None:
        raise ValueError(f"{type(model).__name__} has no output embedding: pass unembedding=")
    return Parts(model, blocks, projections, unembedding)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's list of blocks; ValueError where it is ambiguous."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = config.num_hidden_layers
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and not any(part in name for part in ("vision", "audio", "encoder."))
        and any(isinstance(m, nn.Linear | Conv1D) for m in module[0].modules())
        and len({type(block) for block in module}) <= 2
    ]
    outer = [m for m in found if not any(m is not o and _inside(m, o) for o in found)]
    if len(outer) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(outer)} lists of {depth} blocks, expected one: pass blocks="
        )
    return outer[0]


def _inside(module: nn.Module, other: nn.Module) -> bool:
    return any(module is m for m in other.modules())


def _find_projection(block: nn.Module, config: Any, layer: int) -> nn.Module:
    if (neurons := neurons_of(block)) is not None:
        return neurons
    candidates = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and not _ATTENTION.search(name)
        and write_rows(module).shape[1] == config.hidden_size
    }
    if len(candidates) > 1:
        width = getattr(config, "intermediate_size", None)
        candidates = {n: m for n, m in candidates.items() if write_rows(m).shape[0] == width}
    if len(candidates) != 1:
        raise ValueError(
            f"block {layer} ({type(block).__name__}) has {len(candidates)} modules that map "
            f"d_mlp to d_model ({', '.join(candidates) or 'none'}), expected one (a sparse mixture "
            "of experts has no one hidden layer): pass projection="
        )
    return next(iter(candidates.values()))


@contextmanager
def overridden(forwards: Iterable[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Give each module another `forward` inside the `with`; its own is restored on any exit."""
    done: list[tuple[nn.Module, Any]] = []
    try:
        for module, forward in forwards:
            done.append((module, module.__dict__.get("forward")))
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module, forward in reversed(done):
            if forward is None:
                object.__delattr__(module, "forward")
            else:
                object.__setattr__(module, "forward", forward)


def seen_once(
    modules: Iterable[nn.Module], shape: tuple[int, int], found: dict[nn.Module, tuple[Tensor, Tensor]]
) -> list[Any]:
    """For `hooked`: each module's input and output, [*shape, width], are put into `found`.

    A module that is called twice is left out.
    """
    called: set[nn.Module] = set()

    def see(module: nn.Module, args: tuple, y: Tensor) -> None:
        if module in called:
            found.pop(module, None)
        else:
            found[module] = args[0].reshape(*shape, -1).clone(), y.reshape(*shape, -1).clone()
        called.add(module)

    return [(module, "output", see) for module in modules]


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, str, Callable]]) -> Iterator[None]:
    """Forward hooks inside the `with`: (module, "input" | "output", hook). Always removed.

    An "input" hook is called as `hook(module, args, kwargs)`, an "output" hook as
    `hook(module, args, output)`; both may return a replacement, as in PyTorch.
    """
    handles = []
    try:
        for module, side, hook in hooks:
            if side == "input":
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_alone(unembed: nn.Module) -> list[tuple[nn.Module, str, Callable]]:
    """Hooks that hand an unembedding the last position alone, in passes of this thread.

    None where other hooks are on it, which may want every position.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in unembed.modules()):
        return []
    thread = get_ident()

    def cut(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if get_ident() != thread or not args or args[0].dim() != 3:
            return None
        return (args[0][:, -1:], *args[1:]), kwargs

    return [(unembed, "input", cut)]


@contextmanager
def at_routers(changes: Iterable[tuple[Neurons, Callable[[Tensor], Tensor | None]]]) -> Iterator[None]:
    """Inside the `with`, the logits of these blocks' routers go through the functions.

    Float["token expert"], before the model's own code picks experts and weighs them; None leaves them.

    Raises:
        ValueError: a block's router is not found by the shape of its weight.
    """

    def through(gate: Any, count: int, change: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        own = gate.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with _Logits(count, change):
                return own(*args, **kwargs)

        return forward

    found = [(_router(neurons), neurons, change) for neurons, change in changes]
    with overridden([(gate, through(gate, n.experts, change)) for gate, n, change in found]):
        yield


class _Logits(TorchFunctionMode):
    """A router's logits, the one linear map onto its experts, go through a function."""

    def __init__(self, experts: int, change: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self.experts, self.change = experts, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is not F.linear or found.shape[-1] != self.experts:
            return found
        changed = self.change(found)
        return found if changed is None else changed


def _router(neurons: Neurons) -> nn.Module:
    found = [
        child
        for child in neurons.mlp.children()
        if child is not neurons.routed
        and isinstance(weight := getattr(child, "weight", None), Tensor)
        and weight.dim() == 2
        and len(weight) == neurons.experts
    ]
    if len(found) != 1:
        raise ValueError(f"{type(neurons.mlp).__name__} has {len(found)} routers, expected one")
    return found[0]


def always(value: Any) -> Callable[..., Any]:
    """A `forward` that ignores its arguments and returns a constant."""

    def constant(*_: Any, **__: Any) -> Any:
        return value

    return constant
