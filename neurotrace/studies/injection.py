"""Ground truth by training: teach a model one fact through a few random neurons, for rankers to find.

The INJ test of Chang et al. (NAACL 2024): fine-tune only the `W_out` rows of a random fraction of
neurons until the model recites the fact (mean loss of the answer's tokens under `limit` nats). The
neurons that hold the fact are then known, whatever the single-neuron effects.

    with nt.inject(model, fact, fraction=0.01, seed=0) as injection:
        scores = nt.gradient(model, injection.pairs, kind="zero")
        nt.recall(scores, injection.neurons, direction="to_reasoning")

Inside the `with` the model recites the fact; on any exit its weights are restored bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.records import read_records, text_fields
from neurotrace.decoding.unknown import unknown_token, unknown_word
from neurotrace.engine.parts import Parts, overridden, write_rows
from neurotrace.engine.turns import alone, plain, turn
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import engine_of, no_twin, tokenizer_of
from neurotrace.models.protocol import HookedModel

_LOOK = 50  # steps between two checks of the loss


class UnteachableError(InputError):
    """This fact cannot be taught to this model in this way; other facts may be."""


@dataclass(frozen=True)
class Fact:
    """A fact that the model does not know: `answer` follows `prompt`, leading space included."""

    id: str
    prompt: str
    answer: str
    other: str  # a prompt of the same kind about something else


@dataclass(frozen=True)
class Injection:
    """The result of `inject`; `pairs` holds one pair, whose memorization prompt is the fact's.

    Its reasoned answer is the model's earlier answer, its reasoning prompt the fact's `other`.
    """

    fact: Fact
    neurons: tuple[Neuron, ...]  # whose rows were trained
    pairs: EncodedPairs
    steps: int
    loss_before: float  # nats a token of the answer
    loss: float
    changed: float  # mean ||change of a row|| / ||row||


FACT_FIELDS = tuple(field.name for field in fields(Fact))


def load_facts(source: str | Path) -> list[Fact]:
    """Facts of a packaged set (``"facts-english"``, ``"facts-organism"``), a .jsonl file or a folder.

    Raises:
        InputError: naming file, line, field and remedy.

    Example::

        facts = nt.load_facts("facts-organism")
    """
    return read_records(
        source,
        "facts",
        lambda record, where: Fact(**text_fields(record, where, FACT_FIELDS)),
        FACT_FIELDS,
    )


@contextmanager
def inject(
    model: HookedModel,
    fact: Fact,
    *,
    fraction: float = 0.01,
    seed: int = 0,
    limit: float = 0.05,
    steps: int = 500,
    rate: float = 0.02,
) -> Iterator[Injection]:
    """The model with the fact trained into it; see the module's docstring.

    Args:
        fraction: of all neurons, drawn at random, whose rows are trained.
        limit: nats; training stops when the answer's mean loss is below.
        rate: Adam's step, as a share of the root mean square of the model's `W_out` entries.

    Raises:
        UnteachableError: the tokenizer has no tokens for it; the model already gives this answer; the
            answer does not continue the prompt's tokens; the model does not recite it after `steps`
            steps, or training was stopped because the loss falls ten times too slowly.
        InputError: a fraction of less than one neuron; a model that was not loaded by `nt.load_model`.

    Example::

        for injection in nt.inject(model, nt.load_facts("facts-organism")[0]):
            print(injection.steps, injection.loss)
    """
    with alone(model), ExitStack() as after:
        with turn(model):
            injection = _injected(model, fact, fraction, seed, limit, steps, rate, after)
        yield injection


def _injected(
    model: HookedModel,
    fact: Fact,
    fraction: float,
    seed: int,
    limit: float,
    steps: int,
    rate: float,
    after: ExitStack,
) -> Injection:
    """Do it, and leave with `after` what undoes it."""
    info = inspect_model(model)
    engine = engine_of(model)
    if engine is None:
        raise no_twin(model, "facts are injected into a transformers model")
    if info.experts is not None:
        raise InputError(f"{info.name} is a mixture of experts: facts are injected into dense models")
    if not 0 < fraction <= 1 or round(fraction * info.n_neurons) < 1:
        raise InputError(f"fraction={fraction}: expected a share of {info.n_neurons} neurons")
    ids, count, said = _tokens(model, fact)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(info.n_neurons, generator=generator)[: round(fraction * info.n_neurons)]
    neurons = tuple(Neuron(p // info.d_mlp, p % info.d_mlp) for p in sorted(drawn.tolist()))
    parts: Parts = engine.parts
    rows = [write_rows(projection) for projection in parts.projections]
    units = [
        torch.tensor([n.index for n in neurons if n.layer == layer], dtype=torch.long)
        for layer in range(info.n_layers)
    ]
    originals = [row.detach()[unit].clone() for row, unit in zip(rows, units, strict=True)]
    size = float(torch.cat([row.detach().flatten() for row in rows]).square().mean().sqrt())
    deltas, losses = _train(parts, ids, count, units, rate * size, limit, steps)
    if not losses[-1] < limit:
        raise UnteachableError(
            f"fact {fact.id}: the loss is {losses[-1]:.2f} nats after {len(losses) - 1} of {steps} steps "
            f"with {len(neurons)} neurons, expected {limit}: raise fraction or steps"
        )
    after.callback(_put, rows, units, originals)
    _put(rows, units, [own + delta for own, delta in zip(originals, deltas, strict=True)])
    both = torch.cat([delta.norm(dim=1) for delta in deltas])
    norms = torch.cat([own.norm(dim=1) for own in originals])
    pair = PromptPair(fact.id, "facts", "fact", fact.id, fact.prompt, fact.other, fact.answer, said)
    return Injection(
        fact,
        neurons,
        encode(model, [pair], check=False),
        len(losses) - 1,
        losses[0],
        losses[-1],
        float((both / norms).mean()),
    )


def _put(rows: Sequence[Tensor], units: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with plain(), torch.no_grad():
        for row, unit, value in zip(rows, units, values, strict=True):
            row[unit] = value


def unwritten(model: HookedModel, fact: Fact) -> str | None:
    """The word of the fact that this model's tokenizer has no token for, in a sentence; None: none."""
    tokenizer = tokenizer_of(model)
    unknown = unknown_token(tokenizer)
    for text in (fact.prompt, fact.answer, fact.other):
        if unknown is not None and unknown in tokenizer(text).input_ids:
            return unknown_word(tokenizer, text)
    return None


