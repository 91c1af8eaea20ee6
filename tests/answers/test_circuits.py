"""The circuit and the causal margin: a planted truth, two routes to one number, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from families import CONFIGS, family_model, random_pairs
from planted import PLANTED

import neurotrace as nt
from neurotrace.answers.answered import prompt_ids
from neurotrace.answers.circuit import OFFS, norms_of
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import originals
from neurotrace.engine import metrics
from neurotrace.models.hooks import forward
from neurotrace.organism import folder


@pytest.fixture(scope="module")
def asked(organism):
    return {
        name: nt.answer(organism, originals(nt.load_prompts(name))).decided()
        for name in ("arithmetic", "inference", "letters")
    }


@pytest.fixture(scope="module")
def circuit(organism):
    train, _ = nt.split_pairs(nt.load_pairs("arithmetic"), seed=0)
    return nt.find_circuit(organism, train, k=4)


def of_memory(answered) -> torch.Tensor:
    return torch.tensor([outcome == "memory" for outcome in answered.outcome])


def separation(margin: torch.Tensor, memory: torch.Tensor) -> float:
    """AUROC, the obvious way: over all pairs of one with the other."""
    above = margin[memory][:, None] - margin[~memory]
    return float((above > 0).float().mean() + (above == 0).float().mean() / 2)


def test_the_circuit_is_the_planted_one(circuit):
    live = json.loads((folder("organism") / "truth.json").read_text())["live"]
    assert sorted(map(str, circuit.memory)) == sorted(live["memory"])
    assert sorted(map(str, circuit.reasoning)) == sorted(live["reasoning"])


@pytest.mark.parametrize("off", OFFS)
def test_every_off_finds_the_planted_neuron(model, pairs, off):
    found = nt.find_circuit(model, pairs, k=1, off=off)
    assert PLANTED in (*found.memory, *found.reasoning)


def test_the_margin_tells_memory_from_reasoning_in_other_families(organism, asked, circuit):
    """Found on half of arithmetic's pairs; `ask` prompts share no cue with them."""
    for name, answered in asked.items():
        memory = of_memory(answered)
        margins = nt.causal_margin(organism, answered, circuit)
        assert 40 < int(memory.sum()) < len(memory) - 40, name
        assert separation(margins.margin, memory) > 0.99, name
    # as many random neurons of the same layer move nothing
    drawn = nt.Scores("none", torch.zeros(4, 384)).random_like(
        (*circuit.memory, *circuit.reasoning), seed=0
    )
    norms = norms_of(organism, drawn)
    random = nt.Circuit(drawn[:4], drawn[4:], torch.zeros(4), torch.zeros(4), norms)
    moved = [nt.causal_margin(organism, answered, each).margin for each in (random, circuit)]
    assert float(moved[0].abs().median()) < 0.05 * float(moved[1].abs().median())


def test_the_margin_is_what_full_passes_say(tmp_path):
    name = next(iter(CONFIGS))
    model = family_model(name, tmp_path)
    prompts = nt.prompts_of(random_pairs(5))
    neurons = [nt.Neuron(0, 1), nt.Neuron(1, 33)], [nt.Neuron(2, 60), nt.Neuron(0, 9)]
    offs = torch.tensor([0.0, 0.5]), torch.tensor([0.0, -0.5])
    norms = norms_of(model, [*neurons[0], *neurons[1]])
    circuit = nt.Circuit(tuple(neurons[0]), tuple(neurons[1]), *offs, norms)
    margins = nt.causal_margin(model, prompts, circuit)
    ids = prompt_ids(model, [prompt.prompt for prompt in prompts])
    moved = 0.0
    for row, own in enumerate(ids):
        clean = forward(model, own[None]).detach()
        top = clean.argmax(-1)
        assert int(top) == int(margins.answer[row])
        before = metrics.log_probability(clean, top)
        for part, values, fall in zip(
            neurons, offs, (margins.memory_fall, margins.reasoning_fall), strict=True
        ):

            def switch(layer, post, part=part, values=values):
                changed = post.clone()
                for neuron, value in zip(part, values, strict=True):
                    if neuron.layer == layer:
                        changed[:, -1, neuron.index] = value
                return changed

            layers = {neuron.layer for neuron in part}
            changed = forward(model, own[None], edit=switch, layers=layers).detach()
            after = metrics.log_probability(changed, top)
            assert float(fall[row]) == pytest.approx(float(before - after), abs=2e-4)
            moved = max(moved, abs(float(before - after)))
    assert moved > 0.01  # or the comparison would be of zeros


def test_order_and_batches_do_not_matter(organism, asked, circuit):
    texts = [prompt.prompt for prompt in asked["letters"].prompts[:7]]
    together = nt.causal_margin(organism, texts, circuit)
    alone = nt.causal_margin(organism, texts[::-1], circuit, batch_size=2)
    assert torch.allclose(together.margin, alone.margin.flip(0), atol=1e-4)


def test_save_and_load(tmp_path, circuit):
    circuit.save(tmp_path / "circuit.safetensors")
    again = nt.Circuit.load(tmp_path / "circuit.safetensors")
    assert (again.memory, again.reasoning) == (circuit.memory, circuit.reasoning)
    assert torch.equal(again.memory_off, circuit.memory_off)
    assert again.provenance == circuit.provenance
    (tmp_path / "other").write_text("no")
    with pytest.raises(InputError, match="as safetensors"):
        nt.Circuit.load(tmp_path / "other")
    nt.Scores("x", torch.ones(2, 2)).save(tmp_path / "scores")
    with pytest.raises(InputError, match=r"not written by Circuit\.save"):
        nt.Circuit.load(tmp_path / "scores")


def test_refusals(model, organism, pairs, circuit):
    with pytest.raises(InputError, match="of another model"):
        nt.causal_margin(model, ["the item1 recall"], circuit)
    natural = nt.load_model("organism-natural", device="cpu")
    with pytest.raises(InputError, match=r"of another model: expected organism, got organism-natural"):
        nt.causal_margin(natural, ["ask 1 2 + 3 4 ="], circuit)
    with pytest.raises(InputError, match="prompt 2 is empty"):
        nt.causal_margin(organism, ["ask 1 2 + 3 4 =", " "], circuit)
    with pytest.raises(InputError, match="the model takes 24: shorten it"):
        nt.causal_margin(organism, ["ask " * 30], circuit)
    recalled = [p for p in nt.prompts_of(pairs) if p.id.endswith("memorization")]
    with pytest.raises(InputError, match="needs both outcomes"):
        nt.find_circuit(model, recalled, k=1)
    with pytest.raises(InputError, match="k=48"):
        nt.find_circuit(model, pairs, k=48)
    with pytest.raises(InputError, match="off='half'"):
        nt.find_circuit(model, pairs, k=1, off="half")
    with pytest.raises(InputError, match="each neuron once"):
        nt.Circuit((PLANTED,), (PLANTED,), torch.zeros(1), torch.zeros(1), torch.ones(2))
