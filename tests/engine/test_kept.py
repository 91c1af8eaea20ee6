"""Clean runs that are kept, and their shared stems, against runs made one by one."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, VOCABULARY, build

from neurotrace.engine import proof
from neurotrace.engine.edits import Edit, together
from neurotrace.engine.experts import install
from neurotrace.engine.kept import _tree, keeping
from neurotrace.engine.metrics import first_tokens
from neurotrace.engine.parts import find_blocks
from neurotrace.engine.slopes import slopes
from neurotrace.engine.tops import is_top

SPARSE = {name for name, each in FAMILIES.items() if any("expert" in key for key in each.options)}
SERVED = [
    name
    for name, each in FAMILIES.items()
    if each.path in ("shared", "frozen")
    and (name not in SPARSE or name in ("mixtral", "qwen2_moe", "deepseek_v3"))
]


def prompts(count=6, length=14, stem=9):
    """Prompts with a stem in common, half of them one token longer, and one token alone."""
    draw = torch.Generator().manual_seed(0)
    common = torch.randint(3, VOCABULARY, (stem,), generator=draw)
    rest = [
        torch.randint(3, VOCABULARY, (length - stem + row % 2,), generator=draw) for row in range(count)
    ]
    return [torch.cat([common, own]) for own in rest] + [common[:1]]


@pytest.mark.filterwarnings("ignore:suffix engine")
@pytest.mark.parametrize("name", SERVED)
def test_a_kept_run_is_the_run(name):
    model = build(name)
    install(model, list(find_blocks(model)))
    engine = proof.engine(model)
    every = prompts()
    batch = torch.stack(every[:-1][::2])
    edits = [Edit(*map(torch.tensor, ([0, 1], [3, 2], [0.0, 0.5], [1.0, 2.0])))] * len(batch)
    answers = torch.full((len(batch),), 5), torch.full((len(batch),), 6)
    plain = engine.clean(batch)
    hidden, (values, found) = engine.sets(plain, edits), slopes(engine, batch, first_tokens(*answers))
    with keeping(engine):
        engine.kept.add(every)
        assert set(engine.kept._of) == {tuple(ids.tolist()) for ids in every[:-1]}
        passed = engine.kept.passed
        own = engine.clean(batch)
        again = slopes(engine, batch, first_tokens(*answers))
        assert engine.kept.passed == passed  # nothing is run a second time
        scale = plain.hidden.abs().max()
        assert (own.hidden - plain.hidden).abs().max() < 1e-4 * scale
        assert (own.activations - plain.activations).abs().max() < 1e-4 * plain.activations.abs().max()
        assert (engine.sets(own, edits) - hidden).abs().max() < 1e-4 * scale
        assert (again[0] - values).abs().max() < 1e-4 * values.abs().max()
        assert (again[1] - found).abs().max() < 1e-4 * found.abs().max()
        mixed = engine.kept.mixed(every[:-1])  # two lengths
        if FAMILIES[name].path == "frozen" or not engine.kept._branches:
            assert mixed is None
        elif mixed is not None:
            many = [edit for edit in edits[:1] for _ in every[:-1]]
            found = engine.sets(mixed, many)
            for row, ids in enumerate(every[:-1]):
                alone = engine.sets(engine.clean(ids[None]), many[:1])[0]
                assert (found[row] - alone).abs().max() < 1e-4 * scale
            picked = torch.tensor([3, 0, 3])
            again = engine.sets(mixed.at(picked), many[:3])
            assert (again - found[picked]).abs().max() < 1e-4 * scale
        if name in ("llama", "qwen3", "gpt2"):
            assert mixed is not None
    assert engine.kept is None


def test_stems_are_run_once_and_the_budget_is_kept():
    engine = proof.engine(build("llama"))
    every = prompts(count=40, length=30, stem=25)[:-1]
    with keeping(engine):
        engine.kept.add(every)
        assert engine.kept.passed < engine.kept.asked / 2
        assert 0 < engine.kept.bytes < engine.kept.limit
    with keeping(engine, memory_gb=0.0):
        batch = torch.stack(every[::2])
        assert engine.kept.run(batch) is None
        assert engine.clean(batch).hidden.shape[0] == 20  # made, and not kept


def test_what_is_not_wanted_any_more_is_forgotten():
    engine = proof.engine(build("llama"))
    every = prompts()[:-1]
    with keeping(engine):
        engine.kept.add(every)
        before, hidden = engine.kept.bytes, engine.clean(every[0][None]).hidden
        engine.kept.only(every[:2])
        passed = engine.kept.passed
        assert engine.kept.bytes * 2.5 < before
        own = engine.kept._of[tuple(every[0].tolist())]
        assert own.keys[0].untyped_storage().nbytes() == own.keys[0].nbytes  # no part of a larger tensor
        assert torch.equal(engine.clean(every[0][None]).hidden, hidden)
        assert engine.kept.passed == passed
        engine.clean(every[3][None])
        assert engine.kept.passed > passed


def test_a_tree_has_the_stems_that_spare_tokens():
    stem, other = tuple(range(10)), tuple(range(50, 60))
    bodies = {(*stem, 20 + each, 30, 31) for each in range(8)} | {other}
    found = _tree(bodies)
    assert found[stem] == 0
    assert {found[body] for body in bodies - {other}} == {10}
    assert found[other] == 0
    # two tokens of eight bodies are not worth a pass
    assert set(_tree({(1, 2, 20 + each, 30) for each in range(8)}).values()) == {0}
    # a body that begins others is a stem too
    assert _tree(bodies | {stem})[stem] == 0


def test_a_token_on_top_is_known_from_rivals_or_from_all():
    engine = proof.engine(build("llama"))
    hidden = torch.randn(40, engine.parts.unembedding.weight.shape[1])
    tops = engine.logits(hidden).argmax(-1)
    tokens = torch.where(torch.arange(40) % 2 == 0, tops, (tops + 1) % VOCABULARY)
    asked = []
    whole, engine.logits = engine.logits, lambda x, t=None: (asked.append((len(x), t)), whole(x, t))[1]
    for again in range(2):
        assert is_top(engine, hidden, tokens).tolist() == [True, False] * 20
        alone = [count for count, among in asked if among is None]
        assert sum(alone) == (40 if not again else 60)  # then only those that nothing beats
    engine.rivals = {int(tops[1]): None}  # a rival level with the token decides nothing
    assert is_top(engine, hidden[1:2], tops[1:2]).tolist() == [True]


def test_rows_run_together_where_that_costs_less():
    assert together([5, 5, 5], 30, 1) == [[0, 1, 2]]
    late, early = [29] * 200, [0] * 200
    assert together([*late, *early], 30, 1) == [list(range(200, 400)), list(range(200))]
    assert together([25, 0], 30, 1) == [[1, 0]]  # a pass of its own costs more than the blocks it spares
    assert sorted(row for group in together([3, 30, 1, 2], 30, 50) for row in group) == [0, 1, 2, 3]
