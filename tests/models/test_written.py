"""What neurons write behind a norm or a multiplier, against formulas by hand and the model's own passes."""

from __future__ import annotations

import warnings

import pytest
import torch
from families import random_pairs
from families_table import boot

import neurotrace as nt
from neurotrace.core.sides import SIDES
from neurotrace.engine.parts import hooked
from neurotrace.interventions.reference import gather
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import w_out
from neurotrace.models.origins import twin
from neurotrace.models.sites import answer_slope, read_out, unembedding
from neurotrace.models.written import (
    direct_slopes,
    is_plain,
    mean_written,
    pair_norms,
    write_norms,
    written_norms,
    written_rows,
)

IDS = torch.tensor([[1, 7, 9, 2, 5], [3, 8, 4, 1, 6]])
NAMES = ("llama", "gemma2", "granite", "opt_post_norm", "cohere2", "modernbert_decoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> its tiny model, made when first asked for."""

    class Models(dict):
        def __missing__(self, name):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self[name] = boot(name, tmp_path_factory.mktemp(name), "cpu")
            return self[name]

    return Models()


def seen(model, module, ids):
    """What a module of transformers' own model returns at the last position, and what it was given."""
    found = []
    hook = (module, "output", lambda _, args, y: found.append((args[0], y)))
    with torch.no_grad(), hooked([hook]):
        twin(model)(ids, use_cache=False)
    return [each[:, -1] for each in found[0]]


def test_a_plain_family_writes_its_rows(models):
    """Bit for bit what it was before anything was looked at."""
    model = models["llama"]
    encoded = encode(model, random_pairs(4), check=False)
    assert is_plain(model)
    assert all(
        torch.equal(rows, w_out(model, layer).expand(2, -1, -1))
        for layer, rows in enumerate(written_rows(model, IDS))
    )
    assert torch.equal(written_norms(model, encoded), write_norms(model))
    assert torch.equal(nt.reference(model, encoded).norms, write_norms(model))
    assert mean_written(model, encoded).maps is None


def test_behind_an_rms_norm(models):
    """Gemma 2: d(g·m/rms(m))/dm by hand, g = 1 + weight."""
    model = models["gemma2"]
    assert not is_plain(model)
    for layer, found in enumerate(written_rows(model, IDS)):
        norm = twin(model).model.layers[layer].post_feedforward_layernorm
        m, _ = seen(model, norm, IDS)
        scale = (m.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
        rows = w_out(model, layer)
        along = (rows @ m.t()).t()[..., None] * m[:, None] * scale[..., None] ** 3 / m.shape[-1]
        expected = (1 + norm.weight) * (rows * scale[..., None] - along)
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.detach().abs().max()))


def test_behind_a_multiplier(models):
    model = models["granite"]
    assert not is_plain(model)
    encoded = encode(model, random_pairs(4), check=False)
    for layer, found in enumerate(written_rows(model, IDS)):
        assert torch.allclose(found, 0.6 * w_out(model, layer).expand(2, -1, -1))
        assert torch.allclose(mean_written(model, encoded).rows(layer), 0.6 * w_out(model, layer))
    assert torch.allclose(nt.reference(model, encoded).norms, 0.6 * write_norms(model))


def test_norms_on_the_stream_itself(models):
    """OPT-350m: what block 2 writes goes through its own norm, and through two norms of block 3."""
    model = models["opt_post_norm"]
    blocks = twin(model).model.decoder.layers

    def metric(logits):
        return logits[:, 5] - logits[:, 9].square()

    def back(norm, slope):
        x = seen(model, norm, IDS)[0].requires_grad_()
        return torch.autograd.grad(norm(x), x, slope)[0]

    h = seen(model, blocks[3], IDS)[1].requires_grad_()
    (slope,) = torch.autograd.grad(metric(read_out(model)(h)).sum(), h)
    found = direct_slopes(model, IDS, metric)[1]
    for layer in (3, 2):
        slope = back(blocks[layer].final_layer_norm, slope)
        assert torch.allclose(found[:, layer], slope, atol=1e-4 * float(slope.abs().max()))
        slope = back(blocks[layer].self_attn_layer_norm, slope)


@pytest.mark.parametrize("name", ["gemma2", "opt_post_norm"])
def test_hooks_say_the_same_as_the_engine(models, name):
    model = models[name]
    encoded = encode(model, random_pairs(4), check=False)

    def everything():
        rows = torch.stack(list(written_rows(model, IDS)))
        return rows, pair_norms(model, encoded), nt.direct(model, encoded).value

    fast = everything()
    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        assert twin(model) is None
        slow = everything()
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, atol=2e-4 * float(other.abs().max()))


def test_norms_are_of_both_runs_of_the_pairs_that_are_asked(models):
    """The root mean square; a fold's reference knows nothing of the other pairs."""
    model = models["gemma2"]
    encoded = encode(model, random_pairs(4), check=False)
    each = []
    for row in range(4):
        ids = [encoded.ids(side)[row][None] for side in SIDES]
        rows = torch.stack([torch.cat(list(written_rows(model, one))) for one in ids])
        each.append(rows.square().sum(-1).mean(0))
    evidence = gather(model, encoded)
    for some in ([0, 1, 2, 3], [1, 3]):
        expected = torch.stack([each[row] for row in some]).mean(0).sqrt()
        assert torch.allclose(evidence.reference(some).norms, expected, rtol=1e-4)
    assert not torch.allclose(each[0], each[1], rtol=0.01)


def test_a_control_and_steer_write_what_arrives(models):
    """In the residual stream: a norm-matched control as much as its intervention, steer the least."""
    from neurotrace.interventions.controls import same_shift

    model = models["gemma2"]
    encoded = encode(model, random_pairs(4), check=False)
    reference = nt.reference(model, encoded)
    own, other = nt.Neuron(1, 3), nt.Neuron(2, 8)
    means = nt.set_to_mean([own], reference, donor="reasoning")
    control = same_shift(means, [other], reference, role="norm")
    rows = [list(written_rows(model, encoded.ids(side)[row][None])) for side in SIDES for row in range(4)]
    arrived = {
        n: float(torch.stack([r[n.layer][0, n.index].norm() for r in rows]).square().mean().sqrt())
        for n in (own, other)
    }
    moved = float(means.offset - reference.moments.mean_of("memorization")[1, 3])
    assert float(control.offset) * arrived[other] == pytest.approx(moved * arrived[own], rel=1e-3)
    pushed = nt.steer([own, other], reference, direction="to_reasoning").offset
    slope = reference.slope.mean(0)
    for_each = [float(slope[n.layer, n.index]) / arrived[n] ** 2 for n in (own, other)]
    assert float(pushed[0] / pushed[1]) == pytest.approx(for_each[0] / for_each[1], rel=1e-3)


def test_the_average_map(models):
    model = models["gemma2"]
    encoded = encode(model, random_pairs(4), check=False)
    written = mean_written(model, encoded)
    every = [list(written_rows(model, encoded.ids(side)[row][None])) for side in SIDES for row in range(4)]
    for layer in range(4):
        expected = torch.cat([rows[layer] for rows in every]).mean(0)
        assert torch.allclose(written.rows(layer), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_read_out_is_the_models_own(models, name):
    """With a scale (Cohere), a soft cap (Gemma 2), a head (ModernBERT), a projection (OPT-350m)."""
    model = models[name]
    (block,) = [m for n, m in twin(model).named_modules() if n.endswith("layers.3")]
    h = seen(model, block, IDS)[1]
    with torch.no_grad():
        expected = twin(model)(IDS, use_cache=False).logits[:, -1]
    logits = read_out(model)
    assert torch.allclose(logits(h), expected, atol=1e-4)
    assert torch.allclose(logits(h, [5, 30]), expected[:, [5, 30]], atol=1e-4)
    answer = torch.tensor([5, 30])
    slope = answer_slope(model, h, answer)
    nudge = torch.randn(h.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    rows = torch.arange(2)
    with torch.no_grad():
        up, down = (logits(h + s * nudge).log_softmax(-1)[rows, answer] for s in (1, -1))
    assert torch.allclose((slope * nudge).sum(-1), (up - down) / 2, atol=2e-5, rtol=1e-2)


def test_tokens_written_in_the_explorer_are_of_what_arrives(models):
    from neurotrace.results.explorer import _tokens

    model = models["gemma2"]
    encoded = encode(model, random_pairs(4), check=False)
    written = mean_written(model, encoded)
    neuron = nt.Neuron(2, 5)
    (found,) = _tokens(written, [neuron])
    logits = written.rows(2)[5] @ unembedding(model).float()
    best = (logits - logits.mean()).topk(8)
    assert [value for _, value in found["for"]] == pytest.approx(best.values.tolist(), rel=1e-3)
    raw = w_out(model, 2)[5] @ unembedding(model).float()
    assert float((raw - raw.mean()).max()) != pytest.approx(best.values[0].item(), rel=0.05)
