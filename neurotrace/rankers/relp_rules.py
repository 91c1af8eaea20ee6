"""RelP's rules on a transformers model: every nonlinearity is held constant at the clean run.

    attention pattern    constant: only the attended values are differentiated
    norm                 its scale constant: x * g * scale.detach()
    activation           its gain constant: x * (f(x) / x).detach()
    gated product        half to either factor: post/2 + (post/2).detach()
    router, shared gate  constant, as a pattern is: which experts a token is sent to, and with what weights

(arXiv 2508.21258, after layer-wise relevance propagation.) The result is linear in the residual stream,
so relevance is conserved: it adds up to L if there are no biases. The rules apply to modules found by
what they do, and to softmax and fused attention wherever they are called. A block whose activation or
attention is not found raises an error that names it. (An expert may have no activation module: then its
gate's sigmoid is the constant.) The paper has no rule for routers; the one here is the only one of these
that keeps the result linear in the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from neurotrace.engine.experts import Neurons
from neurotrace.engine.parts import Parts, overridden, write_rows

_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
_SIGMOID = {torch.sigmoid, Tensor.sigmoid, F.sigmoid}


class _Patterns(TorchFunctionMode):
    """Attention patterns as constants; counts the attention calls. `gates`: sigmoids are constants, too."""

    def __init__(self, gates: bool = False) -> None:
        super().__init__()
        self.met, self.gates = 0, gates

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _SOFTMAX or (self.gates and func in _SIGMOID):
            self.met += func in _SOFTMAX
            return func(*args, **kwargs).detach()
        if func is F.scaled_dot_product_attention:
            self.met += 1
            # constant queries and keys make a constant pattern
            args = tuple(x.detach() if place < 2 else x for place, x in enumerate(args))
            kwargs |= {name: kwargs[name].detach() for name in ("query", "key") if name in kwargs}
        return func(*args, **kwargs)


def half(post: Tensor) -> Tensor:
    """The same value, half its slope."""
    return post / 2 + (post / 2).detach()


def is_gated(parts: Parts) -> bool:
    """Whether neurons are products, act(gate) * up, by what the MLP's input is mapped to.

    Raises:
        ValueError: the MLP is neither of the two forms that are known.
    """
    projection = parts.projections[0]
    if isinstance(projection, Neurons):
        return True  # `experts.install` takes no others
    neurons, width = write_rows(projection).shape
    inner = [
        write_rows(child).shape[1]
        for child in _mlp(parts.blocks[0], projection).children()
        if isinstance(child, nn.Linear | Conv1D)
        and child is not projection
        and write_rows(child).shape[0] == width
    ]
    if sum(inner) not in (neurons, 2 * neurons):
        raise ValueError(
            f"RelP: an MLP of {neurons} neurons whose input is mapped to {inner or 'nothing'} is "
            "neither plain nor gated: use gradient"
        )
    return sum(inner) == 2 * neurons


@contextmanager
def linearised(parts: Parts) -> Iterator[None]:
    """RelP's rules on the model inside the `with` (except for the gated product: `half`).

    Raises:
        ValueError: an activation or an attention that the rules don't reach; names it.
    """
    rules: list[tuple[nn.Module, Callable]] = []
    patterns = _Patterns(gates=any(isinstance(each, Neurons) for each in parts.projections))
    for layer, (block, projection) in enumerate(zip(parts.blocks, parts.projections, strict=True)):
        # a module in an MLP without parameters is its activation (or a dropout)
        found = [
            child
            for mlp in _mlps(block, projection)
            for child in mlp.children()
            if not list(child.parameters()) and not isinstance(child, nn.Dropout | Neurons)
        ]
        if not found and not patterns.gates:
            raise ValueError(f"RelP: block {layer} has no activation module: use gradient")
        rules += [(module, _activation(module.forward)) for module in found]
        if isinstance(projection, Neurons) and projection.routed is not None:
            rules += [(gate, _gate(gate.forward, patterns)) for gate in _gates(projection)]
    rules += [(m, _norm(m)) for m in parts.model.modules() if "Norm" in type(m).__name__]
    with overridden(rules), patterns:
        yield
    if patterns.met < len(parts.blocks):
        raise ValueError(
            f"RelP: {patterns.met} attention patterns in {len(parts.blocks)} blocks: this model's "
            "attention isn't a softmax that can be held; use gradient"
        )


def _mlp(block: nn.Module, projection: nn.Module) -> nn.Module:
    return next(m for m in block.modules() if any(child is projection for child in m.children()))


def _mlps(block: nn.Module, projection: nn.Module) -> list[nn.Module]:
    """The modules that apply a block's activation: its MLP, or its experts and what is shared."""
    if not isinstance(projection, Neurons):
        return [_mlp(block, projection)]
    own = [] if projection.routed is None else [projection.routed]
    return own if projection.down is None else [*own, _mlp(block, projection.down)]


def _gates(neurons: Neurons) -> list[nn.Module]:
    """What weighs the experts of a block: the router, and the gate of a shared expert."""
    return [
        child
        for child in neurons.mlp.children()
        if child is not neurons.routed and list(child.parameters()) and not hasattr(child, "down_proj")
    ]


def _gate(own: Callable, patterns: _Patterns) -> Callable:
    """Without a slope; its softmax is no attention pattern."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        met = patterns.met
        with torch.no_grad():
            found = own(*args, **kwargs)
        patterns.met = met
        return found

    return forward


def _activation(own: Callable) -> Callable:
    return lambda x: x * _ratio(own(x.detach()), x)


def _norm(module: Any) -> Callable:
    own, bias = module.forward, getattr(module, "bias", None)

    def forward(x: Tensor, *gate: Tensor) -> Tensor:
        if gate:
            raise ValueError("RelP: no rule for a gated norm (linear attention): use gradient")
        with torch.no_grad():
            y = own(x)
            # LayerNorm and its kin take the mean out first, the RMS norms don't
            moved = own(x + x.abs().max())
            centres = (moved - y).abs().max() <= 1e-2 * y.abs().max()
            shift = torch.zeros_like(y) if bias is None else bias
        x = x - x.mean(dim=-1, keepdim=True) if centres else x
        return x * _ratio(y - shift, x) + shift

    return forward


def _ratio(y: Tensor, x: Tensor) -> Tensor:
    """y / x as a constant; 0 where x is 0."""
    return torch.where(x == 0, 0, y / torch.where(x == 0, 1, x)).detach()
