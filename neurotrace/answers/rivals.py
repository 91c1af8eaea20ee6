"""Rivals of the causal margin: signals that switch no neuron off; one function each, listed in `RIVALS`.

*Own* is the model's top-1 token behind the whole prompt. The last sentence is the question, the sentences
before it are the context; a prompt of one sentence has no context, and what asks again without it is then
of no use. Sentences end at a full stop, a question or an exclamation mark, with a quotation mark or not,
before a space.

To add a rival: a function of `Reading` that returns a number a prompt, or features of it, and an entry of
`RIVALS` with its cost and, for features, a learner (`learners.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.answers.answered import Answered, prompt_ids
from neurotrace.answers.learners import (
    BY_BEST,
    BY_DEPTH,
    BY_FEATURES,
    BY_LAYERS,
    BY_MEANS,
    BY_WORDS,
    Learner,
)
from neurotrace.core.process import Progress, over
from neurotrace.detectors.judging import auroc
from neurotrace.engine import metrics
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import Point, inspect_model, run_hooked, site_name
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import answer_slope, last_logits, read_out

Array = np.ndarray
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
_DEPTHS, _PARTS, _DRAWN = 8, 2, 10
_WRITERS = ("attention", "mlp")
_LATE = 1 / 3  # of the layers: those whose MLPs are read through the unembedding


def sentences(text: str) -> list[str]:
    """The sentences of a prompt, each with the space behind it; the last one ends with the text."""
    ends = [match.end() for match in _END.finditer(text)]
    ends = [end for end in ends if text[end:].strip()]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


class Reading:
    """A model's passes over prompts; each kind is made when a rival first asks for it."""

    def __init__(
        self,
        model: HookedModel,
        asked: Answered,
        neurons: Float[Array, "prompt neuron"],
        progress: Progress = None,
    ) -> None:
        self.model, self.asked, self.neurons, self.progress = model, asked, neurons, progress
        self.own = asked.log_probability.double().numpy()
        self.split = [sentences(prompt.prompt) for prompt in asked.prompts]

    @cached_property
    def alone(self) -> tuple[Float[Array, " prompt"], Float[Array, " prompt"]]:
        """log p(own | the last sentence alone), and whether its top-1 token is the same."""
        return self.again([each[-1] for each in self.split], range(len(self.split)))

    def again(
        self, texts: Sequence[str], rows: Sequence[int]
    ) -> tuple[Float[Array, " text"], Float[Array, " text"]]:
        """log p of these prompts' own answers behind other texts, and whether it is the top-1 token."""
        found = np.zeros((2, len(texts)))
        token = self.asked.top[list(rows)]
        ids = prompt_ids(self.model, [text.strip() for text in texts]) if texts else []
        for places, batch in over(self.progress, list(by_length(ids, 32)), "asking again"):
            logits = last_logits(self.model, batch).float().cpu()
            found[0, places] = metrics.log_probability(logits, token[places]).double().numpy()
            found[1, places] = metrics.answers(logits, token[places]).double().numpy()
        return found[0], found[1]

    @cached_property
    def inside(self) -> dict[str, Array]:
        """What one hooked pass over each prompt and its own answer shows; empty if a hook is missing."""
        info = inspect_model(self.model)
        layers = range(info.n_layers)
        points: list[Point] = [(site, n) for n in layers for site in ("attention", "mlp", "residual")]
        points += [_pattern(n) for n in layers]
        if any(site_name(*point) not in self.model.hook_dict for point in points):
            return {}
        lens = read_out(self.model)
        ids = [torch.cat([i, t[None]]) for i, t in zip(self.asked.ids, self.asked.top, strict=True)]
        found: dict[str, Array] = {}
        for rows, batch in over(self.progress, list(by_length(ids, 16)), "reading rivals"):
            seen: dict[Point, Tensor] = {}
            edits = {point: _keep(seen, point) for point in points}
            with torch.no_grad():
                logits, _ = run_hooked(self.model, batch, edits)
            if len(seen) < len(points) or seen[_pattern(0)].numel() % batch.shape[1]:
                return {}
            ends = logits[:, -2].float().cpu()
            part = _inside(seen, self._context(rows), info.n_layers)
            part["meanings"] = _meanings(ends, self.meaning)
            own = self.asked.top[rows]
            slope = answer_slope(self.model, seen["residual", layers[-1]][:, -2], own)
            writes = [
                (seen[site, n][:, -2] * slope).sum(-1) for n in layers for site in ("attention", "mlp")
            ]
            part["writes"] = torch.stack(writes, dim=1)
            part["shifts"] = _shifts(seen, lens, info.n_layers)
            for name, values in part.items():
                into = found.setdefault(name, np.zeros((len(ids), *values.shape[1:]), dtype=np.float32))
                into[rows] = values.float().cpu().numpy()
        return found

    @cached_property
    def meaning(self) -> Int[Tensor, " vocab"]:
        """A number for each token; tokens that differ in case and spaces only have the same."""
        tokenizer, place = tokenizer_of(self.model), dict[str, int]()
        texts = tokenizer.batch_decode([[token] for token in range(inspect_model(self.model).d_vocab)])
        return torch.tensor([place.setdefault(text.strip().casefold(), len(place)) for text in texts])

    def _context(self, rows: Sequence[int]) -> Int[Tensor, " prompt"]:
        """Tokens of each prompt that belong to its context."""
        tokenizer = tokenizer_of(self.model)
        before = ["".join(self.split[row][:-1]).rstrip() for row in rows]
        return torch.tensor([len(tokenizer(text).input_ids) if text else 0 for text in before])


