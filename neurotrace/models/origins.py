"""Where a loaded model came from, and whether it is still that model.

`load_model` keeps a *twin*: the transformers model as it was before TransformerLens replaced its
modules, over the same weights. It is what the suffix engine runs, as long as `changed` finds nothing.
"""

from __future__ import annotations

import copy
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neurotrace.core.errors import InputError, first_line
from neurotrace.core.files import read_json
from neurotrace.engine import proof
from neurotrace.engine.experts import Neurons
from neurotrace.engine.kept import Kept, keeping
from neurotrace.engine.turns import Function, takes_turns, turn
from neurotrace.models.checks import refuse_pickle
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sameness import Snapshot


@dataclass
class State:
    """A model that was changed after it was loaded, and what was found of it."""

    snapshot: Snapshot
    info: Any


@dataclass
class Origin:
    """Where a model came from and what it was; an attribute of the model, so that they go together."""

    name: str
    twin: torch.nn.Module | None = None
    loaded: Snapshot | None = None
    now: State | None = None  # the last one that was not as loaded
    warned: str = ""
    routing: Routing = "free"  # of a mixture of experts, under an intervention

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the model has no twin: it holds other tensors."""

    def __reduce__(self) -> Any:
        return type(None), ()


Routing = Literal["free", "frozen"]
_KEY = "_neurotrace_origin"
_warnings = threading.Lock()  # the filters that `catch_warnings` puts back are the whole process's
_engines: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def remember_origin(model: HookedModel, *, name: str, twin: torch.nn.Module | None = None) -> Origin:
    """Note where a loaded model came from: its name, its unhooked twin.

    The twin is the transformers model over the same storage, made before TransformerLens replaced its
    modules.
    """
    own = Origin(name, twin)
    object.__setattr__(model, _KEY, own)  # torch keeps it out of the module's parts
    return own


def origin_of(model: HookedModel) -> Origin | None:
    """What was noted of this model; None: nothing yet."""
    return getattr(model, "__dict__", {}).get(_KEY)


def changed(model: HookedModel) -> str:
    """How the model differs from what was loaded or first inspected, in words; empty: not at all."""
    own = origin_of(model)
    if own is None or own.loaded is None:
        return ""
    with turn(model) as notes:
        if "changed" not in notes:
            notes["changed"] = own.loaded.difference()
        return cast(str, notes["changed"])


def twin(model: HookedModel) -> torch.nn.Module | None:
    """The untouched transformers model over the same weights, where `load_model` made one.

    None while the model is not as it was loaded (hooks, modules, tensors, settings): the twin would
    not know. Everything then runs through the model itself.

    Warns:
        UserWarning: the model is not as it was loaded; once for each way in which it differs.
    """
    own = origin_of(model)
    if own is None or own.twin is None:
        return None
    what = changed(model)
    if what and what != own.warned:
        warnings.warn(
            f"{own.name} was changed after it was loaded ({what}): everything runs through the "
            "model as it is now, by full passes, until that is undone",
            stacklevel=3,
        )
    own.warned = what
    return None if what else own.twin


def engine_of(model: HookedModel) -> Any | None:
    """The suffix engine of this model, made and proved on first use; None where there is none."""
    with turn(model):
        other = twin(model)
        if other is not None and other not in _engines:
            _engines[other] = _made(other)
        return None if other is None else _engines[other]


@takes_turns
@contextmanager
def routing(model: HookedModel, how: Routing) -> Iterator[None]:
    """How a mixture routes under interventions, inside the `with`.

    "free", as it is outside: blocks above a change route by what they then read. "frozen": each token goes
    to the experts, with the weights, of the unchanged run; no gradient goes through the router. Every
    ranking and every `Effects` states it. Frozen routing runs on the suffix engine alone.

    Raises:
        InputError: another word; a model without experts, or one that was changed after it was loaded.

    Example::

        with nt.routing(model, "frozen"):
            effects = nt.measure(model, pairs, [nt.patch(top)])
    """
    if how not in ("free", "frozen"):
        raise InputError(f"routing {how!r}: expected 'free' or 'frozen'")
    with turn(model):
        engine, own = engine_of(model), origin_of(model)
        if engine is None or own is None or not isinstance(engine.parts.projections[0], Neurons):
            raise InputError("routing: expected a mixture of experts as nt.load_model returned it")
        before = own.routing
        own.routing = engine.routing = how
        try:
            yield
        finally:
            own.routing = engine.routing = before


@contextmanager
def keeping_runs(model: HookedModel) -> Iterator[None]:
    """Inside the `with`, the model's engine keeps its clean runs (`engine/kept.py`)."""
    with turn(model), keeping(engine_of(model)):
        yield


def keeps_runs(function: Function) -> Function:
    """`keeping_runs` of its first argument, while `function` runs."""

    @wraps(function)
    def call(model: HookedModel, *args: Any, **kwargs: Any) -> Any:
        with keeping_runs(model):
            return function(model, *args, **kwargs)

    return cast(Function, call)


def keep_runs(model: HookedModel, prompts: Iterable[Tensor]) -> Kept | None:
    """Have these prompts run and kept, where runs are kept at the moment; None where not all are."""
    with turn(model):
        other = twin(model)
        engine = None if other is None else _engines.get(other)
        if engine is None or engine.kept is None or engine.path == "naive":
            return None
        return engine.kept if engine.kept.add(prompts) else None


def _made(other: Any) -> Any | None:
    engine = None
    with _warnings, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            engine = proof.engine(other)
        except ValueError as error:  # parts that can't be told apart by shape
            warnings.warn(f"suffix engine: none, full passes: {error}", stacklevel=1)
    for each in said:
        warnings.warn(str(each.message), stacklevel=4)
    return engine


def no_twin(model: HookedModel, what: str) -> InputError:
    """The error for what is done to a transformers model itself, where there is none."""
    why = changed(model)
    if not why:
        return InputError(f"{what}: load it with nt.load_model")
    return InputError(
        f"{what}, as it was loaded; since then it was changed ({why}): take hooks of your own off and "
        "undo what else was done to it, or load it with nt.load_model again"
    )


def tokenizer_of(model: HookedModel) -> Any:
    """`model.tokenizer`. On a model that `load_model` made it is as its makers set it up.

    (TransformerLens by itself makes it prepend BOS even where the model's own doesn't.)

    Raises:
        InputError: there is none.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer):
        raise InputError("the model has no tokenizer: load it with one, or set model.tokenizer")
    return tokenizer


def context_length(model: HookedModel) -> int:
    """The most tokens that the model takes; 0: it names no such number."""
    return int(getattr(model.cfg, "n_ctx", 0) or 0)


def from_memory(source: Any, tokenizer: Any) -> tuple[str, torch.nn.Module] | None:
    """(name, copy over the same weights) of a user's transformers model; None: it is none.

    The user's modules stay as they are. An adapter of PEFT is merged into a copy with its own weights.

    Raises:
        InputError: no tokenizer; a quantized model; one that is no causal language model.
    """
    from transformers import PreTrainedModel

    adapted = hasattr(source, "peft_config") and hasattr(source, "merge_and_unload")
    if not adapted and not isinstance(source, PreTrainedModel):
        return None
    config: Any = source.config
    name = str(getattr(config, "_name_or_path", "") or type(source).__name__)
    own_kind = {} if adapted else {"architectures": [type(source).__name__]}
    settings = config.to_dict() | own_kind
    refuse_kind(name, settings)
    if source.get_output_embeddings() is None:
        raise InputError(
            f"{name}: {type(source).__name__} has no head that predicts the next token: use …ForCausalLM"
        )
    for key, weight in source.named_parameters():
        if type(weight.data) is not torch.Tensor or not weight.is_floating_point():
            raise InputError(
                f"{name}: {key} is quantized ({type(weight.data).__name__}, {weight.dtype}): load the "
                "model without quantization"
            )
    if tokenizer is None:
        raise InputError(f"{name}: a model in memory needs its tokenizer: nt.load_model(model, tokenizer)")
    if adapted:
        warnings.warn(f"{name}: its adapter was merged into a copy of the model", stacklevel=4)
        model = copy.deepcopy(source).merge_and_unload()
    elif getattr(source, "_hf_peft_config_loaded", False):
        raise InputError(
            f"{name}: it holds an adapter that was loaded into it: pass a peft.PeftModel, or merge it first"
        )
    else:
        own = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in source.parameters()}
        model = copy.deepcopy(source, memo={**own, **{id(b): b for b in source.buffers()}})
    hooked = [
        key or "the model"
        for key, module in source.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
    if hooked:
        more = f" and {len(hooked) - 1} more" if len(hooked) > 1 else ""
        warnings.warn(
            f"{name}: it has hooks of yours (on {hooked[0]}{more}), which stay in every pass: what is "
            "found is of the model with them",
            stacklevel=4,
        )
    return name, model.eval().requires_grad_(False)


def adapter_of(folder: Path) -> str | None:
    """The base model of an adapter's folder; None: it holds a whole model or something else.

    Raises:
        InputError: its weights are a pickle, or it does not name its base.
    """
    path = folder / "adapter_config.json"
    if not path.is_file() or (folder / "config.json").is_file():
        return None
    settings = read_json(path)
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(base, str) or not base:
        raise InputError(f"{path}: an adapter without the name of its base model: merge it into its model")
    if find_spec("peft") is None:
        raise InputError(
            f"{folder}: an adapter of {base}, not a model: pip install peft, which merges it, or save "
            "PeftModel.merge_and_unload() and load that folder"
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: an adapter without adapter_model.safetensors; pickles are not read")
    return base


def merged(folder: Path, model: torch.nn.Module) -> torch.nn.Module:
    """The model with the folder's adapter merged into its weights, with a word."""
    from peft import PeftModel

    try:
        whole = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # an adapter of another model: many kinds
        raise InputError(f"{folder}: the adapter does not fit its base: {first_line(error)}") from None
    warnings.warn(f"{folder}: an adapter, merged into {type(whole).__name__}", stacklevel=4)
    return cast(torch.nn.Module, whole)


