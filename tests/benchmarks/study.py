"""What `nt.study` costs in each of several checkouts of this project, and what it finds there.

    git worktree add --detach ../before 374ac7b
    python tests/benchmarks/study.py --model "$(make -s smollm2)" --tree ../before --tree .

Each checkout runs in a process of its own, on the same pairs, one thread. The processes take turns of two
seconds, so that what else the machine does costs all of them alike. `--vocabulary 256000`
takes a random model with the shape of SmolLM2, that vocabulary and the tokenizer of --model instead. Each
prompt is then followed by its answer, as the last token alone decides what a random model says, and the
answers of the pairs are what it says.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

_TURN = 2.0  # seconds
# part -> functions that its time is spent in, of this tree and of 374ac7b (without a part within)
PARTS = {
    "encode": ("studies.study:encode", "studies:encode"),
    "gather": ("studies.study:gather", "studies:gather"),
    "rank": (
        "studies.study:rank",
        "studies.selection:_candidates",
        "studies:rank",
        "proof:Proof._candidates",
    ),
    "controls": ("studies.selection:_flips_of_controls", "selection:_controls_flip"),
    "candidates": ("studies.selection:choose", "proof:choose"),
    "held-out": ("studies.held_out:measure", "studies.held_out:flips_at", "proof:Proof._held_out"),
    "damage": ("studies.held_out:damage", "studies.held_out:still_answered", "proof:damage", "proof:_kept"),
    "examples": ("studies.held_out:_Proof._read", "proof:generate"),
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
    asked = {"model": model, "probes": probes, "pairs": pairs, "folds": folds, "vocabulary": vocabulary}
    call = [sys.executable, __file__, "--one"]
    call += [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    running: dict[str, subprocess.Popen[str]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # none that is stopped is left behind
    for each in tree or [Path.cwd()]:
        around = {"PYTHONPATH": str(each.resolve()), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        running[str(each)] = subprocess.Popen(
            call, env=os.environ | around, stdout=subprocess.PIPE, text=True
        )
        running[str(each)].send_signal(signal.SIGSTOP)
    try:
        while running:
            for name, process in list(running.items()):
                process.send_signal(signal.SIGCONT)
                try:
                    process.wait(_TURN)
                    printed = process.stdout.read() if process.stdout else ""
                    print(json.dumps({"tree": name} | json.loads(printed.splitlines()[-1])), flush=True)
                    del running[name]
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGSTOP)
    finally:
        for process in running.values():
            process.kill()


def measured(source: str, probes: str, count: int, folds: int, vocabulary: int) -> dict[str, Any]:
    import neurotrace as nt

    pairs = nt.load_pairs(probes)
    pairs = random.Random(0).sample(pairs, min(count, len(pairs)))
    began = time.process_time()
    model = random_model(source, vocabulary) if vocabulary else nt.load_model(source, device="cpu")
    loaded = time.process_time() - began
    if vocabulary:
        pairs = as_answered(model, pairs)
    spent = dict.fromkeys(PARTS, 0.0)
    within: list[float] = []
    for part, places in PARTS.items():
        for place in places:
            timed(part, place, spent, within)
    began = time.process_time()
    study = nt.study(model, pairs, folds=folds, neutral=["The weather was", "She opened the door and"])
    total = time.process_time() - began
    return {
        "load": round(loaded, 1),
        "study": round(total, 1),
        "shares": {part: round(own / total, 3) for part, own in spent.items()},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "pairs": len(study.encoded),
        "flips": {
            str(flip.direction): [flip.answers, *flip.answers_ci, flip.control_answers]
            for flip in study.selected()
        },
        "verdict": {name: str(getattr(each, "word", each)) for name, each in study.verdicts().items()},
    }


def timed(part: str, place: str, spent: dict[str, float], within: list[float]) -> None:
    """Add the CPU seconds of this function, if the checkout has it, without those of parts within.

    Args:
        within: for each timed call that is going on, the seconds of the timed calls that it made.
    """
    import importlib

    name, _, attribute = place.partition(":")
    *outer, last = attribute.split(".")
    try:
        owner = importlib.import_module(f"neurotrace.{name}")
        for each in outer:
            owner = getattr(owner, each)
        function = getattr(owner, last)
    except (ImportError, AttributeError):
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        within.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            took = time.process_time() - began
            spent[part] += took - within.pop()
            if within:
                within[-1] += took

    setattr(owner, last, call)


def random_model(source: str, vocabulary: int) -> Any:
    """A Llama with SmolLM2-135M's shape, weights drawn at random, and the tokenizer of a GGUF file."""
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
    module = LlamaForCausalLM(config).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(Path(source).parent, gguf_file=Path(source).name)
    module.get_input_embeddings().weight[: len(tokenizer)] *= (
        2  # words are on top, not numbers without a text
    )
    if hasattr(nt, "hook"):  # 374ac7b
        return nt.hook(module, tokenizer, name="random")
    return nt.load_model(module, tokenizer, name="random")


def as_answered(model: Any, pairs: list[Any]) -> list[Any]:
    """The pairs, each prompt with its answer behind it, and what the model says then as the answers."""
    from dataclasses import replace

    import torch

    tokenizer = model.tokenizer
    found = []
    for pair in pairs:
        prompts = pair.memorization + pair.memorized_answer, pair.reasoning + pair.reasoned_answer
        tops = []
        for prompt in prompts:
            with torch.no_grad():
                logits = model(torch.tensor([tokenizer(prompt).input_ids]))[0, -1]
            tops.append(tokenizer.decode([int(logits[: len(tokenizer)].argmax())]))
        memorization, reasoning = prompts
        found.append(
            replace(
                pair,
                memorization=memorization,
                reasoning=reasoning,
                memorized_answer=tops[0],
                reasoned_answer=tops[1],
            )
        )
    return [pair for pair in found if pair.memorized_answer != pair.reasoned_answer]


if __name__ == "__main__":
    typer.run(main)
