"""What a trust score costs beside its rivals, in units of the pass that answers the prompt (CPU time).

    python tests/benchmarks/trust_cost.py MODEL CIRCUIT PROBES     # one thread; the better of two rounds

The circuit is a folder of `neurotrace circuit`. Finding it, and training what is learnt, is not counted.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import neurotrace as nt
from neurotrace.answers.rivals import RIVALS, Reading
from neurotrace.answers.score import at_answer
from neurotrace.core.prompts import originals

PROMPTS, ROUNDS = 128, 2


def seconds(call: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main(model_name: str, folder: str, probes: str) -> None:
    torch.set_num_threads(1)
    model, circuit = nt.load_model(model_name, device="cpu"), nt.Circuit.load(folder)
    prompts = originals(nt.load_prompts(probes))
    prompts = random.Random(0).sample(prompts, min(PROMPTS, len(prompts)))
    answered = nt.answer(model, prompts)

    def asking(name: str) -> Callable[[], object]:
        return lambda: RIVALS[name].read(Reading(model, answered, np.empty((len(answered), 0))))

    unit = seconds(lambda: nt.answer(model, prompts))
    texts = [prompt.prompt for prompt in prompts]
    print(f"one pass: {unit / len(prompts):.3f} s a prompt")
    print(f"causal margin: {seconds(lambda: nt.causal_margin(model, texts, circuit)) / unit:.2f}")
    for name in ("log p without context", "largest drop"):
        print(f"{name}: {1 + seconds(asking(name)) / unit:.2f}")
    print(f"first answer token: {1 + seconds(lambda: at_answer(model, answered)) / unit:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
