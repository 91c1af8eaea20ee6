"""Pairs as token ids, with the model's answers; dropped pairs with the reason.

A pair is kept if the model answers both prompts as the pair says: its top-1 token after the
memorization prompt begins the memorized answer, after the reasoning prompt the reasoned one. Every
dropped pair is returned with its reason, because a silent drop would change the experiment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.display import Shown, Table, View, clip
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Side
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns, turn
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import (
    changed,
    context_length,
    keep_runs,
    tokenizer_of,
    twin,
    unknown_token,
    unknown_word,
)
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Dropped:
    """A pair that cannot be studied on the model, and the reason."""

    pair: PromptPair
    reason: str  # "same first token" | "too long" | "no memorized answer" | ...
    detail: str


@dataclass(frozen=True)
class Behaviour:
    """What the unchanged model does on one side of every pair, at the final token position."""

    logit_difference: Float[Tensor, " pair"]  # nats
    p_memorized: Float[Tensor, " pair"]
    p_reasoned: Float[Tensor, " pair"]
    top: Int[Tensor, " pair"]  # id of the top-1 token

    def __getitem__(self, rows: Sequence[int]) -> Behaviour:
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return Behaviour(*(getattr(self, each.name)[index] for each in fields(self)))


@dataclass(frozen=True)
class EncodedPairs(Shown):
    """Pairs with their token ids. The model is read at the last token of each prompt."""

    pairs: tuple[PromptPair, ...]
    memorization: tuple[Int[Tensor, " pos"], ...]
    reasoning: tuple[Int[Tensor, " pos"], ...]
    memorized: Int[Tensor, " pair"]  # first token of the memorized answer
    reasoned: Int[Tensor, " pair"]
    on_memorization: Behaviour
    on_reasoning: Behaviour
    dropped: tuple[Dropped, ...] = ()
    changed: str = ""  # how the model that was asked differed from the one that was loaded

    def __len__(self) -> int:
        return len(self.pairs)

    def ids(self, side: Side) -> tuple[Int[Tensor, " pos"], ...]:
        return self.memorization if side == "memorization" else self.reasoning

    def behaviour(self, side: Side) -> Behaviour:
        return self.on_memorization if side == "memorization" else self.on_reasoning

    @property
    def aligned(self) -> bool:
        """Whether the two prompts of every pair have the same number of tokens."""
        return all(len(m) == len(r) for m, r in zip(self.memorization, self.reasoning, strict=True))

    def at(self, rows: Sequence[int]) -> EncodedPairs:
        """The pairs at these places, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return replace(
            self,
            pairs=tuple(self.pairs[row] for row in rows),
            memorization=tuple(self.memorization[row] for row in rows),
            reasoning=tuple(self.reasoning[row] for row in rows),
            memorized=self.memorized[index],
            reasoned=self.reasoned[index],
            on_memorization=self.on_memorization[rows],
            on_reasoning=self.on_reasoning[rows],
            dropped=(),
        )

    def of(self, pairs: Sequence[PromptPair]) -> EncodedPairs:
        """The given pairs, which must be among these; those that were dropped are left out."""
        place = {pair.id: row for row, pair in enumerate(self.pairs)}
        return self.at([place[pair.id] for pair in pairs if pair.id in place])

    def reasons(self) -> dict[str, int]:
        """Reason -> number of pairs dropped for it, most frequent first."""
        return dict(Counter(dropped.reason for dropped in self.dropped).most_common())

    def to_frame(self) -> pd.DataFrame:
        """One row per kept pair: its texts, L (nats) and both answers' probabilities on each side."""
        import pandas as pd

        table = pd.DataFrame([pair.__dict__ for pair in self.pairs]).rename(columns={"id": "pair"})
        for side in SIDES:
            seen = self.behaviour(side)
            table[f"L_on_{side}"] = seen.logit_difference.numpy()
            table[f"p_memorized_on_{side}"] = seen.p_memorized.numpy()
            table[f"p_reasoned_on_{side}"] = seen.p_reasoned.numpy()
        return table

    def _view(self) -> View:
        families = []
        table = self.to_frame()
        for family, part in table.groupby("family", sort=False):
            left_out = Counter(d.reason for d in self.dropped if d.pair.family == family)
            families.append(
                (
                    str(family),
                    len(part),
                    part["group"].nunique(),
                    part["template"].nunique(),
                    f"{part['L_on_memorization'].mean():+.2f}",
                    f"{part['L_on_reasoning'].mean():+.2f}",
                    ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none",
                )
            )
        examples = [
            (
                pair.id,
                clip(pair.memorization, 60),
                pair.memorized_answer.strip(),
                clip(pair.reasoning, 60),
                pair.reasoned_answer.strip(),
            )
            for pair in self.pairs[:: max(1, len(self.pairs) // 3)][:3]
        ]
        return View(
            f"{len(self)} of {len(self) + len(self.dropped)} pairs can be studied: the model answers "
            "both of their prompts as the pair says. L = logit(memorized) - logit(reasoned), mean, nats.",
            (
                Table(
                    ("family", "kept", "groups", "templates", "L recalling", "L reasoning", "dropped"),
                    families,
                ),
                Table(("pair", "memorization", "answer", "reasoning", "answer "), examples),
            ),
            "All of them: .to_frame(); what was left out, and why: .dropped.",
        )

    def __repr__(self) -> str:
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.reasons().items())
        return f"EncodedPairs({len(self)} kept; dropped: {left_out or 'none'})"


@takes_turns
def encode(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    check: bool = True,
    batch_size: int = 32,
    progress: Progress = None,
) -> EncodedPairs:
    """Token ids, answer ids and behaviour of every pair that can be studied on this model.

    Args:
        check: drop pairs that the model doesn't answer as named on both sides.
        batch_size: prompts of equal length that run together; changes no result.

    Raises:
        InputError: no pair is left; the message counts the reasons.

    Example::

        encoded = nt.encode(model, nt.load_pairs("arithmetic"))
        encoded.dropped  # pairs left out, each with the reason
    """
    if isinstance(pairs, EncodedPairs):
        return _asked_again(model, pairs, batch_size, progress)
    encoded = ask(model, pairs, check=check, batch_size=batch_size, progress=progress)
    if not len(encoded):
        raise nothing_left(inspect_model(model).name, encoded)
    return encoded


def ask(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    *,
    check: bool = True,
    batch_size: int = 32,
    progress: Progress = None,
) -> EncodedPairs:
    """Same as `encode`, but returns an empty result if no pair is left."""
    inspect_model(model)
    limit = context_length(model)
    kept: list[PromptPair] = []
    ids: dict[Side, list[Tensor]] = {"memorization": [], "reasoning": []}
    firsts: tuple[list[int], list[int]] = ([], [])
    dropped: list[Dropped] = []
    tokenizer = tokenizer_of(model)
    for pair in pairs:
        found = _tokens(tokenizer, pair, limit)
        if isinstance(found, Dropped):
            dropped.append(found)
            continue
        kept.append(pair)
        for side, row in zip(SIDES, found.prompts, strict=True):
            ids[side].append(torch.tensor(row))
        for place, first in enumerate(found.firsts):
            firsts[place].append(first)
    memorized, reasoned = (torch.tensor(each, dtype=torch.long) for each in firsts)
    keep_runs(model, [*ids["memorization"], *ids["reasoning"]])
    behaviour = [
        _behaviour(model, ids[side], memorized, reasoned, batch_size, progress, side) for side in SIDES
    ]
    encoded = EncodedPairs(
        tuple(kept),
        tuple(ids["memorization"]),
        tuple(ids["reasoning"]),
        memorized,
        reasoned,
        behaviour[0],
        behaviour[1],
        tuple(dropped),
        changed(model),
    )
    return _drop_unbehaved(tokenizer, encoded) if check else encoded


def _asked_again(
    model: HookedModel, encoded: EncodedPairs, batch_size: int, progress: Progress
) -> EncodedPairs:
    """The same pairs, with the behaviour of the model as it is now, if it was changed since."""
    if encoded.changed == (now := changed(model)):
        return encoded
    behaviour = [
        _behaviour(
            model,
            encoded.ids(side),
            encoded.memorized,
            encoded.reasoned,
            batch_size,
            progress,
            side,
        )
        for side in SIDES
    ]
    return replace(encoded, on_memorization=behaviour[0], on_reasoning=behaviour[1], changed=now)


def join(parts: Sequence[EncodedPairs]) -> EncodedPairs:
    """All pairs of one or more parts, encoded for the same model, in their order."""

    def behaviour(of: list[Behaviour]) -> Behaviour:
        return Behaviour(*(torch.cat([getattr(b, f.name) for b in of]) for f in fields(Behaviour)))

    return EncodedPairs(
        tuple(pair for part in parts for pair in part.pairs),
        tuple(ids for part in parts for ids in part.memorization),
        tuple(ids for part in parts for ids in part.reasoning),
        torch.cat([part.memorized for part in parts]),
        torch.cat([part.reasoned for part in parts]),
        behaviour([part.on_memorization for part in parts]),
        behaviour([part.on_reasoning for part in parts]),
        tuple(each for part in parts for each in part.dropped),
        parts[0].changed,
    )


def by_length(
    ids: Sequence[Int[Tensor, " pos"]], batch_size: int
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"]]]:
    """Batches of prompts of equal length: (their places, their stacked ids). No padding."""
    buckets: dict[int, list[int]] = {}
    for row, prompt in enumerate(ids):
        buckets.setdefault(len(prompt), []).append(row)
    for rows in buckets.values():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield batch, torch.stack([ids[row] for row in batch])


def last_logits(model: HookedModel, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position; by the twin if there is one, which need not unembed the rest."""
    with turn(model), torch.no_grad():
        if (kept := keep_runs(model, ids)) is not None:
            return kept.last_logits(ids)
        other = twin(model)
        if other is None:
            return forward(model, ids)
        ids = ids.to(next(other.parameters()).device)
        return other(ids, use_cache=False, logits_to_keep=1).logits[:, -1]


@dataclass(frozen=True)
class _Tokens:
    prompts: tuple[list[int], list[int]]
    firsts: tuple[int, int]


def _tokens(tokenizer: Any, pair: PromptPair, limit: int) -> Dropped | _Tokens:
    prompts = [tokenizer(getattr(pair, side)).input_ids for side in SIDES]
    firsts: list[int] = []
    unknown = unknown_token(tokenizer)
    for side, prompt, answer in zip(
        SIDES, prompts, (pair.memorized_answer, pair.reasoned_answer), strict=True
    ):
        if limit and len(prompt) > limit:
            return Dropped(pair, "too long", f"{side}: {len(prompt)} tokens, the model takes {limit}")
        joined = tokenizer(getattr(pair, side) + answer).input_ids
        if joined[: len(prompt)] != prompt or len(joined) == len(prompt):
            return Dropped(
                pair,
                "answer merges with the prompt",
                f"{side}: {answer!r} changes the tokens of the prompt before it",
            )
        if unknown is not None and unknown in joined:
            text = getattr(pair, side) if unknown in prompt else answer
            return Dropped(pair, "unknown word", f"{side}: {unknown_word(tokenizer, text)}")
        firsts.append(joined[len(prompt)])
    if firsts[0] == firsts[1]:
        return Dropped(
            pair,
            "same first token",
            f"{pair.memorized_answer!r} and {pair.reasoned_answer!r} begin with the same token",
        )
    return _Tokens((prompts[0], prompts[1]), (firsts[0], firsts[1]))


def _behaviour(
    model: HookedModel,
    ids: Sequence[Tensor],
    memorized: Tensor,
    reasoned: Tensor,
    batch_size: int,
    progress: Progress,
    side: Side,
) -> Behaviour:
    found = torch.zeros(3, len(ids))
    top = torch.zeros(len(ids), dtype=torch.long)
    batches = list(by_length(ids, batch_size))
    for rows, batch in over(progress, batches, f"asking the model ({side} prompts)"):
        logits = last_logits(model, batch).float().cpu()
        if not torch.isfinite(logits).all():
            raise InputError(
                "the model's logits are not finite on these prompts: try dtype=float32, check its weights"
            )
        found[0, rows] = metrics.logit_difference(logits, memorized[rows], reasoned[rows])
        found[1, rows] = metrics.log_probability(logits, memorized[rows]).exp()
        found[2, rows] = metrics.log_probability(logits, reasoned[rows]).exp()
        top[rows] = logits.argmax(-1)
    return Behaviour(found[0], found[1], found[2], top)


def _drop_unbehaved(tokenizer: Any, encoded: EncodedPairs) -> EncodedPairs:
    kept: list[int] = []
    dropped = list(encoded.dropped)
    recalls = encoded.on_memorization.top == encoded.memorized
    reasons = encoded.on_reasoning.top == encoded.reasoned
    for row, pair in enumerate(encoded.pairs):
        if recalls[row] and reasons[row]:
            kept.append(row)
            continue
        side: Side = "reasoning" if recalls[row] else "memorization"
        said = tokenizer.decode([int(encoded.behaviour(side).top[row])])
        wanted = pair.memorized_answer if side == "memorization" else pair.reasoned_answer
        reason = "no memorized answer" if side == "memorization" else "no reasoned answer"
        if not recalls[row] and not reasons[row]:
            reason = "neither answer"
        dropped.append(Dropped(pair, reason, f"{side}: says {said!r}, expected {wanted!r}"))
    return replace(encoded.at(kept), dropped=tuple(dropped))


def nothing_left(name: str, encoded: EncodedPairs) -> InputError:
    """The error for pairs of which all were dropped."""
    why = ", ".join(f"{count} {reason}" for reason, count in encoded.reasons().items())
    first = "".join(f"; {each.pair.id}: {each.detail}" for each in encoded.dropped[:1])
    return InputError(
        f"none of the {len(encoded.dropped)} pairs can be studied on {name} ({why}{clip(first, 160)}): "
        "`neurotrace probes check FILE --model M --fix OUT` says why and tries to mend them"
    )
