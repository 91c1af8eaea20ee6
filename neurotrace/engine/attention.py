"""One clean prefix, many changed rows: read-only caches and attention that shares them.

Two ways for C rows to read the keys and values of one clean prefix of P positions:

- *frozen*: the cache's `update` returns cat(prefix expanded to C rows, new) and stores nothing; the
  model's own attention runs. Correct if a layer's cache is plain keys and values.
- *shared*: `update` returns only the new keys and values with the prefix pinned to them, and the
  attention function `SHARED` reads both: one matmul of all rows against one prefix, nothing copied.
  Correct only if the model fetches its attention through transformers' `AttentionInterface` and passes
  the cache's tensors on unchanged. Both are checked at each call: a key without its prefix raises, and
  `Prefix.finish` raises if a block took the keys and never called the function.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

SHARED = "neurotrace_shared_prefix"
_FIELD = "_attn_implementation_internal"
_HARMLESS = {"is_causal", "position_ids", "sliding_window", "use_cache", "cache_position"}


class PrefixError(RuntimeError):
    """The prefix cannot be shared this way on this model; the message gives the reason."""


class _PrefixLayer(DynamicLayer):
    """One layer's clean keys and values, [prompt, head, position, width]; `update` keeps nothing."""

    def __init__(self, layer: Any, shared: bool) -> None:
        super().__init__()
        if type(layer).__name__ not in ("DynamicLayer", "DynamicSlidingWindowLayer"):
            raise PrefixError(f"a {type(layer).__name__} is not plain keys and values")
        if layer.keys is None or layer.keys.dim() != 4:
            raise PrefixError("a cache layer without keys of shape [prompt, head, position, width]")
        self.keys, self.values, self.is_initialized = layer.keys, layer.values, True
        self.is_sliding = layer.is_sliding
        self._sizes = layer.get_mask_sizes
        self._length = layer.get_seq_length()
        self.shared = shared
        self.blank: Tensor | None = None  # [prompt, position]: True where a shorter prompt has no key
        self.unread = 0  # keys given to the shared function and not yet received there

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._sizes(query_length)

    def get_seq_length(self) -> int:
        return self._length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.shared:
            self.unread += 1
            pinned: Any = key_states.view(key_states.shape)  # a new object
            pinned.neurotrace_prefix = self
            return pinned, value_states
        assert self.keys is not None
        assert self.values is not None
        return (
            torch.cat([spread(self.keys, key_states.shape[0]), key_states], dim=-2),
            torch.cat([spread(self.values, value_states.shape[0]), value_states], dim=-2),
        )


class Prefix(Cache):
    """The clean prefix of a run as a cache that no forward pass can change."""

    def __init__(self, layers: Iterable[Any], shared: bool, blank: Tensor | None = None) -> None:
        self.own = [_PrefixLayer(layer, shared) for layer in layers]
        for layer in self.own:
            layer.blank = blank
        super().__init__(layers=list(self.own))

    def at(self, prompts: Tensor) -> Prefix:
        """That of these prompts of it, Int["prompt"], in this order."""
        layers = []
        for own in self.own:
            assert own.keys is not None
            assert own.values is not None
            layer = copy.copy(own)
            layer.keys, layer.values = own.keys[prompts], own.values[prompts]
            layer.blank = None if own.blank is None else own.blank[prompts]
            layers.append(layer)
        found = copy.copy(self)
        found.own, found.layers = layers, list(layers)
        return found

    def start(self) -> None:
        """Before a forward pass: clear the state that an interrupted pass left."""
        for layer in self.own:
            layer.unread = 0

    def finish(self) -> None:
        """After a forward pass: every block that took shared keys must have used them.

        Raises:
            PrefixError: a block took the new keys alone and attended without the prefix.
        """
        silent = [i for i, layer in enumerate(self.own) if layer.unread]
        if silent:
            raise PrefixError(f"blocks {silent} don't fetch attention through AttentionInterface")


