"""The model that is measured is the model as it is now, whatever changed it after it was loaded."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref

import pytest
import torch
from families import family_model, random_pairs
from torch import nn
from torch.nn.utils import parametrize

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.engine.metrics import logit_difference
from neurotrace.models.origins import changed, engine_of, twin

pytestmark = pytest.mark.bridge


class Adapter(nn.Module):
    """A low-rank change beside a projection, as LoRA puts it in its place."""

    def __init__(self, base: nn.Module, width: int, out: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base = base
        self.down = nn.Parameter(torch.randn(width, 2, generator=generator))
        self.up = nn.Parameter(torch.randn(2, out, generator=generator))

    def forward(self, x):
        return self.base(x) + x @ self.down @ self.up


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def hook_of(register, function):
    return lambda: register(function).remove


def put(owner, name, value):
    """Set an attribute; the way back."""

    def change():
        held = [vars(owner), *(vars(owner).get(part, {}) for part in ("_modules", "_parameters"))]
        own = next((each[name] for each in held if name in each), undo := object())
        setattr(owner, name, value(own) if callable(value) and name != "forward" else value)
        return (lambda: delattr(owner, name)) if own is undo else (lambda: setattr(owner, name, own))

    return change


def buffer(owner, name, value):
    def change():
        own = owner._buffers[name]
        owner._buffers[name] = value(own)
        return lambda: owner._buffers.update({name: own})

    return change


def parametrized(module, name):
    def change():
        parametrize.register_parametrization(module, name, Doubled())
        return lambda: parametrize.remove_parametrizations(module, name, leave_parametrized=False)

    return change


def changes(model):
    """Name -> (what changes the llama, returning the way back; words of what is said)."""
    mlp, attention = model.blocks[1].mlp, model.blocks[1].attn
    down = mlp.out.original_component
    zero = lambda m, i, o: o * 0  # noqa: E731
    half = lambda m, i: tuple(0.5 * each for each in i)  # noqa: E731
    return {
        "forward hook": (hook_of(mlp.register_forward_hook, zero), "blocks.1.mlp: a forward hook"),
        "on the original": (hook_of(down.register_forward_hook, zero), "blocks.1.mlp.out"),
        "pre-hook": (hook_of(down.register_forward_pre_hook, half), "a forward pre-hook"),
        "of a block": (
            hook_of(
                model.blocks[0].register_forward_hook,
                lambda m, i, o: (0.5 * o[0], *o[1:]) if isinstance(o, tuple) else 0.5 * o,
            ),
            "blocks.0: a forward hook",
        ),
        "on any module": (
            hook_of(
                nn.modules.module.register_module_forward_hook,
                lambda m, i, o: 0.5 * o if m is down else None,
            ),
            "all modules",
        ),
        "permanent hook": (
            lambda: (
                model.add_perma_hook("blocks.0.hook_mlp_out", lambda value, hook: 0.5 * value),
                lambda: model.reset_hooks(including_permanent=True),
            )[1],
            "a forward hook",
        ),
        "adapter": (
            put(mlp.out, "_original_component", lambda own: Adapter(own, 64, 32)),
            "a Adapter put in its place",
        ),
        "attention adapter": (
            put(attention.q, "_original_component", lambda own: Adapter(own, 32, 32)),
            "blocks.1.attn.q",
        ),
        "parameter": (
            put(down, "weight", lambda own: nn.Parameter(2 * own.detach())),
            "weight is another tensor",
        ),
        "bias where none was": (
            put(down, "bias", nn.Parameter(torch.ones(32))),
            "bias is another tensor",
        ),
        "parametrization": (parametrized(down, "weight"), "has become a ParametrizedLinear"),
        "forward": (put(down, "forward", lambda x: torch.zeros(*x.shape[:-1], 32)), "forward is"),
        "buffer": (
            buffer(model.rotary_emb.original_component, "inv_freq", lambda own: own * 0.5),
            "inv_freq is another tensor",
        ),
        "attribute": (
            put(model.blocks[0].ln1.original_component, "variance_epsilon", 10.0),
            "variance_epsilon was",
        ),
        "setting": (put(model.cfg, "output_logits_soft_cap", 3.0), "output_logits_soft_cap was"),
    }


NAMES = [
    "forward hook",
    "on the original",
    "pre-hook",
    "of a block",
    "on any module",
    "permanent hook",
    "adapter",
    "attention adapter",
    "parameter",
    "bias where none was",
    "parametrization",
    "forward",
    "buffer",
    "attribute",
    "setting",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return family_model("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def pairs():
    return random_pairs(4)


def own_differences(model, encoded):
    """L of the reasoning prompts by the model itself."""
    found = []
    for row, ids in enumerate(encoded.reasoning):
        with torch.no_grad():
            logits = model(ids[None])[:, -1]
        found.append(logit_difference(logits, encoded.memorized[[row]], encoded.reasoned[[row]]))
    return torch.cat(found)


def own_effects(model, encoded, layer, index):
    """The change of L by zeroing a neuron on the reasoning prompts, by TransformerLens' own hooks."""

    def zero(value, hook):
        value[..., -1, index] = 0
        return value

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", zero)]):
        after = own_differences(model, encoded)
    return after - own_differences(model, encoded)


