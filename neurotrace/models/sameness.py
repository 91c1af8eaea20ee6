"""Whether a model is still the one that was loaded, checked without a forward pass.

A `Snapshot` holds what a forward pass depends on: the tree of modules, their classes and `forward`s,
their public attributes, hooks, parameters and buffers, and the configurations. `difference` compares
all of it with the model as it is now and names the first thing that differs. Values of parameters are
not compared where another model holds the same tensor: a change in place is seen by both.

Private attributes (with a leading underscore) are caches of the model's own code and are left out,
but for torch's own dictionaries.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}
_TENSORS = ("_parameters", "_buffers")
# TransformerLens' record of hooks that torch holds too, its counters, and what no logit depends on
_IGNORED = {"fwd_hooks", "bwd_hooks", "ctx", "context_level", "tokenizer", "generation_config"}
# rotary embeddings whose frequencies depend on the prompt's length set these anew as they run
_REMADE = ("inv_freq", "max_seq_len_cached", "attention_scaling")
_PLAIN = (str, int, float, bool, list, tuple, dict, set, type(None), torch.dtype)


class Snapshot:
    """What `model` was made of when this was called.

    Args:
        shared: tensors that another model over the same weights holds, which a change in place
            changes for both. Of other tensors the content is compared, too.
    """

    def __init__(self, model: nn.Module, shared: Iterable[Tensor] = ()) -> None:
        named = _walk(model)
        self.names = list(named)
        self.modules = list(named.values())
        self.types = [type(module) for module in self.modules]
        self.forwards = {kind: kind.forward for kind in self.types}
        self.now = [vars(module) for module in self.modules]  # these change with the model
        self.then = [_kept(state) for state in self.now]
        self.all_modules = {name: getattr(torch_module, f"_global{name}") for name in _HOOKS}
        self.on_all = {name: dict(hooks) for name, hooks in self.all_modules.items()}
        # held, so that no other tensor can get the number of one that is gone
        self.tensors = list(self._tensors())
        self.kinds = self._kinds()
        self.views, self.watched = _apart(self, list(shared))
        self.pointers = [tensor.data_ptr() for tensor in self.views]
        self.contents = [_content(tensor) for _, tensor in self.watched]
        self.configs = _configs(self.names, self.modules)
        self.settings = [_copied(config) for _, config in self.configs]

    def difference(self) -> str:
        """The first thing found to be different, in words; empty: nothing."""
        return next(self._differences(), "")

    def _differences(self) -> Iterator[str]:
        types = list(map(type, self.modules))
        if types != self.types:
            place = next(i for i, kind in enumerate(types) if kind is not self.types[i])
            yield f"{self._name(place)} has become a {types[place].__name__}"
        if not _equal(self.now, self.then):
            for place in range(len(self.modules)):
                yield from self._module(place)
        for name, hooks in self.all_modules.items():
            if hooks != self.on_all[name]:
                yield f"{_HOOKS[name]} on all modules (torch's global ones) was put on or taken off"
        for kind, forward in self.forwards.items():
            if kind.forward is not forward:
                yield f"{kind.__name__}.forward is another function"
        yield from self._weights()
        for place, (name, config) in enumerate(self.configs):
            now_set, then_set = vars(config), self.settings[place]
            if _equal(now_set, then_set):
                continue
            for key in sorted(filter(_counts, {*now_set, *then_set})):
                was, now = then_set.get(key), now_set.get(key)
                if not _equal(now, was):
                    yield f"{name}.{key} was {was!r:.60} and is {now!r:.60}"
            self.settings[place] = _copied(config)

    def _module(self, place: int) -> Iterator[str]:
        now, then = self.now[place], self.then[place]
        if _equal(now, then):
            return
        yield from self._children(place, now["_modules"], then["_modules"])
        for name, what in _HOOKS.items():
            if not _equal(_acting(now[name]), _acting(then[name])):
                yield f"{self._name(place)}: {what} was put on or taken off"
        for key in sorted({*then, *now} - _IGNORED):
            if key[0] == "_" or self._remade(place, key) or _equal(now.get(key), then.get(key)):
                continue
            yield self._attribute(place, key, then.get(key), now.get(key))
        for own in _TENSORS:
            for key in {*then[own], *now[own]}:
                if now[own].get(key) is not then[own].get(key) and self._here(place, own, key):
                    yield f"{self.names[place]}.{key}".strip(".") + " is another tensor"
        self.then[place] = _kept(now)  # private attributes alone have changed

    def _children(self, place: int, now: dict, then: dict) -> Iterator[str]:
        for key in [*then, *now]:
            if now.get(key) is then.get(key):
                continue
            path = f"{self.names[place]}.{key}".strip(".")
            kind = type(now.get(key)).__name__
            if key not in now:
                yield f"{path} was removed"
            elif key not in then:
                yield f"{path}, a {kind}, was added"
            else:
                yield f"{path} is now a {kind} put in its place"

    def _attribute(self, place: int, key: str, then: Any, now: Any) -> str:
        name = self._name(place)
        if key == "training":
            return f"{name} is in {'training' if now else 'eval'} mode"
        if key == "forward":
            return f"{name}.forward is another function"
        shown = [repr(v) if isinstance(v, _PLAIN) else f"a {type(v).__name__}" for v in (then, now)]
        return f"{name}.{key} was {shown[0]:.40} and is {shown[1]:.40}"

    def _weights(self) -> Iterator[str]:
        for place, key, then, holder in self.tensors:
            if holder.get(key) is not then:  # also one that is equal
                yield f"{self.names[place]}.{key}".strip(".") + " is another tensor"
        if (kinds := self._kinds()) != self.kinds:
            was, now_kind = next((a, b) for a, b in zip(self.kinds, kinds, strict=True) if a != b)
            yield f"its weights were {_spoken(was)} and are {_spoken(now_kind)}"
        if [tensor.data_ptr() for tensor in self.views] != self.pointers:
            yield "weights that TransformerLens keeps in two forms have been parted"
        for (name, tensor), content in zip(self.watched, self.contents, strict=True):
            if _content(tensor) != content:
                yield f"{name}, of which TransformerLens keeps a copy, was changed in place"

    def _name(self, place: int) -> str:
        return self.names[place] or "the model"

    def _remade(self, place: int, key: str) -> bool:
        kind = self.now[place].get("rope_type", "")  # one, or one for each kind of layer
        return key.endswith(_REMADE) and ("dynamic" in str(kind) or "longrope" in str(kind))

    def _here(self, place: int, own: str, key: str) -> bool:
        """Whether it stays the same tensor in passes, and is not fetched for each of them."""
        tensor = self.now[place][own].get(key)
        return not self._remade(place, key) and (tensor is None or not tensor.is_meta)

    def _tensors(self) -> Iterator[tuple[int, str, Tensor, dict]]:
        """(module, name, tensor, where it is held): parameters and buffers that are here."""
        for place, state in enumerate(self.now):
            for own in _TENSORS:
                for key, tensor in state[own].items():
                    if tensor is not None and self._here(place, own, key):
                        yield place, key, tensor, state[own]

    def _kinds(self) -> list[tuple[torch.dtype, torch.device]]:
        return [(tensor.dtype, tensor.device) for _, _, tensor, _ in self.tensors]


def _walk(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module, children first, then modules that are held as plain attributes."""
    found: dict[int, tuple[str, nn.Module]] = {}
    tree = [("", model)]
    while tree:
        aside: list[tuple[str, nn.Module]] = []
        for name, module in tree:
            if id(module) in found:
                continue
            found[id(module)] = name, module
            prefix = f"{name}." if name else ""
            tree += [(prefix + key, m) for key, m in module._modules.items() if m is not None]
            held = ((key, value) for key, value in vars(module).items() if key[0] != "_")
            aside += [(prefix + key, value) for key, value in held if isinstance(value, nn.Module)]
        tree = aside
    return dict(found.values())


