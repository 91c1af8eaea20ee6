"""Pairs as token ids, with the model's answers; dropped pairs with the reason.

A pair is kept if the model answers both prompts as the pair says: the memorized answer after the
memorization prompt, the reasoned one after the reasoning prompt. Answers are read by their first token
(`"first"`: it must be the model's top-1 token) or `"whole"` (greedy decoding must write one of the
accepted forms, and the word must end there; see `decoding/sequences.py`). Every dropped pair is returned
with its reason, because a silent drop would change the experiment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.display import Shown, Table, View, clip
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair, pair_records
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Side
from neurotrace.decoding.endings import WordEnds
from neurotrace.decoding.sequences import Answer, judge
from neurotrace.decoding.tokens import Dropped, Tokens, tokens_of
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import changed, context_length, keep_runs, tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import end_logits, last_logits

if TYPE_CHECKING:
    import pandas as pd


Reading = Literal["first", "whole"]  # answers by their first token, or whole


@dataclass(frozen=True)
class Behaviour:
    """What the unchanged model answers on one side of every pair.

    `logit_difference` is L in nats: of the first tokens' logits or, of whole answers, of their
    log-probabilities. (Of two one-token answers these are the same number.)
    """

    logit_difference: Float[Tensor, " pair"]  # nats
    p_memorized: Float[Tensor, " pair"]
    p_reasoned: Float[Tensor, " pair"]
    top: Int[Tensor, " pair"]  # id of the top-1 token behind the prompt
    answer: Int[Tensor, " pair"]  # 0: the memorized one, 1: the reasoned one, -1: another

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
    # for each pair the accepted token sequences of the memorized and the reasoned answer, if read whole
    answers: tuple[tuple[Answer, Answer], ...] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def ids(self, side: Side) -> tuple[Int[Tensor, " pos"], ...]:
        return self.memorization if side == "memorization" else self.reasoning

    def behaviour(self, side: Side) -> Behaviour:
        return self.on_memorization if side == "memorization" else self.on_reasoning

    @property
    def reading(self) -> Reading:
        """How answers are read."""
        return "first" if self.answers is None else "whole"

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
            answers=None if self.answers is None else tuple(self.answers[row] for row in rows),
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

        table = pd.DataFrame(pair_records(self.pairs)).rename(columns={"id": "pair"})
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
    answers: Reading = "first",
    check: bool = True,
    batch_size: int = 32,
    progress: Progress = None,
) -> EncodedPairs:
    """Token ids, answer ids and behaviour of every pair that can be studied on this model.

    Args:
        answers: ``"first"``: by their first token, which must differ. ``"whole"``: all tokens, of every
            accepted form; pairs that are already encoded stay as they are.
        check: drop pairs that the model doesn't answer as named on both sides.
        batch_size: prompts of equal length that run together; changes no result.

    Raises:
        InputError: no pair is left; the message counts the reasons.

    Example::

        encoded = nt.encode(model, nt.load_pairs("arithmetic"))
        encoded.dropped  # pairs left out, each with the reason
    """
    if answers not in ("first", "whole"):
        raise InputError(f"answers={answers!r}: expected 'first' or 'whole'")
    if isinstance(pairs, EncodedPairs):
        return _asked_again(model, pairs, batch_size, progress)
    encoded = ask(model, pairs, answers=answers, check=check, batch_size=batch_size, progress=progress)
    if not len(encoded):
        raise nothing_left(inspect_model(model).name, encoded)
    return encoded


def ask(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    *,
    answers: Reading = "first",
    check: bool = True,
    batch_size: int = 32,
    progress: Progress = None,
) -> EncodedPairs:
    """Same as `encode`, but returns an empty result if no pair is left."""
    inspect_model(model)
    limit = context_length(model)
    kept: list[PromptPair] = []
    found: list[Tokens] = []
    dropped: list[Dropped] = []
    tokenizer = tokenizer_of(model)
    for pair in pairs:
        tokens = tokens_of(tokenizer, pair, limit, whole=answers == "whole")
        if isinstance(tokens, Dropped):
            dropped.append(tokens)
            continue
        kept.append(pair)
        found.append(tokens)
    memorized, reasoned = (
        torch.tensor([each.answers[place][0][0] for each in found], dtype=torch.long) for place in (0, 1)
    )
    nothing = torch.zeros(len(kept))
    unknown = Behaviour(nothing, nothing, nothing, nothing.long(), nothing.long())
    encoded = EncodedPairs(
        tuple(kept),
        tuple(torch.tensor(each.prompts[0]) for each in found),
        tuple(torch.tensor(each.prompts[1]) for each in found),
        memorized,
        reasoned,
        unknown,
        unknown,
        tuple(dropped),
        answers=tuple(each.answers for each in found) if answers == "whole" else None,
    )
    keep_runs(model, [*encoded.memorization, *encoded.reasoning])
    encoded = _asked(model, encoded, batch_size, progress)
    return _drop_unbehaved(model, encoded, batch_size) if check else encoded


def _asked_again(
    model: HookedModel, encoded: EncodedPairs, batch_size: int, progress: Progress
) -> EncodedPairs:
    """The same pairs, with the behaviour of the model as it is now, if it was changed since."""
    if encoded.changed == changed(model):
        return encoded
    return _asked(model, encoded, batch_size, progress)


def _asked(model: HookedModel, encoded: EncodedPairs, batch_size: int, progress: Progress) -> EncodedPairs:
    own = _whole_behaviour if encoded.answers is not None else _behaviour
    behaviour = [own(model, encoded, side, batch_size, progress) for side in SIDES]
    return replace(encoded, on_memorization=behaviour[0], on_reasoning=behaviour[1], changed=changed(model))


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
        None if parts[0].answers is None else tuple(each for p in parts for each in p.answers or ()),
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


def _finite(logits: Tensor) -> Tensor:
    if not torch.isfinite(logits).all():
        raise InputError(
            "the model's logits are not finite on these prompts: try dtype=float32, and check its weights"
        )
    return logits


def _behaviour(
    model: HookedModel, encoded: EncodedPairs, side: Side, batch_size: int, progress: Progress
) -> Behaviour:
    ids, memorized, reasoned = encoded.ids(side), encoded.memorized, encoded.reasoned
    found = torch.zeros(3, len(ids))
    top = torch.zeros(len(ids), dtype=torch.long)
    batches = list(by_length(ids, batch_size))
    label = f"asking the model ({side} prompts)"
    for rows, batch in over(progress, batches, label):
        logits = _finite(last_logits(model, batch).float().cpu())
        found[0, rows] = metrics.logit_difference(logits, memorized[rows], reasoned[rows])
        found[1, rows] = metrics.log_probability(logits, memorized[rows]).exp()
        found[2, rows] = metrics.log_probability(logits, reasoned[rows]).exp()
        top[rows] = logits.argmax(-1)
    return Behaviour(found[0], found[1], found[2], top, _named(top == memorized, top == reasoned))


def _whole_behaviour(
    model: HookedModel, encoded: EncodedPairs, side: Side, batch_size: int, progress: Progress
) -> Behaviour:
    assert encoded.answers is not None
    ends = WordEnds(tokenizer_of(model))
    found = torch.zeros(3, len(encoded))
    top = torch.zeros(len(encoded), dtype=torch.long)
    answer = torch.zeros(len(encoded), dtype=torch.long)
    label = f"asking the model ({side} prompts)"
    for rows, batch in over(progress, list(by_length(encoded.ids(side), batch_size)), label):

        def run(places: list[int], tokens: Tensor, batch: Tensor = batch) -> list[tuple[int, Tensor]]:
            ids = torch.cat([batch[places], tokens], dim=1)
            return [(0, _finite(end_logits(model, ids, 1 + tokens.shape[1]).float().cpu()))]

        judged = judge([encoded.answers[row] for row in rows], run, 1, ends, likely=SIDES.index(side))
        memorized, reasoned = judged.log_p[:, 0]
        found[0, rows] = memorized - reasoned
        found[1, rows], found[2, rows] = memorized.exp(), reasoned.exp()
        top[rows] = judged.top[0]
        answer[rows] = _named(*judged.wrote[:, 0])
    return Behaviour(found[0], found[1], found[2], top, answer)


def _named(memorized: Tensor, reasoned: Tensor) -> Int[Tensor, " pair"]:
    """0 where the memorized answer is given, 1 where the reasoned one is, -1 elsewhere."""
    return torch.where(memorized, 0, torch.where(reasoned, 1, -1))


def _drop_unbehaved(model: HookedModel, encoded: EncodedPairs, batch_size: int) -> EncodedPairs:
    kept: list[int] = []
    dropped = list(encoded.dropped)
    recalls, reasons = encoded.on_memorization.answer == 0, encoded.on_reasoning.answer == 1
    left_out = [row for row in range(len(encoded)) if not (recalls[row] and reasons[row])]
    said = _said(model, encoded, {row: "reasoning" if recalls[row] else "memorization" for row in left_out})
    for row, pair in enumerate(encoded.pairs):
        if recalls[row] and reasons[row]:
            kept.append(row)
            continue
        side: Side = "reasoning" if recalls[row] else "memorization"
        wanted = pair.memorized_answer if side == "memorization" else pair.reasoned_answer
        reason = "no memorized answer" if side == "memorization" else "no reasoned answer"
        if not recalls[row] and not reasons[row]:
            reason = "neither answer"
        dropped.append(Dropped(pair, reason, f"{side}: says {said[row]!r}, expected {wanted!r}"))
    return replace(encoded.at(kept), dropped=tuple(dropped))


def _said(model: HookedModel, encoded: EncodedPairs, sides: Mapping[int, Side]) -> dict[int, str]:
    """The model's text on this side of these pairs; of whole answers up to the first wrong token."""
    written = {row: [int(encoded.behaviour(side).top[row])] for row, side in sides.items()}
    for row, side in sides.items() if encoded.answers is not None else ():
        forms = (encoded.answers or ())[row][SIDES.index(side)]
        while any(form[: len(written[row])] == tuple(written[row]) for form in forms):
            ids = torch.cat([encoded.ids(side)[row], torch.tensor(written[row])])
            written[row].append(int(last_logits(model, ids[None]).argmax()))
    return {row: tokenizer_of(model).decode(tokens) for row, tokens in written.items()}


def nothing_left(name: str, encoded: EncodedPairs) -> InputError:
    """The error for pairs of which all were dropped."""
    why = ", ".join(f"{count} {reason}" for reason, count in encoded.reasons().items())
    first = "".join(f"; {each.pair.id}: {each.detail}" for each in encoded.dropped[:1])
    return InputError(
        f"none of the {len(encoded.dropped)} pairs can be studied on {name} ({why}{clip(first, 160)}): "
        "`neurotrace probes check FILE --model M --fix OUT` says why and tries to mend them"
    )
