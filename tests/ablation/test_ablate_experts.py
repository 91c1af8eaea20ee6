"""The router as a unit: its logits are those of transformers' own router, and are changed as is said."""

from __future__ import annotations

import pytest
import torch
from families import WORDS, build, random_pairs
from planted import word_tokenizer

import neurotrace as nt
from neurotrace.ablation.experts import OFF, router_logits
from neurotrace.core.errors import InputError
from neurotrace.engine.parts import find_blocks, hooked
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import twin

TOP = 2


def loaded(name: str, folder):
    model = nt.load_model(build(name), word_tokenizer(folder, WORDS), name="mixture")
    return model, encode(model, random_pairs(5), check=False)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return loaded("mixtral", tmp_path_factory.mktemp("words"))


def gates(other) -> list:
    """Of transformers' own model, by block; None where it has none."""
    names = ("gate", "router")
    every = [[getattr(block.mlp, name, None) for name in names] for block in find_blocks(other)]
    return [next((each for each in found if each is not None), None) for found in every]


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_logits_are_those_of_transformers_router(name, tmp_path):
    model, encoded = loaded(name, tmp_path)
    found = router_logits(model, encoded)
    other, blocks = twin(model), inspect_model(model).experts.blocks
    for side, values in (
        ("memorization", found.side("memorization")),
        ("reasoning", found.side("reasoning")),
    ):
        for ids, own in zip(encoded.ids(side), values, strict=True):
            seen: dict[int, torch.Tensor] = {}
            hooks = [
                (gate, "output", lambda _, __, y, at=at, seen=seen: seen.__setitem__(at, y[0]))
                for at, gate in enumerate(gates(other))
                if blocks[at][0]
            ]
            with torch.no_grad(), hooked(hooks):
                other(ids[None], use_cache=False)
            for at, logits in seen.items():
                assert torch.allclose(own[at, : blocks[at][0]], logits[-1].float(), atol=1e-4)
    assert len(seen) >= 3


def by_hand(model, encoded, row: int, layers: dict[int, torch.Tensor]) -> tuple[float, list]:
    """(L, the experts of each block at the last token): transformers' own model, its gates replaced by a
    softmax, a top 2 and a sum to 1 of logits that are changed at the last token."""
    other, sent = twin(model), []

    def route(at: int):
        def hook(_, __, y):
            logits = y[0].clone()
            if at in layers:
                change = layers[at]
                logits[-1] = torch.where(change.isnan(), logits[-1], change)
            weights, experts = logits.softmax(-1).topk(TOP, dim=-1)
            sent.append(set(experts[-1].tolist()))
            return logits, weights / weights.sum(-1, keepdim=True), experts

        return hook

    hooks = [(gate, "output", route(at)) for at, gate in enumerate(gates(other))]
    with torch.no_grad(), hooked(hooks):
        logits = other(encoded.memorization[row][None], use_cache=False).logits[0, -1]
    return float(logits[encoded.memorized[row]] - logits[encoded.reasoned[row]]), sent


def test_an_expert_off_and_a_patched_router_are_what_is_done_by_hand(mixtral):
    model, encoded = mixtral[0], mixtral[1].at([0, 3])
    found = nt.ablate_experts(model, encoded, direction="to_reasoning", kinds=("off", "patch", "shift:2"))
    frame = found.effects.to_frame().set_index(["label", "intervention", "role", "pair"])["L_after"]
    donor = router_logits(model, encoded).side("reasoning")
    moved = 2 * router_logits(model, encoded).moments().contrast
    clean = router_logits(model, encoded).side("memorization")
    nothing = torch.full((4,), torch.nan)
    for row, pair in enumerate(encoded.pairs):
        off = nothing.clone()
        off[1] = OFF
        expected, sent = by_hand(model, encoded, row, {2: off})
        assert 1 not in sent[2]
        assert frame["L2.E1", "off", "selected", pair.id] == pytest.approx(expected, abs=1e-3)
        expected, _ = by_hand(model, encoded, row, {1: donor[row, 1]})
        assert frame["L1 router", "patch", "selected", pair.id] == pytest.approx(expected, abs=1e-3)
        expected, _ = by_hand(model, encoded, row, dict(enumerate(donor[row])))
        assert frame["every router", "patch", "selected", pair.id] == pytest.approx(expected, abs=1e-3)
        up = nothing.clone()
        up[3] = clean[row, 0, 3] + moved[0, 3]
        expected, _ = by_hand(model, encoded, row, {0: up})
        assert frame["L0.E3", "shift:2", "selected", pair.id] == pytest.approx(expected, abs=1e-3)
    before = found.effects.to_frame().set_index(["label", "pair"])["L_before"]
    assert (found.effects.to_frame()["L_after"] - found.effects.to_frame()["L_before"]).abs().max() > 0.1
    assert before["L2.E1", encoded.pairs[0].id].iloc[0] == pytest.approx(
        by_hand(model, encoded, 0, {})[0], abs=1e-3
    )


def test_the_table_has_a_control_of_the_same_block(mixtral):
    model, encoded = mixtral
    found = nt.ablate_experts(model, encoded, direction="to_memorization", kinds=("off",))
    table = found.to_frame()
    assert len(table) == 16
    for row in table.itertuples():
        block = row.unit.partition(".")[0]
        others = {
            name: used for name, used in found.used.items() if name.startswith(block) and name != row.unit
        }
        assert row.control in others
        gap = min(abs(used - row.used) for used in others.values())
        assert abs(row.control_used - row.used) == gap
        own = table.set_index("unit")["flipped"][row.control]
        assert row.control_flipped == own  # the same change of the same expert
    for layer in range(4):  # two experts a token
        assert sum(found.used[f"L{layer}.E{n}"] for n in range(4)) == pytest.approx(TOP)
    unused = [name for name, used in found.used.items() if used == 0]
    rows = found.effects.where(role="selected").to_frame()
    moved = (rows["L_after"] - rows["L_before"]).abs().groupby(rows["label"]).max()
    assert all(moved[name] < 1e-4 for name in unused)
    assert found.effects.routing == "free"
    assert "Routing: free" in str(found._view())


def test_what_has_no_router_is_refused(mixtral, tmp_path):
    model, encoded = mixtral
    with nt.routing(model, "frozen"), pytest.raises(InputError, match="take routing 'free'"):
        nt.ablate_experts(model, encoded, direction="to_reasoning")
    with pytest.raises(InputError, match=r"L1\.N4 is not in this model of 4 layers × 4 experts"):
        nt.measure(model, encoded, [nt.zero(["L1.N4"], direction="to_reasoning")], site="router")
    dense = nt.load_model(build("llama"), word_tokenizer(tmp_path, WORDS), name="dense")
    with pytest.raises(InputError, match="has no experts"):
        nt.ablate_experts(dense, random_pairs(2), direction="to_reasoning")
    change = [nt.zero(["L1.N0"], direction="to_reasoning")]
    own = encode(dense, random_pairs(2), check=False)
    with pytest.raises(InputError, match="0 experts"):
        nt.measure(dense, own, change, site="router")
