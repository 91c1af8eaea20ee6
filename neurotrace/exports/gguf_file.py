"""A GGUF file with the edited weights: every other tensor, and all metadata, as they were.

The changed down projections are dequantized, edited and kept as float32, so nothing is rounded; the file
grows by their difference in size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurotrace.core.errors import InputError, first_line
from neurotrace.core.neurons import by_layer
from neurotrace.core.writing import save_whole
from neurotrace.exports.weights import written
from neurotrace.interventions.intervention import Intervention

_BIASED = ("llama",)  # architectures that read optional biases of an MLP: llama.cpp, and `nt.load_model`


def gguf_package() -> Any:
    """The package gguf; InputError where it isn't installed."""
    try:
        import gguf
    except ImportError:
        raise InputError("writing GGUF needs the package gguf: pip install gguf") from None
    return gguf


def write_gguf(intervention: Intervention, source: Path, path: Path) -> None:
    """The source's copy with the intervention in its weights.

    Raises:
        InputError: no weight edit can express the intervention; the source is no GGUF file, or has other
            tensors than expected; the file can't be written.
    """
    gguf = gguf_package()
    if intervention.needs_donor:
        raise InputError(
            f"no weight edit can express {intervention.kind}: it takes its values from a donor run; pass "
            "intervention.without_donor() (--stand-in), which writes the donor class's mean"
        )
    try:
        reader = gguf.GGUFReader(str(source))
        named = {tensor.name: tensor for tensor in reader.tensors}
        architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{source}: can't be read as GGUF ({first_line(error)})") from None
    new = _edited(gguf, intervention, named, architecture)

    def save(file: Path) -> None:
        writer = gguf.GGUFWriter(str(file), architecture, endianess=reader.endianess)
        _copy_fields(gguf, reader, writer)
        for name, tensor in named.items():
            if name not in new:
                writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
        for name, values in new.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    save_whole(path, save)


def _edited(
    gguf: Any, intervention: Intervention, named: dict[str, Any], architecture: str
) -> dict[str, np.ndarray]:
    """The tensors that change, in float32."""
    new: dict[str, np.ndarray] = {}
    shifts = bool((intervention.offset != 0).any())
    if shifts and "blk.0.ffn_down.bias" not in named:
        if architecture not in _BIASED:
            raise InputError(
                f"no weight edit can express a constant shift in a GGUF file of the architecture "
                f"{architecture}: its down projections have no bias"
            )
        for name, tensor in list(named.items()):
            part = name.split(".")
            if len(part) == 4 and part[2] in ("ffn_gate", "ffn_up", "ffn_down") and part[3] == "weight":
                width = int(tensor.shape[1])  # written back to front: the last one counts the outputs
                new[name.removesuffix("weight") + "bias"] = np.zeros(width, dtype=np.float32)
    for layer, chosen in by_layer(intervention.neurons).items():
        name = f"blk.{layer}.ffn_down.weight"
        if name not in named:
            raise InputError(f"the GGUF file has no tensor {name}: its MLPs are of another kind")
        tensor = named[name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        units = [intervention.neurons[place].index for place in chosen]
        if shifts:
            rows = torch.from_numpy(values).t()
            bias = f"blk.{layer}.ffn_down.bias"
            if bias not in new:
                new[bias] = gguf.dequantize(named[bias].data, named[bias].tensor_type)
            new[bias] = (new[bias] + written(intervention, layer, rows).numpy()).astype(np.float32)
        keep = intervention.keep[chosen].numpy()
        values[:, units] = np.where(keep == 0, 0, keep * values[:, units])
        new[name] = values
    return new


def _copy_fields(gguf: Any, reader: Any, writer: Any) -> None:
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue  # the writer's own
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
