"""The unchanged model's answers to single prompts, compared with the two named answers.

The answer is the top-1 token at the final token position. Its *outcome* is "memory" if it begins the
memorized answer, "reasoning" if it begins the reasoned one, else "other".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.display import Cell, Shown, Table, View, clip
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.core.prompts import Prompt
from neurotrace.core.records import short
from neurotrace.decoding.unknown import unknown_token, unknown_word
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import context_length, tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import last_logits

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["memory", "reasoning", "other"]
OUTCOMES: tuple[Outcome, ...] = ("memory", "reasoning", "other")


@dataclass(frozen=True)
class Answered(Shown):
    """Prompts with named answers, their ids, and the model's own answer."""

    prompts: tuple[Prompt, ...]
    ids: tuple[Int[Tensor, " pos"], ...]
    memorized: Int[Tensor, " prompt"]  # first token of the named answer
    reasoned: Int[Tensor, " prompt"]
    top: Int[Tensor, " prompt"]
    log_probability: Float[Tensor, " prompt"]  # of the top-1 token, nats
    entropy: Float[Tensor, " prompt"]  # of the next token, nats
    dropped: tuple[tuple[Prompt, str], ...] = ()  # with the reason

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def outcome(self) -> tuple[Outcome, ...]:
        named = zip(self.top == self.memorized, self.top == self.reasoned, strict=True)
        return tuple("memory" if m else "reasoning" if r else "other" for m, r in named)

    def counts(self) -> dict[str, int]:
        """Outcome -> number of prompts."""
        return dict(Counter(self.outcome))

    def at(self, rows: Sequence[int]) -> Answered:
        """The prompts at these places, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            ids=tuple(self.ids[row] for row in rows),
            **{
                name: getattr(self, name)[index]
                for name in ("memorized", "reasoned", "top", "log_probability", "entropy")
            },
        )

    def where(self, keep: Callable[[Prompt], bool]) -> Answered:
        return self.at([row for row, prompt in enumerate(self.prompts) if keep(prompt)])

    def decided(self) -> Answered:
        """Those that the model answers with one of the two named answers."""
        rows = [row for row, outcome in enumerate(self.outcome) if outcome != "other"]
        if not rows:
            raise InputError(
                f"the model answers none of {len(self)} prompts with a named answer: use prompts "
                "that it answers from memory or by reasoning"
            )
        return self.at(rows)

    def to_frame(self) -> pd.DataFrame:
        """A row a prompt: its fields, the outcome, log p of the answer and the entropy in nats."""
        import pandas as pd

        fields = (
            "id",
            "family",
            "template",
            "group",
            "prompt",
            "memorized_answer",
            "reasoned_answer",
        )
        found = {name: [getattr(prompt, name) for prompt in self.prompts] for name in fields}
        numbers = {name: getattr(self, name).tolist() for name in ("log_probability", "entropy")}
        return pd.DataFrame(found | {"outcome": list(self.outcome)} | numbers)

    def _view(self) -> View:
        table = self.to_frame()
        rows: list[tuple[Cell, ...]] = [
            (
                str(family),
                *(int((part["outcome"] == kind).sum()) for kind in OUTCOMES),
                clip(part["prompt"].iloc[0], 60),
            )
            for family, part in table.groupby("family", sort=False)
        ]
        return View(
            f"The model's answers to {len(self)} prompts: with the memorized answer, with the "
            f"reasoned one, or otherwise. {len(self.dropped)} could not be read.",
            (Table(("family", *OUTCOMES, "its first prompt"), rows),),
            "All prompts: .to_frame(); those with a named answer: .decided(); left out: .dropped.",
        )

    def __repr__(self) -> str:
        return f"Answered({len(self)} prompts: {self.counts()})"


@takes_turns
def answer(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Answered:
    """Ask the model every prompt.

    A prompt whose named answers cannot be distinguished at the final token position (the same first
    token, or a token that merges with the prompt) is left out and listed in `dropped`.

    Raises:
        InputError: no prompt is left; an empty prompt or one that is too long.

    Example::

        answered = nt.answer(model, nt.load_prompts("arithmetic"))
        answered.to_frame()
    """
    for number, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, Prompt):
            raise InputError(
                f"prompt {number} is a {type(prompt).__name__}, expected nt.Prompt, with its two answers "
                "named: nt.load_prompts makes them of a file or of dicts (nt.trust takes plain text)"
            )
    ids = prompt_ids(model, [prompt.prompt for prompt in prompts])
    tokenizer = tokenizer_of(model)
    kept: list[int] = []
    firsts: list[tuple[int, int]] = []
    dropped: list[tuple[Prompt, str]] = []
    for row, prompt in enumerate(prompts):
        own = [
            _first(tokenizer, prompt.prompt, ids[row].tolist(), named)
            for named in (prompt.memorized_answer, prompt.reasoned_answer)
        ]
        if None in own or own[0] == own[1]:
            dropped.append((prompt, "answer merges with the prompt" if None in own else "same first token"))
            continue
        kept.append(row)
        firsts.append((int(own[0] or 0), int(own[1] or 0)))
    if not kept:
        raise InputError(
            f"none of the {len(prompts)} prompts can be read: their named answers begin with the "
            "same token, or merge with the prompt's last one"
        )
    named = torch.tensor(firsts)
    own_ids = tuple(ids[row] for row in kept)
    top, log_probability, entropy = _ask(model, own_ids, batch_size, progress)
    return Answered(
        tuple(prompts[row] for row in kept),
        own_ids,
        named[:, 0],
        named[:, 1],
        top,
        log_probability,
        entropy,
        tuple(dropped),
    )


def ask(
    model: HookedModel,
    prompts: Sequence[str | Prompt],
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Answered:
    """The model's own answers to prompts or plain texts; no answer is named, so no outcome is known."""
    own = [
        Prompt(str(n), "", "", "", each, "", "") if isinstance(each, str) else each
        for n, each in enumerate(prompts)
    ]
    ids = prompt_ids(model, [prompt.prompt for prompt in own])
    none = torch.full((len(ids),), -1)
    return Answered(tuple(own), tuple(ids), none, none, *_ask(model, ids, batch_size, progress))


