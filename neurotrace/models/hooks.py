"""TransformerLens' model classes, hook names and their pitfalls; only this file and `sites.py` know them.

Two generations are supported: `TransformerBridge` (3.9 and 4.x) and `HookedTransformer` (3.9 and
before). The rest of the package uses `ModelInfo` and `forward`. `forward` runs a batch of prompts of
*equal length* and passes each layer's neuron activations to a function. Batches are never padded:
left-padded batches are silently wrong for models with learned positions.

Some releases returned other tensors under a hook's name. Therefore `inspect_model` measures, once for
each model, whether the hooks return what they name, and raises an error that names the one that fails.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Experts
from neurotrace.engine.experts import Neurons, neurons_of
from neurotrace.engine.parts import at_routers, hooked, last_alone
from neurotrace.engine.turns import passing, turn
from neurotrace.models.checks import check_causal, check_experts, check_logits, drops, tolerance
from neurotrace.models.origins import Origin, State, changed, origin_of, remember_origin, twin
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sameness import Snapshot

# what passes a hook point -> what to go on with, or None to leave it
Hook = Callable[[Tensor], "Tensor | None"]
# (layer, activations [batch pos neuron]) -> the activations to go on with, or None to leave them
Edit = Callable[[int, Tensor], "Tensor | None"]

Site = Literal["neurons", "residual", "attention", "mlp", "heads", "router"]
Point = tuple[Site, int]  # a site in a layer
# what the MLP's neurons do; the residual stream behind the block; what its attention, its MLP write;
# what each head reads, side by side; a mixture's router before it picks (a name of ours)
_SITES: dict[str, str] = {
    "neurons": "mlp.hook_post",
    "residual": "hook_resid_post",
    "attention": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "heads": "attn.hook_z",
    "router": "mlp.router",
    "pattern": "attn.hook_pattern",  # where each head looks: no site of interventions
}
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
    experts: Experts | None = None  # how a mixture's neurons are named; None: no mixture

    @property
    def n_neurons(self) -> int:
        return self.n_layers * self.d_mlp

    @property
    def naming(self) -> dict[str, Any]:
        """What a record of scores says of the neurons' names: nothing, but of a mixture."""
        return {} if self.experts is None else {"experts": [list(block) for block in self.experts.blocks]}


_mixtures: weakref.WeakKeyDictionary[Any, list[Neurons] | None] = weakref.WeakKeyDictionary()
_checked: weakref.WeakKeyDictionary[Any, ModelInfo] = weakref.WeakKeyDictionary()


def inspect_model(model: HookedModel) -> ModelInfo:
    """Check that the model's neuron hooks return what they name; return the facts found.

    The checks run once per model, and again after the model was changed.

    Raises:
        InputError: not a TransformerLens model; in training mode; no MLP neurons (attention only,
            sparse mixture of experts); a hook that is missing, fires never or twice, has the wrong
            width, or doesn't equal the input of the down projection; logits that depend on later
            tokens.

    Example::

        nt.inspect_model(model).n_neurons
    """
    if not (hasattr(model, "cfg") and hasattr(model, "hook_dict") and hasattr(model, "hooks")):
        raise InputError(
            "expected a TransformerLens model (TransformerBridge or HookedTransformer), "
            f"got a {type(model).__name__}: load one with nt.load_model(name or folder)"
        )
    with turn(model):
        own = origin_of(model)
        if own is None:
            own = remember_origin(model, name=str(getattr(model.cfg, "model_name", "model")))
        what = changed(model)
        if what:
            return _inspect_changed(model, own, what)
        if model not in _checked:
            _checked[model] = _inspect(model, own)
            if own.loaded is None:
                held = [*own.twin.parameters(), *own.twin.buffers()] if own.twin else []
                own.loaded = Snapshot(cast(Any, model), held)
        return _checked[model]


def _inspect_changed(model: HookedModel, own: Origin, what: str) -> ModelInfo:
    if own.now is None or own.now.snapshot.difference():
        try:
            info = _inspect(model, own, _checked.get(model))
        except InputError as error:
            raise InputError(f"{error} (changed after loading: {what})") from error
        own.now = State(Snapshot(cast(Any, model)), info)
    return cast(ModelInfo, own.now.info)


