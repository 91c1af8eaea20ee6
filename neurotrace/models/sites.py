"""Sites other than neurons: read, changed and differentiated; logits from the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.models.hooks import (
    Point,
    forward,
    inspect_model,
    run_hooked,
    site_name,
    unembedding,
)
from neurotrace.models.protocol import HookedModel


def read_sites(
    model: HookedModel, ids: Int[Tensor, "batch pos"], points: Sequence[Point]
) -> dict[Point, Float[Tensor, "batch unit"]]:
    """Values at the last position of each (site, layer), in float32 on the CPU.

    Raises:
        InputError: the model has no such hook (the message names it).
    """
    found: dict[Point, Tensor] = {}

    def keep(point: Point) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            found[point] = value[:, -1].detach().float().cpu()

        return see

    _want(model, points)
    with torch.no_grad():
        run_hooked(model, ids, {point: keep(point) for point in points})
    if len(found) != len(points):
        silent = next(point for point in points if point not in found)
        raise RuntimeError(f"{site_name(*silent)} did not fire")
    return found


def change_sites(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    changes: Mapping[Point, Callable[[Float[Tensor, "batch unit"]], Tensor]],
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position, with the values of each named site changed there.

    Differentiable: `site_slopes`.

    Raises:
        InputError: the model has no such hook, or it doesn't fire exactly once.
    """

    def make(point: Point) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            changed = value.clone()
            changed[:, -1] = changes[point](changed[:, -1])
            return changed

        return put

    _want(model, changes)
    logits, fired = run_hooked(model, ids, {point: make(point) for point in changes})
    for point, count in fired.items():
        if count != 1:
            raise InputError(f"{site_name(*point)} fired {count} times; expected once")
    return logits[:, -1]


def site_slopes(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    points: Sequence[Point],
    metric: Callable[[Float[Tensor, "batch vocab"]], Float[Tensor, " batch"]],
) -> tuple[dict[Point, Float[Tensor, "batch unit"]], dict[Point, Float[Tensor, "batch unit"]]]:
    """(values, d metric / d values) at the last position of each site, in float32 on the CPU.

    One forward and one backward pass: a zero is added to each site and the metric is differentiated by it.
    """
    values: dict[Point, Tensor] = {}
    zeros: dict[Point, Tensor] = {}

    def nudged(point: Point) -> Callable[[Tensor], Tensor]:
        def put(own: Tensor) -> Tensor:
            values[point] = own.detach().float().cpu()
            zeros[point] = torch.zeros_like(own, requires_grad=True)
            return own + zeros[point]

        return put

    with torch.enable_grad():
        logits = change_sites(model, ids, {point: nudged(point) for point in points})
        found = torch.autograd.grad(metric(logits).sum(), [zeros[point] for point in points])
    slopes = {point: slope.float().cpu() for point, slope in zip(points, found, strict=True)}
    return values, slopes


def _want(model: HookedModel, points: Iterable[Point]) -> None:
    for point in points:
        if site_name(*point) not in model.hook_dict:
            raise InputError(
                f"the model has no hook {site_name(*point)}: name another site or layer"
            )


def final_residual_slope(
    model: HookedModel, ids: Int[Tensor, "batch pos"], metric: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch d_model"]]:
    """Activations at the last position, and d metric / d residual behind the last block there.

    `metric` takes Float["batch vocab"] to Float["batch"].
    """
    info = inspect_model(model)
    values = torch.zeros(len(ids), info.n_layers, info.d_mlp)
    leaf: list[Tensor] = []

    def keep(layer: int, post: Tensor) -> None:
        values[:, layer] = post[:, -1].detach().float().cpu()

    def cut(residual: Tensor, hook: Any = None) -> Tensor:
        leaf.append(residual.detach().requires_grad_())
        return leaf[0]

    with torch.enable_grad():
        point = f"blocks.{info.n_layers - 1}.hook_resid_post"
        with model.hooks(fwd_hooks=[(point, cut)]):
            logits = forward(model, ids, edit=keep, layers=range(info.n_layers))
        if not leaf:
            raise InputError(
                f"{info.name}: {point} never fires under this version of transformer-lens: rank by "
                "nt.gradient, which doesn't need it"
            )
        (slope,) = torch.autograd.grad(metric(logits).sum(), leaf)
    return values, slope.reshape(*ids.shape, -1)[:, -1].float().cpu()


def residuals(
    model: HookedModel, ids: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer d_model"]]:
    """Activations at the last position, and the residual stream that enters each block there."""
    info = inspect_model(model)
    values = torch.zeros(len(ids), info.n_layers, info.d_mlp)
    entering = torch.full((len(ids), info.n_layers, info.d_model), torch.nan)

    def keep(layer: int, post: Tensor) -> None:
        values[:, layer] = post[:, -1].detach().float().cpu()

    def see(layer: int) -> Callable[..., None]:
        def hook(residual: Tensor, hook: Any = None) -> None:
            last = residual.detach().reshape(*ids.shape, -1)[:, -1]
            entering[:, layer] = last.float().cpu()

        return hook

    points = [(f"blocks.{layer}.hook_resid_pre", see(layer)) for layer in range(info.n_layers)]
    with torch.no_grad(), model.hooks(fwd_hooks=points):
        forward(model, ids, edit=keep, layers=range(info.n_layers))
    if entering.isnan().any():
        raise InputError(
            f"{info.name}: hook_resid_pre doesn't fire in every block, or holds NaN: rank by "
            "nt.gradient, which doesn't need it"
        )
    return values, entering


def answer_slope(
    model: HookedModel, residual: Float[Tensor, "row d_model"], answer: Int[Tensor, " row"]
) -> Float[Tensor, "row d_model"]:
    """d log p(answer) / d residual behind the last block, through the final norm and the unembedding.

    A soft cap behind the unembedding is left out.
    """
    w_u = _unembedding_of(model, residual)
    with torch.enable_grad():
        leaf = residual.detach().clone().to(w_u).requires_grad_()
        log_p = torch.log_softmax(_final_norm(model, leaf) @ w_u, dim=-1)
        own = log_p.gather(1, answer.to(w_u.device)[:, None]).sum()
        (slope,) = torch.autograd.grad(own, leaf)
    return slope.float().cpu()


def lens(
    model: HookedModel, residual: Float[Tensor, "row d_model"], plus: int, minus: int
) -> Float[Tensor, " row"]:
    """logit(plus) - logit(minus) as if `residual` left the last block: final norm and unembedding.

    A soft cap behind the unembedding is left out. That log p(plus) - log p(minus) is the same number.
    """
    w_u = _unembedding_of(model, residual)
    return (_final_norm(model, residual.to(w_u)) @ (w_u[:, plus] - w_u[:, minus])).float().cpu()


def _unembedding_of(model: HookedModel, residual: Tensor) -> Tensor:
    w_u = unembedding(model)
    if len(w_u) != residual.shape[-1]:
        raise InputError(
            f"the unembedding reads {len(w_u)} numbers, the residual stream has "
            f"{residual.shape[-1]} (a projection stands between): rank by nt.gradient"
        )
    return w_u


def _final_norm(
    model: HookedModel, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    return model.ln_final(rows[:, None])[:, 0] if hasattr(model, "ln_final") else rows
