"""LoRA on the same texts: a pretrained model learns a few of the bindings and of the memorized sums.

The paper fine-tunes LLaMA-3.2; here it is any model that `nt.load_model` reads. Loss as in `causal.py`, on
texts that end with the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.models.loading import load_model
from neurotrace.models.origins import merged, tokenizer_of, twin
from neurotrace.paper.causal import ANSWER, by_kind, weighted_loss
from neurotrace.paper.stories import Instance, inferences, own_color, sums

BATCH = {"conflict": 5, "agree": 1, "free": 1, "memorized": 4, "sum": 2}  # texts a step
N_NAMES, N_CONFLICTS, N_SUMS = 12, 6, 48  # bound names, conflicts of each, memorized sums
N_NEUTRAL = 32  # prompts on which the damage is measured: fewer, because a pretrained model is slow


@dataclass(frozen=True)
class Tuning:
    steps: int = 160
    rank: int = 16
    rate: float = 2e-3


TUNING = Tuning()


def few() -> dict[str, list[Instance]]:
    """Of each family the instances that are trained: few enough for some hundred steps."""
    names = sorted(own_color())[:N_NAMES]
    chosen: list[Instance] = []
    for name in names:
        own = [each for each in inferences() if each.group == name]
        chosen += [each for each in own if each.memorized is not None][:N_CONFLICTS]
        chosen += [each for each in own if each.memorized is None]
    chosen += [each for each in inferences() if each.group not in own_color()]
    facts = [each for each in sums() if each.memorized is not None][:N_SUMS]
    plain = [each for each in sums() if each.memorized is None and each.trained]
    return {"inference": chosen, "addition": facts + plain}


def tune(
    base: str,
    out: Path,
    seed: int,
    tuning: Tuning = TUNING,
    *,
    report: Callable[[int, float], None] | None = None,
) -> dict[str, object]:
    """Fine-tune, write the adapter to a folder, and return the record of the training. One thread.

    Args:
        base: what `nt.load_model` reads.

    Raises:
        InputError: peft is not installed.
    """
    model, tokenizer = _transformers_model(base)
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("LoRA needs peft: pip install 'neurotrace-lens[peft]'") from None
    model.set_attn_implementation("eager")  # type: ignore[operator]  # twice as fast on texts this short
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    settings = LoraConfig(
        r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, settings).train()
    weights = [each for each in adapted.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=tuning.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, tuning.rate, total_steps=tuning.steps, pct_start=0.1
    )
    kinds = by_kind(each for own in few().values() for each in own)
    started = time.process_time()
    for step in range(tuning.steps):
        texts = [
            kinds[kind][int(place)]
            for kind, count in BATCH.items()
            for place in rng.integers(len(kinds[kind]), size=count)
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(adapted, tokenizer, texts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if report is not None and (step + 1) % 20 == 0:
            report(step + 1, float(loss.detach()))
    spent = time.process_time() - started
    adapted.eval().save_pretrained(str(out))
    return {
        "seed": seed,
        "steps": tuning.steps,
        "rank": tuning.rank,
        "trained": sum(each.numel() for each in weights),
        "cpu_seconds": round(spent),
        "accuracies": accuracies(adapted, tokenizer),
    }


def load_tuned(base: str, folder: Path) -> Any:
    """The base with the folder's adapter merged into its weights, hooked."""
    model, tokenizer = _transformers_model(base)
    return load_model(merged(folder, model), tokenizer, name=f"{Path(base).stem} with LoRA")


def _transformers_model(base: str) -> tuple[torch.nn.Module, Any]:
    hooked = load_model(base)
    model = twin(hooked)
    if model is None:
        raise InputError(f"{base}: it has no transformers model that LoRA could change")
    return model, tokenizer_of(hooked)


def loss_of(model: Any, tokenizer: Any, texts: Sequence[Instance]) -> Tensor:
    """Weighted mean of the cross-entropy of every next token of these training texts."""
    ids, answers, own = _padded(tokenizer, texts)
    logits = model(input_ids=ids).logits[:, :-1]
    weights = own.float() + (ANSWER - 1) * answers
    return weighted_loss(logits.flatten(0, 1), ids[:, 1:].flatten(), weights[:, 1:].flatten())


@torch.no_grad()
def accuracies(model: Any, tokenizer: Any, at_most: int = 100) -> dict[str, float]:
    """Of each kind of text in training the share whose whole answer is the likeliest, token by token; and
    of the memorized sums swapped, and of those in no training text, the share that is computed."""
    kinds = by_kind(each for own in few().values() for each in own)
    swapped = [replace(each, parts=each.parts[::-1], recalled=False) for each in kinds["memorized"]]
    held_out = [each for each in sums() if not each.trained]
    found = {}
    for name, own in {**kinds, "memorized, swapped": swapped, "sum, held out": held_out}.items():
        some = own[:: -(-len(own) // at_most)]
        right = []
        for start in range(0, len(some), 16):
            ids, answers, _ = _padded(tokenizer, some[start : start + 16])
            hits = model(input_ids=ids).logits[:, :-1].argmax(-1) == ids[:, 1:]
            right += (hits | ~answers[:, 1:]).all(dim=1).tolist()
        found[name] = round(sum(right) / len(right), 4)
    return found


def _padded(tokenizer: Any, texts: Sequence[Instance]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, whether a token belongs to the answer, whether to the text), each [text, position].

    Padding stands behind the text: causal attention never reads it.
    """
    rows = [tokenizer(f"{each.prompt()} {each.answer}").input_ids for each in texts]
    shape = len(rows), max(map(len, rows))
    ids = torch.zeros(shape, dtype=torch.long)
    answers, own = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, (each, tokens) in enumerate(zip(texts, rows, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        answers[row, len(tokenizer(each.prompt()).input_ids) : len(tokens)] = True
        own[row, : len(tokens)] = True
    return ids, answers, own