def _inspect(model: HookedModel, own: Origin, before: ModelInfo | None = None) -> ModelInfo:
    """What `inspect_model` does; `before`: what was found before a change."""
    cfg, name = model.cfg, own.name
    if model.training or any(map(drops, cast(Any, model).modules())):
        raise InputError(f"{name} is in training mode, where dropout adds noise: call model.eval()")
    every = expert_neurons(model)
    if getattr(cfg, "num_experts", None) and every is None:
        raise InputError(
            f"{name} has sparse mixture-of-experts blocks ({cfg.num_experts} experts) without hooks on "
            "their neurons: load it with nt.load_model"
        )
    if getattr(cfg, "attn_only", False) or not getattr(cfg, "d_mlp", None):
        raise InputError(f"{name} has no MLP neurons (attention only): use a model with MLPs")
    info = ModelInfo(
        name=name,
        kind="HookedTransformer" if type(model).__name__ == "HookedTransformer" else "TransformerBridge",
        n_layers=int(cfg.n_layers),
        d_mlp=before.d_mlp if before else _width(model, name),
        d_model=int(cfg.d_model),
        d_vocab=int(cfg.d_vocab),
        device=_device(model),
        dtype=next(model.parameters()).dtype,
        experts=None if every is None else Experts(tuple((n.experts, n.width, n.shared) for n in every)),
    )
    # of a changed model W_out needn't be what it writes; `w_out` asks
    _check_neurons(model, info, rows=before is None)
    if before is None:
        _check_logits(model, info)
    check_causal(name, lambda ids: run_hooked(model, ids, {})[0], info.d_vocab)
    return info


def post_name(layer: int) -> str:
    """Hook point of the neurons of block `layer`."""
    return f"blocks.{layer}.mlp.hook_post"


def site_name(site: Site, layer: int) -> str:
    """Hook point of a site in block `layer`."""
    return f"blocks.{layer}.{_SITES[site]}"


def w_out(model: HookedModel, layer: int) -> Float[Tensor, "neuron d_model"]:
    """Rows that the neurons of `layer` write to the residual stream.

    Raises:
        InputError: the model was changed after it was loaded, and writes others.
    """
    if changed(model):
        _refuse_other_rows(model)
    if (every := expert_neurons(model)) is not None:
        return every[layer].rows().detach()
    with fetched(model.blocks[layer].mlp) as mlp:
        rows: Tensor = mlp.W_out.detach()
    return rows


def _refuse_other_rows(model: HookedModel) -> None:
    with turn(model) as notes:  # an adapter may be trained between two
        if "rows" not in notes:
            notes["rows"] = ""  # the check reads them
            try:
                _check_neurons(model, inspect_model(model))
            except (InputError, AttributeError, TypeError) as error:  # it needn't have a weight
                notes["rows"] = str(error)
        if notes["rows"]:
            raise InputError(
                f"{notes['rows']} (changed after loading: {changed(model)}; undo it, or use what reads "
                "no W_out, such as nt.gradient)"
            )


@contextmanager
def fetched(module: Any) -> Iterator[Any]:
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
    every: bool = False,
) -> Float[Tensor, "batch *pos vocab"]:
    """Logits at the last position, with `edit(layer, activations)` called in each of `layers`.

    `every`: at every position. A hook that doesn't fire exactly once raises RuntimeError.
    """
    edits = {(site, layer): partial(edit or (lambda layer, value: None), layer) for layer in layers}
    logits, fired = run_hooked(model, ids, edits, last=not every)
    for point, count in fired.items():
        if count != 1:
            raise RuntimeError(f"{site_name(*point)} fired {count} times; expected once")
    return logits if every else logits[:, -1]


def run_hooked(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    edits: Mapping[Point, Callable[[Float[Tensor, "batch pos unit"]], Tensor | None]],
    past: Any = None,
    last: bool = False,
) -> tuple[Float[Tensor, "batch pos vocab"], dict[Point, int]]:
    """Logits, with each point's values handed to its edit; and how often each hook fired.

    `past`: keys and values before `ids`, in transformers' form. `last`: logits "batch 1 vocab" of the last
    position. The hooks are gone when this returns, exceptions included; the user's own hooks stay.
    """
    own = origin_of(model)
    if edits and own is not None and own.routing == "frozen":
        raise InputError("frozen routing runs on the suffix engine; this needs hooks: take routing 'free'")
    fired = dict.fromkeys(edits, 0)

    def make(point: Point) -> Hook:
        def hook(value: Tensor) -> Tensor | None:
            fired[point] += 1
            # OPT's MLP runs on [batch*pos, neuron]; heads are [batch, pos, head, unit]
            changed = edits[point](value.reshape(*ids.shape, -1))
            return None if changed is None else changed.reshape(value.shape)

        return hook

    behind = {} if past is None else {"past_key_values": past}
    own_hooks = [(site_name(*point), make(point)) for point in fired]
    with hooks_on(model, own_hooks), hooked(last_alone(model.unembed) if last else []):
        return model(ids.to(_device(model)), **behind), fired


