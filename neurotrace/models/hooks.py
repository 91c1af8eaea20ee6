"""TransformerLens' model classes, hook names and their pitfalls; only this file and `sites.py` know them.

Two generations are supported: `TransformerBridge` (3.9 and 4.x) and `HookedTransformer` (3.9 and
before). The rest of the package uses `ModelInfo` and `forward`. `forward` runs a batch of prompts of
*equal length* and passes each layer's neuron activations to a function. Batches are never padded,
because left-padded batches are silently wrong for models with learned positions.

Some releases returned other tensors under a hook's name. Therefore `inspect_model` measures, once for
each model, whether the hooks return what they name, and raises an error that names the one that fails.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.models.protocol import HookedModel

# (layer, activations [batch pos neuron]) -> the activations to go on with, or None to leave them
Edit = Callable[[int, Tensor], "Tensor | None"]

Site = Literal["neurons", "residual", "attention", "mlp", "heads"]
Point = tuple[Site, int]  # a site in a layer
# what the MLP's neurons do; the residual stream behind the block; what its attention, its MLP write;
# what each head reads, side by side
_SITES: dict[Site, str] = {
    "neurons": "mlp.hook_post", "residual": "hook_resid_post", "attention": "hook_attn_out",
    "mlp": "hook_mlp_out", "heads": "attn.hook_z",
}  # fmt: skip
SITES: tuple[Site, ...] = ("neurons", "residual", "attention")  # those that detectors look at


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a hooked model, found when it was checked."""

    name: str
    kind: str  # "TransformerBridge" or "HookedTransformer"
    n_layers: int
    d_mlp: int
    d_model: int
    d_vocab: int
    device: torch.device
    dtype: torch.dtype

    @property
    def n_neurons(self) -> int:
        return self.n_layers * self.d_mlp


@dataclass(frozen=True)
class _Origin:
    name: str
    tokenizer: Any
    twin: torch.nn.Module | None
    points: tuple[Any, ...]  # its hook points; walking `hook_dict` again takes a second
    own_hooks: int  # TransformerLens puts some of its own on some families (OPT)


_origins: weakref.WeakKeyDictionary[Any, _Origin] = weakref.WeakKeyDictionary()
_checked: weakref.WeakKeyDictionary[Any, ModelInfo] = weakref.WeakKeyDictionary()


def remember_origin(
    model: HookedModel, *, name: str, tokenizer: Any, twin: torch.nn.Module | None
) -> None:
    """Record the origin of a loaded model: its name, its own tokenizer, its unhooked twin.

    TransformerLens makes the tokenizer prepend BOS even where the model's own doesn't; the original
    is what `encode` uses. The twin is the transformers model over the same storage, made before
    TransformerLens replaced its modules.
    """
    points = tuple(model.hook_dict.values())
    _origins[model] = _Origin(name, tokenizer, twin, points, _count_hooks(points))


def twin(model: HookedModel) -> torch.nn.Module | None:
    """The unhooked transformers model over the same weights, if `load_model` made one.

    None while the user's own hooks are on the model, because the twin would not see them.
    """
    origin = _origins.get(model)
    if origin is None or _count_hooks(origin.points) != origin.own_hooks:
        return None
    return origin.twin


def tokenizer_of(model: HookedModel) -> Any:
    """The tokenizer as the model's makers set it up, else the one on the hooked model."""
    origin = _origins.get(model)
    tokenizer = origin.tokenizer if origin else getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError("the model has no tokenizer: load it with one, or set model.tokenizer")
    return tokenizer


def context_length(model: HookedModel) -> int:
    """The maximum number of tokens of the model; 0: unknown."""
    return int(getattr(model.cfg, "n_ctx", 0) or 0)


def inspect_model(model: HookedModel) -> ModelInfo:
    """Check, once, that the model's neuron hooks return what they name; return the facts found.

    Raises:
        InputError: not a TransformerLens model; in training mode; no MLP neurons (attention only,
            sparse mixture of experts); a hook that is missing, fires never or twice, has the wrong
            width, or doesn't equal the input of the down projection.
    """
    if model in _checked:
        return _checked[model]
    if not (hasattr(model, "cfg") and hasattr(model, "hook_dict") and hasattr(model, "hooks")):
        raise InputError(
            "expected a TransformerLens model (TransformerBridge or HookedTransformer), "
            f"got a {type(model).__name__}: load one with nt.load_model(name or folder)"
        )
    cfg = model.cfg
    name = _origins[model].name if model in _origins else str(getattr(cfg, "model_name", "model"))
    if model.training:
        raise InputError(f"{name} is in training mode, where dropout adds noise: call model.eval()")
    if getattr(cfg, "num_experts", None):
        raise InputError(
            f"{name} has sparse mixture-of-experts blocks ({cfg.num_experts} experts): which neuron "
            "is which changes from token to token; use a dense model"
        )
    if getattr(cfg, "attn_only", False) or not getattr(cfg, "d_mlp", None):
        raise InputError(f"{name} has no MLP neurons (attention only): use a model with MLPs")
    info = ModelInfo(
        name=name,
        kind="HookedTransformer" if type(model).__name__ == "HookedTransformer"
        else "TransformerBridge",
        n_layers=int(cfg.n_layers),
        d_mlp=_width(model, name),
        d_model=int(cfg.d_model),
        d_vocab=int(cfg.d_vocab),
        device=_device(model),
        dtype=next(model.parameters()).dtype,
    )  # fmt: skip
    _check_neurons(model, info)
    _check_logits(model, info)
    _checked[model] = info
    return info