def prompt_ids(model: HookedModel, texts: Sequence[str]) -> list[Int[Tensor, " pos"]]:
    """Token ids of each text; InputError names one that is empty, too long or not all in the vocabulary."""
    inspect_model(model)
    tokenizer = tokenizer_of(model)
    limit, unknown = context_length(model), unknown_token(tokenizer)
    found: list[Tensor] = []
    for text in texts:
        ids = tokenizer(text).input_ids if text.strip() else []
        if not ids:
            raise InputError(f"prompt {len(found) + 1} is empty: expected at least one token")
        if limit and len(ids) > limit:
            raise InputError(
                f"prompt {len(found) + 1} ({short(text, 40)}) has {len(ids)} tokens, the model takes "
                f"{limit}: shorten it"
            )
        if unknown is not None and unknown in ids:
            raise InputError(
                f"prompt {len(found) + 1} ({short(text, 40)}): {unknown_word(tokenizer, text)}; "
                "use words that the model was trained on"
            )
        found.append(torch.tensor(ids))
    return found


def entropy_of(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """Entropy of the next token, in nats."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def _ask(
    model: HookedModel, ids: Sequence[Tensor], batch_size: int, progress: Progress
) -> tuple[Tensor, Tensor, Tensor]:
    top = torch.zeros(len(ids), dtype=torch.long)
    found = torch.zeros(2, len(ids))
    batches = list(by_length(ids, batch_size))
    for rows, batch in over(progress, batches, "asking the model"):
        logits = last_logits(model, batch).float().cpu()
        if not torch.isfinite(logits).all():
            raise InputError(
                "the model's logits are not finite on these prompts: try dtype=float32, "
                "and check its weights"
            )
        top[rows] = logits.argmax(-1)
        found[0, rows] = metrics.log_probability(logits, top[rows])
        found[1, rows] = entropy_of(logits)
    return top, found[0], found[1]


def _first(tokenizer: Any, prompt: str, ids: list[int], answer: str) -> int | None:
    """First token of the answer behind the prompt; None if the answer changes the prompt's own tokens."""
    joined = tokenizer(prompt + answer).input_ids
    return joined[len(ids)] if joined[: len(ids)] == ids and len(joined) > len(ids) else None
