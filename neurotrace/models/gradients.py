"""The slope of L along each neuron's activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Side
from neurotrace.decoding.sequences import Answer
from neurotrace.engine.metrics import Metric, first_tokens, sequence_log_probability
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel

_WHOLE, _ONE_TOKEN = 16, 64  # prompts differentiated together: at every token, at the last one

Rule = Callable[..., tuple[Tensor, Tensor]]  # as `slopes_of`
Both = tuple[Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer neuron"]]


def gradients(
    model: HookedModel,
    encoded: EncodedPairs,
    side: Side,
    batch_size: int | None = None,
    progress: Progress = None,
    rule: Rule | None = None,
) -> Iterator[tuple[list[int], Float[Tensor, "batch layer neuron"], Float[Tensor, "batch layer neuron"]]]:
    """(places of the pairs, activations, dL/da) at the prompt's final token, batch by batch.

    Args:
        batch_size: prompts together; None: as many as are a pass's worth. Behind a clean prefix a prompt is
            one token, so all of a small batch is reading the weights.
        rule: how L is differentiated; None: plainly, by `slopes_of`.
    """
    if batch_size is None:
        engine = engine_of(model)
        batch_size = _WHOLE if engine is None or engine.path == "naive" else _ONE_TOKEN
    batches = list(by_length(encoded.ids(side), batch_size))
    label = f"gradients ({side} prompts)"
    for rows, ids in over(progress, batches, label):
        yield rows, *pair_slopes(model, encoded, rows, ids, rule=rule)


def pair_slopes(
    model: HookedModel,
    encoded: EncodedPairs,
    rows: Sequence[int],
    ids: Int[Tensor, "batch pos"],
    added: Float[Tensor, "batch layer neuron"] | None = None,
    layers: Sequence[int] | None = None,
    rule: Rule | None = None,
) -> Both:
    """Activations and dL/da at the last token of `ids`, prompts of the pairs at `rows`.

    L is the one that the pairs are read by. Of whole answers it is log p(memorized) - log p(reasoned), each
    the log of a sum over accepted sequences s, so that

        d log p(answer) = sum over s of p(s) / p(answer) * d log p(s)

    Two answers of one token each need one pass, as first tokens do.
    """
    differentiate = rule or slopes_of
    answers = [encoded.answers[row] for row in rows] if encoded.answers is not None else []
    longer = [place for place, each in enumerate(answers) if any(map(_several, each))]
    short = [place for place in range(len(rows)) if place not in set(longer)]
    shape = len(rows), inspect_model(model).n_layers, inspect_model(model).d_mlp
    values, slopes = torch.zeros(shape), torch.zeros(shape)

    def part(places: Sequence[int]) -> Tensor | None:
        return None if added is None else added[list(places)]

    if short:
        first = [rows[place] for place in short]
        metric = first_tokens(encoded.memorized[first], encoded.reasoned[first])
        values[short], slopes[short] = differentiate(model, ids[short], metric, part(short), layers)
    for sign, side in ((1, 0), (-1, 1)):
        asked = [(place, sequence) for place in longer for sequence in answers[place][side]]
        log_p, found = torch.zeros(len(asked)), torch.zeros(len(asked), *shape[1:])
        for size in sorted({len(sequence) for _, sequence in asked}):
            own = [number for number, (_, sequence) in enumerate(asked) if len(sequence) == size]
            places = [asked[number][0] for number in own]
            tokens = torch.tensor([asked[number][1] for number in own])
            joined = torch.cat([ids[places], tokens[:, :-1]], dim=1)
            read = _LogProbability(tokens)
            values[places], found[own] = differentiate(
                model, joined, Metric(read), part(places), layers, behind=size - 1
            )
            log_p[own] = read.value
        for place in longer:
            own = [number for number, (of, _) in enumerate(asked) if of == place]
            slopes[place] += sign * torch.tensordot(log_p[own].softmax(0), found[own], dims=1)
    return values, slopes


def _several(answer: Answer) -> bool:
    return len(answer) > 1 or len(answer[0]) > 1


class _LogProbability:
    """log p(tokens), teacher-forced; keeps its value."""

    def __init__(self, tokens: Int[Tensor, "row token"]) -> None:
        self.tokens = tokens
        self.value = torch.zeros(len(tokens))

    def __call__(self, logits: Float[Tensor, "row *token vocab"]) -> Float[Tensor, " row"]:
        found = sequence_log_probability(logits, self.tokens)
        self.value = found.detach().cpu()
        return found


def slopes_of(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    metric: Metric,
    added: Float[Tensor, "batch layer neuron"] | None = None,
    layers: Sequence[int] | None = None,
    *,
    behind: int = 0,
) -> Both:
    """Activations at the prompt's last position and the metric's slopes along them.

    A zero is added to each activation and the metric is differentiated by it. No parameter's gradient is
    computed, and the model is not changed. With the suffix engine the prefix is run without gradients;
    otherwise the whole prompt is differentiated through hooks.

    Args:
        metric: of the logits at that position ("batch vocab") or, with tokens `behind` the prompt, at it
            and at each of them ("batch 1+behind vocab").
        added: put on the activations of `layers` (None: of all), where alone slopes are then taken.
        behind: number of tokens at the end of `ids` that stand behind the prompt.
    """
    engine = engine_of(model)
    if engine is not None and engine.path != "naive":
        from neurotrace.engine.slopes import slopes as by_suffix

        values, found = by_suffix(engine, ids, metric, behind=behind, added=added, layers=layers)
        return values.float().cpu(), found.float().cpu()
    info = inspect_model(model)
    chosen = list(range(info.n_layers)) if layers is None else list(layers)
    nudges = {
        layer: torch.zeros(len(ids), info.d_mlp, device=info.device, dtype=info.dtype, requires_grad=True)
        for layer in chosen
    }
    values = torch.zeros(len(ids), info.n_layers, info.d_mlp)
    at = ids.shape[1] - 1 - behind

    def edit(layer: int, post: Tensor) -> Tensor:
        values[:, layer] = post[:, at].detach().float().cpu()
        changed = post.clone()
        changed[:, at] = changed[:, at] + nudges[layer]
        if added is not None:
            changed[:, at] = changed[:, at] + added[:, layer].to(post)
        return changed

    with torch.enable_grad():
        logits = forward(model, ids, edit=edit, layers=chosen, every=True)
        total = metric(logits[:, at] if not behind else logits[:, at:]).sum()
        # a layer that reaches no logit (the user's hook cuts it off) has slope 0
        parts = torch.autograd.grad(
            total, [nudges[layer] for layer in chosen], allow_unused=True, materialize_grads=True
        )
    slopes = torch.zeros_like(values)
    for layer, slope in zip(chosen, parts, strict=True):
        slopes[:, layer] = slope.float().cpu()
    return values, slopes