def post_name(layer: int) -> str:
    """Hook point of the neurons of block `layer`."""
    return f"blocks.{layer}.mlp.hook_post"


def site_name(site: Site, layer: int) -> str:
    """Hook point of a site in block `layer`."""
    return f"blocks.{layer}.{_SITES[site]}"


def w_out(model: HookedModel, layer: int) -> Float[Tensor, "neuron d_model"]:
    """Rows that the neurons of `layer` write to the residual stream."""
    with _fetched(model.blocks[layer].mlp) as mlp:
        rows: Tensor = mlp.W_out.detach()
    return rows


def down_projections(model: HookedModel) -> list[torch.nn.Module]:
    """The modules of each block that return what the neurons write, before any norm behind the MLP."""
    # a bridge's `out` is the projection itself; a HookedTransformer's MLP ends with it
    return [getattr(block.mlp, "out", block.mlp) for block in model.blocks]


def unembedding(model: HookedModel) -> Float[Tensor, "d_model vocab"]:
    """The module that maps the normed residual stream to logits."""
    with _fetched(model.unembed) as unembed:
        w_u: Tensor = unembed.W_U.detach()
    return w_u


def unembedding_bias(model: HookedModel) -> Float[Tensor, " vocab"] | None:
    """What the unembedding adds to the logits; None where it adds nothing."""
    with _fetched(model.unembed) as unembed:
        bias = getattr(unembed, "b_U", None)
        if bias is not None and bias.is_meta:  # TransformerLens kept the placeholder
            bias = getattr(unembed.original_component, "bias", None)
        return None if bias is None else bias.detach()


@contextmanager
def _fetched(module: Any) -> Iterator[Any]:
    """The module with its weights in memory, also if they are on disk or on another device."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        yield module
        return
    from accelerate.utils import align_module_device

    with ExitStack() as here:
        for part in module.modules():
            here.enter_context(align_module_device(part))
        yield module


def forward(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    *,
    edit: Edit | None = None,
    layers: Iterable[int] = (),
    site: Site = "neurons",
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position, with `edit(layer, activations)` called in each of `layers`.

    A hook that doesn't fire exactly once raises RuntimeError.
    """
    edits = {(site, layer): partial(edit or _leave, layer) for layer in layers}
    logits, fired = run_hooked(model, ids, edits)
    for point, count in fired.items():
        if count != 1:
            raise RuntimeError(f"{site_name(*point)} fired {count} times; expected once")
    return logits[:, -1]


def _leave(layer: int, value: Tensor) -> None:
    return None


def run_hooked(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    edits: Mapping[Point, Callable[[Float[Tensor, "batch pos unit"]], Tensor | None]],
) -> tuple[Float[Tensor, "batch pos vocab"], dict[Point, int]]:
    """Logits, with each point's values handed to its edit; and how often each hook fired.

    The hooks are gone when this returns, exceptions included; the user's own hooks stay.
    """
    fired = dict.fromkeys(edits, 0)

    def make(point: Point) -> Callable[..., Tensor | None]:
        def hook(value: Tensor, hook: Any = None) -> Tensor | None:
            fired[point] += 1
            # OPT's MLP runs on [batch*pos, neuron]; heads are [batch, pos, head, unit]
            changed = edits[point](value.reshape(*ids.shape, -1))
            return None if changed is None else changed.reshape(value.shape)

        return hook

    with model.hooks(fwd_hooks=[(site_name(*point), make(point)) for point in fired]):
        return model(ids.to(_device(model))), fired


def _count_hooks(points: Iterable[Any]) -> int:
    return sum(len(point.fwd_hooks) for point in points)


