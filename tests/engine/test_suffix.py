"""The suffix engine against the slow, obvious way: full passes with hooks, over many architectures.

The slow way here is written anew (`slow`), so that it shares no code with the engine's own.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from families import DEPTH, FAMILIES, VOCABULARY, build
from torch import nn

from neurotrace.engine import proof
from neurotrace.engine.engine import Edit
from neurotrace.engine.experts import install
from neurotrace.engine.modules import bf16_missing
from neurotrace.engine.parts import find_blocks, find_parts

LENGTH = 14
SPARSE = {name for name, each in FAMILIES.items() if any("expert" in key for key in each.options)}
SERVED = [
    name
    for name, each in FAMILIES.items()
    if each.path in ("shared", "frozen")
    and (name not in SPARSE or name in ("mixtral", "qwen2_moe", "deepseek_v3"))  # nightly: the others
]


def slow(model: nn.Module, ids: torch.Tensor, edits: list[Edit], positions: list[int]):
    """Full passes, one a row: final logits [row, vocabulary]."""
    parts = find_parts(model)

    def hook(edit, layer):
        chosen = edit.layers == layer
        index, by, to = edit.indices[chosen], edit.scale[chosen], edit.offset[chosen]

        def change(module, args):
            x = args[0].clone()
            flat = x.view(len(ids), -1) if x.dim() == 2 else x[0]
            for p in positions:
                flat[p, index] = (by * flat[p, index] + to).to(x.dtype)
            return (x,)

        return change

    rows = []
    for edit in edits:
        handles = [
            parts.projections[layer].register_forward_pre_hook(hook(edit, layer))
            for layer in set(edit.layers.tolist())
        ]
        try:
            with torch.no_grad():
                rows.append(model(ids[None]).logits[0, -1])
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(rows)


def prompt(seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def engines():
    made = {}

    def get(name):
        if name not in made:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = build(name)
                install(model, list(find_blocks(model)))
                made[name] = (model, proof.engine(model))
            assert (FAMILIES[name].path == "shared") == (
                not any("suffix engine" in str(w.message) for w in caught)
            )
        return made[name]

    return get


@pytest.mark.parametrize("name", SERVED)
def test_single_equals_full_passes(name, engines, record_property):
    model, engine = engines(name)
    record_property("path", f"{engine.path}{'' if engine.widen else ' (not widened)'}")
    assert engine.path == FAMILIES[name].path, engine.reason
    ids = prompt()
    run = engine.clean(ids)
    clean = engine.logits(run.hidden)
    index = torch.tensor([0, 7, 21, 40, 63])
    largest = 0.0
    for layer in range(DEPTH):
        values = torch.tensor([0.0, 0.0, 2.0, -1.0, 3.0])
        got = engine.logits(engine.single(run, layer, index, values))
        edits = [Edit.set([layer], [i], float(v)) for i, v in zip(index.tolist(), values, strict=True)]
        want = slow(model, ids, edits, [LENGTH - 1])
        assert (got - want).abs().max() < 1e-4
        largest = max(largest, float((want - clean).abs().max()))
    assert 0.1 < largest < 40, largest


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("positions", [None, [4, -2], "all"], ids=["read", "list", "all"])
def test_sets_equal_full_passes(name, positions, engines):
    model, engine = engines(name)
    two = torch.stack([prompt(1), prompt(2)])
    run = engine.clean(two, positions)
    where = [-1] if positions is None else range(LENGTH) if positions == "all" else positions
    generator = torch.Generator().manual_seed(5)
    edits = []
    for _ in range(4):
        n = 6
        layers = torch.tensor([0, 1, 1, 2, 3, 3])
        indices = torch.randperm(32, generator=generator)[:n]
        scale = torch.tensor([0.0, 1.0, 0.5, 0.0, -1.0, 1.0])
        edits.append(Edit(layers, indices, scale, torch.randn(n, generator=generator)))
    got = engine.logits(engine.sets(run, edits))
    want = torch.cat([slow(model, two[0], edits[:2], where), slow(model, two[1], edits[2:], where)])
    assert (got - want).abs().max() < 1e-4


def several(n: int = 4) -> list[Edit]:
    """Edits of neurons in three layers, one a row."""
    return [
        Edit(
            torch.tensor([0, 1, 3]),
            torch.tensor([row, 9, 20 + row]),
            torch.tensor([0.0, 0.5, 1.0]),
            torch.tensor([2.0, 0.3, -1.0]),
        )
        for row in range(n)
    ]


def state(model: nn.Module) -> tuple:
    """All that an engine might leave changed: weights, overrides, hooks, attention choice."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [name for name, module in model.named_modules() if "forward" in module.__dict__],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        model.config._attn_implementation,
    )


