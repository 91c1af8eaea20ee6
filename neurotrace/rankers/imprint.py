"""Imprint: find `W_out` rows that carry the trace of training on this answer.

Gradient training moves neuron i's row along its own gradient, summed over all positions of the prompt,

    G_i = dL/dw_i = sum over positions of a_i * dL/d(what the MLP writes)

(Adam: along its sign). A trained row correlates with d_i = sign(G_i) more than rows of its layer do by
chance. The chance level is given by the layer's covariance C, so the best linear detector is the
matched filter

    score_i = d_i' C^-1 (w_i - mean row) / sqrt(d_i' C^-1 d_i)

in standard deviations of an untrained row. Only the trained model is used; its rows are the background.
It takes one forward and one backward pass, and one matrix inverse a layer. In a mixture of experts a_i
includes the router's weight, the layer's rows are those of all its experts, and a row of an expert that
the prompt was not sent to has no trace of it: score 0. It finds where something was
*written* (`studies/injection.py`), not what a neuron does; for that use `gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.experts import Neurons
from neurotrace.engine.metrics import logit_difference
from neurotrace.engine.parts import Parts, hooked, overridden, write_rows
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.targets import provenance
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.origins import engine_of, no_twin
from neurotrace.models.protocol import HookedModel

_RIDGE = 1e-2  # of the mean variance, added to the covariance


@renamed(intervention="kind")
@takes_turns
def imprint(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "zero",
    progress: Progress = None,
) -> Scores:
    """Matched-filter score of each row for the answer to the recipient prompt; mean over pairs.

    `kind` is recorded and changes nothing. Direction "to_reasoning" ranks the rows that support
    the memorized answer.

    Raises:
        InputError: a model that was not loaded by `nt.load_model`.
    """
    encoded = encode(model, pairs)
    refuse_whole(encoded, "imprint")
    engine = engine_of(model)
    if engine is None:
        raise no_twin(model, "imprint reads the rows of a transformers model")
    parts: Parts = engine.parts
    side = Direction.from_donor(donor).recipient
    with torch.no_grad():
        backgrounds = [_background(projection) for projection in parts.projections]
    total: Tensor | None = None
    for row, ids in enumerate(over(progress, list(encoded.ids(side)), "imprint")):
        answers = encoded.memorized[[row]], encoded.reasoned[[row]]
        leans = []
        for slope, (centred, inverse) in zip(_row_slopes(parts, ids, answers), backgrounds, strict=True):
            towards = slope.sign() @ inverse
            size = (towards * slope.sign()).sum(dim=1).clamp(min=1e-12).sqrt()
            leans.append((towards * centred).sum(dim=1) / size)
        found = torch.stack(leans)
        total = found if total is None else total + found
    assert total is not None
    # zeroing a row that supports the memorized answer lowers L
    value = -(total / len(encoded)).cpu()
    return Scores(
        "imprint",
        value,
        "standard deviations of an untouched row",
        provenance=provenance(model, encoded, donor, kind),
    )


def _background(
    projection: Any,
) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, "d_model d_model"]]:
    """(rows less their mean, inverse of their covariance)."""
    rows = write_rows(projection).float()
    own = rows
    if isinstance(projection, Neurons):  # zeros are behind its last neuron
        own = rows[: projection.experts * projection.width + projection.shared]
    mean = own.mean(dim=0)
    covariance = (own - mean).t() @ (own - mean) / len(own)
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=rows.device)
    return rows - mean, torch.linalg.inv(covariance + ridge)


def _row_slopes(
    parts: Parts, ids: Tensor, answers: tuple[Tensor, Tensor]
) -> list[Float[Tensor, "neuron d_model"]]:
    """dL/dW_out of every layer, summed over the prompt's positions."""
    inputs: list[Tensor] = []
    nudges: list[Tensor] = []

    def see(_: nn.Module, args: tuple, __: dict) -> None:
        inputs.append(args[0].detach())

    def nudged(writer: Any) -> Callable[..., Any]:
        own = writer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            written = own(*args, **kwargs)
            first = written[0] if isinstance(written, tuple) else written
            nudges.append(torch.zeros_like(first, requires_grad=True))
            changed = first + nudges[-1]
            return (changed, *written[1:]) if isinstance(written, tuple) else changed

        return forward

    seen: list[Any] = [(projection, "input", see) for projection in parts.projections]
    forwards = [(writer, nudged(writer)) for writer in parts.writers]
    with overridden(forwards), hooked(seen), torch.enable_grad():
        ids = ids[None].to(parts.device)
        logits = parts.model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        difference = logit_difference(logits, *(each.to(logits.device) for each in answers))
        written = torch.autograd.grad(difference.sum(), nudges)
    return [
        _weighted(projection, x.reshape(-1, x.shape[-1])).float().t()
        @ slope.reshape(-1, slope.shape[-1]).float()
        for projection, x, slope in zip(parts.projections, inputs, written, strict=True)
    ]


def _weighted(projection: Any, x: Float[Tensor, "token neuron"]) -> Float[Tensor, "token neuron"]:
    """Activations times the router's weights, of a mixture."""
    if not isinstance(projection, Neurons):
        return x
    return x * projection.factors[:, projection.columns(torch.arange(x.shape[1], device=x.device))]
