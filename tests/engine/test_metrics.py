"""Numbers from logits, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.engine import metrics

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]])


def test_l_is_memorized_minus_reasoned():
    found = metrics.logit_difference(LOGITS, torch.tensor([0, 1]), torch.tensor([2, 2]))
    assert found.tolist() == [3.0, -3.0]


def test_log_probability_and_top_1():
    total = math.exp(2) + 1 + math.exp(-1)
    found = metrics.log_probability(LOGITS[:1], torch.tensor([0]))
    assert float(found) == pytest.approx(2 - math.log(total), abs=1e-6)
    assert metrics.answers(LOGITS, torch.tensor([0, 1])).tolist() == [True, False]


def test_kl_is_of_the_clean_run_from_the_changed_one():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    by_hand = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(metrics.kl(p.log(), q.log())) == pytest.approx(by_hand, abs=1e-6)
    assert float(metrics.kl(q.log(), p.log())) != pytest.approx(by_hand, abs=1e-2)
    assert (metrics.kl(LOGITS, LOGITS + 5) == 0).all()


def test_directions():
    to_reasoning, to_memory = DIRECTIONS
    assert (to_reasoning.donor, to_reasoning.recipient) == ("reasoning", "memorization")
    assert (to_memory.donor, to_memory.recipient) == ("memorization", "reasoning")
    assert (to_reasoning.sign, to_memory.sign) == (-1.0, 1.0)  # of the change of L
    assert Direction.from_donor("reasoning") is to_reasoning == "to_reasoning"
    assert f"{to_memory}" == str(to_memory) == "to_memorization"
