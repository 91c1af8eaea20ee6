"""Whole answers from logits alone: probabilities, greedy decoding, the end of the word."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from neurotrace.decoding.endings import WordEnds
from neurotrace.decoding.sequences import judge

VOCABULARY = ["A", "B", " c", "d", ".", " 7", "5"]


class Letters:
    """Decodes ids of `VOCABULARY`; what begins without a space continues the word before it."""

    def decode(self, ids):
        return "".join(VOCABULARY[at] for at in ids)


def logits_behind(prompt: int, tokens: tuple[int, ...], number: int) -> torch.Tensor:
    """A made-up language model: one distribution for each context."""
    seed = hash((prompt, tokens, number)) % 2**31
    return torch.randn(len(VOCABULARY), generator=torch.Generator().manual_seed(seed)) * 2


def run_of(runs: int, calls: list):
    def run(rows, tokens):
        calls.append(tuple(tokens.shape))
        for number in range(runs):
            yield (
                number,
                torch.stack(
                    [
                        torch.stack(
                            [
                                logits_behind(row, tuple(own[:at].tolist()), number)
                                for at in range(len(own) + 1)
                            ]
                        )
                        for row, own in zip(rows, tokens, strict=True)
                    ]
                ),
            )

    return run


def log_p_of(prompt, sequence, number):
    return sum(
        float(logits_behind(prompt, sequence[:at], number).log_softmax(-1)[token])
        for at, token in enumerate(sequence)
    )


def greedy(prompt, number, count):
    written: tuple[int, ...] = ()
    for _ in range(count):
        written += (int(logits_behind(prompt, written, number).argmax()),)
    return written


sequences = st.lists(
    st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3, unique=True
).map(tuple)


@settings(max_examples=60, deadline=None)
@given(answers=st.lists(st.tuples(sequences, sequences), min_size=1, max_size=3), likely=st.integers(0, 1))
def test_probabilities_and_greedy_decoding(answers, likely):
    """Against the definitions, written out: the sum over forms, and decoding token by token."""
    ends = WordEnds(Letters())
    found = judge(answers, run_of(2, []), 2, ends, likely=likely)
    for place, both in enumerate(answers):
        for answer, forms in enumerate(both):
            for number in range(2):
                total = torch.tensor([log_p_of(place, form, number) for form in forms]).logsumexp(0)
                assert float(found.log_p[answer, number, place]) == pytest.approx(float(total), abs=1e-4)
                written = greedy(place, number, 4)
                expected = any(
                    written[: len(form)] == form and ends(form[-1], written[len(form)]) for form in forms
                )
                assert bool(found.wrote[answer, number, place]) == expected
                assert int(found.top[number, place]) == written[0]


def test_the_word_must_end():
    ends = WordEnds(Letters())
    assert not ends(0, 1)  # "A", then "B"
    assert not ends(5, 6)  # " 7", then "5": 75 is another number
    assert ends(0, 2)  # a space begins a new word
    assert ends(0, 4)  # punctuation ends it
    assert ends(4, 1)  # what follows a sign is no part of it


def test_one_pass_serves_one_token_answers():
    """Two answers of one token: the likely one's end is read in the same pass, and nothing runs twice."""
    calls: list = []
    judge([(((0,),), ((1,),))], run_of(1, calls), 1, WordEnds(Letters()), likely=0)
    assert calls[0] == (1, 1)
    assert len(calls) <= 2
