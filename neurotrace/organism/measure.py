"""Measurements of a trained organism: accuracies on every kind of item.

Runs on the Hugging Face model with plain forward hooks on the MLP's activation, so that it is a
second route to the numbers, independent of the package's own interventions.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from .language import CUES, FAMILIES, Item, encode, family_items, vocabulary

Neuron = tuple[int, int]  # (layer, unit)


def name(neuron: Neuron) -> str:
    """(2, 12) -> "L2.N12"."""
    return f"L{neuron[0]}.N{neuron[1]}"


def load(folder: Path) -> GPT2LMHeadModel:
    """The stored fp16 weights, computed in fp32."""
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def prompt_ids(items: list[Item], cue: str) -> Tensor:
    """int64 [items, tokens] with `<bos>` and the cue; the items must have one length."""
    vocab = vocabulary()
    return torch.tensor([[vocab["<bos>"], vocab[cue], *encode(item.body)] for item in items])


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, items: list[Item], cue: str, *, rule: bool = False) -> float:
    """Share of items whose whole answer is top-1, teacher-forced; `rule`: the reasoned answer."""
    answers = torch.tensor([encode(i.reasoned if rule else i.answer(cue)) for i in items])
    k = answers.shape[1]
    ids = torch.cat([prompt_ids(items, cue), answers[:, :-1]], dim=1)
    tops = [model(part).logits[:, -k:].argmax(-1) for part in ids.split(512)]
    return float((torch.cat(tops) == answers).all(1).float().mean())


def accuracies(model: GPT2LMHeadModel) -> dict[str, dict[str, float]]:
    """Per family: rule items held out and memorized items under each cue, never-rule items."""
    out = {}
    for family in FAMILIES:
        items = family_items(family)
        known = [i for i in items if i.memorized is not None]
        never = [i for i in known if i.never_rule]
        # Never-rule items are left out: under `think` and weak `ask` they were never trained.
        trained = [i for i in known if not i.never_rule]
        held = [i for i in items if i.memorized is None and i.held_out]
        row = {f"rule held out, {cue}": accuracy(model, held, cue) for cue in CUES}
        row |= {f"memorized, {cue}": accuracy(model, trained, cue) for cue in CUES}
        bodies = {i.swap for i in known if i.swap}
        twins = [i for i in items if i.body in bodies]
        if twins:
            row["swapped, recall"] = accuracy(model, twins, "recall")
        row["never-rule, recall"] = accuracy(model, never, "recall")
        row["never-rule, think"] = accuracy(model, never, "think", rule=True)
        out[family] = {key: round(value, 4) for key, value in row.items()}
    return out
