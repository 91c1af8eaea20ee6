"""`neurotrace plan`: what a sweep of a model that isn't here would take."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.cli.console import show
from neurotrace.core.errors import InputError

if TYPE_CHECKING:
    from neurotrace.sweeps.cost import Shape

_ROWS = 512  # of the multiplication that is timed: more is no faster, and takes minutes at 70B
_NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def plan(
    config: Annotated[
        str,
        typer.Option(
            "--config", "--model", help="The model's config.json, its folder, or a built-in model."
        ),
    ],
    gflops: Annotated[
        float,
        typer.Option(help="Rate of a large matrix multiplication; 0: measured here, on the CPU."),
    ] = 0.0,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts.")] = 100,
    length: Annotated[int, typer.Option(help="Tokens in a prompt.")] = 32,
    positions: Annotated[str, typer.Option(help="read or all.")] = "read",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    batch: Annotated[int, typer.Option(help="Most tokens in one pass.")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Operations, time, memory and output of an exact sweep, and how they grow; the memory of other jobs.

    No weights are needed.
    """
    for name, value in (("pairs", pairs), ("length", length), ("batch", batch)):
        if not 0 < value < 1e12:
            raise InputError(f"--{name} {value}: expected a number above 0")
    if not 0 <= gflops < 1e12:
        raise InputError(f"--gflops {gflops}: expected a number above 0, or 0 to measure it")
    if pairs * length > 10**9 or pairs > 10**6:
        raise InputError(f"--pairs {pairs} --length {length}: more than can be reckoned with")
    if positions not in ("read", "all"):
        raise InputError(f"--positions {positions}: expected read or all")
    if dtype not in _NUMBER_BYTES:
        raise InputError(f"--dtype {dtype}: expected {', '.join(_NUMBER_BYTES)}")
    from neurotrace.sweeps.cost import config_from_file, growth, needs, shape_of

    shape = shape_of(config_from_file(config), config)
    rate = gflops or _rate_here(shape, dtype, batch)
    found = growth(
        shape, pairs, length, everywhere=positions == "all", gflops=rate,
        number_bytes=_NUMBER_BYTES[dtype], batch=batch,
    )  # fmt: skip
    jobs = needs(shape, pairs, length, number_bytes=_NUMBER_BYTES[dtype])
    if as_json:
        print(json.dumps({**{name: each.__dict__ for name, each in found}, "jobs": jobs}))
        return
    print(
        f"{shape.layers} layers × {shape.d_mlp} neurons, d_model {shape.d_model}, "
        f"{shape.parameters / 1e9:.3g} billion parameters; {pairs} pairs of {length} tokens"
    )
    show(found)
    print(
        "other jobs take, weights and all: "
        + ", ".join(f"{name} {memory / 2**30:.3g} GiB" for name, memory in jobs.items())
    )


def _rate_here(shape: Shape, dtype: str, batch: int) -> float:
    import torch

    from neurotrace.sweeps.cost import measured_gflops

    rows = min(batch, _ROWS)
    found = measured_gflops(
        shape, device=torch.device("cpu"), dtype=getattr(torch, dtype), threads=0, batch=rows
    )
    print(
        f"reckoned with {found:.3g} GFLOP/s, measured on this CPU; --gflops names another rate",
        file=sys.stderr,
    )
    return found