@contextmanager
def hooks_on(model: HookedModel, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
    """Each function on its hook point inside the `with`, for passes of this thread alone."""
    thread, every = get_ident(), expert_neurons(model) or []
    own = {post_name(layer): neurons for layer, neurons in enumerate(every)}
    sparse = [(layer, each) for layer, each in enumerate(every) if each.routed is not None]
    routers = {site_name("router", layer): each for layer, each in sparse}

    def ours(function: Hook) -> Callable[..., Tensor | None]:
        def hook(value: Tensor, hook: Any = None) -> Tensor | None:
            return function(value) if get_ident() == thread else None

        return hook

    ours_only = [(name, ours(function)) for name, function in hooks]
    theirs = [(name, function) for name, function in ours_only if name not in {**own, **routers}]
    experts = [
        (own[name], "output", lambda _, __, value, function=function: function(value))
        for name, function in ours_only
        if name in own
    ]
    logits = [(routers[name], function) for name, function in ours_only if name in routers]
    with turn(model), passing(model), model.hooks(fwd_hooks=theirs), hooked(experts), at_routers(logits):
        yield


def expert_neurons(model: HookedModel) -> list[Neurons] | None:
    """The modules that hold the neurons of each block of a mixture; None: the model is no mixture."""
    if model not in _mixtures:
        every = [neurons_of(block) for block in getattr(model, "blocks", ())]
        _mixtures[model] = [each for each in every if each is not None] if every and all(every) else None
    return _mixtures[model]


def _width(model: HookedModel, name: str) -> int:
    """Rows of W_out, the same in every layer. (The config's d_mlp is wrong for some families.)"""
    if (every := expert_neurons(model)) is not None:
        return every[0].total
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


def _check_neurons(model: HookedModel, info: ModelInfo, *, rows: bool = True) -> None:
    """Width, firing, and (`rows`) hook_post @ W_out + b against what the down projection returned."""
    ids = _sample_ids(info)
    if (every := expert_neurons(model)) is not None:
        check_experts(info.name, every, lambda: run_hooked(model, ids, {})[0], info.dtype)
        return
    names = [post_name(layer) for layer in range(info.n_layers)]
    missing = [name for name in names if name not in model.hook_dict]
    if missing:
        raise InputError(f"{info.name}: no hook {missing[0]}: its blocks have no dense MLP to read")
    seen: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {}

    def keep(layer: int, post: Tensor) -> None:
        seen[layer] = post.detach()

    def keep_written(layer: int) -> Hook:
        def hook(value: Tensor) -> None:
            written[layer] = value.detach().reshape(*ids.shape, -1)

        return hook

    outputs = [
        (name, keep_written(layer))
        for layer in range(info.n_layers if rows else 0)
        if (name := f"blocks.{layer}.mlp.out.hook_out") in model.hook_dict
        or (name := f"blocks.{layer}.hook_mlp_out") in model.hook_dict
    ]
    try:
        with torch.no_grad(), hooks_on(model, outputs):
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
        with fetched(model.blocks[layer].mlp) as mlp:
            bias = getattr(mlp, "b_out", None)
            if bias is not None and bias.is_meta:  # TransformerLens kept the placeholder
                bias = mlp.out.original_component.bias
            expected += 0 if bias is None else bias.detach().to(post.device).float()
        scale = expected.abs().max().clamp(min=1e-6)
        off = float((expected - written[layer].float()).abs().max() / scale)
        if not off <= tolerance(info.dtype):  # `not <=` catches NaN
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
    ids, most = _sample_ids(info), info.experts is not None and info.dtype != torch.float32
    if most:
        ids = (ids + torch.arange(9)[:, None] * 5) % info.d_vocab
    with torch.no_grad():
        ours = forward(model, ids).float().log_softmax(-1)
        theirs = other(ids.to(info.device), use_cache=False).logits[:, -1].float().log_softmax(-1)
    check_logits(info.name, ours, theirs, info.dtype, most)


def _device(model: HookedModel) -> torch.device:
    """Where the ids go: the first block's device, of a model that is spread over several."""
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def _sample_ids(info: ModelInfo) -> Int[Tensor, "1 pos"]:
    return (torch.arange(1, 7) * 7 % info.d_vocab)[None]
