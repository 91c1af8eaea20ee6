"""Sites other than neurons: read, changed and differentiated; logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.engine.attention import Prefix, PrefixError
from neurotrace.engine.parts import hooked, overridden
from neurotrace.engine.turns import passing, turn
from neurotrace.models.hooks import (
    Point,
    fetched,
    forward,
    hooks_on,
    inspect_model,
    run_hooked,
    site_name,
)
from neurotrace.models.origins import keep_runs, twin
from neurotrace.models.protocol import HookedModel

_ROWS = 2048  # residual streams that are read out together


def last_logits(model: HookedModel, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position; by the twin if there is one, which need not unembed the rest."""
    return end_logits(model, ids, 1)[:, -1]


def end_logits(
    model: HookedModel, ids: Int[Tensor, "batch pos"], read: int
) -> Float[Tensor, "batch read vocab"]:
    """Logits at the last `read` positions."""
    with turn(model), torch.no_grad():
        if read == 1 and (kept := keep_runs(model, ids)) is not None:
            return kept.last_logits(ids)[:, None]
        other = twin(model)
        if other is None:
            return run_hooked(model, ids, {})[0][:, -read:]
        place = next(other.parameters()).device
        logits: Tensor = other(ids.to(place), use_cache=False, logits_to_keep=read).logits
        return logits[:, -read:]


@dataclass(frozen=True)
class Tail:
    """The last `read` tokens of prompts of one length.

    With `past`, the keys and values of all that stands before them, `ids` are these tokens alone: a change
    there leaves what stands before as it is, so that it is run once (`tail_of`). The last `behind` of `ids`
    are tokens of an answer behind the prompt.
    """

    ids: Int[Tensor, "batch pos"]
    read: int
    past: Prefix | None = None
    behind: int = 0

    def followed(self, tokens: Int[Tensor, "batch token"]) -> Tail:
        """With these tokens behind the prompts."""
        return replace(self, ids=torch.cat([self.ids, tokens], dim=1), behind=tokens.shape[1])

    @property
    def at(self) -> slice:
        """Its places in `ids`."""
        end = self.ids.shape[1] - self.behind
        return slice(end - self.read, end)


def tail_of(model: HookedModel, ids: Int[Tensor, "batch pos"], read: int) -> Tail:
    """The last `read` tokens, with what stands before them run once, if the model takes a cache.

    The logits are compared with those of a full pass; where they differ, full passes are made.
    """
    whole, other = Tail(ids, read), twin(model)
    takes = "past_key_values" in inspect.signature(getattr(model, "forward", model)).parameters
    if other is None or not takes or ids.shape[1] <= read:
        return whole
    with turn(model), torch.no_grad():
        place = next(other.parameters()).device
        run = other(ids[:, :-read].to(place), use_cache=True, logits_to_keep=1)
        try:
            past = Prefix(run.past_key_values.layers, shared=False)
        except (AttributeError, PrefixError):  # states of another kind than keys and values
            return whole
        tail = Tail(ids[:, -read:], read, past)
        wanted = end_logits(model, ids, 1)[:, -1].float().cpu()
        found = run_hooked(model, tail.ids, {}, past=past, last=True)[0][:, -1].float().cpu()
    close = torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    return tail if close else whole


def _as_tail(ids: Int[Tensor, "batch pos"] | Tail) -> Tail:
    return ids if isinstance(ids, Tail) else Tail(ids, 1)


def read_sites(
    model: HookedModel, ids: Int[Tensor, "batch pos"] | Tail, points: Sequence[Point]
) -> dict[Point, Float[Tensor, "batch *read unit"]]:
    """Values at the last position of each (site, layer), in float32 on the CPU.

    Of a `Tail`, those at each of its places.

    Raises:
        InputError: the model has no such hook (the message names it).
    """
    found: dict[Point, Tensor] = {}
    tail = _as_tail(ids)

    def keep(point: Point) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            own = value[:, tail.at] if tail is ids else value[:, -1]
            found[point] = own.detach().float().cpu()

        return see

    _want(model, points)
    with torch.no_grad():
        run_hooked(model, tail.ids, {point: keep(point) for point in points}, past=tail.past, last=True)
    if len(found) != len(points):
        silent = next(point for point in points if point not in found)
        raise RuntimeError(f"{site_name(*silent)} did not fire")
    return found


def change_sites(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"] | Tail,
    changes: Mapping[Point, Callable[[Float[Tensor, "batch *read unit"]], Tensor]],
) -> Float[Tensor, "batch *token vocab"]:
    """Logits at the last position, with the values of each named site changed there.

    Of a `Tail`, the values at each of its places are handed to the change; with tokens behind the prompt
    the logits are those at its end and at each of them. Differentiable: `site_slopes`.

    Raises:
        InputError: the model has no such hook, or it doesn't fire exactly once.
    """
    tail = _as_tail(ids)
    where: Any = tail.at if tail is ids else -1

    def make(point: Point) -> Callable[[Tensor], Tensor]:
        def put(value: Tensor) -> Tensor:
            changed = value.clone()
            changed[:, where] = changes[point](changed[:, where])
            return changed

        return put

    _want(model, changes)
    edits = {point: make(point) for point in changes}
    logits, fired = run_hooked(model, tail.ids, edits, past=tail.past, last=not tail.behind)
    for point, count in fired.items():
        if count != 1:
            raise InputError(f"{site_name(*point)} fired {count} times; expected once")
    return logits[:, -1 - tail.behind :] if tail.behind else logits[:, -1]


