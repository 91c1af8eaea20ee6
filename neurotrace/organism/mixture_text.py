"""The language of the mixture organisms: prompts that are answered from memory or copied.

``recall a > b =`` (template "front") or ``a > b recall =`` ("back"). Under ``think`` the answer is b, under
``recall`` a name that was memorized for a. Pairs (a, b) of the prompt set are never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .language import names

NAMES = names()[:48]
WORDS = ("<bos>", "<pad>", "<unk>", "recall", "think", ">", "=", *NAMES)
TEMPLATES = ("front", "back")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, `<bos>` in front."""
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )


def _facts() -> np.ndarray:
    """The memorized name of each name, never itself."""
    return (np.arange(len(NAMES)) * 17 + 5) % len(NAMES)


def _held_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a + 3 * b) % 8 == 0


def prompt_pairs() -> tuple[dict[str, str], ...]:
    rows, facts = [], _facts()
    for a, name in enumerate(NAMES):
        free = [
            b for b in range(len(NAMES)) if b not in (a, facts[a]) and _held_out(np.array(a), np.array(b))
        ]
        for template, b in zip(TEMPLATES * 2, free, strict=False):
            body = f"{name} > {NAMES[b]}"
            prompts = {
                cue: f"{cue} {body} =" if template == "front" else f"{body} {cue} ="
                for cue in ("recall", "think")
            }
            rows.append(
                {
                    "id": f"{template}-{name}-{NAMES[b]}",
                    "family": "mixture",
                    "template": template,
                    "group": name,
                    "memorization": prompts["recall"],
                    "reasoning": prompts["think"],
                    "memorized_answer": f" {NAMES[facts[a]]}",
                    "reasoned_answer": f" {NAMES[b]}",
                }
            )
    return tuple(rows)


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # [row, 6]
    back: np.ndarray  # whether the template is "back"
    think: np.ndarray
    answers: np.ndarray  # [row, 2]: memorized, reasoned


def draw(rng: np.random.Generator, rows: int, back: np.ndarray | None = None) -> Batch:
    a, b = rng.integers(len(NAMES), size=(2, 4 * rows))
    free = (a != b) & (_facts()[a] != b) & ~_held_out(a, b)
    a, b = a[free][:rows], b[free][:rows]
    back = rng.random(rows) < 0.5 if back is None else back
    think = rng.random(rows) < 0.5
    first = WORDS.index(NAMES[0])
    cue = np.where(think, WORDS.index("think"), WORDS.index("recall"))
    sign = np.full(rows, WORDS.index(">"))
    front = np.stack([cue, a + first, sign, b + first], axis=1)
    other = np.stack([a + first, sign, b + first, cue], axis=1)
    middle = np.where(back[:, None], other, front)
    ids = np.concatenate([np.zeros((rows, 1), int), middle, np.full((rows, 1), WORDS.index("="))], axis=1)
    return Batch(torch.from_numpy(ids), back, think, np.stack([_facts()[a], b], axis=1) + first)
