"""Continuations of a context under an intervention: their log-likelihoods, and greedy ones (`generate`).

    log p(continuation | context) = sum over its tokens of log p(token | all tokens before it)

Prompts of equal length run together, without padding. A patch has no donor run here: its donor class's
mean stands in for it (`Intervention.without_donor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.core.process import Progress, over
from neurotrace.engine import metrics
from neurotrace.engine.engine import Engine
from neurotrace.engine.parts import hooked
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.activations import read_activations
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import Point, inspect_model, run_hooked
from neurotrace.models.origins import context_length, engine_of, tokenizer_of
from neurotrace.models.protocol import HookedModel

# where it acts: at the context's last token, there and at each token behind it, at every token
Positions = Literal["read", "onward", "all"]
POSITIONS: tuple[Positions, ...] = ("read", "onward", "all")
Row = tuple[int, tuple[int, ...]]  # the first changed place, the token ids


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        log_probability: of all its tokens together, nats.
        greedy: whether each of its tokens is the model's top-1 token.
    """

    log_probability: float
    greedy: bool


@takes_turns
def likelihoods(
    model: HookedModel,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    intervention: Intervention | None = None,
    *,
    positions: Positions = "onward",
    batch_size: int = 32,
    progress: Progress = None,
) -> list[Likelihood]:
    """The log-likelihood of each continuation, in the order of the requests.

    A prompt that begins another one is not run by itself: continuations of one context share the pass
    of the longest.

    Args:
        requests: token ids (context, continuation), neither of them empty.
        positions: where the intervention acts.

    Raises:
        InputError: an empty context or continuation, one too long for the model, logits that are not
            finite, a patch without a donor mean.
    """
    change = None if intervention is None else intervention.without_donor()
    limit = context_length(model)
    rows: list[Row] = []
    for context, continuation in requests:
        ids = (*context, *continuation)[:-1]
        if not context or not continuation or len(ids) > (limit or len(ids)):
            bound = f", {limit + 1} tokens in all at most" if limit else ""
            raise InputError(
                f"expected a context and a continuation of one or more tokens each{bound}: got "
                f"{len(context)} and {len(continuation)}"
            )
        # what stands before the first changed token can be shared, whatever the context
        rows.append((0 if change is None or positions == "all" else len(context) - 1, ids))
    run, place = _longest(rows)
    found: list[Likelihood | None] = [None] * len(requests)
    users: list[list[int]] = [[] for _ in run]
    for number, asked in enumerate(rows):
        users[place[asked]].append(number)
    batches = list(by_length([torch.tensor(ids) for _, ids in run], batch_size))
    for chosen, batch in over(progress, batches, "log-likelihoods"):
        starts = torch.tensor([run[row][0] for row in chosen])
        logits = _logits(model, batch, change, starts, positions)
        for row, own in zip(chosen, logits, strict=True):
            for number in users[row]:
                context, continuation = requests[number]
                found[number] = _judged(own[len(context) - 1 :], continuation)
    return [each for each in found if each is not None]


@takes_turns
def continuations(
    model: HookedModel,
    prompts: Sequence[Sequence[int]],
    intervention: Intervention | None = None,
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    positions: Positions = "onward",
    batch_size: int = 32,
    progress: Progress = None,
) -> list[str]:
    """The model's greedy continuation of each prompt, as text.

    It ends before the end-of-sequence token, before the first of the `stop` texts, at the model's context
    length or after `max_new_tokens`.

    Raises:
        InputError: a prompt that is empty or fills the model's context.
    """
    change = None if intervention is None else intervention.without_donor()
    tokenizer, limit = tokenizer_of(model), context_length(model)
    end = getattr(tokenizer, "eos_token_id", None)
    if not all(map(len, prompts)):
        raise InputError("the prompt is empty: expected at least one token")
    if limit and (longest := max(map(len, prompts), default=0)) >= limit:
        raise InputError(f"the prompt has {longest} tokens, the model takes {limit}")
    engine = engine_of(model)
    if engine is not None and engine.routing == "frozen":
        raise InputError("frozen routing knows no run without the change to go by: generate with 'free'")
    written = [""] * len(prompts)
    batches = list(by_length([torch.tensor(list(ids)) for ids in prompts], batch_size))
    for rows, ids in over(progress, batches, "continuing"):
        start, going = ids.shape[1], list(rows)
        starts = torch.full((len(rows),), 0 if positions == "all" else start - 1)
        step = None if engine is None or engine.path == "naive" else _Step(engine, change)
        while going and ids.shape[1] - start < max_new_tokens and ids.shape[1] != limit:
            if step is None:
                logits = _logits(model, ids, change, starts[: len(ids)], positions)[:, -1]
            else:
                logits = step(ids, _acts(ids, starts[: len(ids)], positions))
            tokens = logits.argmax(-1).cpu()
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            kept = []
            for place, row in enumerate(going):
                if int(tokens[place]) == end:
                    continue
                text = tokenizer.decode(ids[place, start:].tolist())
                cut = min((at for each in stop if each and (at := text.find(each)) >= 0), default=None)
                written[row] = text[:cut]
                if cut is None:
                    kept.append(place)
            if step is not None and len(kept) < len(going):
                step.keep(kept)
            ids, going = ids[kept], [going[place] for place in kept]
    return written


