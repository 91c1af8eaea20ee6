"""What collecting and ranking take in memory beside the model: measured, and by `neurotrace plan`.

    python tests/benchmarks/memory.py --model FOLDER --pairs 100 --pairs 10000

Each job runs in a process of its own, on random tokens. The peak is that of the job: the kernel's
high-water mark is set back once the model is loaded (Linux only).
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from neurotrace.models import hooks, origins

JOBS = ("collect to a file", "moments", "gradient")


def main(
    model: Annotated[str, typer.Option(help="Folder, GGUF file or built-in model.")] = "organism",
    pairs: Annotated[list[int] | None, typer.Option(help="Pairs; repeatable.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a prompt.")] = 8,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, bfloat16; repeatable.")] = None,
    job: Annotated[list[str] | None, typer.Option(help=", ".join(JOBS))] = None,
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """A row for each number of pairs, type and job."""
    if one:
        print(
            json.dumps(_measure(model, (pairs or [100])[0], length, (dtype or [""])[0], (job or JOBS)[0]))
        )
        return
    print("| job | dtype | pairs | model | beside it | estimated |\n|---|---|---|---|---|---|")
    for kind in dtype or ["float32"]:
        for name in job or JOBS:
            for count in pairs or [100, 1000]:
                call = [
                    sys.executable,
                    __file__,
                    "--one",
                    "--model",
                    model,
                    "--pairs",
                    str(count),
                    "--length",
                    str(length),
                    "--dtype",
                    kind,
                    "--job",
                    name,
                ]
                run = subprocess.run(call, capture_output=True, text=True, check=True)
                found = json.loads(run.stdout.splitlines()[-1])
                model_mib, beside, estimated = (
                    f"{found[name] / 2**20:,.0f} MiB" for name in ("model", "beside", "estimated")
                )
                print(
                    f"| {name} | {kind} | {count:,} | {model_mib} | {beside} | {estimated} |",
                    flush=True,
                )


def _measure(model: str, count: int, length: int, dtype: str, job: str) -> dict[str, float]:
    import neurotrace as nt
    from neurotrace.sweeps.cost import needs, shape_of

    loaded = nt.load_model(model, device="cpu", dtype=dtype)
    info = nt.inspect_model(loaded)
    encoded = _random_pairs(count, length, info.d_vocab)
    twin: Any = origins.twin(loaded)
    shape = shape_of(twin.config, model)
    number = 4 if dtype == "float32" else 2
    ids = torch.zeros(1, 2, dtype=torch.long)
    hooks.forward(loaded, ids)  # what is made once is there before
    nt.gradient(loaded, encoded.at([0]))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading left behind would be used again, and not be seen
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with tempfile.TemporaryDirectory() as folder:
        if job == "collect to a file":
            nt.collect(loaded, encoded, into=Path(folder) / "values.bin")
        elif job == "moments":
            nt.moments(loaded, encoded)
        else:
            nt.gradient(loaded, encoded, kind="zero")
    beside = _status("VmHWM") - before
    weights = float(shape.parameters * number)
    estimated = needs(shape, count, length, number_bytes=number)[job] - weights
    return {"model": weights, "beside": beside, "estimated": estimated}


def _random_pairs(count: int, length: int, vocabulary: int):
    from neurotrace.core.pairs import PromptPair
    from neurotrace.models.encoding import Behaviour, EncodedPairs

    draw = torch.Generator().manual_seed(0)
    memorization, reasoning = (
        torch.randint(vocabulary, (count, length), generator=draw).unbind() for _ in "mr"
    )
    answers = torch.arange(count) % (vocabulary - 1)
    zeros = torch.zeros(count)
    nothing = Behaviour(zeros, zeros, zeros, answers, answers)
    pairs = [
        PromptPair(f"p{i}", "noise", "none", f"g{i % 50}", "recall", "reason", " a", " b")
        for i in range(count)
    ]
    return EncodedPairs(tuple(pairs), memorization, reasoning, answers, answers + 1, nothing, nothing)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    typer.run(main)
