"""Checks of a model at load, each of what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json
from neurotrace.engine.experts import Neurons, install
from neurotrace.engine.parts import find_blocks, hooked

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


def check_logits(
    name: str,
    ours: Float[Tensor, "row vocab"],
    theirs: Float[Tensor, "row vocab"],
    dtype: torch.dtype,
    most: bool = False,
) -> None:
    """Raise InputError unless log-probabilities through TransformerLens are transformers' own.

    Args:
        most: in half of the rows. (In half precision, rounding sends some tokens to other experts.)
    """
    errors = (ours - theirs).abs().amax(dim=-1)
    error = errors.median() if most else errors.max()
    # eager against fused attention: 1e-3 in float32 is what TransformerLens itself allows
    if not error <= max(2e-3, 10 * tolerance(dtype)):
        raise InputError(
            f"{name}: through TransformerLens its log-probabilities differ by {error:.2g} from "
            "transformers' own: hooks on it would describe another model; use another version"
        )


def drops(module: nn.Module) -> bool:
    """Whether it is in training mode and has a dropout, as a module's rate or a number."""
    own = vars(module).items()
    rates = [value for key, value in own if key == "p" or "dropout" in key or "pdrop" in key]
    return module.training and any(isinstance(rate, float) and rate > 0 for rate in rates)


def tolerance(dtype: torch.dtype) -> float:
    """Largest error that rounding explains, as a share."""
    return 1e-3 if dtype == torch.float32 else 5e-2


def prepare(name: str, model: nn.Module, spread: bool) -> None:
    """Before TransformerLens: what no gradient could go through is refused, experts get their hooks.

    Raises:
        InputError: weights made in inference mode; experts that can't be hooked.
    """
    check_differentiable(name, model)
    if not any("experts" in module._modules for module in model.modules()):
        return
    if spread:
        raise InputError(
            f"{name} is a mixture of experts spread over several devices, which is not supported: load it "
            "on one device"
        )
    try:
        install(model, list(find_blocks(model)))
    except ValueError as error:
        raise InputError(f"{name} is a mixture of experts that can't be hooked: {error}") from None


def check_experts(
    name: str, every: Sequence[Neurons], run: Callable[[], Float[Tensor, ...]], dtype: torch.dtype
) -> None:
    """Hooks that hand on what they see change no bit; values, rows and router make what a block returns.

    Args:
        every: the neurons of each block.
        run: the model's logits of one prompt.

    Raises:
        InputError: they don't.
    """
    seen: dict[int, Tensor] = {}
    returned: dict[int, Tensor] = {}

    def see(into: dict[int, Tensor], layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, y: Any) -> None:
            into[layer] = (y[0] if isinstance(y, tuple) else y).detach()

        return hook

    hooks: list[Any] = [(neurons, "output", see(seen, layer)) for layer, neurons in enumerate(every)]
    hooks += [(neurons.mlp, "output", see(returned, layer)) for layer, neurons in enumerate(every)]
    with torch.no_grad():
        plain = run()
        with hooked(hooks):
            through = run()
    if not torch.equal(plain, through):
        raise InputError(
            f"{name}: hooks on its experts' neurons change the logits, though they hand on what they see: "
            "use another version of transformers or another model"
        )
    for layer, neurons in enumerate(every):
        if layer not in seen:
            raise InputError(f"{name}: the neurons of block {layer} were not called: use another model")
        expected = neurons.written(seen[layer]).detach()
        off = float((expected - returned[layer].reshape(expected.shape).float()).abs().max())
        off /= float(expected.abs().max().clamp(min=1e-6))
        if not off <= tolerance(dtype):
            raise InputError(
                f"{name}: in block {layer} the experts' neurons, their down projections and the router's "
                f"weights make something else than the block returns, off by {off:.2g} of its size: use "
                "another version of transformers or another model"
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