SOURCES = (
    "Wanted one of the built-in models, a model folder with safetensors weights, a .gguf file, or a hub "
    "name (in the local cache where the hub can't be reached)"
)
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "*.model", "vocab.*", "*.tiktoken")
_QUANTIZED = "load the model that it was made from, which has plain weights"


def refuse_path(folder: Path, tokenizer: Any) -> None:
    """Raise for a folder that can't be studied, each with its own reason and one way out.

    Args:
        tokenizer: that of the user; None: the folder must have one.
    """
    refuse_pickle(folder)
    settings = read_json(folder / "config.json")
    settings = settings if isinstance(settings, dict) else {}
    refuse_kind(str(folder), settings)
    for name in sorted(set((_index(folder).get("weight_map") or {}).values())):
        if not (folder / str(name)).is_file():
            raise InputError(f"{folder}: {name} is missing, which its index names: copy it there")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: cut off or damaged ({first_line(error)}): copy or download it again"
            ) from None
    if tokenizer is None and not any(any(folder.glob(name)) for name in _TOKENIZERS):
        raise InputError(
            f"{folder}: no tokenizer in it: copy tokenizer.json and tokenizer_config.json there, or pass "
            "one: nt.load_model(folder, tokenizer)"
        )


def refuse_kind(name: str, settings: Mapping[str, Any]) -> None:
    """Raise for a configuration of a model that is quantized, or that is no decoder.

    Args:
        settings: config.json, or a config's `to_dict()`.
    """
    kind = settings.get("model_type", "model")
    quantized = settings.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
    if method is not None and str(getattr(method, "value", method)) in _PACKED:
        raise InputError(
            f"{name}: quantized with {getattr(method, 'value', method)}, whose packed weights hold no rows "
            f"to read or change: {_QUANTIZED}"
        )
    if settings.get("is_encoder_decoder"):
        raise InputError(
            f"{name}: a sequence-to-sequence model ({kind}), which writes with another stack than it "
            "reads with: use a causal language model"
        )
    named = settings.get("architectures")
    made = [str(each) for each in named] if isinstance(named, list) else []
    if made and all(each.endswith(("MaskedLM", "Classification", "Answering")) for each in made):
        raise InputError(
            f"{name}: {made[0]} does not predict the next token: use a causal language model (…ForCausalLM)"
        )


_PACKED = (
    "bitsandbytes_4bit",
    "bitsandbytes_8bit",
    "bitsandbytes",
    "torchao",
    "gptq",
    "awq",
    "aqlm",
    "hqq",
    "quanto",
    "eetq",
    "vptq",
)


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model.safetensors.index.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
