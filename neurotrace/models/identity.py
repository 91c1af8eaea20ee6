"""The identity of a model: its name, its origin and a hash of its weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    from torch import nn


def model_identity(model: HookedModel) -> dict[str, str]:
    """The model's name and the hash of its weights, by which results in a folder are matched."""
    from neurotrace.models.hooks import inspect_model
    from neurotrace.models.origins import twin

    return {
        "model": inspect_model(model).name,
        "weights_sha256": weights_hash(twin(model) or model),
    }


def weights_hash(model: HookedModel | nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of every parameter, in order of name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