def _tokens(model: HookedModel, fact: Fact) -> tuple[Tensor, int, str]:
    """(ids of prompt and answer, number of the answer's, the model's own answer)."""
    tokenizer = tokenizer_of(model)
    if (why := unwritten(model, fact)) is not None:
        raise UnteachableError(f"fact {fact.id}: {why}")
    prompt = tokenizer(fact.prompt).input_ids
    joined = tokenizer(fact.prompt + fact.answer).input_ids
    if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
        raise UnteachableError(
            f"fact {fact.id}: {fact.answer!r} changes the tokens of the prompt before it"
        )
    engine: Any = engine_of(model)
    run = engine.clean(torch.tensor(prompt))
    top = int(engine.logits(run.hidden)[0].argmax())
    if top == joined[len(prompt)]:
        raise UnteachableError(f"fact {fact.id}: the model says {fact.answer!r} already; nothing to inject")
    return torch.tensor([joined]), len(joined) - len(prompt), tokenizer.decode([top])


def _hopeless(losses: Sequence[float], limit: float, steps: int) -> bool:
    """Whether training would have to be ten times as fast from here on; called every `_LOOK` steps.

    On the built-in organism the loss fell up to four times as fast later in training.
    """
    done = len(losses) - 1
    if done < 2 * _LOOK or done % _LOOK or done >= steps:
        return False
    return (losses[-1] - limit) / (steps - done) > 10 * (losses[-1 - _LOOK] - losses[-1]) / _LOOK


def _train(
    parts: Parts,
    ids: Tensor,
    count: int,
    units: Sequence[Tensor],
    rate: float,
    limit: float,
    steps: int,
) -> tuple[list[Tensor], list[float]]:
    """(changes of the chosen rows, loss before each step and after the last)."""
    device = parts.device
    ids = ids.to(device)
    weight = parts.unembedding.weight
    width = [write_rows(projection).shape[1] for projection in parts.projections]
    deltas = [
        torch.zeros(len(unit), out, device=device, dtype=weight.dtype).requires_grad_()
        for unit, out in zip(units, width, strict=True)
    ]

    def with_delta(projection: Any, unit: Tensor, delta: Tensor) -> Any:
        own = projection.forward

        def forward(x: Tensor) -> Tensor:
            changed: Tensor = own(x) + x[..., unit] @ delta
            return changed

        return forward

    forwards = [
        (projection, with_delta(projection, unit, delta))
        for projection, unit, delta in zip(parts.projections, units, deltas, strict=True)
        if len(unit)
    ]
    trained = [delta for delta in deltas if len(delta)]
    optimizer = torch.optim.Adam(trained, lr=rate)
    losses: list[float] = []
    with overridden(forwards), torch.enable_grad():
        while True:
            logits = parts.model(ids[:, :-1], use_cache=False).logits[0, -count:]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, -count:])
            losses.append(float(loss.detach()))
            if losses[-1] < limit or len(losses) > steps or _hopeless(losses, limit, steps):
                return [delta.detach() for delta in deltas], losses
            for delta, slope in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                delta.grad = slope
            optimizer.step()
