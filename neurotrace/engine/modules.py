"""Lighter forms of a model's own modules, for passes of many rows.

*Fused* (exact): an RMS norm in four passes over memory instead of six, an activation in place. Modules
are found by name and replaced only if the numbers agree with the module's own on random input. The
check of the whole engine covers them again.

*Delta* (fast): a Linear computes y0 + W·bf16(x - x0), with x0 and y0 the clean run's input and
output in float32. Rounding is then relative to the *change*, not to the activation, and the
processor's bf16 matrix units do the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from neurotrace.engine.parts import write_rows

Forward = tuple[nn.Module, Callable]


def fused(blocks: Iterable[nn.Module]) -> list[Forward]:
    """(module, lighter forward) for the norms and activations of `blocks` that have one."""
    modules = [m for block in blocks for m in block.modules()]
    return [(m, forward) for m in modules if (forward := _rms(m) or _activation(m)) is not None]


def _activation(module: nn.Module) -> Callable | None:
    if type(module).__name__ in ("SiLU", "SiLUActivation"):
        return lambda x: F.silu(x, inplace=True).as_subclass(_Spent)
    return torch.relu_ if type(module) is nn.ReLU else None


class _Spent(Tensor):
    """A gate that is not used after `gate * up`: the product may reuse its memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __mul__(self, other: Tensor) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor).mul_(other)


def _rms(module: nn.Module) -> Callable | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or weight is None or not isinstance(eps, float):
        return None
    if weight.dim() != 1 or weight.dtype != torch.float32:
        return None
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 3, len(weight), generator=generator) * 3).to(weight.device)
    with torch.no_grad():
        try:
            expected = module(x)
        except TypeError:  # a gated norm takes more than its input
            return None
        for shift in (0, 1):
            forward = _rms_forward(module, shift, eps)
            if torch.allclose(forward(x), expected, rtol=1e-5, atol=1e-6):
                return forward
    return None


def _rms_forward(module: Any, shift: int, eps: float) -> Callable:
    """Read the gain in each call: the weights may be changed in place between two."""
    share = 1 / len(module.weight)

    def forward(x: Tensor) -> Tensor:
        gain = module.weight.detach() + shift if shift else module.weight.detach()
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * size.square_().mul_(share).add_(eps).rsqrt_()).mul_(gain)

    return forward


def linears(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The Linear and Conv1D modules of `blocks`, those with plain float32 weights."""
    return [
        m
        for block in blocks
        for m in block.modules()
        if type(m) in (nn.Linear, Conv1D) and m.weight.dtype == torch.float32
    ]


def bf16_missing(device: torch.device) -> str:
    """Why `fast` would not be fast on this device; empty if it is."""
    if device.type == "cuda":
        return "" if torch.cuda.is_bf16_supported() else "this GPU has no bf16 units"
    if device.type == "cpu":
        asked = (getattr(torch.cpu, f"_is_{kind}_supported", bool) for kind in ("amx_tile", "avx512_bf16"))
        return "" if any(ask() for ask in asked) else "this processor has no bf16 matrix instructions"
    return f"no fast bf16 is known for {device.type}"


class Delta:
    """Delta forms of the Linear modules, for one clean run after another."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # bf16 weights, [d_out, d_in]: half as much memory again as the float32 ones
        self.weights = {m: write_rows(m).detach().t().to(torch.bfloat16) for m in modules}
        self._last: tuple[Tensor, int, Tensor] | None = None  # q, k and v share one x - x0

    def forwards(self, clean: dict[nn.Module, tuple[Tensor, Tensor]]) -> list[Forward]:
        """(module, delta forward) for each module of the clean run's {module: (x0, y0)}."""
        self._last = None
        return [(m, self._forward(self.weights[m], *both)) for m, both in clean.items()]

    def _forward(self, weight: Tensor, x0: Tensor, y0: Tensor) -> Callable:
        """x0, y0: Float["prompt q width"]; called with rows in prompt order, q positions each."""
        prompts, q = x0.shape[:2]
        x0, y0 = x0[:, None], y0[:, None]

        def forward(x: Tensor) -> Tensor:
            if (last := self._last) is not None and last[0] is x and last[1] == x._version:
                change = last[2]
            else:
                rows = math.prod(x.shape[:-1]) // (prompts * q)
                change = (x.reshape(prompts, rows, q, -1) - x0).to(torch.bfloat16)
                self._last = (x, x._version, change)
            y = torch.add(y0, F.linear(change, weight))
            return y.view(*x.shape[:-1], y.shape[-1])

        return forward
