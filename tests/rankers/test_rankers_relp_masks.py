"""RelP's rules and the learned masks: laws that each must keep, on every family."""

from __future__ import annotations

import importlib

import pytest
import torch
from families import CONFIGS, WORDS, build, family_model, random_pairs
from planted import PLANTED, word_tokenizer
from scipy.stats import spearmanr
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.engine import proof
from neurotrace.engine.metrics import first_tokens
from neurotrace.engine.slopes import slopes
from neurotrace.models.origins import twin
from neurotrace.rankers.relp_rules import linearised

MASKS = [nt.slimming, nt.hard_concrete]
BY_DAY = ("gpt2", "llama", "opt")  # the masks on the others are learned by night


def loud(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.15 / parameter.std())
            elif parameter.std() == 0 and parameter.mean() == 0:
                parameter.normal_(0, 0.05)
    return model


def test_relp_is_the_gradient_and_exact_where_the_network_is_linear():
    """A linear activation, no norms, attention that looks everywhere alike."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=32,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_inner=64,
        activation_function="linear",
        bos_token_id=0,
        eos_token_id=0,
    )
    model = loud(AutoModelForCausalLM.from_config(config).eval())
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0.0
            block.attn.c_attn.bias[:64] = 0.0
            block.ln_1 = block.ln_2 = torch.nn.Identity()
        model.transformer.ln_f = torch.nn.Identity()
    engine = proof.engine(model)
    ids, plus, minus = torch.tensor([[1, 2, 3, 4]]), torch.tensor([20]), torch.tensor([30])
    plain = slopes(engine, ids, first_tokens(plus, minus))[1]
    with linearised(engine.parts):
        held = slopes(engine, ids, first_tokens(plus, minus))[1]
    assert float(plain.abs().max()) > 0.01
    assert torch.allclose(held, plain, atol=1e-5)
    run = engine.clean(ids)
    index = torch.arange(64)
    moved = engine.single(run, 0, index, run.activations[0, 0] + 1)
    exact = engine.logit_difference(moved, 20, 30) - engine.logit_difference(run.hidden, 20, 30)
    assert torch.allclose(exact, held[0, 0], atol=1e-3)


@pytest.mark.parametrize("attention", ["softmax", "method", "functional", "fused"])
def test_a_pattern_is_a_constant_however_it_is_computed(attention):
    """Attended values alone are differentiated."""
    from torch.nn import functional as F

    from neurotrace.rankers.relp_rules import _Patterns

    q, k, v = torch.randn(3, 1, 1, 4, 8).requires_grad_().unbind()
    normed = {
        "softmax": lambda x: torch.softmax(x, -1),
        "method": lambda x: x.softmax(-1),
        "functional": lambda x: F.softmax(x, dim=-1),
    }
    with _Patterns() as patterns:
        if attention == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = normed[attention](q @ k.mT) @ v
    assert patterns.met == 1
    slopes = torch.autograd.grad(out.square().sum(), [q, k, v], allow_unused=True)
    assert slopes[0] is None
    assert slopes[1] is None
    assert float(slopes[2].abs().max()) > 0


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "qwen2_moe"])
def test_relevance_is_conserved(name, tmp_path):
    """Where the answer is read only off what layer 0's neurons wrote, their shares add up to L.

    Embeddings live in the first half of the residual stream, all that is written in the second,
    which alone later blocks and the unembedding read. The gradient keeps no such law.
    """
    torch.manual_seed(0)
    common = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 0}
    experts = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
    experts |= {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 16}
    config = (
        GPT2Config(**common, n_positions=32, n_embd=32, n_layer=2, n_head=4, n_inner=64)
        if name == "gpt2"
        else AutoConfig.for_model(
            name,
            **common,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=64,
            pad_token_id=0,
            tie_word_embeddings=False,
            **(experts if name != "llama" else {}),
        )
    )
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3 / parameter.std())
            elif parameter.mean() == 0:
                parameter.zero_()
        body = model.transformer if name == "gpt2" else model.model
        blocks = body.h if name == "gpt2" else body.layers
        embed = (body.wte if name == "gpt2" else body.embed_tokens).weight
        embed[:, 16:] = 0
        embed[:, :16] -= embed[:, :16].mean(dim=1, keepdim=True)  # LayerNorm takes the mean out
        if name == "gpt2":
            body.wpe.weight.zero_()
        model.lm_head.weight[:, :16] = 0
        for place, block in enumerate(blocks):
            if name == "gpt2":
                block.attn.c_proj.weight.zero_()
                block.mlp.c_proj.weight[:, :16] = 0
                block.mlp.c_fc.weight[: 16 * place] = 0
            else:
                block.self_attn.o_proj.weight.zero_()
                dense = block.mlp if name == "llama" else getattr(block.mlp, "shared_expert", None)
                if dense is not None:
                    dense.down_proj.weight[:16] = 0
                    for inner in (dense.gate_proj, dense.up_proj):
                        inner.weight[:, : 16 * place] = 0
                if name != "llama":  # its router reads the embeddings, through which no share goes
                    block.mlp.experts.down_proj[:, :16] = 0
                    block.mlp.experts.gate_up_proj[..., : 16 * place] = 0
    hooked = nt.load_model(model, word_tokenizer(tmp_path, WORDS), name=name)
    encoded = nt.encode(hooked, random_pairs(4), check=False)
    there = float(encoded.behaviour("memorization").logit_difference.mean())
    assert abs(there) > 0.02
    relp = nt.relp(hooked, encoded, kind="zero").value[0].sum()
    assert -float(relp) == pytest.approx(there, rel=1e-3)
    gradient = nt.gradient(hooked, encoded, kind="zero").value[0].sum()
    assert -float(gradient) != pytest.approx(there, rel=2e-2)


@pytest.mark.parametrize("name", CONFIGS)
def test_relp_runs_on_every_family_and_predicts_better_than_chance(name, tmp_path):
    model = family_model(name, tmp_path)
    encoded = nt.encode(model, random_pairs(4), check=False)
    relp, exact = nt.relp(model, encoded), nt.exact(model, encoded)
    assert not torch.allclose(relp.value, nt.gradient(model, encoded).value, rtol=1e-2, atol=1e-5)
    moved = exact.value.abs() > 1e-3
    assert spearmanr(relp.value[moved], exact.value[moved]).statistic > 0.3
    # the rules are gone with the ranking
    other = twin(model)
    ids = torch.tensor([[1, 2, 3]])
    plain = other(ids, use_cache=False).logits.detach()
    with torch.no_grad():
        nt.relp(model, encoded)
        assert torch.equal(other(ids, use_cache=False).logits, plain)
    assert not [m for m in other.modules() if "forward" in m.__dict__]


def test_relp_refuses_what_its_rules_do_not_reach(tmp_path):
    model = family_model("llama", tmp_path)
    encoded = nt.encode(model, random_pairs(2), check=False)
    with (
        model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]),
        pytest.raises(InputError, match="take hooks of your own off"),
    ):
        nt.relp(model, encoded)
    for block in twin(model).model.layers:
        block.mlp.unheard_of = torch.nn.Linear(32, 96, bias=False)
    with pytest.raises(InputError, match="neither plain nor gated"):
        nt.relp(model, encoded)


def test_a_routers_softmax_is_no_attention_pattern(tmp_path):
    """Jamba has experts in each block and attention in half of them: their state spaces have no rule."""
    model = nt.load_model(build("jamba"), word_tokenizer(tmp_path, WORDS), name="jamba")
    with pytest.raises(InputError, match="attention patterns in"):
        nt.relp(model, nt.encode(model, random_pairs(2), check=False))


@pytest.mark.parametrize(
    "name",
    [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in CONFIGS],
)
@pytest.mark.parametrize("mask", MASKS, ids=lambda m: m.__name__)
def test_a_mask_flips_more_than_chance_on_every_family(mask, name, tmp_path):
    model = family_model(name, tmp_path)
    encoded = nt.encode(model, random_pairs(4), check=False)
    scores = mask(model, encoded, price=1e-3, steps=120)
    top = scores.top(12, direction="to_reasoning")
    chosen = [nt.patch(top, donor="reasoning")] + [
        nt.patch(scores.random_like(top, seed=seed), donor="reasoning", role="random") for seed in range(8)
    ]
    frame = nt.measure(model, encoded, chosen).to_frame()
    gained = (frame["p_reasoned_after"] / frame["p_reasoned_before"]).groupby(frame["role"]).mean()
    assert gained["selected"] > max(1.0, gained["random"])


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("question", ["flip", "keep"])
def test_a_mask_is_worth_its_price(model, encoded, mask, question):
    """Too dear: no neuron is in it. At the usual price: the planted one is, first of all.

    "keep": the planted neuron holds the reasoning prompt's answer, whatever becomes of the others.
    """
    donor = "reasoning" if question == "flip" else "memorization"
    direction = "to_reasoning" if question == "flip" else "to_memorization"
    usual = mask(model, encoded, donor=donor, question=question)
    assert usual.rank_of(PLANTED, direction=direction) == 1
    dear = mask(model, encoded, donor=donor, question=question, price=100.0)
    assert float(dear.value.abs().max()) < 0.1
    assert float(usual.value[PLANTED.layer, PLANTED.index].abs()) > 0.5


@pytest.mark.parametrize("question", ["flip", "keep"])
def test_gates_start_half_open(model, encoded, monkeypatch, question):
    """As the comment says: mean mask 1/2, 69 % of gates more than shut; and the price is of these."""
    module = importlib.import_module("neurotrace.rankers.hard_concrete")  # not the function
    seen, real = [], module.learn

    def learn(method, model, pairs, parameters, amounts, cost, *more, **options):
        drawn = torch.stack([amounts(parameters) for _ in range(400)])
        shares = [one.float().mean() for one in (drawn, drawn > 0, drawn < 1, cost(parameters))]
        seen.append(shares)
        return real(method, model, pairs, parameters, amounts, cost, *more, **options)

    monkeypatch.setattr(module, "learn", learn)
    nt.hard_concrete(model, encoded, question=question, steps=1)
    mean, above, below, cost = map(float, seen[0])
    assert mean == pytest.approx(0.5, abs=0.01)
    assert above == pytest.approx(0.69, abs=0.01)
    assert below == pytest.approx(0.69, abs=0.01)
    assert cost == pytest.approx(above, abs=0.01)


@pytest.mark.parametrize("kind", ["patch", "zero", "set", "shift"])
def test_masks_by_engine_equal_masks_by_hooks(tmp_path, kind):
    model = family_model("qwen2", tmp_path)
    encoded = nt.encode(model, random_pairs(3), check=False)
    fast = nt.slimming(model, encoded, kind=kind, price=1e-3, steps=10)
    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        slow = nt.slimming(model, encoded, kind=kind, price=1e-3, steps=10)
    assert float(fast.value.abs().max()) > 0.05
    # Adam's first step is a sign: neurons without a slope may go either way
    assert ((fast.value - slow.value).abs() < 1e-2).float().mean() > 0.97


def test_masks_refuse_what_they_cannot_learn(model, encoded):
    with pytest.raises(InputError, match="expected 'flip' or 'keep'"):
        nt.slimming(model, encoded, question="drop")
    with pytest.raises(InputError, match="more than 0"):
        nt.hard_concrete(model, encoded, price=0.0)


def test_log_increase_is_exact_where_nothing_else_writes(tmp_path):
    """One neuron in the last block, whose attention is silent: its lens is the model itself."""
    torch.manual_seed(0)
    config = CONFIGS["gpt2"]()
    model = loud(AutoModelForCausalLM.from_config(config).eval())
    with torch.no_grad():
        last = model.transformer.h[2]
        last.attn.c_proj.weight.zero_()
        last.attn.c_proj.bias.zero_()
        last.mlp.c_proj.weight[torch.arange(64) != 7] = 0
        last.mlp.c_proj.bias.zero_()
    hooked = nt.load_model(model, word_tokenizer(tmp_path, WORDS), name="one")
    encoded = nt.encode(hooked, random_pairs(4), check=False)
    neuron = [nt.Neuron(2, 7)]
    for kind in ("patch", "zero"):
        lens = nt.log_increase(hooked, encoded, kind=kind)
        exact = nt.exact(hooked, encoded, kind=kind, neurons=neuron)
        assert float(exact.value[2, 7]) == pytest.approx(float(lens.value[2, 7]), abs=1e-4)
        assert abs(float(exact.value[2, 7])) > 0.01
        assert not torch.allclose(lens.value[0], nt.gradient(hooked, encoded).value[0], atol=1e-3)


def test_magnitude_is_the_norm_of_what_is_written(model):
    row = model.blocks[PLANTED.layer].mlp.W_out[PLANTED.index].detach()
    value = nt.magnitude(model).value[PLANTED.layer, PLANTED.index]
    assert float(value) == pytest.approx(float(row.norm()), rel=1e-6)
