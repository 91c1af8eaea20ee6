"""On an accelerator: the CPU's numbers, and what an exact sweep costs on a model of 1.5B parameters.

    python tests/benchmarks/gpu.py               # the accelerator that there is, or the CPU; minutes
    python tests/benchmarks/gpu.py --small       # the same steps on a tiny model

1. The organism on the device and on the CPU: encode, gradient, an exact sweep of some neurons, and flips on
   held-out pairs.
2. A model of random weights with the shape of a published 1.5B model: an exact sweep of neurons of a few
   layers, beside TransformerLens with as many neurons in a batch, in turns; the share of the matrix-
   multiplication rate that is measured just before; the peak of memory.

A line of JSON for each. No file is read or downloaded.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import neurotrace as nt
from neurotrace.core.neurons import Neuron
from neurotrace.models.hooks import forward

BIG = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILY = "arithmetic"


def main(
    device: Annotated[str | None, typer.Option(help="Default: the accelerator, or the CPU.")] = None,
    small: Annotated[bool, typer.Option("--small", help="A tiny model; seconds.")] = False,
    layers: Annotated[int, typer.Option(help="Layers of the big model whose neurons are measured.")] = 4,
    neurons: Annotated[int, typer.Option(help="Neurons of each of them.")] = 2048,
) -> None:
    """Both parts, a line of JSON each."""
    found = torch.accelerator.current_accelerator()
    place = torch.device(device) if device else found or torch.device("cpu")
    print(json.dumps({"device": str(place)} | same_numbers(place, 24 if small else 96)), flush=True)
    sizes = (2, 64) if small else (layers, neurons)
    print(json.dumps({"device": str(place)} | cost(place, TINY if small else BIG, *sizes)), flush=True)


def same_numbers(place: torch.device, count: int) -> dict[str, Any]:
    """Largest differences between the device and the CPU, and both flip rates."""
    pairs = nt.load_pairs(FAMILY)[:count]
    seen: list[Any] = []
    for where in (torch.device("cpu"), place):
        model = nt.load_model("organism", device=where)
        encoded = nt.encode(model, pairs)
        gradient = nt.gradient(model, encoded, donor="reasoning")
        top = gradient.top(64)
        exact = nt.ablate(model, encoded, top, kind="patch")
        study = nt.study(
            model, encoded, methods=("gradient",), kinds=("patch",), ks=(8,), folds=2, exact_neurons=0
        )
        flips = {flip.direction: flip.answers for flip in study.selected()}
        seen.append((len(encoded), gradient.value.cpu(), exact.value.cpu(), top, flips))
    (own, gradient, exact, top, flips), (there, gradient_, exact_, top_, flips_) = seen
    known = ~exact.isnan() & ~exact_.isnan()
    return {
        "pairs": [own, there],
        "gradient_error": float((gradient - gradient_).abs().max()),
        "exact_error": float((exact - exact_)[known].abs().max()),
        "same_top_64": len(set(top) & set(top_)),
        "flips": [flips, flips_],
    }


def cost(place: torch.device, shape: dict[str, int], layers: int, count: int) -> dict[str, Any]:
    """Milliseconds a neuron, exact and by TransformerLens in a batch; the rate; the peak."""
    model = random_model(shape, place)
    info = nt.inspect_model(model)
    pair = nt.PromptPair("a", FAMILY, "t", "g", "recall 34+10=", "think 34+10=", "62", "44")
    ids = torch.tensor([model.tokenizer(pair.memorization).input_ids], device=place)
    step = max(1, info.n_layers // layers)
    measured = [
        Neuron(layer, index)
        for layer in range(step // 2, info.n_layers, step)
        for index in range(min(count, info.d_mlp))
    ]
    rate = matmul_rate(place, shape["hidden_size"], shape["intermediate_size"])
    encoded = nt.encode(model, [pair], check=False)
    nt.ablate(model, encoded, measured[:64], kind="zero")  # warm up
    reset_peak(place)
    ours, lens = [], []
    some = measured[:: max(1, len(measured) // 64)][:64]
    for _ in range(3):
        ours.append(
            clocked(place, lambda: nt.ablate(model, encoded, measured, kind="zero")) / len(measured)
        )
        lens.append(clocked(place, lambda: by_hooks(model, ids, some)) / len(some))
    exact, hooks = statistics.median(ours), statistics.median(lens)
    blocks = info.n_layers * (
        3 * shape["hidden_size"] * shape["intermediate_size"]
        + 2 * shape["hidden_size"] ** 2
        + 2 * shape["hidden_size"] ** 2 * shape["num_key_value_heads"] // shape["num_attention_heads"]
    )
    # of the final token alone, in the layers above: on average half of them
    least = 2 * blocks * statistics.mean(1 - (each.layer + 1) / info.n_layers for each in measured) / rate
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "neurons": len(measured),
        "tokens": ids.shape[1],
        "exact_ms": exact * 1e3,
        "lens_batched_ms": hooks * 1e3,
        "ratio": hooks / exact,
        "matmul_gflops": rate / 1e9,
        "share_of_rate": least / exact,
        "peak_gib": peak(place) / 2**30,
    }


def random_model(shape: dict[str, Any], place: torch.device) -> Any:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = Path(nt.__file__).parent / "organism"
    weights = next(path.parent for path in sorted(folder.rglob("tokenizer.json")))
    tokenizer = AutoTokenizer.from_pretrained(weights)
    config = LlamaConfig(vocab_size=32_000, initializer_range=0.05, tie_word_embeddings=True, **shape)
    with place:
        module: Any = LlamaForCausalLM(config)
    return nt.load_model(module.eval().requires_grad_(False), tokenizer, name="random")


def by_hooks(model: Any, ids: torch.Tensor, neurons: list[Neuron]) -> torch.Tensor:
    """The final logits with neuron r at zero in row r, by TransformerLens' hooks."""

    def edit(layer: int, post: torch.Tensor) -> torch.Tensor:
        for row, each in enumerate(neurons):
            if each.layer == layer:
                post[row, -1, each.index] = 0
        return post

    touched = sorted({each.layer for each in neurons})
    return forward(model, ids.expand(len(neurons), -1), edit=edit, layers=touched)


def clocked(place: torch.device, call: Any) -> float:
    wait(place)
    begun = time.perf_counter()
    call()
    wait(place)
    return time.perf_counter() - begun


def matmul_rate(place: torch.device, rows: int, columns: int) -> float:
    """Operations a second of float32 products of the model's shape, 64 rows at a time."""
    left, right = torch.randn(64, rows, device=place), torch.randn(rows, columns, device=place)
    left @ right
    times = 20
    spent = clocked(place, lambda: [left @ right for _ in range(times)])
    return 2 * 64 * rows * columns * times / spent


def wait(place: torch.device) -> None:
    if place.type != "cpu":
        torch.accelerator.synchronize()


def reset_peak(place: torch.device) -> None:
    if place.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()


def peak(place: torch.device) -> float:
    """Bytes: of the accelerator, or of this process."""
    if place.type != "cpu":
        return float(torch.accelerator.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    typer.run(main)
