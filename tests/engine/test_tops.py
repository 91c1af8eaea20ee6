"""Top-1 questions in bf16 first: the answers are those of full logits."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, VOCABULARY, build

from neurotrace.engine import proof, tops
from neurotrace.engine.edits import Edit
from neurotrace.engine.experts import install
from neurotrace.engine.kept import keeping
from neurotrace.engine.parts import find_blocks
from neurotrace.engine.tops import Screen, is_top

EACH = 120  # edits a prompt
DENSE = [
    name
    for name, each in FAMILIES.items()
    if each.path == "shared" and not any("expert" in key for key in each.options)
]


def rows_of(engine, seed=0, lengths=2, each=EACH):
    """Prompts of so many lengths, an edit for each row, and the rows' hidden in full precision."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, VOCABULARY, (6 + row % lengths,), generator=draw) for row in range(4)]
    run = engine.kept.mixed(prompts)
    edits = []
    for _ in range(each * len(prompts)):
        layers, places = torch.tensor([0, 1]), torch.randint(0, 16, (2,), generator=draw)
        edits.append(Edit(layers, places, torch.zeros(2), 3 * torch.randn(2, generator=draw)))
    return prompts, run, edits, engine.sets(run, edits)


def served(name):
    model = build(name)
    install(model, list(find_blocks(model)))
    return proof.engine(model)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(tops, "bf16_missing", lambda device: "")  # slow is enough for a test
    made = served("llama")
    with keeping(made):
        yield made


def asked(engine, hidden):
    """In a quarter of the rows one of the two highest tokens, else the lowest."""
    logits = engine.logits(hidden)
    rows = torch.arange(len(hidden))
    near = logits.topk(2).indices[rows, rows // 4 % 2]
    return torch.where(rows % 4 == 0, near, logits.argmin(dim=-1))


def test_answers_are_those_of_full_logits(engine):
    with torch.no_grad():  # tokens in pairs: a token's margin to its twin is within the error of bf16
        weight = engine.parts.unembedding.weight
        weight[1::2] = weight[::2] + 2e-3 * torch.randn(len(weight) // 2, weight.shape[1])
    doubtful = 0
    for seed in range(3):
        prompts, run, edits, hidden = rows_of(engine, seed)
        tokens = asked(engine, hidden)
        expected = engine.logits(hidden).argmax(dim=-1) == tokens
        assert 0.05 < expected.float().mean() < 0.2
        screen = Screen.of(engine)
        with torch.no_grad():
            rough = engine.sets(screen._recorded(prompts, run), edits)
        doubtful += int(((engine.logits(rough).argmax(dim=-1) == tokens) != expected).sum())
        found, near = screen.tops(prompts, run, edits, tokens)
        assert found.tolist() == expected.tolist()
        assert (near - hidden).norm() < 0.02 * (hidden - hidden.mean(0)).norm()
    assert doubtful  # bf16 alone gets some of them wrong
    assert screen.again >= doubtful


def test_what_is_far_from_the_question_is_not_run_again(engine):
    for seed in range(4):
        prompts, run, edits, hidden = rows_of(engine, seed)
        tokens = engine.logits(hidden).argmin(dim=-1)
        screen = Screen.of(engine)
        assert not screen.tops(prompts, run, edits, tokens)[0].any()
    assert screen.asked == 4 * len(edits)
    assert screen.again < 2 * tops._FIRST  # the first rows, by which errors are known


def test_what_is_not_finite_is_asked_in_full_precision(engine):
    prompts, run, edits, hidden = rows_of(engine)
    edits[7] = Edit.set([0], [0], float("nan"))
    _, near = Screen.of(engine).tops(prompts, run, edits, hidden.argmax(dim=-1) * 0)
    assert torch.isfinite(near).all(dim=1).tolist() == [row != 7 for row in range(len(edits))]


def test_a_screen_is_made_where_it_saves(engine, monkeypatch):
    assert Screen.of(engine, tops._LEAST - 1) is None
    assert Screen.of(engine) is Screen.of(engine)
    engine.kept.screen = None
    monkeypatch.setattr(tops, "_COPIES", 1000)
    assert Screen.of(engine) is None
    engine.kept.screen = None
    monkeypatch.setattr(tops, "_COPIES", 2**31)
    monkeypatch.setattr(tops, "bf16_missing", lambda device: "no units")
    assert Screen.of(engine) is None


@pytest.mark.filterwarnings("ignore:suffix engine")
def test_a_mixture_of_experts_has_none(monkeypatch):
    monkeypatch.setattr(tops, "bf16_missing", lambda device: "")
    made = served("mixtral")
    with keeping(made):
        assert Screen.of(made) is None


@pytest.mark.filterwarnings("ignore:suffix engine")
@pytest.mark.parametrize("name", DENSE)
def test_a_dense_familys_screen_gives_the_answers_of_full_logits(monkeypatch, name):
    monkeypatch.setattr(tops, "bf16_missing", lambda device: "")
    made = served(name)
    with keeping(made):
        screen = Screen.of(made)
        if screen is None:
            pytest.skip("its Linears or its unembedding have no copies")
        if made.kept.mixed([torch.arange(3, 9)] * 2) is None:
            pytest.skip("its prompts run one by one")
        prompts, run, edits, hidden = rows_of(made, lengths=1, each=30)
        tokens = asked(made, hidden)
        expected = made.logits(hidden).argmax(dim=-1) == tokens
        assert expected.any()
        assert not expected.all()
        assert screen.tops(prompts, run, edits, tokens)[0].tolist() == expected.tolist()


def test_without_kept_runs_there_is_none(engine):
    engine.kept, kept = None, engine.kept
    assert Screen.of(engine) is None
    engine.kept = kept
    *_, hidden = rows_of(engine)
    assert is_top(engine, hidden, engine.logits(hidden).argmax(dim=-1)).all()
