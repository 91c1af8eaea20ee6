"""`HookedModel`: the part of TransformerLens' classes that this package uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn


class HookedModel(Protocol):
    """A TransformerLens model: a `TransformerBridge`, or a `HookedTransformer` of 3.9.

    `nt.load_model` returns one; a model that you hooked yourself works, too.
    `nt.inspect_model` checks what a Protocol cannot: that the hooks return what they name.
    """

    cfg: Any
    training: bool
    blocks: Any
    unembed: Any

    @property
    def hook_dict(self) -> Mapping[str, nn.Module]: ...

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...