def _width(model: HookedModel, name: str) -> int:
    """Rows of W_out, the same in every layer. (The config's d_mlp is wrong for some families.)"""
    try:
        widths = {w_out(model, layer).shape[0] for layer in range(int(model.cfg.n_layers))}
    except (AttributeError, TypeError):
        raise InputError(
            f"{name}: its blocks have no dense MLP with a W_out to read (attention only, or sparse "
            "mixture of experts): use a dense model"
        ) from None
    if len(widths) != 1:
        raise InputError(f"{name}: MLPs of different widths {sorted(widths)} are not supported")
    return widths.pop()


def _check_neurons(model: HookedModel, info: ModelInfo) -> None:
    """Width, firing, and hook_post @ W_out + b against what the down projection returned."""
    ids = _sample_ids(info)
    names = [post_name(layer) for layer in range(info.n_layers)]
    missing = [name for name in names if name not in model.hook_dict]
    if missing:
        raise InputError(f"{info.name}: no hook {missing[0]}: its blocks have no dense MLP to read")
    seen: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {}

    def keep(layer: int, post: Tensor) -> None:
        seen[layer] = post.detach()

    def keep_written(layer: int) -> Callable[..., None]:
        def hook(value: Tensor, hook: Any = None) -> None:
            written[layer] = value.detach().reshape(*ids.shape, -1)

        return hook

    outputs = [
        (name, keep_written(layer))
        for layer in range(info.n_layers)
        if (name := f"blocks.{layer}.mlp.out.hook_out") in model.hook_dict
        or (name := f"blocks.{layer}.hook_mlp_out") in model.hook_dict
    ]
    try:
        with torch.no_grad(), model.hooks(fwd_hooks=outputs):
            forward(model, ids, edit=keep, layers=range(info.n_layers))
    except Exception as error:  # any error of the model's code or of TransformerLens
        raise InputError(
            f"{info.name}: the neuron hooks fail their check: {error} "
            "(use another version of transformer-lens or another model)"
        ) from error
    post_norm = getattr(model.cfg, "use_normalization_before_and_after", False)
    for layer, post in seen.items():
        if post.shape[-1] != info.d_mlp:
            raise InputError(
                f"{info.name}: {post_name(layer)} is {post.shape[-1]} wide, W_out has {info.d_mlp} "
                "rows: these are not neurons (a sparse or unusual MLP); use another model"
            )
        if layer not in written or (post_norm and "HookedTransformer" in info.kind):
            continue
        expected = post.float() @ w_out(model, layer).to(post.device).float()
        with _fetched(model.blocks[layer].mlp) as mlp:
            bias = getattr(mlp, "b_out", None)
            if bias is not None and bias.is_meta:  # TransformerLens kept the placeholder
                bias = mlp.out.original_component.bias
            expected += 0 if bias is None else bias.detach().to(post.device).float()
        scale = expected.abs().max().clamp(min=1e-6)
        off = float((expected - written[layer].float()).abs().max() / scale)
        if not off <= _tolerance(info.dtype):  # `not <=` catches NaN
            raise InputError(
                f"{info.name}: {post_name(layer)} @ W_out differs from the MLP's output by "
                f"{off:.2g} of its size: the hook doesn't show this model's neurons; use another "
                "version of transformer-lens or another model"
            )


def _check_logits(model: HookedModel, info: ModelInfo) -> None:
    """The hooked model's log-probabilities against its twin's, where there is one."""
    other = twin(model)
    if other is None:
        return
    ids = _sample_ids(info)
    with torch.no_grad():
        ours = forward(model, ids).float().log_softmax(-1)
        theirs = other(ids.to(info.device), use_cache=False).logits[:, -1].float().log_softmax(-1)
    error = (ours - theirs).abs().max()
    # eager against fused attention: 1e-3 in float32 is what TransformerLens itself allows
    if not error <= max(2e-3, 10 * _tolerance(info.dtype)):
        raise InputError(
            f"{info.name}: through TransformerLens its log-probabilities differ by {error:.2g} from "
            "transformers' own: hooks on it would describe another model; use another version"
        )


def _device(model: HookedModel) -> torch.device:
    """Where the ids go: the first block's device, of a model that is spread over several."""
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def _sample_ids(info: ModelInfo) -> Int[Tensor, "1 pos"]:
    return (torch.arange(1, 7) * 7 % info.d_vocab)[None]


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-3 if dtype == torch.float32 else 5e-2


def write_norms(model: HookedModel) -> Float[Tensor, "layer neuron"]:
    """||W_out row|| of every neuron: of the weights. `written_norms` has what arrives behind the block."""
    layers = range(inspect_model(model).n_layers)
    return torch.stack([w_out(model, layer).float().norm(dim=-1).cpu() for layer in layers])
