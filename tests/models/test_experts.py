"""Neurons inside experts: names, what the hooks return and change, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from families import WORDS, build, random_pairs
from planted import word_tokenizer

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Experts, Neuron, NeuronSet
from neurotrace.engine.experts import TAKEN, install
from neurotrace.engine.parts import find_blocks, hooked
from neurotrace.interventions.controls import controls_for
from neurotrace.models.checks import check_experts
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import expert_neurons, forward, inspect_model, w_out
from neurotrace.models.loading import boot
from neurotrace.models.origins import twin
from neurotrace.models.written import router_factors

BLOCKS = Experts(((4, 48, 40), (0, 0, 64)))
IDS = torch.tensor([[1, 7, 9, 2, 5, 6], [3, 8, 4, 1, 2, 2]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return nt.load_model(
        build("qwen2_moe"), word_tokenizer(tmp_path_factory.mktemp("tokenizer"), WORDS), name="mixture"
    )


@pytest.mark.parametrize(
    ("neuron", "name"),
    [
        (Neuron(0, 0), "L0.E0.N0"),
        (Neuron(0, 191), "L0.E3.N47"),
        (Neuron(0, 192), "L0.S.N0"),
        (Neuron(0, 231), "L0.S.N39"),
        (Neuron(1, 63), "L1.N63"),
    ],
)
def test_a_name_and_its_neuron(neuron, name):
    assert BLOCKS.name(neuron) == name
    assert BLOCKS.neuron(name) == neuron
    assert BLOCKS.neuron(str(neuron)) == neuron
    assert BLOCKS.exists(neuron)


@pytest.mark.parametrize("name", ["L0.E4.N0", "L0.E0.N48", "L0.S.N40", "L1.E0.N0", "L2.E0.N0", "L1.S.N0"])
def test_no_such_neuron(name):
    with pytest.raises(InputError, match="no such neuron"):
        BLOCKS.neuron(name)


def test_a_block_ends_behind_its_last_neuron():
    assert not BLOCKS.exists(Neuron(0, 232))
    assert not BLOCKS.exists(Neuron(1, 64))
    assert BLOCKS.expert_of(Neuron(0, 47)) == 0
    assert BLOCKS.expert_of(Neuron(0, 48)) == 1
    assert BLOCKS.expert_of(Neuron(0, 231)) == 4


def test_hooks_change_no_bit_and_see_what_experts_compute(model):
    """Against transformers' own modules, expert by expert."""
    seen = {}
    with torch.no_grad():
        plain = model(IDS)
        through = forward(
            model, IDS, edit=lambda layer, post: seen.__setitem__(layer, post), layers=range(4), every=True
        )
    assert torch.equal(plain, through)
    other = twin(model)
    mlp = find_blocks(other)[2].mlp
    entered = []
    with torch.no_grad(), hooked([(mlp, "input", lambda _, args, __: entered.append(args[0]))]):
        other(IDS, use_cache=False)
    x = entered[0].flatten(0, 1)
    _, weights, chosen = mlp.gate(x)
    values = seen[2].flatten(0, 1)
    for expert in range(4):
        gate, up = (x @ mlp.experts.gate_up_proj[expert].t()).chunk(2, dim=-1)
        sent = (chosen == expert).any(dim=-1)
        assert 0 < int(sent.sum()) < len(sent)
        expected = torch.where(sent[:, None], torch.nn.functional.silu(gate) * up, 0)
        assert torch.allclose(values[:, expert * 48 : expert * 48 + 48], expected, atol=1e-5)
    shared = mlp.shared_expert
    expected = shared.act_fn(shared.gate_proj(x)) * shared.up_proj(x)
    assert torch.allclose(values[:, 192:232], expected, atol=1e-5)
    factors = router_factors(model, IDS)[:, 2].reshape(2, -1)
    places = [5, 11]  # the last tokens
    for row, place in enumerate(places):
        for expert, weight in zip(chosen[place].tolist(), weights[place].tolist(), strict=True):
            assert torch.allclose(factors[row, expert * 48 : expert * 48 + 48], torch.tensor(weight))
        assert int((factors[row, :192] > 0).sum()) == 2 * 48
        gate = torch.sigmoid(mlp.shared_expert_gate(x[place]))
        assert torch.allclose(factors[row, 192:232], gate, atol=1e-6)