def depths(layers: int) -> list[int]:
    """Blocks spread evenly, behind which the residual stream is read; the last among them."""
    return sorted({layers * (part + 1) // _DEPTHS - 1 for part in range(_DEPTHS)} - {-1})


def _pattern(layer: int) -> Point:
    """Where its heads look, [batch head from to] when reshaped; no site of interventions."""
    return ("pattern", layer)  # type: ignore[return-value]


def _keep(seen: dict[Point, Tensor], point: Point) -> Callable[[Tensor], None]:
    def see(value: Tensor) -> None:
        seen[point] = value.detach().float().cpu()

    return see


def _inside(seen: dict[Point, Tensor], context: Int[Tensor, " prompt"], layers: int) -> dict[str, Tensor]:
    """Attention and streams at the last position of each prompt (its own answer stands behind it)."""
    last = seen["residual", layers - 1]
    batch, length = last.shape[:2]
    rows = [seen[_pattern(n)].reshape(batch, -1, length, length)[:, :, -2] for n in range(layers)]
    attention = torch.stack(rows, dim=1)  # batch layer head pos
    inside = (torch.arange(length) < context[:, None])[:, None, None]
    to_context = attention * inside
    share = to_context.sum(-1)
    mean = torch.einsum("blhp,bpd->blhd", to_context, last) / share.clamp(min=1e-9)[..., None]
    copied = torch.cosine_similarity(mean, last[:, None, None, -2], dim=-1) * (context > 0)[:, None, None]
    streams = torch.stack([seen["residual", n] for n in depths(layers)], dim=1)
    return {
        "share": (share / attention.sum(-1).clamp(min=1e-9)).flatten(1),
        "copied": copied.flatten(1),
        "stream": streams[:, :, -2],
        "answered": streams[:, :, -1],
    }


def _shifts(seen: dict[Point, Tensor], lens: Any, layers: int) -> Float[Tensor, "prompt layer"]:
    """Jensen-Shannon divergence of the next token's distribution before and after each late MLP."""
    found = []
    for n in range(layers - max(1, round(layers * _LATE)), layers):
        after = seen["residual", n][:, -2]
        with torch.no_grad():
            p, q = (lens(x).float().cpu().softmax(-1) for x in (after - seen["mlp", n][:, -2], after))
        middle = ((p + q) / 2).clamp(min=1e-20).log()
        found.append(sum((x * (x.clamp(min=1e-20).log() - middle)).sum(-1) / 2 for x in (p, q)))
    return torch.stack(found, dim=1)  # type: ignore[arg-type]


def _meanings(logits: Float[Tensor, "prompt vocab"], meaning: Int[Tensor, " vocab"]) -> Tensor:
    """Entropy over meanings, in nats: the tokens of one meaning count as one answer."""
    p = logits.softmax(-1)
    merged = torch.zeros_like(p).scatter_add_(1, meaning[: p.shape[1]].expand(len(p), -1), p)
    return -(merged * merged.clamp(min=1e-20).log()).sum(-1)


def _alone(r: Reading) -> Array:
    """log p(own | the last sentence alone)."""
    return r.alone[0]


def _same(r: Reading) -> Array:
    """Whether the last sentence alone has the same top-1 token."""
    return r.alone[1]


def _gap(r: Reading) -> Array:
    """log p(own | prompt) - log p(own | the last sentence alone)."""
    return r.own - r.alone[0]


def _largest_drop(r: Reading) -> Array:
    """Of log p(own) when one sentence but the last is left out; knows not which is the claim."""
    texts = [
        (row, "".join(each[:out] + each[out + 1 :]))
        for row, each in enumerate(r.split)
        for out in range(len(each) - 1)
    ]
    rows = [row for row, _ in texts]
    without, _ = r.again([text for _, text in texts], rows)
    drop = np.full(len(r.asked), -np.inf)
    np.maximum.at(drop, rows, r.own[rows] - without)
    return np.where(np.isinf(drop), 0.0, drop)


def _drops(r: Reading) -> Array:
    """Of each half of the prompt's words left out; needs no sentences. A prompt of one word has no drop."""
    rows, places, texts = [], [], []
    for row, prompt in enumerate(r.asked.prompts):
        words = re.findall(r"\s*\S+", prompt.prompt)
        for part in range(_PARTS):
            first, end = (len(words) * n // _PARTS for n in (part, part + 1))
            text = "".join(words[:first] + words[end:]).strip()
            if text:
                rows.append(row)
                places.append(part)
                texts.append(text)
    found = np.zeros((len(r.asked), _PARTS))
    found[rows, places] = r.own[rows] - r.again(texts, rows)[0]
    return found


def _reordered(r: Reading) -> Array:
    """log p(own | the context's sentences in reverse order) - log p(own | prompt)."""
    texts = {
        row: " ".join([*(part.strip() for part in each[-2::-1]), each[-1]])
        for row, each in enumerate(r.split)
        if len(each) > 2
    }
    found = np.zeros(len(r.asked))
    rows = list(texts)
    found[rows] = r.again(list(texts.values()), rows)[0] - r.own[rows]
    return found


def _similarity(r: Reading) -> Array:
    """Largest cosine of trigrams of the question with the own answer and those of a context's sentence."""
    tokenizer = tokenizer_of(r.model)
    found = []
    for each, top in zip(r.split, r.asked.top.tolist(), strict=True):
        claim = _trigrams(f"{each[-1]}{tokenizer.decode([top])}")
        found.append(max((_cosine(claim, _trigrams(part)) for part in each[:-1]), default=0.0))
    return np.array(found)


def _trigrams(text: str) -> Counter[str]:
    text = " ".join(re.findall(r"\w+", text.casefold()))
    return Counter(text[place : place + 3] for place in range(len(text) - 2))


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    norm = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(n * b[key] for key, n in a.items()) / norm if norm else 0.0


def _agreement(r: Reading) -> Array:
    """Of ten draws from the next token's distribution the share that are the own answer."""
    return np.random.default_rng(0).binomial(_DRAWN, np.exp(r.own).clip(0, 1)) / _DRAWN


def _occurs(r: Reading) -> Array:
    return (_last_place(r) >= 0).astype(float)


def _where(r: Reading) -> Array:
    return _last_place(r) / np.array([len(prompt.prompt) for prompt in r.asked.prompts])


def _last_place(r: Reading) -> Array:
    tokenizer = tokenizer_of(r.model)
    answers = [tokenizer.decode([token]).strip() for token in r.asked.top.tolist()]
    return np.array([p.prompt.rfind(own) for p, own in zip(r.asked.prompts, answers, strict=True)])


def _texts(r: Reading) -> Array:
    return np.array([prompt.prompt for prompt in r.asked.prompts], dtype=object)


def _hooked(name: str) -> Callable[[Reading], Array | None]:
    return lambda r: r.inside.get(name)


@dataclass(frozen=True)
class Rival:
    """A signal: how it is read, what a prompt costs, and who learns from it (None: its sign is all)."""

    passes: str  # forward passes a prompt, that which answers it among them
    read: Callable[[Reading], Any]  # [prompt], or features of each; None: the model lacks a hook
    learner: Learner | None = None

    def scores(
        self, values: Array, rows: Sequence[Array], first: Array, y: Array, groups: Array
    ) -> list[Array]:
        """The score of every prompt, fitted on each of several sets of training rows.

        Args:
            first: the first half, on which a learner makes its choice and a number gets its sign.
        """
        if self.learner is None:
            return [-values if auroc(values[first], y[first]) < 0.5 else values] * len(rows)
        choice = self.learner.choose(values[first], y[first], groups[first])
        return [self.learner.score(choice, values, train, y) for train in rows]


RIVALS: dict[str, Rival] = {
    # the outside view: the model asked again, with less of the prompt
    "log p without context": Rival("2", _alone),
    "same answer without": Rival("2", _same),
    "gap to no context": Rival("2", _gap),
    "largest drop": Rival("sentences", _largest_drop),
    "drop of each half": Rival("3", _drops, BY_FEATURES),
    "reordered context": Rival("2", _reordered),
    # confidence, and what needs no more than the prompt and the answer
    "text similarity": Rival("1", _similarity),
    "log-probability": Rival("1", lambda r: r.own),
    "entropy": Rival("1", lambda r: r.asked.entropy.double().numpy()),
    "self-consistency": Rival("1", _agreement),
    "semantic entropy": Rival("1", _hooked("meanings")),
    "answer occurs in the prompt": Rival("1", _occurs),
    "where it occurs last": Rival("1", _where),
    "length of the prompt": Rival("0", lambda r: np.array([float(len(ids)) for ids in r.asked.ids])),
    "the prompt's words": Rival("0", _texts, BY_WORDS),
    # the inside, read and not changed
    "all neurons": Rival("1", lambda r: r.neurons, BY_FEATURES),
    "what each layer writes": Rival("1", _hooked("writes"), BY_FEATURES),
    "residual stream": Rival("1", _hooked("stream"), BY_DEPTH),
    "direction between means": Rival("1", _hooked("stream"), BY_MEANS),  # as LiReFs
    "first answer token": Rival("2", _hooked("answered"), BY_LAYERS),  # as AttriWiki, arXiv 2602.22787
    "lookback ratio": Rival("1", _hooked("share"), BY_FEATURES),  # as Lookback Lens
    "ReDeEP, heads": Rival("1", _hooked("copied"), BY_BEST),
    "ReDeEP, MLPs": Rival("1", _hooked("shifts"), BY_BEST),
}
PLAIN = tuple(name for name, rival in RIVALS.items() if rival.learner is None)


def read_rivals(
    model: HookedModel,
    asked: Answered,
    neurons: Float[Array, "prompt neuron"],
    *,
    progress: Progress = None,
) -> dict[str, Array]:
    """What each rival reads of every prompt; without those whose hooks the model lacks.

    Args:
        neurons: activations at the final token position.
    """
    reading = Reading(model, asked, neurons, progress)
    found = {name: rival.read(reading) for name, rival in RIVALS.items()}
    return {name: values for name, values in found.items() if values is not None}


def asked_again(
    model: HookedModel, asked: Answered, *, progress: Progress = None
) -> Float[Array, "prompt 2"]:
    """log p(own | the last sentence alone), and its largest drop with another sentence left out."""
    reading = Reading(model, asked, np.empty((len(asked), 0)), progress)
    return np.stack([_alone(reading), _largest_drop(reading)], axis=1)
