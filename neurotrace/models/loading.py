"""`load_model`: from a name, a folder or a GGUF file to a checked TransformerLens model."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from neurotrace import organism
from neurotrace.core.errors import InputError, first_line
from neurotrace.decoding.tokenizers import split_revision, with_bos
from neurotrace.engine.turns import passing, plain
from neurotrace.models.checks import check_weights, prepare, refuse_header
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import SOURCES, adapter_of, from_memory, merged, refuse_path, remember_origin

if TYPE_CHECKING:
    from gguf import GGUFReader


@plain()
def load_model(
    source: Any,
    tokenizer: Any = None,
    *,
    name: str | None = None,
    bos: bool | None = None,
    device: str | torch.device | Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A hooked model, ready and checked.

    Args:
        source: ``"organism"`` or another built-in model, a hub name (``name@revision`` for one of its
            branches, tags or commits), a local folder with safetensors weights, a ``.gguf`` file
            (needs the package ``gguf``), a folder of an adapter (needs ``peft``, which merges it), a
            transformers or PEFT model in memory, which stays as it is (its weights are shared, adapters
            are merged into a copy), or a model that is already hooked (`TransformerBridge`,
            `HookedTransformer`), which is checked and returned.
        tokenizer: of a transformers model in memory; of a folder without one.
        name: of a transformers model in memory, for tables and messages; default: as its config says.
        bos: whether a prompt begins with the tokenizer's BOS token; default: as the tokenizer has it.
            (TransformerLens' `to_tokens` prepends one unless told otherwise.)
        device: where to put it; default: CUDA if there is one, else the CPU. ``"auto"`` spreads the
            blocks of a folder or a hub model over all accelerators, then the CPU, then the disk; a
            mapping from module names to devices (accelerate's device map) assigns each. Such a model
            runs through hooks, which is slower than the suffix engine.
        dtype: ``torch.float32`` (default), ``"bfloat16"``, ...
        trust_remote_code: run code that comes with the model. Default: off.

    Returns:
        A `transformer_lens` `TransformerBridge` without compatibility processing (logit differences
        and neuron activations don't depend on it), in eval mode, with eager attention.

    Raises:
        InputError: no such model, weights in pickle files only, no neurons to hook.

    Example::

        model = nt.load_model("organism")
        model = nt.load_model(transformers_model, tokenizer)
    """
    if not isinstance(source, (str, Path)):
        if device is not None or dtype is not None:
            raise InputError("device= and dtype= go with a name; move a loaded model yourself")
        if (own := from_memory(source, tokenizer)) is not None:
            return boot(own[1], with_bos(tokenizer, bos), name=name or own[0])
        if bos is not None:
            raise InputError("bos= goes with a model that is loaded; set the tokenizer of a hooked one")
        inspect_model(source)
        return source
    if name is not None:
        raise InputError("name= goes with a transformers model in memory")
    wanted = parse_dtype(dtype)
    if device == "auto" or isinstance(device, Mapping):
        return _load_spread(str(source), wanted, device, trust_remote_code, tokenizer, bos)
    place = parse_device(device)
    name, found, tokenizer = _read(str(source), wanted, trust_remote_code, tokenizer)
    found = found.to(place).eval().requires_grad_(False)
    return boot(found, with_bos(tokenizer, bos), name=name)


def _load_spread(
    source: str, dtype: torch.dtype, device_map: Any, trust: bool, given: Any, bos: bool | None
) -> Any:
    if source.endswith(".gguf"):
        raise InputError(
            f"device={device_map!r} with {source!r}: a GGUF file is dequantized in memory; spread a "
            "folder with safetensors weights, or name one device"
        )
    name, found, tokenizer = _read(source, dtype, trust, given, device_map)
    places = getattr(found, "hf_device_map", {})
    return boot(
        found.eval().requires_grad_(False),
        with_bos(tokenizer, bos),
        name=name,
        spread=len(set(map(str, places.values()))) > 1,
    )