@pytest.mark.parametrize("name", TAKEN)
def test_both_dispatches_hand_on_what_they_see(name):
    model = build("mixtral")
    install(model, list(find_blocks(model)))
    model.set_experts_implementation(name)
    every = [block.mlp.neurons for block in find_blocks(model)]
    check_experts("tiny", every, lambda: model(IDS, use_cache=False).logits, torch.float32)
    wrong = every[1].routed.down_proj
    handle = every[1].mlp.register_forward_hook(lambda _, __, y: y * 1.01)
    with pytest.raises(InputError, match=r"block 1 .* something else"):
        check_experts("tiny", every, lambda: model(IDS, use_cache=False).logits, torch.float32)
    handle.remove()
    assert torch.equal(every[1].rows(), wrong.transpose(1, 2).reshape(-1, wrong.shape[1]))
    index = torch.tensor([0, 70, 255])
    assert torch.equal(every[1].some_rows(index), every[1].rows()[index])


def test_a_hook_that_changes_bits_is_found():
    model = build("olmoe")
    install(model, list(find_blocks(model)))
    every = [block.mlp.neurons for block in find_blocks(model)]
    every[2].forward = lambda x: x * (1 + 1e-6)
    with pytest.raises(InputError, match="change the logits"):
        check_experts("tiny", every, lambda: model(IDS, use_cache=False).logits, torch.float32)


def test_a_copy_has_its_own_neurons():
    model = build("mixtral")
    install(model, list(find_blocks(model)))
    other = copy.deepcopy(model)
    for block, own in zip(find_blocks(other), find_blocks(model), strict=True):
        assert block.mlp.neurons.mlp is block.mlp
        assert block.mlp.neurons.routed is block.mlp.experts
        assert block.mlp.neurons is not own.mlp.neurons


def test_scores_carry_names(model, tmp_path):
    encoded = encode(model, random_pairs(3), check=False)
    scores = nt.gradient(model, encoded)
    assert scores.experts == inspect_model(model).experts
    top = scores.top(5)
    assert top.names == [scores.name(neuron) for neuron in top]
    assert all(".E" in name or ".S." in name for name in top.names)
    assert top.names[0] in repr(scores)
    assert top.names[0] in repr(top)
    assert list(scores.to_frame()["name"][:1]) == ["L0.E0.N0"]
    scores.save(tmp_path / "scores.safetensors")
    again = nt.Scores.load(tmp_path / "scores.safetensors")
    assert again.top(5).names == top.names
    assert NeuronSet([Neuron(0, 1)]).names == ["L0.N1"]


