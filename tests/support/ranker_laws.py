"""A law for each ranker that holds on every family: what its scores must equal, computed another way.

`probed` takes transformers' own model, changes one neuron by a little and looks: at the residual stream
behind its block (what the neuron writes) and at L, with every linear map of later blocks held at its
clean output (the direct path). It shares no code with the rankers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import neurotrace as nt
from neurotrace.core.sides import SIDES
from neurotrace.engine.experts import Neurons
from neurotrace.engine.parts import Parts, find_parts, hooked
from neurotrace.interventions.reference import gather
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import twin
from neurotrace.rankers.imprint import imprint

QUICK: dict[str, dict[str, Any]] = {  # the costliest rankers, shortened
    "exact": {"neurons": [nt.Neuron(layer, at) for layer in range(4) for at in range(1, 64, 9)]},
    "integrated": {"steps": 2, "layers": [1], "kind": "patch:0.05"},
    "slimming": {"steps": 1, "price": 1e-6},
    "hard_concrete": {"steps": 3, "price": 1e-3},
}
STEP = 0.03  # of an activation: small against its curvature, large against float32


def obeyed(model: Any, encoded: Any, scores: dict[str, nt.Scores]) -> None:
    """An AssertionError where a ranking is not what it says; names missing in `scores` are skipped."""
    info = inspect_model(model)
    value = {name: own.value for name, own in scores.items()}
    if info.experts is not None:  # shorter blocks end before the longest
        for name in set(value) - {"exact", "integrated", "pearson"}:
            value[name] = value[name].nan_to_num()
    activations = nt.collect(model, encoded).values
    contrast_and_pearson(activations, value["contrast"], value["pearson"])
    evidence = gather(model, encoded)
    change = activations[1] - activations[0]
    ends = (change * evidence.slopes[0]).mean(0), (change * evidence.slopes[1]).mean(0)
    agree(value["gradient"], ends[0])
    agree(value["two_ended"], (ends[0] + ends[1]) / 2)
    agree(value["direct"][-1], value["gradient"][-1], of=value["gradient"])
    effects_are_as_measured(model, encoded, value)
    assert torch.equal(value["random"], nt.random_scores(model, seed=0).value.nan_to_num())
    assert not torch.equal(value["random"], nt.random_scores(model, seed=1).value)
    if "relp" in value:  # in the last layer it holds the norms' scales, and nothing else is left to hold
        both = torch.stack([value["relp"][-1], value["gradient"][-1]])
        assert torch.corrcoef(both)[0, 1] > 0.8
    try:
        parts = find_parts(twin(model))
    except ValueError:  # nothing to look at it with
        return
    rows = torch.stack([projection_rows(module) for module in parts.projections])
    agree(value["magnitude"], rows.norm(dim=-1).cpu())
    on_one_pair(model, parts, encoded.at([0]), change[0])
    if "imprint" in value:
        rows_lean_to_their_gradient(model, parts, encoded.at([0]))


def agree(one: Tensor, other: Tensor, *, of: Tensor | None = None, within: float = 1e-4) -> None:
    """Equal within a share of the largest value of `of`, `other` itself by default."""
    size = float((other if of is None else of).abs().max())
    assert size > 1e-3
    assert float((one - other).abs().max()) < within * size


def contrast_and_pearson(activations: Tensor, contrast: Tensor, pearson: Tensor) -> None:
    agree(contrast, activations[1].mean(0) - activations[0].mean(0))
    flat = activations.flatten(0, 1).flatten(1)
    y = torch.arange(2.0).repeat_interleave(activations.shape[1])
    every = torch.corrcoef(torch.cat([flat.t(), y[None]]))[-1, :-1]
    known = ~pearson.flatten().isnan() & (flat.std(0) > 1e-4)
    assert known.any()
    assert torch.allclose(pearson.flatten()[known], every[known], atol=1e-3)


def effects_are_as_measured(model: Any, encoded: Any, value: dict[str, Tensor]) -> None:
    """`exact`; `integrated`, whose layer adds up to what changing it all does; `slimming`, whose mask
    has after one step grown exactly where a little of the patch makes the donor's answer likelier."""
    width = value["exact"].shape[1]
    layer = QUICK["integrated"]["layers"][0]
    single = [nt.Neuron(*at) for at in (~value["exact"].isnan()).nonzero().tolist()][3::5]
    strong = [divmod(int(at), width) for at in value["gradient"].abs().flatten().topk(6).indices]
    asked = {f"exact {n}": nt.patch([n], donor="reasoning") for n in single} | {
        f"small {at}": nt.patch([nt.Neuron(*at)], donor="reasoning", strength=0.003) for at in strong
    }
    every = [nt.Neuron(layer, index) for index in range(width)]
    step = 0.05 if inspect_model(model).experts is None else 0.01
    asked["layer"] = nt.patch(every, donor="reasoning", strength=step)
    labelled = [replace(patch, label=label) for label, patch in asked.items()]
    frame = nt.measure(model, encoded, labelled).to_frame()
    frame["moved"] = frame["L_after"] - frame["L_before"]
    frame["gain"] = np.log(frame["p_reasoned_after"] / frame["p_reasoned_before"])
    moved = frame.groupby("label")["moved"].mean()
    expected = torch.stack([value["exact"][n.layer, n.index] for n in single])
    done = torch.tensor([moved[f"exact {n}"] for n in single], dtype=torch.float32)
    agree(done, expected, of=value["exact"].nan_to_num(), within=1e-3)
    whole = float(value["integrated"][layer].sum())
    assert abs(whole - moved["layer"]) < 0.03 * abs(moved["layer"]) + 0.02 * step
    rows = next(iter(by_length(encoded.ids(SIDES[0]), 32)))[0]  # those of the first step
    stepped = frame["pair"].isin([encoded.pairs[row].id for row in rows])
    gain = frame[stepped].groupby("label")["gain"].mean()
    for at in strong:
        if abs(gain[f"small {at}"]) > 6e-5:  # no tie
            assert bool(value["slimming"][at] != 0) == (gain[f"small {at}"] > 0), at


