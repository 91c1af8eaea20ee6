"""The neurons that carry the switch, and the sets of them that flip answers.

L = logit(memorized) - logit(reasoned) of the answers' first tokens, at `=`. A *flip* counts only if the
other named answer becomes the top-1 token. Pairs: memorized items under `recall` and `think`; only
those answered correctly on both sides count. Estimates (class means, gradient scores) come from the
pairs of one half of the groups and are applied to the other half.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from .language import encode, family_items
from .measure import Neuron, prompt_ids

DIRECTIONS = ("to_reasoning", "to_memorization")
LIVE_EFFECT = 0.25  # nats


@dataclass(frozen=True)
class FamilyPairs:
    """The kept pairs of a family. Sides: 0 memorization (`recall`), 1 reasoning (`think`)."""

    ids: Tensor  # int64 [side, pair, token]
    answers: Tensor  # int64 [side, pair]: first token of the memorized, the reasoned answer
    margin: Tensor  # float [side, pair]: L before any intervention
    activations: Tensor  # float [side, pair, layer, neuron], after relu, at `=`
    gradients: Tensor  # float [side, pair, layer, neuron]: dL/da at `=`
    never_rule: np.ndarray  # bool [pair]
    half: np.ndarray  # bool [pair]: which half of the groups
    built: int  # number of pairs before dropping


@contextmanager
def _on_activations(
    model: GPT2LMHeadModel, change: Callable[[int, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `change(layer, activations [batch, token, neuron])` after every MLP activation."""
    handles = []
    blocks: Any = model.transformer.h  # torch types submodules as Tensor | Module
    try:
        for layer, block in enumerate(blocks):
            handles.append(
                block.mlp.act.register_forward_hook(lambda _m, _i, out, layer=layer: change(layer, out))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _margin(logits: Tensor, answers: Tensor) -> Tensor:
    """L [pair] from logits [pair, vocab] and answers [side, pair]."""
    named = logits.gather(1, answers.T)
    return named[:, 0] - named[:, 1]


def _record(model: GPT2LMHeadModel, ids: Tensor, answers: Tensor) -> tuple[Tensor, ...]:
    """Top-1 tokens and L [pair], activations and dL/da [pair, layer, neuron], at the last token."""
    seen: list[Tensor] = []

    def keep(_layer: int, out: Tensor) -> None:
        out.retain_grad()
        seen.append(out)

    with torch.enable_grad(), _on_activations(model, keep):
        logits = model(ids).logits[:, -1]
        margin = _margin(logits, answers)
        margin.sum().backward()
    model.zero_grad(set_to_none=True)
    grads = torch.stack([a.grad[:, -1] for a in seen if a.grad is not None], 1)
    activations = torch.stack([a.detach()[:, -1] for a in seen], 1)
    return logits.argmax(-1), margin.detach(), activations, grads


def family_pairs(model: GPT2LMHeadModel, family: str) -> FamilyPairs:
    """All memorized items of the family as pairs; kept: top-1 is the named answer on both sides."""
    items = [i for i in family_items(family) if i.memorized is not None]
    answers = torch.tensor(
        [[encode(str(i.memorized))[0] for i in items], [encode(i.reasoned)[0] for i in items]]
    )
    ids = torch.stack([prompt_ids(items, "recall"), prompt_ids(items, "think")])
    parts = [_record(model, side, answers) for side in ids]
    kept = (parts[0][0] == answers[0]) & (parts[1][0] == answers[1])
    if not kept.any():
        raise ValueError(f"no {family} pair is answered as named on both sides: is it trained?")
    groups = sorted({i.group for i in items})
    half = np.array([groups.index(i.group) % 2 == 1 for i in items])
    return FamilyPairs(
        ids=ids[:, kept],
        answers=answers[:, kept],
        margin=torch.stack([p[1] for p in parts])[:, kept],
        activations=torch.stack([p[2] for p in parts])[:, kept],
        gradients=torch.stack([p[3] for p in parts])[:, kept],
        never_rule=np.array([i.never_rule for i in items])[kept.numpy()],
        half=half[kept.numpy()],
        built=len(items),
    )


@torch.no_grad()
def patched_logits(model: GPT2LMHeadModel, ids: Tensor, neurons: list[Neuron], values: Tensor) -> Tensor:
    """Last-token logits [pair, vocab] with `values` [pair, neurons] written there."""

    def write(layer: int, out: Tensor) -> Tensor:
        columns = [i for i, n in enumerate(neurons) if n[0] == layer]
        out = out.clone()
        out[:, -1, [neurons[i][1] for i in columns]] = values[:, columns]
        return out

    with _on_activations(model, write):
        return model(ids).logits[:, -1]


def _values(p: FamilyPairs, neurons: list[Neuron], donor: int, how: str) -> Tensor:
    """Donor activations [pair, neurons]; `how`: "patch" (the pair's own) or "mean" (other half)."""
    layers, units = [n[0] for n in neurons], [n[1] for n in neurons]
    values = p.activations[donor][:, layers, units]
    if how == "patch":
        return values
    half = torch.from_numpy(p.half)
    means = torch.stack([values[half].mean(0), values[~half].mean(0)])
    return means[half.long()]  # index 1 (half is True) holds the mean of the False half


def flip(
    model: GPT2LMHeadModel,
    p: FamilyPairs,
    neurons: list[Neuron],
    direction: str,
    how: str = "patch",
) -> tuple[np.ndarray, np.ndarray]:
    """Per pair: flipped (bool) and the change of L in nats."""
    recipient = DIRECTIONS.index(direction)
    donor = 1 - recipient
    logits = patched_logits(model, p.ids[recipient], neurons, _values(p, neurons, donor, how))
    change = _margin(logits, p.answers) - p.margin[recipient]
    return (logits.argmax(-1) == p.answers[donor]).numpy(), change.numpy()


def predicted(p: FamilyPairs, direction: str) -> Tensor:
    """Gradient x (donor - recipient) per pair, [pair, layer, neuron]: predicted change of L."""
    recipient = DIRECTIONS.index(direction)
    return p.gradients[recipient] * (p.activations[1 - recipient] - p.activations[recipient])


def top_by_gradient(p: FamilyPairs, rows: np.ndarray, direction: str, k: int) -> list[Neuron]:
    """The `k` neurons with the largest predicted change of L in `direction`, from the pairs in `rows`."""
    score = predicted(p, direction)[torch.from_numpy(rows)].mean(0)
    score = -score if direction == "to_reasoning" else score
    order = score.flatten().argsort(descending=True)[:k].tolist()
    return [divmod(i, score.shape[1]) for i in order]