def _kept(state: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes as they are, without tensors that its last pass left there."""
    kept = {k: v for k, v in state.items() if k[0] != "_" or not isinstance(v, Tensor)}
    return kept | {name: dict(state[name]) for name in (*_HOOKS, *_TENSORS, "_modules")}


def _acting(hooks: dict[int, Any]) -> dict[int, Any]:
    """Without those by which transformers collects outputs, put on when they are first asked for."""
    collects = "transformers.utils.output_capturing"
    return {key: hook for key, hook in hooks.items() if getattr(hook, "__module__", "") != collects}


def _equal(one: Any, other: Any) -> bool:
    """Equal, of the same type; tensors only if they are the same one."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # tensors or arrays in it
        return False


def _apart(snapshot: Snapshot, shared: list[Tensor]) -> tuple[list[Tensor], list[tuple[str, Tensor]]]:
    """(tensors that are views of one memory, named tensors that the other model has no part in).

    TransformerLens splits joint projections: into views, or into copies. Of a copy it is the content
    that tells whether both are still the same weights, and so of all that lies beside it.
    """
    if not shared:
        return [], []
    objects = {id(tensor) for tensor in shared}
    memory = {tensor.untyped_storage().data_ptr() for tensor in shared}
    views: list[tuple[int, str, Tensor]] = []
    copies: list[tuple[int, str, Tensor]] = []
    for place, key, tensor, _ in snapshot.tensors:
        if id(tensor) in objects:
            continue
        own = tensor.untyped_storage().data_ptr()
        (views if own in memory else copies).append((place, key, tensor))
    twice = {tensor.untyped_storage().data_ptr() for _, _, tensor in views}
    every = [tensor for _, _, tensor in views]
    every += [tensor for tensor in shared if tensor.untyped_storage().data_ptr() in twice]
    watched: dict[int, tuple[str, Tensor]] = {}
    for place, key, tensor in copies:
        name = snapshot.names[place]
        watched[id(tensor)] = f"{name}.{key}", tensor
        if isinstance(tensor, nn.Parameter):
            watched |= _beside(snapshot, name, objects)
    return every, list(watched.values())


def _beside(snapshot: Snapshot, name: str, objects: set[int]) -> dict[int, tuple[str, Tensor]]:
    """The shared tensors under the nearest module above `name` that has any."""
    while name:
        name = name.rpartition(".")[0]
        found = {
            id(tensor): (f"{snapshot.names[place]}.{key}", tensor)
            for place, key, tensor, _ in snapshot.tensors
            if id(tensor) in objects and snapshot.names[place].startswith(f"{name}.")
        }
        if found:
            return found
    return {}


def _content(tensor: Tensor) -> tuple[int, int]:
    """Two sums over the tensor's bits: one sees rows that change places, the other columns."""
    if not tensor.numel():
        return 0, 0
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().contiguous().view(sizes[tensor.element_size()])
    bits = bits.reshape(len(bits) if bits.dim() else 1, -1)
    rows, columns = bits.sum(dim=1), bits.sum(dim=0)  # in int64
    weight = torch.arange(1, max(len(rows), len(columns)) + 1, device=bits.device)
    return int((rows * weight[: len(rows)]).sum()), int((columns * weight[: len(columns)]).sum())


def _configs(names: list[str], modules: list[nn.Module]) -> list[tuple[str, Any]]:
    found: dict[int, tuple[str, Any]] = {}
    for name, module in zip(names, modules, strict=True):
        for key in ("cfg", "config"):
            config = vars(module).get(key)
            if hasattr(config, "__dict__"):
                found.setdefault(id(config), (f"{name}.{key}".strip("."), config))
    return list(found.values())


def _copied(config: Any) -> dict[str, Any]:
    """A configuration's attributes, those that can be changed in place copied."""
    mutable = (list, dict, set)
    return {k: copy.deepcopy(v) if isinstance(v, mutable) else v for k, v in vars(config).items()}


def _counts(setting: str) -> bool:
    """Whether a forward pass may read it: not where it is private, of tokens or of padding."""
    return setting[0] != "_" and "token" not in setting and "pad" not in setting


def _spoken(kind: tuple[torch.dtype, torch.device]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} on {kind[1]}"
