"""Exact effects: do the intervention to one neuron, look, and go on to the next.

The judge of all estimates. One forward pass for each neuron and pair in principle; the suffix engine
(`suffix.py`) recomputes only what changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neurotrace.activations import Moments, read_activations
from neurotrace.effects import engine_of
from neurotrace.errors import InputError
from neurotrace.hooks import forward, inspect_model
from neurotrace.interventions import Kind
from neurotrace.metrics import logit_difference
from neurotrace.neurons import Neuron, by_layer
from neurotrace.pairs import PromptPair
from neurotrace.rankers.targets import Targets, finite, provenance, recipient_of, targets_for
from neurotrace.scores import Scores
from neurotrace.tokens import EncodedPairs, Progress, Side, encode

_BATCH = 128


def exact(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    intervention: Kind = "patch",
    neurons: Sequence[Neuron] | None = None,
    reference: Moments | None = None,
    progress: Progress = None,
) -> Scores:
    """Measured change of L (nats) when the intervention is done to one neuron, meaned over pairs.

    Args:
        neurons: those to measure; None: all of them. The others' scores are NaN.
    """
    encoded = encode(model, pairs)
    info = inspect_model(model)
    if neurons is None:
        chosen = {layer: torch.arange(info.d_mlp) for layer in range(info.n_layers)}
    else:
        listed = tuple(dict.fromkeys(neurons))
        if not listed:
            raise InputError("neurons is empty: name those to measure, or None for all")
        chosen = {
            layer: torch.tensor([listed[place].index for place in places])
            for layer, places in by_layer(listed).items()
        }
        if max(chosen) >= info.n_layers or max(int(u.max()) for u in chosen.values()) >= info.d_mlp:
            raise InputError(
                f"a neuron outside the model's {info.n_layers} layers × {info.d_mlp} neurons"
            )
    targets = targets_for(model, encoded, donor, intervention, reference, progress)
    total = torch.full((info.n_layers, info.d_mlp), torch.nan)
    for layer, units in chosen.items():
        total[layer, units] = 0.0
    side = recipient_of(donor)
    rows = range(len(encoded))
    for row in progress(rows, description="exact effects") if progress else rows:
        for layer, units, effect in _effects(model, encoded, side, row, chosen, targets):
            total[layer, units] += effect
    for layer, units in chosen.items():
        finite(total[layer, units][None], "exact")
    return Scores(
        "exact", total / len(encoded),
        provenance=provenance(model, encoded, donor, intervention),
    )  # fmt: skip


def _effects(
    model: Any,
    encoded: EncodedPairs,
    side: Side,
    row: int,
    chosen: dict[int, Tensor],
    targets: Targets,
) -> list[tuple[int, Tensor, Tensor]]:
    """(layer, units, change of L) for one pair."""
    info = inspect_model(model)
    ids = encoded.ids(side)[row][None]
    memorized, reasoned = encoded.memorized[row], encoded.reasoned[row]
    found: list[tuple[int, Tensor, Tensor]] = []
    engine = engine_of(model)
    if engine is None:
        values = read_activations(model, ids, info.n_layers, info.d_mlp)
        new = values + targets.changes([row], values)
        clean = encoded.behaviour(side).logit_difference[row]
        for layer, units in chosen.items():
            for part in units.split(_BATCH):
                after = _set_each(model, ids, layer, part, new[0, layer, part])
                many = memorized.expand(len(part)), reasoned.expand(len(part))
                found.append((layer, part, logit_difference(after, *many).cpu() - clean))
        return found
    run = engine.clean(ids)
    values = run.activations.float().cpu()
    new = values + targets.changes([row], values)
    before = engine.logit_difference(run.hidden, memorized[None], reasoned[None])
    for layer, units in chosen.items():
        hidden = engine.single(run, layer, units, new[0, layer, units])
        many = memorized.expand(len(units)), reasoned.expand(len(units))
        after = engine.logit_difference(hidden, *many)
        found.append((layer, units, (after - before).float().cpu()))
    return found


def _set_each(model: Any, ids: Tensor, layer: int, units: Tensor, values: Tensor) -> Tensor:
    """Logits of one prompt with unit i set to value i in row i: the obvious way, with hooks."""

    def edit(_: int, post: Tensor) -> Tensor:
        changed = post.clone()
        changed[torch.arange(len(units)), -1, units] = values.to(post)
        return changed

    with torch.no_grad():
        return forward(model, ids.expand(len(units), -1), edit=edit, layers=[layer]).float()
