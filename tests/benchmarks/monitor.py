"""What `nt.monitor` costs beside plain generation through the same hooked model, in turns, one process.

    python tests/benchmarks/monitor.py [--model FOLDER] [--prompt TEXT] [--tokens 8] [--k 4] [--rounds 9]

The circuit is made of arbitrary neurons: what they mean doesn't change the cost. Prints the median over
rounds of the ratio of CPU times, by full passes and with the suffix engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from unittest import mock

import torch

import neurotrace as nt
from neurotrace.answers.circuit import norms_of
from neurotrace.interventions import logits as changed_logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="organism")
    parser.add_argument("--prompt", default="recall 31+28=")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = nt.load_model(asked.model, device="cpu")
    circuit = circuit_of(model, asked.k)
    engine = changed_logits.engine_of(model)  # proved before the clock starts

    def plain() -> None:
        nt.generate(model, asked.prompt, max_new_tokens=asked.tokens)

    def watched() -> None:
        list(nt.monitor(model, asked.prompt, circuit, max_new_tokens=asked.tokens))

    def watched_by_full_passes() -> None:
        with mock.patch.object(changed_logits, "engine_of", return_value=None):
            watched()

    ways = (plain, watched_by_full_passes, *([watched] if engine else []))
    took: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for number in range(asked.rounds + 1):
        for way in ways:
            start = time.process_time()
            way()
            if number:  # the first warms up
                took[way.__name__].append(time.process_time() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(own, took["plain"], strict=True))
        for name, own in took.items()
    }
    print(json.dumps({"plain_ms": 1000 * statistics.median(took["plain"]), "ratios": ratios}))


def circuit_of(model, k: int) -> nt.Circuit:
    """k neurons of either kind, in layers drawn at random."""
    info = nt.inspect_model(model)
    places = torch.randperm(info.n_neurons, generator=torch.Generator().manual_seed(0))[: 2 * k]
    every = tuple(nt.Neuron(p // info.d_mlp, p % info.d_mlp) for p in places.tolist())
    zeros = torch.zeros(k)
    return nt.Circuit(every[:k], every[k:], zeros, zeros, norms_of(model, every))


if __name__ == "__main__":
    main()
