"""What a neuron writes: how the residual stream behind its block moves with its activation.

In most families that is the neuron's `W_out` row. Where a norm, a multiplier or more of the block
stands between the MLP's output m and the residual stream h (Gemma 2, OLMo 2, Granite, …), it is

    written_i = dh/da_i = (dh/dm) W_out[i]

the map dh/dm taken at a run: the direction is the run's own. It is found by differentiating the
model's own code, never by a family's name: a zero is added to what each down projection returns, at
the last position, and the residual stream behind the block is differentiated by it.

`is_plain` finds out, once a model, whether dh/dm is the identity in every block and each block hands
the stream on as it is. Then the rows are the weights' own, bit for bit, and cost nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES
from neurotrace.engine.parts import hooked
from neurotrace.engine.turns import passing, turn
from neurotrace.models.activations import read_activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import expert_neurons, forward, inspect_model, w_out
from neurotrace.models.origins import changed, engine_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import final_residual_slope

_CHUNK = 2**22  # numbers in one tensor, while many directions are carried on together
_plain: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def is_plain(model: HookedModel) -> bool:
    """Whether each neuron writes its `W_out` row, and blocks hand the residual stream on unchanged.

    Measured on the model, once: directions must come through a block as they are, in every entry.
    """
    if changed(model):  # after it was loaded: measured in each call
        with turn(model) as notes:
            if "plain" not in notes:
                notes["plain"] = _measured_plain(model)
            return bool(notes["plain"])
    if model not in _plain:
        _plain[model] = _measured_plain(model)
    return _plain[model]


def _measured_plain(model: HookedModel) -> bool:
    info = inspect_model(model)
    ids = (torch.arange(1, 7) * 7 % info.d_vocab)[None]
    some = torch.randn(1, info.d_model, generator=torch.Generator().manual_seed(0))

    def unchanged(stream: Tensor, zero: Tensor) -> bool:
        sent = some.to(stream)
        (arrived,) = torch.autograd.grad(stream, zero, sent, retain_graph=True)
        return torch.allclose(arrived.to(sent), sent, rtol=1e-5, atol=1e-7)

    if not all(unchanged(*tail) for tail in _tails(model, ids)):
        return False
    streams, zeros, _ = _direct_path(model, ids)
    return all(unchanged(streams[-1], zero) for zero in zeros)


def written_rows(
    model: HookedModel, ids: Int[Tensor, "batch pos"]
) -> Iterator[Float[Tensor, "batch neuron d_model"]]:
    """What each neuron of a layer writes at the last position, layer by layer, float32 on the CPU."""
    factors = router_factors(model, ids)
    tails = [None] * inspect_model(model).n_layers if is_plain(model) else _tails(model, ids)
    for layer, tail in enumerate(tails):
        rows = w_out(model, layer)
        if tail is None:
            written = rows.float().cpu().expand(len(ids), -1, -1)
        else:
            written = _carried(tail, rows).transpose(0, 1)
        yield written if factors is None else written * factors[:, layer, :, None]


def write_norms(model: HookedModel) -> Float[Tensor, "layer neuron"]:
    """||W_out row|| of every neuron: of the weights. `written_norms` has what arrives behind the block."""
    layers = range(inspect_model(model).n_layers)
    return torch.stack([w_out(model, layer).float().norm(dim=-1).cpu() for layer in layers])


def router_factors(
    model: HookedModel, ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch layer neuron"] | None:
    """The router's weight of each neuron's expert at the last position; None: the model is no mixture.

    0 where the token is not sent to the expert; of a shared expert its gate, 1 where it has none.
    """
    every = expert_neurons(model)
    if every is None:
        return None
    info, engine = inspect_model(model), engine_of(model)
    columns = [neurons.columns(torch.arange(info.d_mlp)) for neurons in every]
    if engine is not None:
        found = [sent.factors for sent in engine.clean(ids).sent]
        own = [x[:, -1, at].float().cpu() for x, at in zip(found, columns, strict=True)]
        return torch.stack(own, dim=1)
    factors = torch.zeros(len(ids), info.n_layers, info.d_mlp)

    def keep(layer: int, post: Tensor) -> None:
        own = every[layer].factors.reshape(*ids.shape, -1)[:, -1]
        factors[:, layer] = own[:, columns[layer].to(own.device)].float().cpu()

    with torch.no_grad():
        forward(model, ids, edit=keep, layers=range(info.n_layers))
    return factors


def direct_slopes(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    metric: Callable[[Float[Tensor, "batch vocab"]], Float[Tensor, " batch"]],
) -> tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer d_model"]]:
    """Activations, and d metric / d (what each layer's MLP returns) by the direct path, last position.

    The direct path: what stands behind the MLP in its own block, whatever later blocks do to the
    residual stream itself (nothing, in most families), the final norm and the unembedding. What later
    attentions and MLPs make of it is held as it is in the run: in later blocks the results of all
    matrix products are constants.
    """
    info = inspect_model(model)
    if is_plain(model):
        values, slope = final_residual_slope(model, ids, metric)
        return values, slope[:, None].expand(-1, info.n_layers, -1)
    values = read_activations(model, ids, info.n_layers, info.d_mlp)
    _, zeros, logits = _direct_path(model, ids)
    slopes = torch.autograd.grad(metric(logits).sum(), zeros)
    found = [
        torch.autograd.grad(stream, zero, slope.to(stream))[0].float().cpu()
        for (stream, zero), slope in zip(_tails(model, ids), slopes, strict=True)
    ]
    return values, torch.stack(found, dim=1)


def pair_norms(
    model: HookedModel, encoded: EncodedPairs, *, batch_size: int = 16, progress: Progress = None
) -> Float[Tensor, "pair layer neuron"]:
    """||written_i|| of each pair: the root mean square of its two runs, at the read position.

    One row for all pairs where neurons write their `W_out` rows at every run. In a mixture the router's
    weight counts: the norm is 0 where the token is not sent to the neuron's expert.
    """
    info = inspect_model(model)
    plain = is_plain(model)
    if plain and info.experts is None:
        return write_norms(model)[None]
    lengths = write_norms(model).square() if plain else None
    squares = torch.zeros(len(encoded), info.n_layers, info.d_mlp)
    for side in SIDES:
        batches = list(by_length(encoded.ids(side), batch_size))
        for rows, ids in over(progress, batches, f"written norms ({side} prompts)"):
            factors = router_factors(model, ids)
            weight = 1.0 if factors is None else factors.square()
            if lengths is not None:
                squares[rows] += lengths * weight / len(SIDES)
                continue
            own = [_squares(tail, w_out(model, at)) for at, tail in enumerate(_tails(model, ids))]
            squares[rows] += torch.stack(own, dim=1) * weight / len(SIDES)
    return squares.sqrt()


def over_pairs(norms: Float[Tensor, "pair layer neuron"]) -> Float[Tensor, "layer neuron"]:
    """One number a neuron: the root mean square over pairs."""
    return norms[0] if len(norms) == 1 else norms.square().mean(dim=0).sqrt()


def written_norms(
    model: HookedModel, encoded: EncodedPairs, *, progress: Progress = None
) -> Float[Tensor, "layer neuron"]:
    """||written_i||, the root mean square over both runs of the pairs; ||W_out row|| where that is it."""
    return over_pairs(pair_norms(model, encoded, progress=progress))


@dataclass(frozen=True)
class MeanWritten:
    """What each neuron writes on the average over runs: dh/dm is averaged, the rows are the weights'.

    The router's weight, which changes no direction, is left out.
    """

    model: HookedModel
    maps: Float[Tensor, "layer d_model d_model"] | None  # None: the identity

    def rows(self, layer: int) -> Float[Tensor, "neuron d_model"]:
        """The rows of `layer`, in float32."""
        rows = w_out(self.model, layer).float()
        return rows if self.maps is None else rows @ self.maps[layer].to(rows)


def mean_written(
    model: HookedModel, encoded: EncodedPairs, *, batch_size: int = 16, progress: Progress = None
) -> MeanWritten:
    """The mean over both runs of the pairs, at the read position."""
    if is_plain(model):
        return MeanWritten(model, None)
    info = inspect_model(model)
    maps = torch.zeros(info.n_layers, info.d_model, info.d_model)
    for side in SIDES:
        batches = list(by_length(encoded.ids(side), batch_size))
        for _, ids in over(progress, batches, f"what is written ({side} prompts)"):
            for layer, tail in enumerate(_tails(model, ids)):
                maps[layer] += _carried(tail, torch.eye(info.d_model)).sum(dim=1)
    return MeanWritten(model, maps / (len(SIDES) * len(encoded)))


class _Tail(NamedTuple):
    """One block at the last position: d stream / d zero is what stands behind its MLP."""

    stream: Float[Tensor, "batch d_model"]  # the residual stream behind the block
    zero: Float[Tensor, "batch d_model"]  # the zero that was added to what the MLP returned


@dataclass(frozen=True)
class _Modules:
    """Where hooks go, and a pass that calls them: the suffix engine's or TransformerLens' modules."""

    writers: Sequence[nn.Module]  # each returns what a block's neurons write
    blocks: Sequence[nn.Module]
    logits: Callable[[Tensor, Any], Tensor]  # (ids, hooks) -> logits at the last position


def _modules(model: HookedModel) -> _Modules:
    engine = engine_of(model)
    if engine is not None and engine.path != "naive":
        from neurotrace.engine.slopes import logits_hooked, prefix_of

        parts = engine.parts
        return _Modules(
            parts.writers,
            parts.blocks,
            lambda ids, hooks: logits_hooked(engine, ids, prefix_of(engine, ids), hooks),
        )
    info = inspect_model(model)

    def logits(ids: Tensor, hooks: Any) -> Tensor:
        with passing(model), hooked(hooks):
            return model(ids.to(info.device))[:, -1]  # type: ignore[no-any-return]

    return _Modules(_writers(model), list(model.blocks), logits)


def _writers(model: HookedModel) -> list[torch.nn.Module]:
    """The modules of each block that return what the neurons write, before any norm behind the MLP."""
    if (every := expert_neurons(model)) is not None:
        return [each.mlp for each in every]
    # a bridge's `out` is the projection itself; a HookedTransformer's MLP ends with it
    return [getattr(block.mlp, "out", block.mlp) for block in model.blocks]


def _nudged(y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(`y` with a zero added at the last position, the zero), where `y` may be flattened."""
    seen = y.reshape(count, -1, y.shape[-1])
    zero = torch.zeros_like(seen[:, -1], requires_grad=True)
    changed = torch.cat([seen[:, :-1], (seen[:, -1] + zero)[:, None]], dim=1)
    return changed.reshape(y.shape), zero


def _tails(model: HookedModel, ids: Int[Tensor, "batch pos"]) -> list[_Tail]:
    """Each block's, from one pass."""
    modules = _modules(model)
    streams: list[Tensor] = []
    zeros: list[Tensor] = []

    def nudge(_: nn.Module, __: tuple, y: Any) -> Any:
        changed, zero = _nudged(y[0] if isinstance(y, tuple) else y, len(ids))
        zeros.append(zero)
        return (changed, *y[1:]) if isinstance(y, tuple) else changed

    def see(_: nn.Module, __: tuple, y: Any) -> None:
        residual = y[0] if isinstance(y, tuple | list) else y
        streams.append(residual.reshape(len(ids), -1, residual.shape[-1])[:, -1])

    hooks: list[Any] = [(module, "output", nudge) for module in modules.writers]
    hooks += [(block, "output", see) for block in modules.blocks]
    with torch.enable_grad():
        modules.logits(ids, hooks)
    return [_Tail(*tail) for tail in zip(streams, zeros, strict=True)]


def _direct_path(
    model: HookedModel, ids: Int[Tensor, "batch pos"]
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(residual streams behind the blocks, the zero added to each, logits), by the direct path."""
    modules = _modules(model)
    held = _Held()
    streams: list[Tensor] = []
    zeros: list[Tensor] = []

    def enter(*_: Any) -> None:
        held.inside = True

    def leave(_: nn.Module, __: tuple, y: Any) -> Any:
        held.inside = False
        residual = y[0] if isinstance(y, tuple | list) else y
        changed, zero = _nudged(residual, len(ids))
        zeros.append(zero)
        streams.append(changed.reshape(len(ids), -1, changed.shape[-1])[:, -1])
        return type(y)((changed, *y[1:])) if isinstance(y, tuple | list) else changed

    hooks: list[Any] = [(block, "input", enter) for block in modules.blocks]
    hooks += [(block, "output", leave) for block in modules.blocks]
    with torch.enable_grad(), held:
        logits = modules.logits(ids, hooks)
    return streams, zeros, logits


class _Held(TorchFunctionMode):
    """While `inside` a block: the results of matrix products are constants.

    Attention and MLP begin and end with such products, so that what is left to differentiate is what
    the block does to the residual stream itself.
    """

    _PRODUCTS = frozenset(
        "linear matmul grouped_mm _grouped_mm __matmul__ __rmatmul__ mm bmm addmm addbmm baddbmm "  # noqa: SIM905
        "einsum conv1d".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.detach() if self.inside and func.__name__ in self._PRODUCTS else result


def _carried(tail: _Tail, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row batch d_model"]:
    """(d stream / d zero) applied to each of `rows`, in float32 on the CPU."""
    return torch.cat([part.float().cpu() for part in _parts(tail, rows)])


def _squares(tail: _Tail, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "batch row"]:
    """Squared lengths of the same."""
    return torch.cat([part.float().square().sum(-1).cpu() for part in _parts(tail, rows)]).t()


def _parts(tail: _Tail, rows: Float[Tensor, "row d_model"]) -> Iterator[Float[Tensor, "row batch d_model"]]:
    """A product with the transposed map is linear in its other factor, whose slope is the map itself."""
    stream, zero = tail
    other = torch.zeros_like(stream, requires_grad=True)
    with torch.enable_grad():
        (back,) = torch.autograd.grad(stream, zero, other, create_graph=True)
    rows = rows.to(back)
    for part in rows.split(max(1, _CHUNK // stream.numel())):
        ahead = part[:, None].expand(-1, len(stream), -1)
        (found,) = torch.autograd.grad(back, other, ahead, is_grads_batched=True, retain_graph=True)
        yield found
