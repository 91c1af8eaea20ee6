"""Learned masks: one amount x_i in [0, 1] for each neuron, found by gradient descent.

    a'_i = a_i + x_i * (target_i - a_i)         in the run itself, all neurons at once

`flip` finds the fewest neurons on which the intervention gives the donor's answer:

    minimise  -log p(donor's answer) + price * sum x            score = x

`keep` finds the fewest neurons that must stay unchanged to keep the recipient's own answer (Chang et
al., NAACL 2024; their m is 1 - x):

    minimise  -log p(recipient's answer) + price * sum (1 - x)  score = 1 - x

Rankings by single effects answer neither, because they ignore the other neurons. A step is a forward
and a backward pass of one batch; with the suffix engine, through one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.slopes import logits_through, prefix_of
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import finite, provenance, targets_for
from neurotrace.models.activations import Moments
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel

Question = Literal["flip", "keep"]
# cost of a neuron in nats: the 1000 of Chang et al. over GPT-2's 36,864 neurons
PRICE = 0.027


def learn(
    method: str,
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    parameters: Float[Tensor, "layer neuron"],
    amounts: Callable[[Tensor], Tensor],
    cost: Callable[[Tensor], Tensor],
    settle: Callable[[Tensor], Any],
    *,
    donor: Side,
    kind: Kind,
    reference: Moments | None,
    question: Question,
    price: float,
    steps: int,
    rate: float,
    batch_size: int,
    progress: Progress,
    **record: Any,
) -> Scores:
    """Train `parameters` (in place) by Adam and score neurons by the cost of their masks.

    Args:
        amounts: parameters -> the mask in this step: how far each neuron is changed ("flip") or kept
            ("keep").
        cost: parameters -> the mask's expected size for each neuron; its sum is penalised, and it is
            the score.
        settle: called after each step, to put parameters back into their range.
    """
    if question not in ("flip", "keep"):
        raise InputError(f"question={question!r}: expected 'flip' or 'keep'")
    if steps < 1 or not price > 0:
        raise InputError(f"steps={steps}, price={price}: expected at least 1, and more than 0")
    encoded = encode(model, pairs)
    refuse_whole(encoded, method)
    targets = targets_for(model, encoded, donor, kind, reference, progress)
    info = inspect_model(model)
    recipient = Direction.from_donor(donor).recipient
    wanted = encoded.reasoned if donor == "reasoning" else encoded.memorized
    if question == "keep":
        wanted = encoded.memorized if recipient == "memorization" else encoded.reasoned
    engine = engine_of(model)
    batches = []
    for rows, ids in by_length(encoded.ids(recipient), batch_size):
        nothing = torch.zeros(len(rows), info.n_layers, info.d_mlp)
        base = targets.changes(rows, nothing)
        slope = targets.changes(rows, nothing + 1) - base  # every intervention is affine
        prefix = prefix_of(engine, ids) if engine is not None else None
        batches.append((rows, ids, base.to(info.device), slope.to(info.device), prefix))
    parameters.requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=rate)
    work = list(islice(cycle(batches), steps))
    for rows, ids, base, slope, prefix in over(progress, work, method):
        with torch.enable_grad():
            mask = amounts(parameters)
            done = (mask if question == "flip" else 1 - mask).to(info.device)

            def change(
                layer: int,
                post: Tensor,
                base: Tensor = base,
                slope: Tensor = slope,
                done: Tensor = done,
            ) -> Tensor:
                moved = done[layer] * (base[:, layer] + slope[:, layer] * post.float())
                return post + moved.to(post.dtype)

            if engine is not None:
                logits = logits_through(engine, ids, prefix, change)
            else:
                logits = _hooked(model, ids, change, info.n_layers)
            log_p = logits.float().log_softmax(dim=-1)
            loss = -log_p.gather(1, wanted[rows].to(log_p.device)[:, None]).mean()
            loss = loss + price * cost(parameters).sum()
            (parameters.grad,) = torch.autograd.grad(loss, [parameters])
        optimizer.step()
        with torch.no_grad():
            settle(parameters)
    score = cost(parameters.detach()).clone()
    sign = Direction.from_donor(donor).sign
    return Scores(
        method,
        sign * finite(score, method),
        "share of a neuron's mask, signed by direction",
        provenance=provenance(model, encoded, donor, kind)
        | {"question": question, "price": price, "steps": steps, "rate": rate, **record},
    )


def _hooked(
    model: HookedModel, ids: Tensor, change: Callable[[int, Tensor], Tensor], n_layers: int
) -> Tensor:
    """The whole prompt through hooks, if the model has no engine."""

    def edit(layer: int, post: Tensor) -> Tensor:
        return torch.cat([post[:, :-1], change(layer, post[:, -1])[:, None]], dim=1)

    return forward(model, ids, edit=edit, layers=range(n_layers))