def site_slopes(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"] | Tail,
    points: Sequence[Point],
    metric: Callable[[Float[Tensor, "batch *token vocab"]], Float[Tensor, " batch"]],
    changes: Mapping[Point, Callable[[Float[Tensor, "batch *read unit"]], Tensor]] | None = None,
) -> tuple[dict[Point, Float[Tensor, "batch *read unit"]], dict[Point, Float[Tensor, "batch *read unit"]]]:
    """(values, d metric / d values) where `change_sites` changes each site, in float32 on the CPU.

    One forward and one backward pass: a zero is added to each site and the metric is differentiated by it.

    Args:
        changes: made at these points before; the values are those before the change.
    """
    values: dict[Point, Tensor] = {}
    zeros: dict[Point, Tensor] = {}

    def nudged(point: Point) -> Callable[[Tensor], Tensor]:
        def put(own: Tensor) -> Tensor:
            values[point] = own.detach().float().cpu()
            zeros[point] = torch.zeros_like(own, requires_grad=True)
            given = changes[point](own) if changes and point in changes else own
            return given + zeros[point]

        return put

    with torch.enable_grad():
        logits = change_sites(model, ids, {point: nudged(point) for point in points})
        found = torch.autograd.grad(
            metric(logits).sum(),
            [zeros[point] for point in points],
            allow_unused=True,
            materialize_grads=True,
        )
    slopes = {point: slope.float().cpu() for point, slope in zip(points, found, strict=True)}
    return values, slopes


def _want(model: HookedModel, points: Iterable[Point]) -> None:
    for point in points:
        if site_name(*point) not in model.hook_dict:
            raise InputError(f"the model has no hook {site_name(*point)}: name another site or layer")


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

    def cut(residual: Tensor) -> Tensor:
        leaf.append(residual.detach().requires_grad_())
        return leaf[0]

    with torch.enable_grad():
        point = f"blocks.{info.n_layers - 1}.hook_resid_post"
        with hooks_on(model, [(point, cut)]):
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

    def see(layer: int) -> Callable[[Tensor], None]:
        def hook(residual: Tensor) -> None:
            last = residual.detach().reshape(*ids.shape, -1)[:, -1]
            entering[:, layer] = last.float().cpu()

        return hook

    points = [(f"blocks.{layer}.hook_resid_pre", see(layer)) for layer in range(info.n_layers)]
    with torch.no_grad(), hooks_on(model, points):
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
    """d log p(answer) / d residual behind the last block, through the model's own code behind it."""
    with torch.enable_grad():
        leaf = residual.detach().clone().requires_grad_()
        log_p = torch.log_softmax(read_out(model)(leaf).float(), dim=-1)
        own = log_p.gather(1, answer.to(log_p.device)[:, None]).sum()
        (slope,) = torch.autograd.grad(own, leaf)
    return slope.float().cpu()


def unembedding(model: HookedModel) -> Float[Tensor, "d_model vocab"]:
    """The module that maps the normed residual stream to logits."""
    with fetched(model.unembed) as unembed:
        w_u: Tensor = unembed.W_U.detach()
    return w_u


def unembedding_bias(model: HookedModel) -> Float[Tensor, " vocab"] | None:
    """What the unembedding adds to the logits; None where it adds nothing."""
    with fetched(model.unembed) as unembed:
        bias = getattr(unembed, "b_U", None)
        if bias is not None and bias.is_meta:  # TransformerLens kept the placeholder
            bias = getattr(unembed.original_component, "bias", None)
        return None if bias is None else bias.detach()


# (residual streams, token ids or None for all) -> their logits
ReadOut = Callable[..., Float[Tensor, "row token"]]


def read_out(model: HookedModel) -> ReadOut:
    """`logits(residual, tokens=None)`: what the model's own code makes of streams behind its last block.

    The final norm, a projection, the unembedding, a soft cap or a scale, as they stand: the model is
    called on one token a row while its blocks return constants. `residual` is Float["row d_model"], the
    logits are Float["row token"] for the `tokens` asked for; differentiable where gradients are on.
    """
    blocks: list[Any] = list(model.blocks)
    unembed: Any = model.unembed
    clean: list[Any] = []
    see = [(block, "output", lambda _, __, y: clean.append(y)) for block in blocks]
    device, weight, bias = inspect_model(model).device, unembedding(model), unembedding_bias(model)
    with torch.no_grad(), passing(model), hooked(see):
        model(torch.zeros(1, 1, dtype=torch.long, device=device))
    if len(clean) != len(blocks):
        raise InputError(f"{len(clean)} of {len(blocks)} blocks were called: rank by nt.gradient")

    def some(residual: Tensor, columns: tuple[Tensor, Tensor | None] | None) -> Tensor:
        def returned(y: Any) -> Callable[..., Any]:
            first = y[0] if isinstance(y, tuple | list) else y
            stream = residual.to(first)[:, None]
            result = type(y)((stream, *y[1:])) if isinstance(y, tuple | list) else stream
            return lambda *_, **__: result

        def unembedded(x: Tensor, *_: Any, **__: Any) -> Tensor:
            w, b = columns  # type: ignore[misc]
            logits = x @ w.to(x)
            return logits if b is None else logits + b.to(x)

        forwards = [(block, returned(y)) for block, y in zip(blocks, clean, strict=True)]
        if columns is not None:
            forwards.append((unembed, unembedded))
        ids = torch.zeros(len(residual), 1, dtype=torch.long, device=device)
        with passing(model), overridden(forwards):
            return model(ids)[:, -1]  # type: ignore[no-any-return]

    def logits(residual: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        columns = None
        if tokens is not None:
            at = list(tokens)
            columns = weight[:, at], None if bias is None else bias[at]
        with torch.set_grad_enabled(torch.is_grad_enabled() and residual.requires_grad):
            return torch.cat([some(part, columns) for part in residual.split(_ROWS)])

    return logits
