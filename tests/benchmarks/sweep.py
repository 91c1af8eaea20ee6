"""Zero every neuron at the final token position: the suffix engine beside a hook loop, in one process.

    python tests/benchmarks/sweep.py --model FOLDER [--sample 64] [--json]

Peers: TransformerLens one neuron a pass, TransformerLens and nnsight batched (null without nnsight).
All do the same to the same neurons of the same prompt and read L = logit(memorized) - logit(reasoned).

*Floor*: what no method that runs the blocks above can go below: 2 x (weights of their Linear layers)
+ attention over the prefix + two unembedding rows for each neuron, over the rate at which this
process, next to each timing, multiplies matrices of the very same shapes.

With one thread, times are the process's CPU seconds: equal to wall time on an idle machine, and still
comparable on a shared one. With more threads, wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import neurotrace as nt
from neurotrace.engine import proof
from neurotrace.engine.engine import BATCH, Engine
from neurotrace.engine.modules import linears
from neurotrace.engine.parts import find_parts, write_rows
from neurotrace.models.hooks import forward
from neurotrace.models.origins import tokenizer_of, twin

PROMPT = "If the capital of France were Rome, then the capital of France would be called"
ANSWERS = " Paris", " Rome"  # memorized, reasoned
Neurons = list[tuple[int, int]]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    model = nt.load_model(options.model)
    plain: Any = twin(model)
    tokenizer = tokenizer_of(model)
    ids = prompt_of(tokenizer, options.tokens)
    answers = [tokenizer(a, add_special_tokens=False).input_ids[0] for a in ANSWERS]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        engine = proof.engine(plain, precision="fast", batch_size=options.batch_size)
    depth, widths = len(engine.parts.blocks), engine.parts.widths
    # evenly spaced layers whose mean depth is the model's: cost is linear in depth
    step = 1 if not options.sample else max(1, depth // 10)
    layers = list(range((step - 1) // 2, depth, step))
    print(
        f"{options.model}: {depth} layers, {sum(widths):,} neurons; {len(ids)} tokens; "
        f"{options.threads} thread(s); path {engine.path}, error in the proof {engine.error:.1e}"
    )

    neurons = sample_neurons(options.sample or 256, widths)
    insight = nnsight_pass(plain, tokenizer, ids, answers)
    peers = {
        "loop": Peer(lambda some: lens(model, ids, answers, some), neurons, 1),
        "batched": Peer(lambda some: lens(model, ids, answers, some), neurons, 64),
        "nnsight": Peer(insight, neurons, 64) if insight else None,
    }
    ours = time_ours(engine, ids, answers, layers, list(peers.values()), clock)
    peak = ours["peak_mb"]
    results: list[Any] = [peer and peer.result() for peer in peers.values()]
    loop, batched, traced = results
    errors = compare(engine, ids, answers, neurons, loop["values"])
    everywhere = all_positions(engine, model, ids, answers, neurons[: 2 * 64], clock)

    exact = ours["exact_ms"]
    result: dict[str, Any] = {
        "ratio_loop": loop["ms"] / exact,
        "ratio_batched": batched["ms"] / exact,
        "ratio_nnsight": traced["ms"] / exact if traced else None,
        "ratio_loop_fast": loop["ms"] / ours["fast_ms"] if ours["fast_ms"] else None,
        "floor_fraction": ours["floor_ms"] / exact,
        "ms_per_neuron": exact,
        "ms_per_neuron_fast": ours["fast_ms"],
        "ms_loop": loop["ms"],
        "ms_batched": batched["ms"],
        "ms_nnsight": traced["ms"] if traced else None,
        "max_abs_error": errors,
        "fast_rms_relative_error": ours["fast_error"],
        "fast_same_of_top_100": ours["same_top"],
        "ratio_all_positions": everywhere["peer_ms"] / everywhere["ours_ms"],
        "ratio_all_positions_fast": everywhere["peer_ms"] / everywhere["fast_ms"],
        "ms_all_positions": everywhere["ours_ms"],
        "max_abs_error_all_positions": everywhere["error"],
        "gflops": ours["gflops"],
        "peak_mb": peak,
        "path": engine.path,
    }
    if not options.sample:
        result |= growth(engine, tokenizer, answers, clock)
    for name, value in result.items():
        print(f"{name:>28}  {value:.4g}" if isinstance(value, float) else f"{name:>28}  {value}")
    if options.json:
        print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        help="time peers on so many neurons, ours on a third of the layers",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    return parser.parse_args()


def prompt_of(tokenizer: Any, tokens: int) -> Tensor:
    """The prompt's last `tokens` tokens, the prompt repeated where it is shorter."""
    once = tokenizer(PROMPT, add_special_tokens=False).input_ids
    again = tokenizer(". " + PROMPT, add_special_tokens=False).input_ids
    return torch.tensor(again * (tokens // len(again)) + once)[-tokens:]


def sample_neurons(count: int, widths: tuple[int, ...]) -> Neurons:
    """Neurons in layer order, evenly spread over layers and at random within."""
    generator = torch.Generator().manual_seed(0)
    layers = torch.arange(count) * len(widths) // count
    return [
        (int(layer), int(torch.randint(widths[int(layer)], (1,), generator=generator))) for layer in layers
    ]


# ---- ours ------------------------------------------------------------------------------------


def time_ours(
    engine: Engine,
    ids: Tensor,
    answers: list[int],
    layers: list[int],
    peers: list[Peer | None],
    clock: Callable,
) -> dict[str, Any]:
    """Exact, fast, the floor and a share of each peer's work, layer by layer next to each other.

    A shared machine drifts by a quarter within minutes; done in turns, all meet the same drift.
    """
    start = clock()
    run = engine.clean(ids)
    cleaning = clock() - start
    before = engine.logit_difference(run.hidden, *answers)
    exact, fast, floors, rates = [cleaning], [cleaning], [], []
    effects: list[list[Tensor]] = [[], []]
    engine.single(run, layers[-1], torch.arange(8), torch.zeros(8))  # warm up
    peak = 0.0
    for turn, layer in enumerate(layers):
        index = torch.arange(engine.parts.widths[layer])
        for each, spent in enumerate((exact, fast)):
            if each and engine.delta is None:
                continue
            start = clock()
            hidden = engine.single(run, layer, index, torch.zeros(len(index)), exact=not each)
            change = engine.logit_difference(hidden, *answers) - before
            spent.append(clock() - start)
            effects[each].append(change)
        seconds, rate = floor(engine, layer, len(index), len(ids), clock)
        floors.append(seconds)
        rates.append(rate)
        # of the first turn, before the peers have run: the process with the model in it
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for peer in filter(None, peers):
            peer.advance((turn + 1) / len(layers), clock)
    neurons = sum(engine.parts.widths[layer] for layer in layers)
    found = {
        "exact_ms": sum(exact) / neurons * 1e3,
        "floor_ms": sum(floors) / neurons * 1e3,
        "gflops": statistics.mean(rates),
        "peak_mb": peak,
        "fast_ms": None,
        "fast_error": None,
        "same_top": None,
    }
    if engine.delta is not None:
        true, quick = torch.cat(effects[0]), torch.cat(effects[1])
        top = [set(e.abs().topk(min(100, len(e))).indices.tolist()) for e in (true, quick)]
        found["fast_ms"] = sum(fast) / neurons * 1e3
        found["fast_error"] = float((quick - true).norm() / true.norm())
        found["same_top"] = len(top[0] & top[1])
    return found


@torch.no_grad()
def floor(engine: Engine, layer: int, neurons: int, tokens: int, clock: Callable) -> tuple[float, float]:
    """Seconds that the arithmetic alone would take for all neurons of `layer`, and the GFLOP/s."""
    above = engine.parts.blocks[layer + 1 :]
    rows = min(neurons, engine.batch_size)
    picked = engine.parts.blocks[-1:] if not above else above[:: max(1, len(above) // 4)]
    weights = [write_rows(m).t() for m in linears(picked)]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]) for w in weights}
    start = clock()
    for weight in weights:
        F.linear(inputs[weight.shape[1]], weight)
    rate = 2 * rows * sum(w.numel() for w in weights) / (clock() - start)
    config: Any = engine.parts.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * head * config.num_attention_heads * tokens * len(above)
    unembedding = 4 * engine.parts.unembedding.weight.shape[1]
    blocks = 2 * sum(write_rows(m).numel() for m in linears(above))
    return neurons * (blocks + attention + unembedding) / rate, rate / 1e9


def compare(engine: Engine, ids: Tensor, answers: list[int], neurons: Neurons, truth: Tensor) -> float:
    """Largest difference of L between ours (exact) and the peer's loop."""
    run = engine.clean(ids)
    got = []
    for layer, index in neurons:
        hidden = engine.single(run, layer, torch.tensor([index]), torch.zeros(1), exact=True)
        got.append(engine.logit_difference(hidden, *answers))
    return float((torch.cat(got) - truth).abs().max())


def growth(engine: Engine, tokenizer: Any, answers: list[int], clock: Callable) -> dict[str, Any]:
    """ms a neuron by prompt length (middle layer) and by layer; seconds by number of prompts."""
    depth = len(engine.parts.blocks)
    index = torch.arange(engine.parts.widths[depth // 2])

    def cost(ids: Tensor, layer: int) -> float:
        run = engine.clean(ids)
        start = clock()
        engine.single(run, layer, index, torch.zeros(len(index)), exact=True)
        return round((clock() - start) / len(index) / len(run.ids) * 1e3, 3)

    prompts = {n: prompt_of(tokenizer, n) for n in (8, 16, 64, 256, 512)}
    short = prompts[16]
    return {
        "ms_by_tokens": {n: cost(ids, depth // 2) for n, ids in prompts.items()},
        "ms_by_layer": {layer: cost(short, layer) for layer in (0, depth // 2, depth - 1)},
        "ms_by_prompts": {n: cost(short.expand(n, -1), depth - depth // 4) for n in (1, 2, 4)},
    }


# ---- the others ------------------------------------------------------------------------------


class Peer:
    """One peer's timing over a sample, in batches, a share at a time."""

    def __init__(self, effect: Callable[[Neurons], Tensor], neurons: Neurons, batch: int) -> None:
        full = neurons * -(-batch // len(neurons)) if len(neurons) < batch else neurons
        self.effect = effect
        self.parts = [full[at : at + batch] for at in range(0, len(full) - batch + 1, batch)]
        if batch > 1 and len(self.parts) < 4:  # a few batches at least, to meet the drift
            self.parts = (self.parts * 4)[:4]
        self.values: list[Tensor] = []
        self.spent = 0.0

    def advance(self, share: float, clock: Callable) -> None:
        """Work until `share` of the sample is done."""
        if not self.values:
            self.effect(self.parts[0])  # warm up
        while len(self.values) < round(share * len(self.parts)):
            start = clock()
            self.values.append(self.effect(self.parts[len(self.values)]))
            self.spent += clock() - start

    def result(self) -> dict[str, Any]:
        """Mean ms a neuron, and L of each."""
        count = sum(len(part) for part in self.parts)
        return {"ms": self.spent / count * 1e3, "values": torch.cat(self.values)}


@torch.no_grad()
def lens(
    model: Any, ids: Tensor, answers: list[int], neurons: Neurons, *, everywhere: bool = False
) -> Tensor:
    """L with neuron r zeroed in row r, by TransformerLens' hooks."""
    where = slice(None) if everywhere else -1

    def edit(layer: int, post: Tensor) -> Tensor:
        for row, (at, unit) in enumerate(neurons):
            if at == layer:
                post[row, where, unit] = 0
        return post

    touched = sorted({layer for layer, _ in neurons})
    logits = forward(model, ids.expand(len(neurons), -1), edit=edit, layers=touched)
    return logits[:, answers[0]] - logits[:, answers[1]]


def nnsight_pass(
    plain: torch.nn.Module, tokenizer: Any, ids: Tensor, answers: list[int]
) -> Callable[[Neurons], Tensor] | None:
    """The same by nnsight's tracing; None where it isn't installed."""
    with contextlib.suppress(ImportError):
        import copy

        from nnsight import LanguageModel

        own = copy.deepcopy(plain, memo={id(p): p for p in plain.parameters()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = LanguageModel(own, tokenizer=tokenizer)
        names = find_parts(own)
        path = next(n for n, m in own.named_modules() if m is names.projections[0])
        head, _, rest = path.partition(".0.")

        def projection(layer: int) -> Any:
            module = traced
            for part in f"{head}.{layer}.{rest}".split("."):
                module = module[int(part)] if part.isdigit() else getattr(module, part)
            return module

        def effect(neurons: Neurons) -> Tensor:
            batch = {
                "input_ids": ids.expand(len(neurons), -1),
                "attention_mask": torch.ones(len(neurons), len(ids), dtype=torch.long),
            }
            by_layer: dict[int, list[tuple[int, int]]] = {}
            for row, (layer, unit) in enumerate(neurons):
                by_layer.setdefault(layer, []).append((row, unit))
            with torch.no_grad(), traced.trace(batch):
                for layer in sorted(by_layer):
                    for row, unit in by_layer[layer]:
                        projection(layer).input[row, -1, unit] = 0
                logits = traced.output.logits[:, -1].save()
            return logits[:, answers[0]] - logits[:, answers[1]]

        return effect
    return None


def all_positions(
    engine: Engine,
    model: Any,
    ids: Tensor,
    answers: list[int],
    neurons: Neurons,
    clock: Callable,
) -> dict[str, float]:
    """Zeroed at every position: the best batched peer against ours, on the same neurons."""
    run = engine.clean(ids, "all")
    peer = Peer(lambda some: lens(model, ids, answers, some, everywhere=True), neurons, 64)
    depth = len(engine.parts.blocks)
    index = torch.arange(64)
    layers = sorted({depth // 6, depth // 2, depth - 1 - depth // 6})  # mean depth: the middle
    spent = [0.0, 0.0]
    for turn, layer in enumerate(layers):
        peer.advance((turn + 1) / len(layers), clock)
        for fast in (False, True):
            start = clock()
            hidden = engine.single(run, layer, index, torch.zeros(len(index)), exact=not fast)
            engine.logit_difference(hidden, *answers)
            spent[fast] += clock() - start
    ms, fast_ms = (each / len(index) / len(layers) * 1e3 for each in spent)
    got = [
        engine.logit_difference(
            engine.single(run, layer, torch.tensor([unit]), torch.zeros(1), exact=True), *answers
        )
        for layer, unit in neurons[::8]
    ]
    theirs = peer.result()
    error = (torch.cat(got) - theirs["values"][: len(neurons) : 8]).abs().max()
    return {"ours_ms": ms, "fast_ms": fast_ms, "peer_ms": theirs["ms"], "error": float(error)}


if __name__ == "__main__":
    main()