def boot(model: torch.nn.Module, tokenizer: Any, *, name: str, spread: bool = False) -> Any:
    """Boot a transformers model into a checked `TransformerBridge`.

    TransformerLens replaces the modules of the model that it is given. A twin made before shares the
    weights' storage but keeps transformers' own classes; the suffix engine runs on the twin. A model
    whose weights are fetched on demand (`spread`) has no twin.

    The bridge holds a copy of `tokenizer` without the BOS that TransformerLens would add. Whatever is
    set on `bridge.tokenizer` later (a chat template, BOS, another tokenizer) is used.
    """
    from transformer_lens.model_bridge import TransformerBridge

    config: Any = model.config
    if not getattr(config, "architectures", None):  # a checkpoint's config names its class
        config.architectures = [type(model).__name__]
    prepare(name, model, spread)
    shared = [*model.parameters(), *model.buffers()]
    twin = None if spread else copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})
    try:
        # a bare name could be one of TransformerLens' aliases for a published model
        bridge = TransformerBridge.boot_transformers(
            f"local/{Path(name).name}", hf_model=model, tokenizer=copy.deepcopy(tokenizer)
        )
    except Exception as error:  # TransformerLens raises many kinds for "unknown architecture"
        raise InputError(
            f"{name}: TransformerLens can't hook a {type(model).__name__} ({first_line(error)})"
        ) from error
    bridge.eval()
    _adapt(bridge, copy.deepcopy(tokenizer))
    remember_origin(bridge, name=name, twin=twin)
    inspect_model(bridge)
    return bridge


def _adapt(bridge: Any, tokenizer: Any) -> None:
    """Two things that TransformerLens does otherwise, changed on this bridge alone.

    `bridge.tokenizer` is plainly what was put there, by us or by the user. (TransformerLens would set
    another one, read anew and with BOS prepended.) And a pass waits while another thread has hooks on.
    """
    kind = type(bridge)

    def put(self: Any, value: Any) -> None:
        object.__setattr__(self, "_tokenizer", value)
        ids = value("").input_ids if callable(value) else []
        # what TransformerLens' own methods ask of it
        self.cfg.tokenizer_prepends_bos = bool(ids) and ids[0] == value.bos_token_id
        self.cfg.tokenizer_appends_eos = bool(ids) and ids[-1] == value.eos_token_id != ids[0]

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with passing(self):
            return kind.forward(self, *args, **kwargs)

    own = {
        "__module__": kind.__module__,
        "forward": forward,
        "tokenizer": property(lambda self: self._tokenizer, put),
    }
    bridge.__class__ = type(kind.__name__, (kind,), own)
    if tokenizer is not None and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # TransformerLens pads batches of strings
    bridge.tokenizer = tokenizer


