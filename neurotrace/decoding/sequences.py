"""Whole answers: one or more sequences of tokens that count as an answer, read teacher-forced.

    log p(answer) = log of the sum over its sequences s of prod_j p(s_j | prompt, s_<j)

A row of a forward pass is a prompt followed by a *branch*, tokens of an answer. The logits at the prompt's
last token and at each token of the branch then give the probability of every sequence that begins so, and
whether greedy decoding writes it: greedy decoding writes s exactly if s_j is the top-1 token behind
s_1 ... s_(j-1) for every j.

An answer counts as written if the word ends there: the next greedy token must not begin with a letter or
a digit that continues it ("Man" of " Manchester", "1" of "12").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.decoding.endings import WordEnds

Answer = tuple[tuple[int, ...], ...]  # the sequences that count as this answer
Branch = tuple[int, tuple[int, ...]]  # place of the prompt, the tokens behind it

# rows of equally long branches -> (number of the run, its logits at the prompt's end and on the branch)
Run = Callable[
    [list[int], Int[Tensor, "row token"]], Iterable[tuple[int, Float[Tensor, "row position vocab"]]]
]
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Judged:
    """What `runs` forward passes of every prompt make of `answers`.

    Attributes:
        log_p: log-probability of each answer, nats.
        first: log-probability of the answer's first token, the largest of its forms', nats.
        wrote: whether greedy decoding writes the answer, and the word ends there.
        top: the top-1 token behind the prompt.
        kl: KL(run 0 || this run) of the next token behind the prompt, nats; None unless asked for.
    """

    log_p: Float[Tensor, "answer run prompt"]
    first: Float[Tensor, "answer run prompt"]
    wrote: Bool[Tensor, "answer run prompt"]
    top: Int[Tensor, "run prompt"]
    kl: Float[Tensor, "run prompt"] | None = None


def judge(
    answers: Sequence[Sequence[Answer]],
    run: Run,
    runs: int,
    ends: WordEnds,
    *,
    likely: int = 0,
    distance: Distance | None = None,
) -> Judged:
    """Read each prompt's answers from teacher-forced passes.

    Args:
        answers: for each prompt its answers, equally many.
        run: makes the passes; every call yields each run once, in order.
        likely: place of the answer that is probably written: its rows are run to its end at once.
        distance: (log-probabilities of run 0, of this run) -> KL divergence.
    """
    shape = len(answers[0]), runs, len(answers)
    found = Judged(
        torch.full(shape, -torch.inf),
        torch.full(shape, -torch.inf),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape[1:], dtype=torch.long),
        None if distance is None else torch.zeros(shape[1:]),
    )
    pending: dict[Branch, list[tuple[int, Bool[Tensor, " run"]]]] = {}
    home: dict[Branch, list[tuple[int, tuple[int, ...]]]] = {}
    for place, each in enumerate(answers):
        for answer, sequence, branch in _homes(each, likely):
            home.setdefault((place, branch), []).append((answer, sequence))
    for rows in _by_size(list(home)):
        reading = _Reading(rows, home, distance)
        greedy = torch.zeros(len(reading.read), runs, dtype=torch.bool)
        end = torch.zeros(len(reading.read), runs, dtype=torch.long)
        for number, logits in run(*_stacked(rows)):
            reading.into(found, number, logits.float(), greedy, end)
        for (row, answer, sequence), writes, after in zip(reading.read, greedy, end, strict=True):
            place, branch = rows[row]
            if not writes.any():
                continue
            if branch[: len(sequence)] != sequence:
                pending.setdefault((place, sequence), []).append((answer, writes))
                continue
            stops = torch.tensor(
                [
                    bool(wrote) and ends(sequence[-1], int(following))
                    for wrote, following in zip(writes, after, strict=True)
                ]
            )
            found.wrote[answer, :, place] |= stops
    for rows in _by_size(list(pending)):
        for number, logits in run(*_stacked(rows)):
            for (place, sequence), following in zip(rows, logits[:, -1].argmax(-1).tolist(), strict=True):
                for answer, writes in pending[place, sequence]:
                    if writes[number]:
                        found.wrote[answer, number, place] |= ends(sequence[-1], following)
    return found


def _homes(
    answers: Sequence[Answer], likely: int
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(answer, sequence, branch on which it is read): on as few branches as possible; () is the prompt."""
    needed = {sequence[:-1] for answer in answers for sequence in answer}
    if len(answers[likely]) == 1:
        needed.add(answers[likely][0])
    longest = [
        each
        for each in sorted(needed)
        if not any(other[: len(each)] == each for other in needed if len(other) > len(each))
    ]
    for answer, sequences in enumerate(answers):
        for sequence in sequences:
            to_its_end = [each for each in longest if each[: len(sequence)] == sequence]
            almost = [each for each in longest if each[: len(sequence) - 1] == sequence[:-1]]
            yield answer, sequence, (to_its_end or almost)[0]


