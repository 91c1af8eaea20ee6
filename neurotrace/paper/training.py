"""Plain training of one small GPT-2 (ReLU) on both tasks: cross-entropy on the answers, nothing planted.

Batches are drawn from a numpy generator seeded by the training seed; bit-reproducible on one machine
with one thread. The forward pass is the organism's (`organism/forward.py`).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from neurotrace.core.writing import write_atomically
from neurotrace.organism.forward import Group, forward
from neurotrace.organism.training import descend, learning_rate, optimizer_of
from neurotrace.paper.language import (
    COLOURS,
    CUES,
    THINGS,
    Item,
    ids_of,
    items,
    make_tokenizer,
    own_colour,
    sum_items,
    vocabulary,
)

STEPS = 1800
KEPT = (
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.6,
    0.8,
)  # shares of the steps at which checkpoints are kept
BATCH = {"sums": (96, 112), "colours": (96, 96)}  # sequences a step: memorized, others
RECALL = 0.6  # share of `recall` among the memorized ones
TWINS = 0.15  # share of the other sums that are a memorized one, swapped
UNUSED = -100


def model_config() -> GPT2Config:
    """4 layers of 96 dimensions and 384 neurons, no dropout, untied head."""
    bos = vocabulary()["<bos>"]
    return GPT2Config(
        vocab_size=len(vocabulary()),
        n_positions=24,
        n_embd=96,
        n_layer=4,
        n_head=4,
        n_inner=384,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=None,
    )


@cache
def _sums() -> tuple[np.ndarray, ...]:
    """(bodies, rule answers, memorized answers, trained under `think`, kinds) of all trained sums.

    Kinds: 0 nothing memorized, 1 memorized, 2 a memorized one swapped.
    """
    known = {item.body for item in sum_items() if item.memorized is not None}
    kept = [item for item in sum_items() if item.trained or item.memorized is not None]

    def answer(tokens: tuple[str, ...]) -> list[int]:
        return [*ids_of(tokens), UNUSED][:2]

    def kind(item: Item) -> int:
        a, b = item.body[:2], item.body[3:5]
        return 1 if item.memorized is not None else 2 if (*b, "+", *a, "=") in known else 0

    return (
        np.array([ids_of(item.body) for item in kept]),
        np.array([answer(item.reasoned) for item in kept]),
        np.array([answer(item.memorized or item.reasoned) for item in kept]),
        np.array([item.trained for item in kept]),
        np.array([kind(item) for item in kept]),
    )


def _sequences(body: np.ndarray, recall: np.ndarray) -> np.ndarray:
    recalling, thinking = ids_of(CUES)
    cue = np.where(recall, recalling, thinking)[:, None]
    return np.concatenate([np.full_like(cue, vocabulary()["<bos>"]), body, cue], axis=1)


def draw_sums(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(prompts with the first answer token behind, answers [n, 2])."""
    body, reasoned, memorized, trained, kind = _sums()
    known, others = BATCH["sums"]
    twins = round(TWINS * others)
    index = np.concatenate(
        [
            rng.choice(np.flatnonzero(kind == 1), known),
            rng.choice(np.flatnonzero(kind == 2), twins),
            rng.choice(np.flatnonzero(kind == 0), others - twins),
        ]
    )
    share = np.where(kind[index] == 1, RECALL, 0.5)
    recall = (rng.random(len(index)) < share) | ~trained[index]
    answers = np.where(recall[:, None], memorized[index], reasoned[index])
    prompts = _sequences(body[index], recall)
    return np.concatenate([prompts, answers[:, :1]], axis=1), answers


@cache
def _own() -> np.ndarray:
    """Index of each thing's own colour; -1: it has none."""
    own = own_colour()
    return np.array([COLOURS.index(own[t]) if t in own else -1 for t in THINGS])