@pytest.mark.parametrize("path", ["shared", "frozen", "naive"])
def test_an_exception_leaves_the_model_as_it_was(path):
    model = build("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = proof.engine(model, path=path)
    assert engine.path == path
    ids, before = prompt(), state(model)
    logits = model(ids[None]).logits
    run = engine.clean(ids)

    class Injected(Exception):
        pass

    def explode(*_):
        raise Injected

    handle = find_parts(model).projections[2].register_forward_hook(explode)
    for attempt in (
        lambda: engine.clean(ids),
        lambda: engine.single(run, 1, torch.arange(4), torch.zeros(4)),
        lambda: engine.sets(run, several()),
    ):
        with pytest.raises(Injected):
            attempt()
    handle.remove()
    after = state(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
    assert torch.equal(model(ids[None]).logits, logits)
    # and the interrupted run still answers as a fresh one
    got = engine.sets(run, several())
    assert torch.equal(got, engine.sets(engine.clean(ids), several()))


def test_each_path_gives_the_same(engines):
    model, engine = engines("mistral")
    run = engine.clean(prompt())
    expected = engine.logits(engine.sets(run, several()))
    for path in ("frozen", "naive"):
        other = proof.engine(model, path=path)
        got = other.logits(other.sets(other.clean(prompt()), several()))
        assert (got - expected).abs().max() < 1e-4


def test_nothing_changed_is_the_clean_run(engines):
    _, engine = engines("gemma2")
    run = engine.clean(prompt())
    own = run.activations[0, 2, :5]
    assert (engine.single(run, 2, torch.arange(5), own) - run.hidden).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_blocks_below_the_change_are_not_run(name, engines):
    """The numbers are the same either way; the time is not."""
    model, engine = engines(name)
    run = engine.clean(prompt())
    ran = []
    watched = [
        module.register_forward_pre_hook(lambda module, args, place=place: ran.append(place))
        for place, module in enumerate(find_parts(model).projections)
    ]
    try:
        engine.sets(run, [Edit(*map(torch.tensor, ([DEPTH - 1], [3], [0.0], [1.0])))])
    finally:
        for handle in watched:
            handle.remove()
    assert set(ran) == {DEPTH - 1}


def test_batch_size_changes_nothing(engines):
    model, engine = engines("qwen3")
    run = engine.clean(torch.stack([prompt(1), prompt(2), prompt(3)]))
    index, values = torch.arange(11), torch.full((11,), 2.0)
    whole = engine.single(run, 1, index, values)
    small = proof.engine(model, batch_size=7)
    parts = small.single(small.clean(run.ids), 1, index, values)
    assert (whole - parts).abs().max() < 1e-5


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(engines):
    model, _ = engines("llama")
    engine = proof.engine(model, batch_size=64)
    run = engine.clean(prompt())
    expected = engine.single(run, 0, torch.arange(60), torch.zeros(60))
    inner, seen = engine._widened, []

    def short_of_memory(run, layer, written, exact):
        seen.append(len(written))
        if len(written) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(run, layer, written, exact)

    engine._widened = short_of_memory
    got = engine.single(run, 0, torch.arange(60), torch.zeros(60))
    assert (got - expected).abs().max() < 1e-5
    assert seen == [60, 30, 15, 15, 15, 15]
    assert engine.batch_size == 15


def test_logits_are_the_models(engines):
    for name in ("gemma2", "granite", "cohere", "gptj", "opt_post_norm"):
        model, engine = engines(name)
        run = engine.clean(prompt())
        with torch.no_grad():
            want = model(prompt()[None]).logits[0, -1]
        assert (engine.logits(run.hidden)[0] - want).abs().max() < 1e-4
        some = torch.tensor([5, 3, 40])
        assert (engine.logits(run.hidden, some)[0] - want[some]).abs().max() < 1e-4
        assert abs(float(engine.logit_difference(run.hidden, 5, 3) - (want[5] - want[3]))) < 1e-4
        each = engine.logit_difference(run.hidden.expand(2, -1), torch.tensor([5, 3]), torch.tensor([3, 5]))
        assert abs(float(each.sum())) < 1e-5


def test_what_is_wrong_is_named():
    model = build("llama")
    with pytest.raises(ValueError, match="training mode"):
        proof.engine(model.train())
    model.eval()
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 5] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        proof.engine(model)
    engine = proof.engine(build("llama"))
    with pytest.raises(ValueError, match="position"):
        engine.clean(prompt(), [LENGTH])
    with pytest.raises(ValueError, match="twice"):
        Edit.set([1, 1], [2, 2], 0.0)
    with pytest.raises(ValueError, match="3 edits for 2 prompts"):
        engine.sets(engine.clean(torch.stack([prompt(1), prompt(2)])), several(3))
    with pytest.raises(ValueError, match="mixture of experts"):
        proof.engine(build("mixtral"))


def test_a_way_that_is_wrong_is_disproved_and_named(monkeypatch):
    from neurotrace.engine import attention as suffix_attention

    right = suffix_attention.shared_prefix_attention

    def forgets_the_prefix(module, query, key, value, mask, **options):
        out, _ = right(module, query, key, value, mask, **options)
        return out * 1.02, None

    monkeypatch.setattr(suffix_attention, "shared_prefix_attention", forgets_the_prefix)
    with pytest.warns(UserWarning, match="frozen, not shared: .* logits off"):
        engine = proof.engine(build("llama"))
    assert engine.path == "frozen"
    monkeypatch.setattr(suffix_attention, "shared_prefix_attention", right)


def test_the_tolerance_follows_the_models_own_rounding(monkeypatch):
    """Biases that make attention scores large, as Qwen's do: rounding is more than logits tell."""
    from neurotrace.engine import attention as suffix_attention

    model = build("qwen2")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.model.layers:
            for layer, size in ((block.self_attn.k_proj, 1000), (block.self_attn.q_proj, 3)):
                layer.bias.copy_(size * torch.randn(layer.bias.shape, generator=generator))
    engine = proof.engine(model)
    assert engine.path == "shared", engine.reason
    naive = type(engine)(engine.parts, "naive")
    truth = proof.reference(naive, None)
    share, units = proof.FULL_PRECISION
    unit = torch.finfo(torch.float32).eps
    assert proof._SHAKEN * truth.shaken > units * unit * float(truth.clean.abs().max())
    row = torch.tensor([[10.0, 1.0]])  # without an effect: only rounding may differ
    off = 20 * units * unit
    with pytest.raises(proof.Disproved):
        proof._compare(row + off, row, row, 0.0, "a row")
    assert proof._compare(row + off, row, row, off, "a row") == pytest.approx(off, rel=0.1)
    with pytest.raises(proof.Disproved):  # never more than a thousandth of the logits
        proof._compare(row + 1, row, row, 1e9, "a row")
    right = suffix_attention.shared_prefix_attention

    def a_little_more(*args, **options):
        out, _ = right(*args, **options)
        return out * (1 + share), None

    monkeypatch.setattr(suffix_attention, "shared_prefix_attention", a_little_more)
    with pytest.warns(UserWarning, match="frozen, not shared: .* logits off"):
        assert proof.engine(model).path == "frozen"


def test_a_one_token_prompt(engines):
    model, engine = engines("qwen2")
    ids = prompt(length=1)
    got = engine.logits(engine.sets(engine.clean(ids), several()))
    assert (got - slow(model, ids, several(), [0])).abs().max() < 1e-4


def test_a_model_in_bf16_has_its_own_tolerance():
    """bf16 rounds each of two ways by itself: they agree within 0.1 of the effect + 0.25 logits."""
    model = build("llama").to(torch.bfloat16)
    engine = proof.engine(model)
    assert engine.path == "shared"
    run = engine.clean(prompt())
    index, values = torch.arange(8), torch.full((8,), 6.0)
    got = engine.logits(engine.single(run, 1, index, values)).float()
    edits = [Edit.set([1], [i], 6.0) for i in range(8)]
    want = slow(model, prompt(), edits, [LENGTH - 1]).float()
    effect = (want - engine.logits(run.hidden).float()).abs().amax(-1)
    assert effect.max() > 1
    assert ((got - want).abs().amax(-1) < 0.1 * effect + 0.25).all()


@pytest.mark.skipif(bool(bf16_missing(torch.device("cpu"))), reason="no bf16 matrix units")
@pytest.mark.parametrize("positions", [None, "all"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt", "gptj"])
def test_fast_is_within_two_percent_of_exact(name, positions, engines):
    model, exact = engines(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = proof.engine(model, precision="fast")
    assert (exact.precision, fast.precision) == ("exact", "fast")
    two = torch.stack([prompt(1), prompt(2)])
    run, quick = exact.clean(two, positions), fast.clean(two, positions)
    index, values = torch.arange(64), torch.zeros(64)
    for layer in range(DEPTH):
        clean = exact.logits(run.hidden).repeat_interleave(64, 0)
        true = exact.logits(exact.single(run, layer, index, values)) - clean
        got = fast.logits(fast.single(quick, layer, index, values)) - clean
        assert (got - true).norm() / true.norm() < 0.02
        again = fast.logits(fast.single(quick, layer, index, values, exact=True)) - clean
        assert (again - true).abs().max() < 1e-4


def test_fast_says_where_it_cannot_be():
    with pytest.warns(UserWarning, match="exact, not fast"):
        engine = proof.engine(build("llama").double(), precision="fast")
    assert engine.precision == "exact"
