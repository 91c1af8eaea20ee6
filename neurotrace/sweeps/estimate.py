"""The estimated cost of a sweep on this machine; reads configuration and tokenizer, no weights.

Before the run it is unknown which pairs the model answers correctly, so the number of pairs is an upper
bound.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurotrace import organism
from neurotrace.ablation.batch import usual_tokens
from neurotrace.core.errors import InputError, first_line
from neurotrace.core.files import read_json
from neurotrace.decoding.tokenizers import split_revision
from neurotrace.folders.shards import Shard
from neurotrace.models.checks import refuse_absurd
from neurotrace.sweeps.asked import Sweep, pairs_of
from neurotrace.sweeps.cost import Cost, Shape, copies_while_loading, cost, measured_gflops, shape_of
from neurotrace.sweeps.layout import Layout


@dataclass(frozen=True)
class Estimate:
    """`cost` is the shard's; the counts are those of the whole sweep."""

    pairs: int
    neurons: int
    parts: int
    gflops: float
    cost: Cost


@dataclass(frozen=True)
class Machine:
    """What this machine brings to a sweep; `sweep --dry-run` and `plan` use the same figures."""

    gflops: float  # of the model's own largest multiplication, measured
    batch: int  # tokens in one pass
    number_bytes: int
    base: float  # bytes that the process takes without a model


def machine_here(
    shape: Shape, *, device: str = "", dtype: str = "", threads: int = 0, batch: int = 0
) -> Machine:
    """Measured for half a second, in the numbers that a sweep here would use: float32 by default."""
    from neurotrace.models.loading import parse_device, parse_dtype

    place, kind = parse_device(device or None), parse_dtype(dtype or None)
    tokens = batch or usual_tokens(place)
    base = _resident()
    rate = measured_gflops(shape, device=place, dtype=kind, threads=threads, batch=tokens)
    return Machine(rate, tokens, kind.itemsize, base)


def estimate(asked: Sweep, shard: Shard) -> Estimate:
    """Estimate with this machine's measured rate.

    Raises:
        InputError: the model's configuration or tokenizer can't be read.
    """
    from neurotrace.interventions.kinds import form_of
    from neurotrace.models.loading import parse_device, parse_dtype

    reads_donor = form_of(asked.mode).needs == "donor"
    device = asked.device.removeprefix("auto")
    parse_device(device or None), parse_dtype(asked.dtype or None)  # refused before files are read
    config, tokenizer = _read(asked.model)
    shape = shape_of(config, asked.model)
    chosen = asked.chosen(shape.layers, shape.d_mlp)
    in_layer = [shape.d_mlp] * shape.layers
    if chosen is not None:
        in_layer = [0] * shape.layers
        for one in set(chosen):
            if one.layer >= shape.layers or one.index >= shape.d_mlp:
                raise InputError(
                    f"{one} is outside the model's {shape.layers} layers × {shape.d_mlp} neurons"
                )
            in_layer[one.layer] += 1
    pairs = pairs_of(asked)
    prompts = [pair.memorization if asked.donor == "reasoning" else pair.reasoning for pair in pairs]
    lengths = [len(ids) for ids in tokenizer(prompts).input_ids]
    layout = Layout(len(pairs), sum(in_layer), asked.part_rows)
    here = machine_here(shape, device=device, dtype=asked.dtype, threads=asked.threads, batch=asked.batch)
    found = cost(
        shape,
        lengths,
        gflops=here.gflops,
        in_layer=in_layer,
        tokens=_recomputed(asked.where(), lengths),
        runs=2 if reads_donor else 1,
        number_bytes=here.number_bytes,
        batch=here.batch,
        copies=copies_while_loading(asked.model),
        base=here.base,
    )
    share = len(layout.of_shard(shard)) / layout.parts
    own = Cost(
        round(found.cells * share),
        found.operations * share,
        found.seconds * share,
        found.memory,
        found.output * share,
    )
    return Estimate(len(pairs), layout.neurons, layout.parts, here.gflops, own)


def _resident() -> float:
    """Peak bytes of this process so far, with everything loaded that a sweep needs except the model.

    On Linux `ru_maxrss` begins with the peak of the process that started this one; `VmHWM` does not.
    """
    import resource
    import sys

    import transformer_lens.model_bridge  # noqa: F401

    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _recomputed(where: str | tuple[int, ...], lengths: Sequence[int]) -> list[int]:
    """Positions of each prompt from the first changed one on."""
    if where == "read":
        return [1] * len(lengths)
    if where == "all":
        return list(lengths)
    longest = max(lengths)
    if any(not -longest <= int(place) < longest for place in where):
        raise InputError(f"positions={list(where)}: the longest prompt has {longest} tokens")
    return [max(1, length - min(int(p) % length for p in where)) for length in lengths]


def _read(source: str) -> tuple[Any, Any]:
    """(configuration, tokenizer) of whatever `load_model` takes."""
    from transformers import AutoConfig, AutoTokenizer

    path, revision = split_revision(source)
    options: dict[str, Any] = {"revision": revision}
    if path in organism.NAMES:
        path = str(organism.folder(path))
    elif source.endswith(".gguf"):
        path, options = str(Path(source).parent), {"gguf_file": Path(source).name}
    if os.path.isfile(config := os.path.join(path, "config.json")):
        refuse_absurd(read_json(config), config)
    try:
        return (
            AutoConfig.from_pretrained(path, trust_remote_code=False, **options),
            AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options),
        )
    except Exception as error:
        raise InputError(
            f"can't read the configuration and tokenizer of {source!r}: {first_line(error)}"
        ) from None