def _read(
    source: str, dtype: torch.dtype, trust: bool, given: Any = None, device_map: Any = None
) -> tuple[str, torch.nn.Module, Any]:
    """(name, transformers model, tokenizer); errors become one line."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    path, revision = split_revision(source)
    if path in organism.NAMES:
        path = str(organism.folder(path))
    elif not os.path.exists(path) and (close := get_close_matches(path, organism.NAMES, 1, 0.8)):
        # before any request to the hub
        raise InputError(f"no model {path!r}: did you mean the built-in {close[0]!r}?")
    if source.endswith(".gguf"):
        return _read_gguf(Path(source), dtype)
    if os.path.isdir(path):
        if (base := adapter_of(Path(path))) is not None:
            _, model, tokenizer = _read(base, dtype, trust, given, device_map)
            return source, merged(Path(path), model), tokenizer
        refuse_path(Path(path), given)
    elif os.sep in path and not _looks_like_hub_name(path):
        raise InputError(f"no model at {path!r}: expected a folder with config.json and safetensors")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = given
        if given is None:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust)
        model, found = cast(Any, AutoModelForCausalLM).from_pretrained(
            path,
            revision=revision,
            trust_remote_code=trust,
            dtype=dtype,
            use_safetensors=True,
            device_map=device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # a truncated or foreign file can raise anything
        what = "" if os.path.isdir(path) else f" {SOURCES} ({', '.join(organism.NAMES)} are built in)"
        raise InputError(f"can't load {source!r}: {first_line(error)}{what}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    check_weights(source, model, found)
    return source, model, tokenizer


def config_of_gguf(path: Path) -> Any:
    """The configuration in a GGUF file, without its weights.

    Raises:
        InputError: it can't be read as GGUF.
    """
    from transformers import AutoConfig

    try:
        with _parsed_once(path) as reader:
            refuse_header(reader, str(path))
            return AutoConfig.from_pretrained(
                str(path.parent), gguf_file=path.name, trust_remote_code=False
            )
    except Exception as error:
        raise InputError(f"can't read {str(path)!r} as GGUF: {first_line(error)}") from None


def _read_gguf(path: Path, dtype: torch.dtype) -> tuple[str, torch.nn.Module, Any]:
    """A GGUF file, dequantized into a fresh model.

    transformers marks a model from GGUF as quantized. Its tensors are put into a model of the same class
    with a config without that mark.
    """
    if not os.path.isfile(path):
        raise InputError(f"no file at {str(path)!r}: expected a .gguf file")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        folder = str(path.parent)
        with _parsed_once(path) as reader:
            refuse_header(reader, str(path))
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
            quantized, found = cast(Any, AutoModelForCausalLM).from_pretrained(
                folder,
                gguf_file=path.name,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                **_switches(reader),
            )
    except ImportError:
        raise InputError(f"{path.name}: reading GGUF needs the package gguf: pip install gguf") from None
    except Exception as error:
        raise InputError(f"can't read {str(path)!r} as GGUF: {first_line(error)}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    found["unexpected_keys"] = {*found["unexpected_keys"], *_left_over(reader, quantized)}
    check_weights(path.name, quantized, found)
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):  # no time is spent on initial weights
        fresh = type(quantized)(type(quantized.config)(**settings))
    fresh.load_state_dict(quantized.state_dict(), assign=True)
    fresh.tie_weights()
    for name, buffer in quantized.named_buffers():  # those of no state, as rotary frequencies
        owner, _, own = name.rpartition(".")
        setattr(fresh.get_submodule(owner), own, buffer)
    module: torch.nn.Module = fresh
    return path.stem, module.to(dtype), tokenizer


@contextmanager
def _parsed_once(path: Path) -> Iterator[GGUFReader]:
    """Inside the `with`, whoever reads the file with the package gguf gets the same reader of it.

    transformers parses a file four times (a vocabulary's words one by one), makes the map of tensors'
    names once for each module, and dequantizes 16 rows at a time: together most of the time of a load.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            plain = self.__dict__.setdefault("plain", np.asarray(self.data))  # slices of a map are slow
            kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
            end = int(offset) + kind.itemsize * int(count)
            if end > len(plain):  # a length in the header that the file does not have
                raise ValueError(f"it ends at byte {len(plain)}, its header names byte {end}")
            return plain[offset:end].view(kind)[: int(count)]

    def rows_together(data: Any, kind: Any) -> Any:
        many = 16 if data.ndim == 2 and data.shape[0] % 16 == 0 else 1
        found = own["dequantize"](data.reshape(*data.shape[:-2], -1, data.shape[-1] * many), kind)
        return found.reshape(*data.shape[:-1], -1)

    reader = Reader(path)
    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map", "dequantize")}
    try:
        cast(Any, gguf).GGUFReader = lambda file, *a: (
            reader if Path(file) == path else own["GGUFReader"](file, *a)
        )
        cast(Any, gguf).get_tensor_name_map = cache(own["get_tensor_name_map"])
        cast(Any, gguf).dequantize = rows_together
        yield reader
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)


def _switches(reader: GGUFReader) -> dict[str, bool]:
    """What a Llama's config must say for transformers to read the biases of its MLPs, if it has any."""
    biased = any(tensor.name == "blk.0.ffn_down.bias" for tensor in reader.tensors)
    llama = reader.fields["general.architecture"].contents() == "llama"
    return {"mlp_bias": True} if biased and llama else {}


def _left_over(reader: GGUFReader, model: Any) -> list[str]:
    """Tensors of a GGUF file that have no place in the model (transformers passes over them).

    Where the file holds no more tensors than the model has parameters, each of them has its place.
    """
    import gguf

    names = [t.name for t in reader.tensors if not t.name.startswith(("rope_freqs", "rope_factors"))]
    own = [name for name, _ in model.named_parameters()]
    if len(names) <= len(own):
        return []
    kind = cast(Any, reader.get_field("general.architecture")).contents()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    places = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    known = set()
    for name in own:
        stem, _, suffix = name.rpartition(".")
        for short in (stem, stem.partition(".")[2]):
            known.add(f"{places.get_name(short)}.{suffix}")
    return sorted(set(names) - known) or names[-1:]


def _looks_like_hub_name(path: str) -> bool:
    return not path.startswith((".", "/", "~")) and path.count("/") <= 1


def parse_device(device: str | torch.device | None) -> torch.device:
    """An available device; None: CUDA if there is one, else the CPU."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device={str(device)!r}: expected auto, cpu, or an accelerator that torch sees here "
            f"({first_line(error)})"
        ) from None
    return place


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    names = {None: "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    found = getattr(torch, str(names.get(dtype, dtype)), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype={dtype!r}: expected float32, bfloat16 or float16")
    return found
