"""What `nt.study` costs in each of several checkouts of this project, and what it finds there.

    git worktree add --detach ../before 374ac7b
    python tests/benchmarks/study.py --model "$(make -s smollm2)" --tree ../before --tree .

Each checkout runs in a process of its own, the same pairs, one thread, in turn. `--vocabulary 256000` takes
a random model with the shape of SmolLM2 and that vocabulary instead; its own answers are the pairs'.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

# file of a checkout (the first that there is) -> name of the part -> functions whose time it is
PARTS = {
    "encode": ("studies.study:encode", "studies:encode"),
    "gather": ("studies.study:gather", "studies:gather"),
    "choose": ("studies.held_out:choose_within", "studies:choose_within", "held_out:choose_within"),
    "held-out": ("studies.held_out:measure", "studies:measure", "held_out:measure"),
    "damage": ("studies.held_out:damage", "studies:damage", "held_out:damage"),
    "examples": ("studies.held_out:generate", "studies:generate", "held_out:generate"),
    "exact effects": ("studies.study:_estimates", "studies:_estimates"),
}


def main(
    model: Annotated[str, typer.Option(help="GGUF file, folder or built-in model.")] = "organism",
    tree: Annotated[list[Path] | None, typer.Option(help="A checkout; repeatable.")] = None,
    probes: Annotated[str, typer.Option(help="A packaged prompt set.")] = "capitals",
    pairs: Annotated[int, typer.Option(help="Pairs of it.")] = 64,
    folds: Annotated[int, typer.Option(help="Folds.")] = 2,
    vocabulary: Annotated[int, typer.Option(help="Random model with this vocabulary; 0: --model.")] = 0,
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """A line of JSON for each checkout."""
    if one:
        print(json.dumps(measured(model, probes, pairs, folds, vocabulary)))
        return
    for each in tree or [Path.cwd()]:
        asked = {"model": model, "probes": probes, "pairs": pairs, "folds": folds, "vocabulary": vocabulary}
        call = [sys.executable, __file__, "--one"]
        call += [word for name, value in asked.items() for word in (f"--{name}", str(value))]
        around = {"PYTHONPATH": str(each.resolve()), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(call, env=os.environ | around, stdout=subprocess.PIPE, text=True, check=True)
        print(json.dumps({"tree": str(each)} | json.loads(done.stdout.splitlines()[-1])), flush=True)


def measured(source: str, probes: str, count: int, folds: int, vocabulary: int) -> dict[str, Any]:
    import neurotrace as nt

    pairs = nt.load_pairs(probes)
    pairs = random.Random(0).sample(pairs, min(count, len(pairs)))
    began = time.process_time()
    model = random_model(vocabulary) if vocabulary else nt.load_model(source, device="cpu")
    loaded = time.process_time() - began
    if vocabulary:
        pairs = as_answered(model, pairs)
    spent = dict.fromkeys(PARTS, 0.0)
    for part, places in PARTS.items():
        timed(part, places, spent)
    began = time.process_time()
    study = nt.study(model, pairs, folds=folds, neutral=["The weather was", "She opened the door and"])
    total = time.process_time() - began
    return {
        "load": round(loaded, 1),
        "study": round(total, 1),
        "shares": {part: round(own / total, 3) for part, own in spent.items()},
        "pairs": len(study.encoded),
        "flips": {
            str(flip.direction): [flip.answers, *flip.answers_ci, flip.control_answers]
            for flip in study.selected()
        },
        "verdict": {name: str(getattr(each, "word", each)) for name, each in study.verdicts().items()},
    }


def timed(part: str, places: tuple[str, ...], spent: dict[str, float]) -> None:
    """Add the CPU seconds of the first of these functions that the checkout has."""
    import importlib

    for place in places:
        name, _, attribute = place.partition(":")
        try:
            module = importlib.import_module(f"neurotrace.{name}")
            function = getattr(module, attribute)
        except (ImportError, AttributeError):
            continue

        def call(*args: Any, function: Any = function, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - began

        setattr(module, attribute, call)
        return


def random_model(vocabulary: int) -> Any:
    """A Llama with SmolLM2-135M's shape, weights drawn at random, the organism's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    import neurotrace as nt

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    folder = Path(nt.__file__).parent / "organism"
    weights = next(path.parent for path in sorted(folder.rglob("tokenizer.json")))
    module = LlamaForCausalLM(config).eval().requires_grad_(False)
    return nt.load_model(module, AutoTokenizer.from_pretrained(weights), name="random")


def as_answered(model: Any, pairs: list[Any]) -> list[Any]:
    """The pairs with the tokens that the model has on top as their answers, where those differ."""
    from dataclasses import replace

    import torch

    tokenizer = model.tokenizer
    found = []
    for pair in pairs:
        tops = []
        for side in (pair.memorization, pair.reasoning):
            with torch.no_grad():
                logits = model(torch.tensor([tokenizer(side).input_ids]))[0, -1]
            tops.append(tokenizer.decode([int(logits[: len(tokenizer)].argmax())]))
        found.append(replace(pair, memorized_answer=tops[0], reasoned_answer=tops[1]))
    return [pair for pair in found if pair.memorized_answer != pair.reasoned_answer]


if __name__ == "__main__":
    typer.run(main)