class Probe(NamedTuple):
    """One neuron changed by a little in either run of a pair."""

    written: Tensor  # Float["side d_model"], for one unit of the activation
    direct: Tensor  # Float["side"], dL/da by the direct path


def on_one_pair(model: Any, parts: Parts, one: Any, change: Tensor) -> None:
    """`direct` in layers below the last, norms, `slope` and `log_increase`, against probes."""
    direct = nt.direct(model, one).value.nan_to_num()
    neurons = [nt.Neuron(layer, int(direct[layer].abs().argmax())) for layer in (0, 1)]
    probes = {neuron: probed(parts, one, neuron) for neuron in neurons}
    norms = nt.reference(model, one).norms
    for neuron, probe in probes.items():
        at = neuron.layer, neuron.index
        expected = float(change[at] * probe.direct[0])
        assert abs(float(direct[at]) - expected) < 0.03 * abs(expected) + 1e-4, str(neuron)
        norm = float(probe.written.square().sum(-1).mean().sqrt())
        assert abs(float(norms[at]) - norm) < 0.01 * norm, str(neuron)
    slope, gradient = (rank(model, one).value.nan_to_num() for rank in (nt.slope, nt.gradient))
    agree(slope * norms * change.abs(), gradient)
    lens = nt.log_increase(model, one).value.nan_to_num()
    for neuron in neurons:
        expected = increased(parts, one, neuron, probes[neuron].written[0], change)
        found = float(lens[neuron.layer, neuron.index])
        assert abs(found - expected) < 0.03 * abs(expected) + 2e-3 * float(lens.abs().max()), neuron


def rows_lean_to_their_gradient(model: Any, parts: Parts, one: Any) -> None:
    """`imprint` in the first and last layer, from the weights' own gradients, solved layer by layer."""
    found = imprint(model, one).value
    modules: list[Any] = [parts.projections[0], parts.projections[-1]]
    weights = [each.requires_grad_() for module in modules for each in down_weights(module)]
    with torch.enable_grad():
        ids = one.ids(SIDES[0])[0][None].to(parts.device)
        logits = parts.model(ids, use_cache=False).logits[:, -1]
        slopes = torch.autograd.grad(difference(logits, one).sum(), weights)
    of = dict(zip(map(id, weights), slopes, strict=True))
    for layer, module in zip((0, -1), modules, strict=True):
        signs = torch.cat([slope_rows(module, each, of[id(each)]) for each in down_weights(module)]).sign()
        rows = projection_rows(module)[: len(signs)]  # of a mixture: without the zeros behind them
        assert 0 < float(signs.abs().mean()) <= 1
        spread = torch.cov(rows.t(), correction=0)
        spread += 0.01 * spread.diagonal().mean() * torch.eye(len(spread), device=spread.device)
        towards = torch.linalg.solve(spread, signs.t()).t()
        size = (towards * signs).sum(1).clamp(min=1e-12).sqrt()
        leans = (towards * (rows - rows.mean(0))).sum(1) / size
        both = torch.stack([-found[layer][: len(leans)], leans.cpu()])
        assert torch.corrcoef(both)[0, 1] > 0.99
        agree(both[0].abs().mean(), both[1].abs().mean(), within=0.05)


def down_weights(module: Any) -> list[Any]:
    """Transformers' own parameters that a block's neurons are rows of; experts' before the shared one's."""
    if not isinstance(module, Neurons):
        return [module.weight]
    own = [] if module.routed is None else [module.routed.down_proj]
    return own if module.down is None else [*own, module.down.weight]