def test_a_neuron_whose_expert_is_not_used_has_no_effect(model):
    """No pass is made for it, and by full passes nothing moves either."""
    encoded = encode(model, random_pairs(1), check=False)
    ids = encoded.memorization[0][None]
    unused = (router_factors(model, ids)[0] == 0).nonzero().tolist()
    neurons = [Neuron(*at) for at in unused[:: len(unused) // 6]]
    done = nt.exact(model, encoded, kind="shift:5", neurons=neurons)
    assert all(abs(float(done.value[n.layer, n.index])) < 1e-5 for n in neurons)

    def put(at: int, post: torch.Tensor) -> torch.Tensor:
        changed = post.clone()
        changed[:, -1, [n.index for n in neurons if n.layer == at]] += 5
        return changed

    with torch.no_grad():
        assert torch.equal(forward(model, ids, edit=put, layers=range(4)), forward(model, ids))
    assert w_out(model, 0).shape == (232, 32)
    assert len(expert_neurons(model)) == 4


def test_what_is_refused(tmp_path):
    tokenizer = word_tokenizer(tmp_path, WORDS)
    with pytest.raises(InputError, match=r"Llama4TextExperts.*way of their own"):
        nt.load_model(build("llama4"), tokenizer, name="tiny")
    model = build("mixtral")
    model.config._experts_implementation_internal = "sonicmoe"
    with pytest.raises(InputError, match="'sonicmoe'"):
        nt.load_model(model, tokenizer, name="tiny")
    with pytest.raises(InputError, match="several devices"):
        boot(build("mixtral"), tokenizer, name="tiny", spread=True)


def routes(other, ids: torch.Tensor) -> list[tuple]:
    """The experts and weights of every block, from transformers' own routers."""
    found: list[tuple] = []
    gates = [block.mlp.gate for block in find_blocks(other)]
    with (
        torch.no_grad(),
        hooked([(gate, "output", lambda _, __, y: found.append(y[1:])) for gate in gates]),
    ):
        other(ids, use_cache=False)
    return found


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_frozen_routing_is_that_of_the_unchanged_run(name, tmp_path):
    """Against transformers' own model, its routers made to return what they returned in the clean run."""
    model = nt.load_model(build(name), word_tokenizer(tmp_path, WORDS), name="mixture")
    encoded = encode(model, random_pairs(3), check=False)
    other = twin(model)
    neurons = [neuron for layer in (0, 1) for neuron in used(model, encoded, layer, 6)]
    change = [nt.scale(neurons, direction="to_reasoning", factor=-30)]
    free = nt.measure(model, encoded, change)
    with nt.routing(model, "frozen"):
        frozen = nt.measure(model, encoded, change)
        scores = nt.gradient(model, encoded, kind="zero")
        alone = nt.exact(model, encoded, kind="scale:0.999", neurons=neurons)
        small = nt.gradient(model, encoded, kind="scale:0.999")
    assert (free.routing, frozen.routing, scores.provenance["routing"]) == ("free", "frozen", "frozen")
    assert nt.measure(model, encoded, change).routing == "free"
    assert "Routing: frozen" in str(frozen._view())
    after = []
    for ids, good, bad in zip(encoded.memorization, encoded.memorized, encoded.reasoned, strict=True):
        clean = routes(other, ids[None])
        blocks = list(find_blocks(other))
        kept = [
            (block.mlp.gate, "output", lambda _, __, y, own=own: (y[0], *own))
            for block, own in zip(blocks, clean, strict=True)
        ]

        def scaled(layer: int):
            index = [n.index for n in neurons if n.layer == layer]

            def hook(_, __, post: torch.Tensor) -> torch.Tensor:
                post = post.clone()
                post[-1, index] *= -30
                return post

            return hook

        edits = [(blocks[layer].mlp.neurons, "output", scaled(layer)) for layer in (0, 1)]
        with torch.no_grad(), hooked([*kept, *edits]):
            logits = other(ids[None], use_cache=False).logits[0, -1]
        after.append(float(logits[good] - logits[bad]))
    order = [pair.id for pair in encoded.pairs]
    found, of_free = (
        each.to_frame().set_index("pair").loc[order, "L_after"].to_numpy() for each in (frozen, free)
    )
    expected = torch.tensor(after)
    assert torch.allclose(torch.tensor(found).float(), expected, atol=1e-3 * float(expected.abs().max()))
    assert abs(found - of_free).max() > 0.01
    for n in neurons:  # no slope goes through a router that is frozen
        one = float(alone.value[n.layer, n.index])
        assert abs(one - float(small.value[n.layer, n.index])) < 0.1 * abs(one) + 5e-5


def used(model, encoded, layer: int, count: int) -> list[Neuron]:
    """Neurons of a block that most prompts are sent to, the loudest."""
    values = nt.collect(model, encoded).values.flatten(0, 1)[:, layer]
    strength = (values != 0).float().mean(dim=0) + values.abs().mean(dim=0) / 1e3
    return [Neuron(layer, int(at)) for at in strength.topk(count).indices]


def test_routing_is_refused_where_it_means_nothing(model, tmp_path):
    with pytest.raises(InputError, match="'free' or 'frozen'"), nt.routing(model, "fixed"):
        pass
    dense = nt.load_model(build("llama"), word_tokenizer(tmp_path, WORDS), name="dense")
    with pytest.raises(InputError, match="mixture of experts"), nt.routing(dense, "frozen"):
        pass
    with nt.routing(model, "frozen"), pytest.raises(InputError, match="without the change to go by"):
        nt.generate(model, "w1 w2")
    with nt.routing(model, "frozen"), pytest.raises(InputError, match="needs hooks"):
        forward(model, IDS, edit=lambda layer, post: None, layers=[0])


def test_controls_come_from_the_same_expert(model):
    encoded = encode(model, random_pairs(6), check=False)
    experts = inspect_model(model).experts

    def places(neurons) -> list[tuple[int, int]]:
        return sorted((n.layer, experts.expert_of(n)) for n in neurons)

    scores = nt.gradient(model, encoded)
    chosen = scores.top(5)
    change = nt.patch(chosen)
    for control in controls_for(change, reference=nt.reference(model, encoded), seeds=(0, 1)):
        if control.role in ("random", "norm", "low_rho"):
            assert not set(control.neurons) & set(chosen)
            own, theirs = (
                sorted((n.layer, experts.expert_of(n)) for n in each) for each in (chosen, control.neurons)
            )
            assert own == theirs, control.role
    drawn = scores.random_like(chosen, seed=3)
    assert sorted((n.layer, experts.expert_of(n)) for n in drawn) == sorted(
        (n.layer, experts.expert_of(n)) for n in chosen
    )