def test_names_are_the_changes(llama):
    assert list(changes(llama)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_everything_sees_the_model_as_it_is(llama, pairs, name):
    before = nt.encode(llama, pairs, check=False)
    scores = nt.gradient(llama, before, donor="memorization", kind="zero")
    change, words = changes(llama)[name]
    undo = change()
    try:
        with pytest.warns(UserWarning, match="changed after it was loaded") as said:
            assert twin(llama) is None
        assert words in str(said[0].message)
        assert words in changed(llama)
        expected = own_differences(llama, before)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it has been said
            encoded = nt.encode(llama, pairs, check=False)
            assert torch.allclose(encoded.on_reasoning.logit_difference, expected, atol=1e-4)
            for asked in (encoded, before):  # also what was encoded before
                effects = nt.ablate(
                    llama,
                    asked,
                    [nt.Neuron(0, 3), nt.Neuron(2, 5)],
                    kind="zero",
                    donor="memorization",
                )
                for layer, index in ((0, 3), (2, 5)):
                    own = own_effects(llama, encoded, layer, index).mean()
                    assert effects.value[layer, index] == pytest.approx(float(own), abs=1e-4)
                zero = nt.zero([nt.Neuron(2, 5)], direction="to_memorization")
                table = nt.measure(llama, asked, [zero]).to_frame().sort_values("pair")
                assert torch.allclose(torch.tensor(table["L_before"].to_numpy()), expected, atol=1e-4)
                after = expected + own_effects(llama, encoded, 2, 5)
                assert torch.allclose(torch.tensor(table["L_after"].to_numpy()), after, atol=1e-4)
            now = nt.gradient(llama, before, donor="memorization", kind="zero")
            again = nt.gradient(llama, encoded, donor="memorization", kind="zero")
        assert torch.equal(now.value, again.value)
        # (a bridge's own logits don't depend on that setting)
        assert torch.allclose(now.value, scores.value, atol=1e-4) == (name == "setting")
        # nothing behind the last neurons but the unembedding's norm: steps are nearly linear
        step = 1e-2

        def nudge(value, hook):
            value[..., -1, 5] *= 1 - step
            return value

        with llama.hooks(fwd_hooks=[("blocks.2.mlp.hook_post", nudge)]):
            slope = (own_differences(llama, encoded) - expected).mean() / step
        assert float(now.value[2, 5]) == pytest.approx(float(slope), rel=0.05, abs=2e-3)
    finally:
        undo()
    assert changed(llama) == ""
    assert engine_of(llama) is not None
    same = nt.encode(llama, pairs, check=False)
    assert torch.equal(same.on_reasoning.logit_difference, before.on_reasoning.logit_difference)


def test_the_issues_example(organism):
    pairs = nt.load_pairs("arithmetic")[:6]
    before = nt.encode(organism, pairs)
    handle = organism.blocks[2].mlp.register_forward_hook(lambda m, i, o: o * 0)
    try:
        with pytest.warns(UserWarning, match=r"blocks\.2\.mlp: a forward hook"):
            encoded = nt.encode(organism, before)
        expected = own_differences(organism, before)
        assert torch.allclose(encoded.on_reasoning.logit_difference, expected, atol=1e-4)
        gap = (before.on_reasoning.logit_difference - expected).abs().max()
        assert gap > 1
    finally:
        handle.remove()


def test_a_backward_hook_is_seen(llama, pairs):
    encoded = nt.encode(llama, pairs, check=False)
    before = nt.gradient(llama, encoded)
    down = llama.blocks[1].mlp.out.original_component
    handle = down.register_full_backward_hook(lambda m, i, o: tuple(each * 0 for each in i))
    try:
        with pytest.warns(UserWarning, match="a backward hook"):
            scores = nt.gradient(llama, encoded)
        assert not scores.value[1].any()
        assert scores.value[2].any()
    finally:
        handle.remove()
    assert torch.equal(nt.gradient(llama, encoded).value, before.value)


def test_weights_changed_in_place_are_seen_by_both(tmp_path, pairs):
    """Norms whose lighter forms were made before included (`engine.modules`)."""
    for name in ("llama", "gemma2"):
        model = family_model(name, tmp_path)
        encoded = nt.encode(model, pairs, check=False)
        assert engine_of(model) is not None
        with torch.no_grad():
            for part in model.original_model.modules():
                if "RMSNorm" in type(part).__name__:
                    part.weight.mul_(0.5).add_(0.3)
            model.blocks[1].mlp.out.original_component.weight.data.mul_(1.5)
        assert engine_of(model) is not None
        expected = own_differences(model, encoded)
        zero = nt.zero([nt.Neuron(1, 5)], direction="to_memorization")
        table = nt.measure(model, encoded, [zero]).to_frame().sort_values("pair")
        after = expected + own_effects(model, encoded, 1, 5)
        assert torch.allclose(torch.tensor(table["L_before"].to_numpy()), expected, atol=1e-4)
        assert torch.allclose(torch.tensor(table["L_after"].to_numpy()), after, atol=1e-4)


@pytest.mark.parametrize("part", ["q", "qkv"])
def test_a_copy_of_joint_weights_is_not_changed_alone(tmp_path, pairs, part):
    """TransformerLens splits NeoX's joint projection into copies, and then runs only those."""
    model = family_model("neox", tmp_path)
    nt.encode(model, pairs, check=False)
    weight = getattr(model.blocks[1].attn, part).original_component.weight
    weight.data.mul_(2)  # its version says nothing
    with pytest.warns(UserWarning, match="was changed in place"):
        encoded = nt.encode(model, pairs, check=False)
    expected = own_differences(model, encoded)
    assert torch.allclose(encoded.on_reasoning.logit_difference, expected, atol=1e-4)
    weight.data.div_(2)
    assert twin(model) is not None


def test_moved_to_another_type(tmp_path, pairs):
    model = family_model("llama", tmp_path)
    nt.encode(model, pairs, check=False)
    model.to(torch.float64)
    with pytest.warns(UserWarning, match="changed after it was loaded"):
        encoded = nt.encode(model, pairs, check=False)
    assert nt.inspect_model(model).dtype == torch.float64
    expected = own_differences(model, encoded)
    assert torch.allclose(encoded.on_reasoning.logit_difference, expected, atol=1e-4)


def test_training_mode_is_refused_at_every_call(tmp_path, pairs):
    model = family_model("gpt2", tmp_path)  # its dropouts have a rate
    encoded = nt.encode(model, pairs, check=False)
    for part in (model, model.blocks[1].mlp):
        part.train()
        with pytest.raises(InputError, match=r"model\.eval\(\) .*is in training mode"):
            nt.encode(model, pairs, check=False)
        with pytest.raises(InputError, match="training mode"):
            nt.measure(model, encoded, [nt.zero([nt.Neuron(0, 1)], direction="to_reasoning")])
        model.eval()
        assert twin(model) is not None


def test_compatibility_mode_goes_through_the_model(tmp_path, pairs):
    model = family_model("llama", tmp_path)
    encoded = nt.encode(model, pairs, check=False)
    model.enable_compatibility_mode(disable_warnings=True)
    with pytest.warns(UserWarning, match="changed after it was loaded"):
        again = nt.encode(model, pairs, check=False)
    expected = own_differences(model, encoded)
    assert torch.allclose(again.on_reasoning.logit_difference, expected, atol=1e-4)
    effects = nt.ablate(model, encoded, [nt.Neuron(2, 5)], kind="zero", donor="memorization")
    own = own_effects(model, encoded, 2, 5).mean()
    assert effects.value[2, 5] == pytest.approx(float(own), abs=1e-4)


def test_what_needs_the_loaded_model_names_the_change(llama, pairs):
    encoded = nt.encode(llama, pairs, check=False)
    mlp = llama.blocks[1].mlp
    own = mlp.out._original_component
    mlp.out._original_component = Adapter(own, 64, 32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for rank in (nt.relp, nt.magnitude):
                with pytest.raises(InputError, match=r"blocks\.1\.mlp\.out.*Adapter"):
                    rank(llama, encoded)
            assert nt.contrast(llama, encoded).value.any()
    finally:
        mlp.out._original_component = own
    assert nt.magnitude(llama, encoded).value.any()


def test_a_module_without_neurons_is_refused_by_name(llama, pairs):
    block = llama.blocks[1]
    own, block.mlp.out._original_component = block.mlp.out._original_component, nn.Identity()
    real = llama.original_model.model.layers[1]
    try:
        with pytest.raises(InputError, match=r"changed after loading: blocks\.1\.mlp\.out"):
            nt.encode(llama, pairs, check=False)
    finally:
        block.mlp.out._original_component = own
    assert real is llama.original_model.model.layers[1]
    assert nt.encode(llama, pairs, check=False).changed == ""


def test_passes_and_caches_change_nothing(llama):
    for ids in (torch.arange(1, 9)[None], torch.arange(1, 30)[None].expand(2, -1)):
        llama(ids)
        llama.run_with_cache(ids)  # transformers puts collecting hooks on
        llama.generate(ids, max_new_tokens=2, return_type="tokens", verbose=False)
        llama.run_with_hooks(ids, fwd_hooks=[("blocks.0.mlp.hook_post", lambda v, hook: v)])
    assert changed(llama) == ""


def test_a_copy_has_no_twin_and_the_model_can_go(tmp_path, pairs):
    model = family_model("llama", tmp_path)
    nt.encode(model, pairs, check=False)
    other = copy.deepcopy(model)
    assert twin(other) is None
    with torch.no_grad():
        other.blocks[0].mlp.out.original_component.weight.mul_(3)
    encoded = nt.encode(other, pairs, check=False)
    expected = own_differences(other, encoded)
    assert torch.allclose(encoded.on_reasoning.logit_difference, expected, atol=1e-4)
    assert twin(model) is not None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
