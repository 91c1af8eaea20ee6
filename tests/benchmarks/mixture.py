"""Exact effects of a mixture's neurons: the suffix engine against a loop of full passes with hooks.

    python tests/benchmarks/mixture.py [--experts 8] [--loop 24]

The model has SmolLM2-135M's size (30 blocks, d_model 576, 1,536 neurons a block) with its MLPs divided into
experts of 192 neurons, two for each token, and random weights. Both ways run in one process on one thread;
times are its CPU seconds.
A second sweep on a model with four times as many experts shows that unused ones cost nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from planted import word_tokenizer
from transformers import MixtralConfig, MixtralForCausalLM

import neurotrace as nt
from neurotrace.engine.parts import find_parts, hooked
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import engine_of, twin
from neurotrace.models.written import router_factors

WORDS = ["<unk>", *(f"w{number}" for number in range(47))]
LENGTH, WIDTH, USED = 24, 192, 2


def make(experts: int, blocks: int):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=WIDTH,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_local_experts=experts,
        num_experts_per_tok=USED,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    tokenizer = word_tokenizer(Path(tempfile.mkdtemp()), WORDS)
    return nt.load_model(MixtralForCausalLM(config).eval(), tokenizer, name="mixture")


def pair() -> nt.PromptPair:
    words = " ".join(WORDS[1 + at % 40] for at in range(7, 7 + LENGTH - 1))
    return nt.PromptPair(
        id="one",
        family="random",
        template="t",
        group="g",
        memorization=f"{words} {WORDS[3]}",
        reasoning=f"{words} {WORDS[4]}",
        memorized_answer=f" {WORDS[5]}",
        reasoned_answer=f" {WORDS[6]}",
    )


def swept(model, encoded) -> tuple[float, nt.Scores]:
    """Seconds for every neuron of the model, and the effects."""
    nt.exact(model, encoded, kind="zero", neurons=[nt.Neuron(0, 0)])  # makes and checks the engine
    start = time.process_time()
    scores = nt.exact(model, encoded, kind="zero")
    return time.process_time() - start, scores


def looped(model, encoded, neurons: list[nt.Neuron]) -> tuple[float, list[float]]:
    """Seconds for these neurons by full passes of transformers' model with hooks, and the effects."""
    ids: Any = encoded.memorization[0][None]
    other: Any = twin(model)
    answers = int(encoded.memorized[0]), int(encoded.reasoned[0])
    projections = find_parts(other).projections

    def difference(neuron: Any) -> float:
        def zero(_, __, post: torch.Tensor) -> torch.Tensor:
            post = post.clone()
            post[-1, neuron.index] = 0
            return post

        with hooked([] if neuron is None else [(projections[neuron.layer], "output", zero)]):
            logits = other(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        return float(logits[answers[0]] - logits[answers[1]])

    with torch.no_grad():
        clean = difference(None)
        start = time.process_time()
        found = [difference(neuron) - clean for neuron in neurons]
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--loop", type=int, default=24, help="neurons that the loop of hooks measures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = make(asked.experts, asked.blocks)
    encoded = encode(model, [pair()], check=False)
    factors = router_factors(model, encoded.memorization[0][None])
    assert factors is not None
    routed = factors[0] > 0
    seconds, scores = swept(model, encoded)
    places = routed.nonzero()[:: int(routed.sum()) // asked.loop][: asked.loop].tolist()
    loop, found = looped(model, encoded, [nt.Neuron(*at) for at in places])
    off = max(abs(float(scores.value[at[0], at[1]]) - one) for at, one in zip(places, found, strict=True))
    count, every = int(routed.sum()), inspect_model(model).n_neurons
    path = getattr(engine_of(model), "path", "none")
    each, by_hooks = seconds / count, loop / len(places)
    print(f"{every:,} neurons, {count:,} of experts that are used at the last token")
    print(f"engine ({path}): {seconds:.1f} s, {1e3 * each:.2f} ms a used neuron")
    print(f"hooks: {1e3 * by_hooks:.0f} ms a neuron, {count * by_hooks:.0f} s for all these")
    print(f"ratio: {by_hooks / each:.0f}")
    print(f"largest difference of an effect: {off:.1e} nats")
    times = []
    for experts in (asked.experts, 4 * asked.experts):
        small = make(experts, 4)
        times.append(swept(small, encode(small, [pair()], check=False))[0])
        print(f"4 blocks of {experts} experts: {times[-1]:.2f} s")
    print(f"four times as many experts: {times[1] / times[0]:.2f} times the seconds")


if __name__ == "__main__":
    main()
