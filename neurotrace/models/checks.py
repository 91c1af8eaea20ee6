"""Checks of a model at load, each of what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json

if TYPE_CHECKING:
    from gguf import GGUFReader

_LENGTH = 12  # tokens
_SHARE = 1e-4  # of the change that a token makes at its own place
_ROUNDING = 16  # units of rounding of the largest logit


def check_causal(
    name: str,
    logits_of: Callable[[Int[Tensor, "row pos"]], Float[Tensor, "row pos vocab"]],
    d_vocab: int,
) -> None:
    """Change each token of a prompt in turn: logits before it must stay as they were.

    Raises:
        InputError: they don't.
    """
    ids = (torch.arange(1, _LENGTH + 1) * 7 % d_vocab).repeat(_LENGTH + 1, 1)
    places = torch.arange(_LENGTH)
    ids[places, places] = (ids[places, places] + d_vocab // 2) % d_vocab  # the last row stays
    with torch.no_grad():
        logits = logits_of(ids)
    moved = (logits[:-1] - logits[-1]).float().abs().amax(dim=-1)  # [changed place, place]
    own, earlier = moved.diagonal().max(), moved.tril(-1).max()
    rounding = _ROUNDING * torch.finfo(logits.dtype).eps * logits[-1].abs().max()
    if not earlier <= _SHARE * own + rounding:
        raise InputError(
            f"{name}: changing a token changes the logits before it by {float(earlier):.2g}: it reads "
            "both ways, as an encoder or a prefix language model does; use a causal language model"
        )


# buffers that older checkpoints hold: computed anew from the config, no weights
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|position_ids|masked_bias|\b(attn|attention)\.bias)$")


def check_weights(name: str, model: nn.Module, found: Mapping[str, Iterable[Any]]) -> None:
    """Every weight comes from the file, every tensor of the file has its place, all are finite.

    Args:
        found: what transformers reports with `output_loading_info`; tied weights are not in it.

    Raises:
        InputError: names the weights.
    """
    mismatched = [f"{key} {tuple(there)} for {tuple(own)}" for key, there, own in found["mismatched_keys"]]
    _refuse(name, "lacks weights, which would be drawn at random", found["missing_keys"])
    _refuse(name, "holds weights of another shape", mismatched)
    spare = [key for key in found["unexpected_keys"] if not _BUFFERS.search(key)]
    _refuse(name, "holds weights that the model has no place for", spare)
    for key, weight in model.named_parameters():
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise InputError(f"{name}: the weight {key} holds NaN or inf: get an undamaged copy")


def check_differentiable(name: str, model: nn.Module) -> None:
    """Raise InputError if a weight was made in inference mode: no gradient can go through it."""
    for key, weight in model.named_parameters():
        if weight.is_inference():
            raise InputError(
                f"{name}: {key} was made in torch.inference_mode, where nothing can be differentiated "
                "later: make the model outside of it, or let nt.load_model load it"
            )


def _refuse(name: str, what: str, keys: Iterable[str]) -> None:
    every = sorted(keys)
    if every:
        more = f" and {len(every) - 4} more" if len(every) > 4 else ""
        raise InputError(
            f"{name} {what}: {', '.join(every[:4])}{more}; config and weights must be of the same model"
        )


_MOST = (
    ("layer", 1000),
    ("block_count", 1000),  # layers, in GGUF
    ("_length", 10**8),
    ("vocab", 10**8),
    ("size", 10**7),
    ("dim", 10**7),
    ("embd", 10**7),
    ("inner", 10**7),
    ("head", 10**6),
    ("expert", 10**6),
)


def refuse_absurd(settings: Any, where: str) -> None:
    """Raise for a configuration whose numbers no machine can hold; transformers would try for ever.

    Args:
        settings: the content of a config.json.
    """
    for name, value in settings.items() if isinstance(settings, dict) else ():
        refuse_absurd(value, where)
        most = next((most for word, most in _MOST if word in str(name).lower()), 2**63)
        if isinstance(value, int) and abs(value) > most:
            raise InputError(f"{where}: {name} is {value}, expected 1 to {most}")


def refuse_header(reader: GGUFReader, where: str) -> None:
    """`refuse_absurd` for the single numbers among the fields of a GGUF file."""
    numbers = {
        name: int(field.parts[field.data[0]][0])
        for name, field in reader.fields.items()
        if len(field.types) == 1 and field.types[0].name in ("UINT32", "INT32", "UINT64", "INT64")
    }
    refuse_absurd(numbers, where)


def refuse_pickle(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json in it; expected a transformers model folder")
    refuse_absurd(read_json(folder / "config.json"), str(folder / "config.json"))
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles and not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder}: weights only in {pickles[0].name}, a pickle, which can run code when read; "
            "convert them where you trust them: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )
