"""The laws of hooking: what fires, what is left behind, what is refused."""

from __future__ import annotations

import pytest
import torch
from families import family_model, random_pairs
from planted import WORDS, word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.hooks import forward, inspect_model, post_name
from neurotrace.models.loading import boot
from neurotrace.models.origins import twin

IDS = torch.tensor([[1, 7, 9, 2], [3, 8, 4, 1]])


def live_hooks(model) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())


def test_no_hook_survives_an_exception(model):
    before = live_hooks(model)

    def fail(layer, post):
        raise KeyError("injected")

    with pytest.raises(KeyError, match="injected"):
        forward(model, IDS, edit=fail, layers=[0, 1])
    assert live_hooks(model) == before
    clean = forward(model, IDS)
    assert torch.equal(clean, forward(model, IDS))


@pytest.mark.bridge
def test_the_users_own_hooks_stay_and_the_twin_steps_back(model):
    seen = []
    assert twin(model) is not None
    with model.hooks(fwd_hooks=[(post_name(0), lambda value, hook: seen.append(value.shape))]):
        forward(model, IDS, edit=lambda layer, post: None, layers=[0])
        assert twin(model) is None  # it would not see the user's hook
        forward(model, IDS)
    assert len(seen) == 2
    assert twin(model) is not None


def test_a_hook_that_does_not_fire_once_is_refused(model):
    class Twice:
        """Runs the model twice inside one forward call."""

        cfg, hook_dict, hooks = model.cfg, model.hook_dict, model.hooks
        unembed = model.unembed
        parameters = model.parameters

        def __call__(self, ids):
            model(ids)
            return model(ids)

    with pytest.raises(RuntimeError, match="fired 2 times"):
        forward(Twice(), IDS, edit=lambda layer, post: None, layers=[1])


def test_layers_before_an_edit_are_bit_equal_and_identity_changes_nothing(tmp_path):
    model = family_model("llama", tmp_path)
    clean, edited = {}, {}

    def keep(into):
        def edit(layer, post):
            into[layer] = post.clone()
            if into is edited and layer == 1:
                return post + 1.0
            return None

        return edit

    before = forward(model, IDS, edit=keep(clean), layers=range(3))
    after = forward(model, IDS, edit=keep(edited), layers=range(3))
    assert torch.equal(clean[0], edited[0])
    assert torch.equal(clean[1], edited[1])
    assert not torch.equal(clean[2], edited[2])
    assert not torch.allclose(before, after)
    same = forward(model, IDS, edit=lambda layer, post: post.clone(), layers=range(3))
    assert torch.equal(before, same)


def test_wrong_neurons_are_refused(tmp_path, monkeypatch):
    """A hook that shows something else than the down projection's input must not pass."""
    model = family_model("gpt2", tmp_path)
    from neurotrace.models import hooks

    real = hooks.w_out
    monkeypatch.setattr(hooks, "w_out", lambda m, layer: real(m, layer) * 1.5)
    with pytest.raises(InputError, match="differs from the MLP's output"):
        hooks._check_neurons(model, inspect_model(model))


def test_training_mode_and_foreign_objects_are_refused(tmp_path):
    with pytest.raises(InputError, match="load_model"):
        nt.load_model(torch.nn.Linear(2, 2))
    config = GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=32, n_layer=1, n_head=2)
    bridge = boot(GPT2LMHeadModel(config).eval(), word_tokenizer(tmp_path, WORDS), name="tiny")
    fresh = GPT2LMHeadModel(config).eval()
    other = boot(fresh, word_tokenizer(tmp_path, WORDS), name="tiny2")
    from neurotrace.models import hooks

    hooks._checked.pop(other)
    other.train()
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        inspect_model(other)
    assert inspect_model(bridge).name == "tiny"


@pytest.mark.bridge
def test_weights_are_not_changed_by_the_work(tmp_path):
    model = family_model("qwen2", tmp_path)
    before = {name: p.clone() for name, p in twin(model).named_parameters()}
    encoded = nt.encode(model, random_pairs(), check=False)
    scores = nt.gradient(model, encoded)
    top = scores.top(3, direction="to_reasoning")
    nt.measure(model, encoded, [nt.patch(top, donor="reasoning")])
    for name, parameter in twin(model).named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
