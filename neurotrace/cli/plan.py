"""`neurotrace plan`: the cost of a sweep, without the model's weights."""

from __future__ import annotations

from typing import Annotated

import typer

from neurotrace.cli.console import show, tell, tell_json
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet

_NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def plan(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "--model",
            help="The model's config.json, its folder, a .gguf file, or a built-in model.",
        ),
    ],
    gflops: Annotated[
        float,
        typer.Option(
            help="Rate of a large matrix multiplication on another machine; 0: measured on this one."
        ),
    ] = 0.0,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts.")] = 100,
    length: Annotated[int, typer.Option(help="Tokens in a prompt.")] = 32,
    positions: Annotated[str, typer.Option(help="read or all.")] = "read",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16. Default: float32, as `sweep`; with --gflops bfloat16."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Maximum number of tokens in one pass. Default: as `sweep`; with --gflops 4096."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Operations, time, memory and output of an exact sweep, and how they grow; the memory of other jobs.

    No weights are needed.
    """
    dtype = dtype or ("bfloat16" if gflops else "float32")
    for name, value in (("pairs", pairs), ("length", length)):
        if not 0 < value < 1e12:
            raise InputError(f"--{name} {value}: expected a number above 0")
    if batch is not None and not 0 < batch < 1e12:
        raise InputError(f"--batch {batch}: expected a number above 0")
    if not 0 <= gflops < 1e12:
        raise InputError(f"--gflops {gflops}: expected a number above 0, or 0 to measure it")
    if pairs * length > 10**9 or pairs > 10**6:
        raise InputError(f"--pairs {pairs} --length {length}: too large for an estimate")
    if positions not in ("read", "all"):
        raise InputError(f"--positions {positions}: expected read or all")
    if dtype not in _NUMBER_BYTES:
        raise InputError(f"--dtype {dtype}: expected {', '.join(_NUMBER_BYTES)}")
    from neurotrace.sweeps.cost import BASE, config_from_file, copies_while_loading, growth, needs, shape_of
    from neurotrace.sweeps.estimate import Machine, machine_here

    shape, copies = shape_of(config_from_file(config), config), copies_while_loading(config)
    if gflops:
        machine = Machine(gflops, batch or 4096, _NUMBER_BYTES[dtype], BASE)
    else:
        quiet()
        machine = machine_here(shape, dtype=dtype, batch=batch or 0)
        tell(
            f"estimated with {machine.gflops:.3g} GFLOP/s, measured here in {dtype}; --gflops names "
            "another machine's rate",
            error=True,
        )
    found = growth(
        shape,
        pairs,
        length,
        everywhere=positions == "all",
        gflops=machine.gflops,
        number_bytes=machine.number_bytes,
        batch=machine.batch,
        copies=copies,
        base=machine.base,
    )
    jobs = needs(shape, pairs, length, number_bytes=machine.number_bytes, copies=copies, base=machine.base)
    if as_json:
        tell_json({**{name: each.__dict__ for name, each in found}, "jobs": jobs})
        return
    tell(
        f"{shape.layers} layers × {shape.d_mlp} neurons, d_model {shape.d_model}, "
        f"{shape.parameters / 1e9:.3g} billion parameters; {pairs} pairs of {length} tokens"
    )
    show(found)
    tell(
        "memory of other jobs, the whole process: "
        + ", ".join(f"{name} {memory / 2**30:.3g} GiB" for name, memory in jobs.items())
    )