def _by_size(branches: Sequence[Branch]) -> Iterator[list[Branch]]:
    sizes = sorted({len(tokens) for _, tokens in branches})
    for size in sizes:
        yield [each for each in branches if len(each[1]) == size]


def _stacked(rows: Sequence[Branch]) -> tuple[list[int], Int[Tensor, "row token"]]:
    tokens = torch.tensor([tokens for _, tokens in rows], dtype=torch.long).reshape(len(rows), -1)
    return [place for place, _ in rows], tokens


class _Reading:
    """The sequences that are read on equally long branches, as index tensors."""

    def __init__(
        self,
        rows: Sequence[Branch],
        home: Mapping[Branch, Sequence[tuple[int, tuple[int, ...]]]],
        distance: Distance | None,
    ) -> None:
        self.distance = distance
        self.places = torch.tensor([place for place, _ in rows])
        self.before: Tensor | None = None
        self.read = [  # row, answer, sequence
            (row, *each) for row, branch in enumerate(rows) for each in home[branch]
        ]
        longest = max(len(sequence) for _, _, sequence in self.read)
        self.rows = torch.tensor([row for row, _, _ in self.read], dtype=torch.long)
        self.tokens = torch.zeros(len(self.read), longest, dtype=torch.long)
        self.counts = torch.zeros(len(self.read), longest, dtype=torch.bool)
        for place, (_, _, sequence) in enumerate(self.read):
            self.tokens[place, : len(sequence)] = torch.tensor(sequence)
            self.counts[place, : len(sequence)] = True

    def into(
        self,
        found: Judged,
        number: int,
        logits: Float[Tensor, "row position vocab"],
        greedy: Bool[Tensor, "sequence run"],
        end: Int[Tensor, "sequence run"],
    ) -> None:
        """Add this run's log-probabilities, and note which sequences it writes and what follows."""
        total, top = logits.logsumexp(-1).cpu(), logits.argmax(-1).cpu()
        found.top[number, self.places] = top[:, 0]
        if found.kl is not None and self.distance is not None:
            log_p = logits[:, 0].log_softmax(-1)
            self.before = log_p if self.before is None else self.before
            found.kl[number, self.places] = self.distance(self.before, log_p).cpu()
        at = torch.arange(self.tokens.shape[1]).clamp(max=logits.shape[1] - 1)
        rows, at = self.rows[:, None], at[None]
        device = logits.device
        own = logits[rows.to(device), at.to(device), self.tokens.to(device)].cpu() - total[rows, at]
        whole = own.masked_fill(~self.counts, 0).double().sum(-1).float()
        greedy[:, number] = ((top[rows, at] == self.tokens) | ~self.counts).all(-1)
        last = self.counts.sum(-1).clamp(max=logits.shape[1] - 1)
        end[:, number] = top[self.rows, last]
        for place, (row, answer, _) in enumerate(self.read):
            cell = answer, number, int(self.places[row])
            found.log_p[cell] = torch.logaddexp(found.log_p[cell], whole[place])
            found.first[cell] = torch.maximum(found.first[cell], own[place, 0])
