"""The identity of a model, and of pairs on it: names, and hashes of all that a result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from neurotrace.core.pairs import pair_record
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    from torch import nn

    from neurotrace.models.encoding import EncodedPairs

_PACKAGES = ("torch", "transformers", "transformer-lens", "numpy")  # whose versions change numbers


def model_identity(model: HookedModel) -> dict[str, str]:
    """The model's name and the hash of its weights, by which results in a folder are matched."""
    from neurotrace.models.hooks import inspect_model
    from neurotrace.models.origins import twin

    return {
        "model": inspect_model(model).name,
        "weights_sha256": weights_hash(twin(model) or model),
    }


def model_record(model: HookedModel) -> dict[str, Any]:
    """What of the model the numbers depend on: shape, dtype, hashes of weights and configuration."""
    from neurotrace.models.hooks import inspect_model
    from neurotrace.models.origins import twin

    info, real = inspect_model(model), twin(model) or model
    return {
        "architecture": type(real).__name__,
        "layers": info.n_layers,
        "neurons_per_layer": info.d_mlp,
        "weights_sha256": weights_hash(real),
        "config_sha256": json_hash(_config(real)),
        "dtype": str(info.dtype).removeprefix("torch."),
    }


def surroundings(model: HookedModel | None = None) -> dict[str, Any]:
    """What else the last bits depend on: the model's device, threads, versions."""
    import torch

    from neurotrace import __version__
    from neurotrace.core.process import package_versions
    from neurotrace.models.hooks import inspect_model

    versions = {name: found for name, found in package_versions().items() if name in _PACKAGES}
    return {
        "device": None if model is None else inspect_model(model).device.type,
        "threads": torch.get_num_threads(),
        "versions": {"neurotrace": __version__} | versions,
    }


def pairs_hash(encoded: EncodedPairs) -> str:
    """SHA-256 of all about the pairs that a row depends on: texts, token ids, ids of the answers."""
    return json_hash(
        [
            [pair_record(pair), memorization.tolist(), reasoning.tolist(), int(memorized), int(reasoned)]
            for pair, memorization, reasoning, memorized, reasoned in zip(
                encoded.pairs,
                encoded.memorization,
                encoded.reasoning,
                encoded.memorized,
                encoded.reasoned,
                strict=True,
            )
        ]
        + ([] if encoded.answers is None else [encoded.answers])
    )


def json_hash(value: Any) -> str:
    """SHA-256 of the value as sorted JSON; what JSON lacks counts as its text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(model: HookedModel | nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of every parameter, in order of name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(model: Any) -> dict[str, Any]:
    """The configuration without names, paths and versions (e.g. rope_theta)."""
    settings: dict[str, Any] = (getattr(model, "config", None) and model.config.to_dict()) or {}
    left_out = ("transformers_version", "name_or_path")
    return {
        name: value for name, value in settings.items() if not name.startswith("_") and name not in left_out
    }
