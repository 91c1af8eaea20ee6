"""`ablate_top` against a full sweep, and what the gradient costs.

    python tests/benchmarks/top.py --model FOLDER --sweep runs/sweep-64.safetensors [--json]
    python tests/benchmarks/top.py --model FOLDER --seeds 1                # what a search costs, no sweep

The sweep is made once and read when it is there: all neurons × 64 pairs in fast precision, then the
strongest again exactly (`--again`). What `fast` gets wrong is printed beside the margin that it would
have to bridge to hide one of the true top k among the others. The searches know nothing of the sweep.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import neurotrace as nt
from neurotrace.core.process import bars
from neurotrace.core.scores import Scores
from neurotrace.models.encoding import EncodedPairs, ask, by_length, join
from neurotrace.models.gradients import gradients
from neurotrace.models.sites import last_logits


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    model = nt.load_model(options.model)
    encoded = some_pairs(model, options.probes, options.pairs)
    wanted = None if options.sweep is None else true_top(model, encoded, options)
    result: dict[str, Any] = {"pairs": len(encoded), "k": options.k, "searches": []}
    for seed in range(options.seeds):
        began = time.process_time()
        top = nt.ablate_top(model, encoded, options.k, kind="zero", seed=seed)
        found = {
            "seed": seed,
            "cpu_seconds": round(time.process_time() - began, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "evaluations": top.evaluations,
            "share": top.share,
            "passes": top.passes,
            "converged": top.converged,
        }
        if wanted is not None:
            hits = sum((neuron.layer, neuron.index) in wanted for neuron in top.neurons)
            found["recall"] = hits / options.k
        print(found, flush=True)
        result["searches"].append(found)
    result["gradient_forward_passes"] = gradient_cost(model, encoded)
    print(f"gradient of all neurons: {result['gradient_forward_passes']:.2f} forward passes")
    if options.json:
        print(json.dumps(result))


def some_pairs(model: Any, probes: str, count: int) -> EncodedPairs:
    """Pairs in a random order, asked until `count` of them are answered correctly on both sides."""
    pairs = nt.load_pairs(probes)
    random.Random(0).shuffle(pairs)
    kept: list[EncodedPairs] = []
    for start in range(0, len(pairs), count):
        kept.append(ask(model, pairs[start : start + count]))
        if sum(map(len, kept)) >= count:
            break
    found = join(kept)
    return found.at(range(min(count, len(found))))


def true_top(model: Any, encoded: EncodedPairs, options: argparse.Namespace) -> set[tuple[int, int]]:
    """The k strongest of the stored sweep, which is made if there is none."""
    if not options.sweep.exists():
        options.sweep.parent.mkdir(parents=True, exist_ok=True)
        sweep(model, encoded, options.again, options.k).save(options.sweep)
    truth = Scores.load(options.sweep)
    print({name: value for name, value in truth.provenance.items() if name.startswith("sweep")})
    if truth.provenance["pairs"] != len(encoded):
        raise SystemExit(f"{options.sweep} is of {truth.provenance['pairs']} pairs: name another")
    order = truth.value.abs().flatten().argsort(descending=True)[: options.k]
    return {(int(at) // truth.value.shape[1], int(at) % truth.value.shape[1]) for at in order}


def sweep(model: Any, encoded: EncodedPairs, again: int, k: int) -> Scores:
    """Exact mean effects of the `again` neurons that are strongest in a fast sweep of all."""
    quick = nt.ablate(model, encoded, kind="zero", precision="fast", progress=bars)
    order = quick.value.abs().flatten().argsort(descending=True)
    again = min(again, len(order))
    width = quick.value.shape[1]
    best = [nt.Neuron(int(at) // width, int(at) % width) for at in order[:again]]
    exact = nt.ablate(model, encoded, best, kind="zero", progress=bars)
    done = ~exact.value.isnan()
    margins = {
        "sweep_exact": again,
        "sweep_kth_effect": float(exact.value[done].abs().sort(descending=True).values[k - 1]),
        "sweep_largest_not_exact": float(quick.value.masked_fill(done, 0).abs().max()),
        "sweep_largest_fast_error": float((quick.value - exact.value)[done].abs().max()),
    }
    value = exact.value.where(done, quick.value)
    return replace(exact, value=value, columns={}, provenance={**exact.provenance, **margins})


def gradient_cost(model: Any, encoded: EncodedPairs, turns: int = 3) -> float:
    """CPU time of activations and slopes of every neuron over that of a forward pass, same batches."""
    spent = [0.0, 0.0]
    for _ in range(turns):  # in turns: both meet the machine's drift
        start = time.process_time()
        for _ in gradients(model, encoded, "memorization"):
            pass
        spent[0] += time.process_time() - start
        start = time.process_time()
        for _, ids in by_length(encoded.memorization, 16):
            last_logits(model, ids)
        spent[1] += time.process_time() - start
    return spent[0] / spent[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--probes", default="capitals")
    parser.add_argument(
        "--sweep", type=Path, default=None, help="where the sweep is, or goes; default: none"
    )
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--again", type=int, default=2000, help="neurons swept exactly")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
