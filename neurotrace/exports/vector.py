"""A control vector: what a constant shift adds to the residual stream behind each block.

The GGUF layout of llama.cpp (`--control-vector FILE`) and repeng: one tensor ``direction.L`` a block, added
to what leaves block L at every position. There is none for block 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.core.writing import save_whole
from neurotrace.engine.parts import hooked, write_rows
from neurotrace.exports.attach import parts_of
from neurotrace.exports.gguf_file import gguf_package
from neurotrace.exports.weights import written
from neurotrace.interventions.intervention import Intervention

_ARCHITECTURE = "controlvector"
Vectors = Mapping[int, Float[Tensor, " d_model"]]


def vectors_of(module: nn.Module, intervention: Intervention) -> dict[int, Tensor]:
    """Block -> what is added behind it.

    Raises:
        InputError: the intervention is no constant shift, or changes block 0.
    """
    constant = not intervention.needs_donor and bool((intervention.keep == 1).all())
    if not constant:
        raise InputError(
            f"no control vector can express {intervention.kind}: it adds a constant, as shift and steer do"
        )
    parts, layers = parts_of(module), by_layer(intervention.neurons)
    if 0 in layers:
        raise InputError("no control vector can express a change in block 0: llama.cpp adds none there")
    return {layer: written(intervention, layer, write_rows(parts.projections[layer])) for layer in layers}


def write_vector(module: nn.Module, intervention: Intervention, path: Path) -> None:
    """The control vector's GGUF file.

    Raises:
        InputError: as `vectors_of`; the package gguf is missing; the file can't be written.
    """
    gguf = gguf_package()
    vectors = vectors_of(module, intervention)
    outer: Any = module

    def save(file: Path) -> None:
        writer = gguf.GGUFWriter(str(file), _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", outer.config.model_type)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    save_whole(path, save)


def read_vector(path: Path) -> dict[int, Tensor]:
    """Block -> vector, from the file."""
    reader = gguf_package().GGUFReader(str(path))
    return {
        int(tensor.name.removeprefix("direction.")): torch.tensor(tensor.data) for tensor in reader.tensors
    }


@contextmanager
def added(module: nn.Module, vectors: Vectors) -> Iterator[None]:
    """Inside the `with` each vector is added to what leaves its block, as llama.cpp does."""
    blocks = parts_of(module).blocks

    def adding(vector: Tensor) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            if not isinstance(output, tuple | list):
                return output + vector.to(output)
            return type(output)([output[0] + vector.to(output[0]), *output[1:]])

        return hook

    with hooked([(blocks[layer], "output", adding(vector)) for layer, vector in vectors.items()]):
        yield