def spread(x: Tensor, rows: int) -> Tensor:
    """[prompt, ...] → [row, ...], rows in prompt order, as many for each; a view for one prompt."""
    if x.shape[0] == 1:
        return x.expand(rows, *x.shape[1:])
    return x.repeat_interleave(rows // x.shape[0], dim=0)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """softmax(q·[prefix keys; new keys]) · [prefix values; new values], the prefix in one matmul.

    Args:
        query: [row, head, q, width]; key, value: [row, key head, q, width], the new positions only.
        attention_mask: bool [row or 1, 1, q, prefix + q], True where a query may look; None: causal.
        s_aux: a sink's logit for each head (gpt-oss).

    Returns:
        [row, q, head, width] and no weights.

    Raises:
        PrefixError: the key carries no prefix, or the model asks for something else.
    """
    prefix = getattr(key, "neurotrace_prefix", None)
    if prefix is None:
        raise PrefixError("the model changed the cache's keys before its attention function")
    if prefix.unread != 1:
        raise PrefixError("the attention function was not called once for each block")
    prefix.unread = 0
    odd = [k for k, v in options.items() if v is not None and v is not False and k not in _HARMLESS]
    if odd or dropout:
        raise PrefixError(f"the attention function was asked for {odd or ['dropout']}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    rows, heads, q, width = query.shape
    prompts, key_heads, length, _ = prefix.keys.shape
    many, group = rows // prompts, heads // key_heads
    by_head = (prompts, heads, many, q)

    # scores: [prompt · head, row of it · q, prefix + q]; the heads of one key are rows of one matmul
    scores = query.new_empty(prompts * heads, many * q, length + q)
    by_key = (prompts * key_heads, group * many * q)
    stacked = query.reshape(prompts, many, heads, q, width).transpose(1, 2)
    at_prefix = scores.view(*by_key, length + q)[..., :length]
    torch.baddbmm(
        at_prefix,
        stacked.reshape(*by_key, width),
        prefix.keys.flatten(0, 1).transpose(1, 2),
        beta=0,
        alpha=scaling,
        out=at_prefix,
    )
    near = query.reshape(rows, key_heads, group * q, width) @ key.transpose(-1, -2)
    near = near.view(prompts, many, heads, q, q).transpose(1, 2)
    torch.mul(near, scaling, out=scores.view(*by_head, length + q)[..., length:])

    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if attention_mask is not None:
        if attention_mask.dtype != torch.bool or attention_mask.shape[-1] != length + q:
            raise PrefixError(f"a mask of {attention_mask.dtype} {tuple(attention_mask.shape)}")
        mask = attention_mask.expand(rows, 1, q, length + q).view(prompts, many, 1, q, length + q)
        scores.view(*by_head, length + q).masked_fill_(~mask.transpose(1, 2), float("-inf"))
    elif q > 1:
        raise PrefixError("several positions without a mask")
    if prefix.blank is not None:
        scores.view(prompts, -1, length + q)[..., :length].masked_fill_(
            prefix.blank[:, None], float("-inf")
        )
    if s_aux is not None:
        sink = s_aux.to(scores.dtype).view(1, heads, 1, 1).expand(prompts, heads, many * q, 1)
        scores = torch.cat([scores, sink.reshape(prompts * heads, many * q, 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)

    far = torch.bmm(weights.view(*by_key, -1)[..., :length], prefix.values.flatten(0, 1))
    out = far.new_empty(rows, q, heads, far.shape[-1])
    target = out.view(prompts, many, q, key_heads, group, -1)
    far = far.view(prompts, key_heads, group, many, q, -1).permute(0, 3, 4, 1, 2, 5)
    own = weights[..., length : length + q].unflatten(1, (many, q))  # [prompt · head, row, q, q]
    own = own.unflatten(0, (prompts, key_heads, group))
    if q == 1:  # own: a number a head, so no matmul
        own = own.permute(0, 3, 4, 1, 2, 5)
        value = value.reshape(prompts, many, 1, key_heads, 1, -1)
        torch.addcmul(far, own, value, out=target)
    else:
        own = own.permute(0, 3, 1, 2, 4, 5).reshape(rows, key_heads, group * q, q)
        own = (own @ value).view(prompts, many, key_heads, group, q, -1).permute(0, 1, 4, 2, 3, 5)
        torch.add(far, own, out=target)
    return out, None


@contextmanager
def attention_shared(model: nn.Module) -> Iterator[None]:
    """Inside the `with`, `model` fetches the shared function; its own setting is restored after.

    The choice is a field of the model's configs, which every attention module holds by reference.
    """
    AttentionInterface.register(SHARED, shared_prefix_attention)
    AttentionMaskInterface.register(SHARED, sdpa_mask)
    every = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    configs: list[Any] = [c for c in every if hasattr(c, _FIELD)]
    before = [getattr(c, _FIELD) for c in configs]
    try:
        for config in configs:
            setattr(config, _FIELD, SHARED)
        yield
    finally:
        for config, choice in zip(configs, before, strict=True):
            setattr(config, _FIELD, choice)