def slope_rows(module: Any, weight: Tensor, slope: Tensor) -> Tensor:
    """A parameter's gradient as Float["neuron d_model"]."""
    if weight.dim() == 3:  # experts
        return (slope if module.routed.is_transposed else slope.transpose(1, 2)).flatten(0, 1)
    return slope if isinstance(module, Conv1D) else slope.t()


def probed(parts: Parts, one: Any, neuron: nt.Neuron) -> Probe:
    """Rows: a run of either side as it is, with the neuron a step higher, and a step lower."""
    ids = torch.cat([one.ids(side)[0][None].repeat(3, 1) for side in SIDES])
    steps = torch.tensor([0.0, STEP, -STEP] * len(SIDES), device=parts.device)
    behind: list[Tensor] = []

    def step(_: nn.Module, args: tuple, kwargs: dict) -> Any:
        x = args[0].reshape(len(ids), -1, args[0].shape[-1]).clone()
        x[:, -1, neuron.index] += steps
        return (x.reshape(args[0].shape), *args[1:]), kwargs

    def clean(module: nn.Module, __: tuple, y: Any) -> Any:
        if isinstance(y, tuple):
            return (clean(module, __, y[0]), *y[1:])
        own = y.reshape(len(SIDES), 3, *y.reshape(len(ids), -1, y.shape[-1]).shape[1:])
        return own[:, :1].expand_as(own).reshape(y.shape)

    hooks: list[Any] = [(parts.projections[neuron.layer], "input", step)]
    hooks += [(parts.blocks[neuron.layer], "output", lambda _, __, y: behind.append(first(y)))]
    hooks += [
        (module, "output", clean)
        for block in parts.blocks[neuron.layer + 1 :]
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D) or module in parts.writers
    ]
    with torch.no_grad(), hooked(hooks):
        logits = parts.model(ids.to(parts.device), use_cache=False).logits[:, -1].float().cpu()
    differences = difference(logits, one).reshape(len(SIDES), 3)
    stream = behind[0][:, -1].float().cpu().reshape(len(SIDES), 3, -1)
    return Probe(
        (stream[:, 1] - stream[:, 2]) / (2 * STEP),
        (differences[:, 1] - differences[:, 2]) / (2 * STEP),
    )


def increased(parts: Parts, one: Any, neuron: nt.Neuron, written: Tensor, change: Tensor) -> float:
    """L read off h + a'*w less L read off h + a*w, each put in the place of the last block's output."""
    entered: list[Tensor] = []
    neurons: list[Tensor] = []

    def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    hooks: list[Any] = [(parts.blocks[neuron.layer], "input", enter)]
    hooks += [(parts.projections[neuron.layer], "input", lambda _, args, __: neurons.append(args[0]))]
    ids = one.ids(SIDES[0])[0][None].to(parts.device)
    with torch.no_grad(), hooked(hooks):
        parts.model(ids, use_cache=False)
    a = float(neurons[0].reshape(ids.shape[1], -1)[-1, neuron.index])
    h = entered[0][0, -1].float().cpu()
    rows = torch.stack([h + (a + float(change[neuron.layer, neuron.index])) * written, h + a * written])

    def put(_: nn.Module, __: tuple, y: Any) -> Any:
        stream = first(y).clone()
        stream[:, -1] = rows.to(stream)
        return type(y)((stream, *y[1:])) if isinstance(y, tuple | list) else stream

    with torch.no_grad(), hooked([(parts.blocks[-1], "output", put)]):
        logits = parts.model(ids.repeat(2, 1), use_cache=False).logits[:, -1].float().cpu()
    after, before = difference(logits, one)
    return float(after - before)


def difference(logits: Tensor, one: Any) -> Tensor:
    return logits[:, int(one.memorized[0])] - logits[:, int(one.reasoned[0])]


def first(y: Any) -> Any:
    return y[0] if isinstance(y, tuple | list) else y


def projection_rows(module: Any) -> Tensor:
    """Float["neuron d_model"], of a mixture in the order of experts, with zeros behind the last neuron."""
    if isinstance(module, Neurons):
        return expert_rows(module.mlp, module.total)
    weight = module.weight.detach().float()
    return weight if isinstance(module, Conv1D) else weight.t()


def expert_rows(mlp: Any, total: int) -> Tensor:
    """The same from transformers' own parameters, neuron by neuron."""
    rows = []
    experts = getattr(mlp, "experts", None)
    for expert in range(experts.num_experts if experts is not None else 0):
        weight = experts.down_proj[expert]
        rows += list(weight if experts.is_transposed else weight.t())
    others = [getattr(mlp, name, None) for name in ("shared_expert", "shared_experts")]
    dense = mlp if experts is None else next((each for each in others if each is not None), None)
    if dense is not None:
        rows += list(dense.down_proj.weight.t())
    rows += [torch.zeros_like(rows[0])] * (total - len(rows))
    return torch.stack(rows).detach().float()