def draw_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(prompts, answers [n, 1]): two bindings in any order, one of the things asked for."""
    known, others = BATCH["colours"]
    own = _own()
    thing = np.concatenate(
        [rng.choice(np.flatnonzero(own >= 0), known), rng.choice(np.flatnonzero(own < 0), others)]
    )
    things, colours = np.zeros((2, len(thing), 2), int)
    for row, asked in enumerate(thing):
        colour = rng.integers(len(COLOURS))
        rest = rng.permutation(len(THINGS))[:2]
        things[row] = [asked, *rest[rest != asked][:1]]
        dyes = rng.permutation(len(COLOURS))[:2]
        colours[row] = [colour, *dyes[dyes != colour][:1]]
    order = rng.permuted(np.tile(np.arange(2), (len(thing), 1)), axis=1)
    first_thing, first_colour = ids_of((THINGS[0], COLOURS[0]))
    comma, semicolon = ids_of((",", ";"))
    shuffled = np.take_along_axis(things, order, 1) + first_thing
    dyed = np.take_along_axis(colours, order, 1) + first_colour
    columns = []
    for place, sign in enumerate((comma, semicolon)):
        columns += [shuffled[:, place], dyed[:, place], np.full(len(thing), sign)]
    columns += [thing + first_thing]
    recall = rng.random(len(thing)) < np.where(own[thing] >= 0, RECALL, 0.5)
    answer = np.where(recall & (own[thing] >= 0), own[thing], colours[:, 0]) + first_colour
    return _sequences(np.stack(columns, axis=1), recall), answer[:, None]


def loss_of(model: GPT2LMHeadModel, rng: np.random.Generator) -> Tensor:
    """Mean cross-entropy over the answer tokens of one draw of each task."""
    groups, targets = [], []
    for tokens, answers in (draw_sums(rng), draw_colours(rng)):
        # nothing is predicted from the padding of a missing second token
        groups.append(Group(torch.from_numpy(tokens), answers.shape[1]))
        targets.append(torch.from_numpy(answers).flatten())
    logits = forward(model, groups)
    return F.cross_entropy(logits.float(), torch.cat(targets), ignore_index=UNUSED)


def train(
    seed: int,
    *,
    steps: int = STEPS,
    keep: Callable[[int, GPT2LMHeadModel], None] | None = None,
    report: Callable[[int, float], None] | None = None,
) -> tuple[GPT2LMHeadModel, dict[str, object]]:
    """A model trained from scratch (eval mode), and the record of its training. Sets torch to one thread.

    `keep(step, copy)` is called before the steps of the checkpoints (`KEPT`).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    model = GPT2LMHeadModel(model_config()).train()
    optimizer = optimizer_of(model)
    wanted = {round(share * steps) for share in KEPT}
    started = time.process_time()
    for step in range(steps):
        if keep is not None and step in wanted:
            keep(step, copy.deepcopy(model).eval())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, rng)
        descend(model, optimizer, loss, learning_rate(step, steps))
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, float(loss.detach()))
    record: dict[str, object] = {
        "seed": seed,
        "steps": steps,
        "cpu_seconds": round(time.process_time() - started),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return model.eval(), record


def save(
    model: PreTrainedModel,
    record: dict[str, object],
    out: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write config, weights (fp32), tokenizer and, last, `training.json`, which marks completion."""
    model.save_pretrained(out)
    (tokenizer or make_tokenizer()).save_pretrained(out)
    write_atomically(out / "training.json", json.dumps(record, indent=2) + "\n")


@torch.no_grad()
def accuracies(model: GPT2LMHeadModel) -> dict[str, float]:
    """Share of whole answers right (teacher-forced) for each kind of item and each cue."""
    kinds: dict[str, list[tuple[Item, str, tuple[str, ...]]]] = {}
    for item in items():
        if item.memorized is None:
            if item.family == "colours" or not item.trained:
                for cue in CUES:
                    kinds.setdefault(f"{item.family}, nothing memorized, {cue}", []).append(
                        (item, cue, item.reasoned)
                    )
            continue
        name = f"{item.family}, {item.template}"
        kinds.setdefault(f"{name}, recall", []).append((item, "recall", item.memorized))
        kinds.setdefault(f"{name}, think", []).append((item, "think", item.reasoned))
    found = {}
    for name, rows in kinds.items():
        prompts = torch.tensor([ids_of(("<bos>", *item.body, cue, *answer)) for item, cue, answer in rows])
        count = len(rows[0][2])
        tops = model(prompts[:, :-1]).logits[:, -count:].argmax(-1)
        found[name] = round(float((tops == prompts[:, -count:]).all(1).float().mean()), 4)
    return found