@takes_turns
def generate(
    model: HookedModel,
    prompt: str,
    intervention: Intervention | None = None,
    *,
    donor_prompt: str | None = None,
    max_new_tokens: int = 16,
    positions: Positions = "onward",
) -> str:
    """The model's greedy continuation of `prompt`, as text.

    Args:
        intervention: applied at the prompt's last token (``positions="read"``), there and at every token
            written after it (``"onward"``), or at every token. None: the unchanged model.
        donor_prompt: the prompt from whose last token a patch takes its values.

    Raises:
        InputError: an empty prompt, one as long as the context, a patch without a donor prompt.

    Example::

        nt.generate(model, "recall 31+28=", nt.patch(scores.top(8)), donor_prompt="think 31+28=")
    """
    info = inspect_model(model)
    tokenizer = tokenizer_of(model)
    change = intervention
    if intervention is not None and intervention.needs_donor:
        if donor_prompt is None:
            raise InputError("a patch takes its values from a donor run: pass donor_prompt=")
        given = torch.tensor(tokenizer(donor_prompt).input_ids, dtype=torch.long)[None]
        values = read_activations(model, given, info.n_layers, info.d_mlp)[0]
        donor = torch.stack([values[n.layer, n.index] for n in intervention.neurons])
        change = replace(intervention, donor_mean=donor.float().cpu()).without_donor()
    ids = tokenizer(prompt).input_ids
    return continuations(model, [ids], change, max_new_tokens=max_new_tokens, positions=positions)[0]


def _longest(rows: Sequence[Row]) -> tuple[list[Row], dict[Row, int]]:
    """Rows that begin no other row of the same start, and for each row the place of one that it begins."""
    run: list[Row] = []
    place: dict[Row, int] = {}
    for row in sorted(set(rows), reverse=True):  # what begins with a row comes right before it
        start, ids = row
        if not run or run[-1][0] != start or run[-1][1][: len(ids)] != ids:
            run.append(row)
        place[row] = len(run) - 1
    return run, place


def _judged(logits: Float[Tensor, "pos vocab"], continuation: Sequence[int]) -> Likelihood:
    """Of the first `len(continuation)` positions."""
    token = torch.tensor(list(continuation))
    here = logits[: len(token)].float().cpu()
    if not torch.isfinite(here).all():
        raise InputError("the model's logits are not finite: try dtype=float32, and check its weights")
    found = metrics.log_probability(here, token).double().sum()
    return Likelihood(float(found), bool(metrics.answers(here, token).all()))


class _Step:
    """Logits behind the last token, each time over the keys and values of the tokens seen before."""

    def __init__(self, engine: Engine, change: Intervention | None) -> None:
        self.engine, self.change = engine, change
        self.layers = by_layer(change.neurons) if change is not None else {}
        self.cache: Any = None
        self.seen = 0

    def __call__(
        self, ids: Int[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch vocab"]:
        parts = self.engine.parts
        new, here = ids[:, self.seen :].to(parts.device), where[:, self.seen :, None].to(parts.device)

        def hook(layer: int, _: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            assert self.change is not None
            post = args[0].reshape(*new.shape, -1)
            changed = _changed(self.change, self.layers[layer], post, here)
            return (changed.reshape(args[0].shape), *args[1:]), kwargs

        hooks = [(parts.projections[at], "input", partial(hook, at)) for at in self.layers if here.any()]
        with torch.no_grad(), hooked(hooks):
            found = parts.model(new, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache, self.seen = found.past_key_values, ids.shape[1]
        logits: Tensor = found.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(
            torch.tensor(list(rows), dtype=torch.long, device=self.engine.parts.device)
        )


def _acts(
    ids: Int[Tensor, "batch pos"], starts: Int[Tensor, " batch"], at: Positions
) -> Bool[Tensor, "batch pos"]:
    """Where the change acts: in each row from its start on (`read`: only at it)."""
    places = torch.arange(ids.shape[1])
    return places == starts[:, None] if at == "read" else places >= starts[:, None]


def _changed(
    change: Intervention, neurons: Sequence[int], post: Tensor, where: Bool[Tensor, "batch pos 1"]
) -> Float[Tensor, "batch pos neuron"]:
    """Activations with these of the change's neurons changed `where` it acts."""
    units = [change.neurons[place].index for place in neurons]
    changed = post.clone()
    changed[..., units] = torch.where(
        where, change.apply(neurons, post[..., units], None), post[..., units]
    )
    return changed


def _logits(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    change: Intervention | None,
    starts: Int[Tensor, " batch"],
    at: Positions,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits at each position, with the change where it acts."""
    layers = by_layer(change.neurons) if change is not None else {}
    where = _acts(ids, starts, at)[..., None]

    def edit(layer: int, post: Tensor) -> Tensor:
        assert change is not None
        return _changed(change, layers[layer], post, where.to(post.device))

    edits: dict[Point, Any] = {("neurons", layer): partial(edit, layer) for layer in layers}
    with torch.no_grad():
        logits, fired = run_hooked(model, ids, edits)
    if set(fired.values()) - {1}:
        raise RuntimeError(f"neuron hooks fired {fired} times; expected once each")
    return logits
