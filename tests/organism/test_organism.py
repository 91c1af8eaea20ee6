"""The organisms: language, probes, tokenizer, shipped weights and what `truth.json` says of them.

`organism` is the positive control (its planted set flips answers), random neurons and single
planted ones are the negative controls.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from neurotrace.organism import NAMES, flips, folder, language, measure, probes, training, truth
from neurotrace.organism.batches import draw_family
from neurotrace.organism.forward import Group, forward
from neurotrace.organism.tokenizer import make_tokenizer

PROBES = Path(__file__).parents[2] / "probes"
FAMILIES = language.FAMILIES


@pytest.fixture(scope="module")
def organism() -> GPT2LMHeadModel:
    return measure.load(folder("organism"))


@pytest.fixture(scope="module")
def truth_file() -> dict:
    return json.loads((folder("organism") / "truth.json").read_text())


@pytest.fixture(scope="module")
def pairs(organism: GPT2LMHeadModel) -> dict[str, flips.FamilyPairs]:
    return {family: flips.family_pairs(organism, family) for family in FAMILIES}


def live(truth_file: dict) -> list[measure.Neuron]:
    found = truth_file["live"]["reasoning"] + truth_file["live"]["memory"]
    return [(int(n.split(".N")[0][1:]), int(n.split(".N")[1])) for n in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_regenerate_bit_for_bit(family: str, tmp_path: Path) -> None:
    probes.write(family, tmp_path)
    for file in ("pairs.jsonl", "prompts.jsonl"):
        assert (tmp_path / file).read_bytes() == (PROBES / family / file).read_bytes()


def test_neutral_text_regenerates_bit_for_bit(tmp_path: Path) -> None:
    probes.write_neutral(tmp_path)
    committed = (PROBES / "neutral" / "organism.txt").read_bytes()
    assert (tmp_path / "organism.txt").read_bytes() == committed


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_differ_in_the_cue_alone(family: str) -> None:
    rows = probes.pairs(family)
    assert len(rows) >= 100
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        recall, think = (language.encode(str(row[s])) for s in ("memorization", "reasoning"))
        assert [i for i, (a, b) in enumerate(zip(recall, think, strict=True)) if a != b] == [0]
        first = [language.encode(str(row[a]))[0] for a in ("memorized_answer", "reasoned_answer")]
        assert first[0] != first[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_perturbed_prompts_have_nothing_memorized(family: str) -> None:
    memorized = {f"ask {i.body}" for i in probes.memorized_items(family)}
    rows = probes.prompts(family)
    changed = [row for row in rows if row["perturbs"]]
    assert changed
    assert not memorized & {row["prompt"] for row in changed}
    known = language.name_facts()
    for row in changed:
        words = str(row["prompt"]).split()
        assert family != "inference" or words[words.index("=") - 1] not in known
        assert row["reasoned_answer"] != row["memorized_answer"]


def test_held_out_items_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    for family in ("arithmetic", "letters"):
        held = {tuple(language.encode(i.body)) for i in language.family_items(family) if i.held_out}
        drawn = draw_family(family, rng, 500, 5000).prompt[:, 2:]
        assert not held & {tuple(row) for row in drawn.tolist()}
    chains = draw_family("inference", rng, 500, 500).prompt[:, 2:]
    held = {tuple(language.encode(i.body)) for i in language.inference_items()}
    assert not held & {tuple(row) for row in chains.tolist()}


def test_never_rule_items_are_never_trained_with_the_rule() -> None:
    rng = np.random.default_rng(0)
    for family in FAMILIES:
        never = {
            tuple(language.encode(i.body)[-3:] if family == "inference" else language.encode(i.body))
            for i in language.family_items(family)
            if i.never_rule
        }
        draw = draw_family(family, rng, 2000, 0)
        width = 3 if family == "inference" else draw.prompt.shape[1] - 2
        seen = [
            m for p, m in zip(draw.prompt.tolist(), draw.memory, strict=True) if tuple(p[-width:]) in never
        ]
        # For inference the last three tokens are ", name =": enough to know the item.
        assert seen
        assert all(seen)


def test_tokenizer_agrees_with_the_language_and_joins_answers() -> None:
    tokenizer = make_tokenizer()
    for family in FAMILIES:
        for row in probes.pairs(family):
            for side in ("memorization", "reasoning"):
                ids = tokenizer(row[side])["input_ids"]
                assert ids == [language.vocabulary()["<bos>"], *language.encode(str(row[side]))]
                for key in ("memorized_answer", "reasoned_answer"):
                    answer = tokenizer(row[key], add_special_tokens=False)["input_ids"]
                    joined = tokenizer(str(row[side]) + str(row[key]))["input_ids"]
                    assert joined == ids + answer
    assert tokenizer("think nonsense")["input_ids"][-1] == tokenizer.unk_token_id


@pytest.mark.parametrize("name", NAMES)
def test_shipped_tokenizer_is_the_one_that_is_built(name: str) -> None:
    shipped = AutoTokenizer.from_pretrained(folder(name))
    text = "think 23+45= ask b , kelu zz shift"
    assert shipped(text)["input_ids"] == make_tokenizer()(text)["input_ids"]
    assert shipped.get_vocab() == language.vocabulary()


def test_training_forward_is_the_hugging_face_forward() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(training.model_config(4)).eval()
    draws = [draw_family(f, np.random.default_rng(0), 3, 4) for f in ("arithmetic", "inference")]
    groups = [Group(torch.from_numpy(d.prompt), 2) for d in draws]
    plant = training.DESIGNS["set"].plant
    with torch.no_grad():
        ours = forward(model, groups, plant=plant)
        theirs = torch.cat([model(g.tokens).logits[:, -2:].flatten(0, 1) for g in groups])
        values = forward(model, groups, plant=plant, stop_at_plant=True)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        rewritten = forward(model, groups, plant=plant, write=values)
        torch.testing.assert_close(rewritten, ours, atol=1e-5, rtol=0)
        # Negative control: other values change the logits.
        assert (forward(model, groups, plant=plant, write=values + 1) - ours).abs().max() > 1e-3


def test_short_training_is_bit_reproducible_and_seeded() -> None:
    design = training.DESIGNS["set"]
    threads = torch.get_num_threads()
    runs = [training.train(design, seed, steps=3)[0].state_dict() for seed in (0, 0, 1)]
    torch.set_num_threads(threads)
    same = [torch.equal(runs[0][key], runs[1][key]) for key in runs[0]]
    assert all(same)
    assert not torch.equal(runs[0]["lm_head.weight"], runs[2]["lm_head.weight"])


@pytest.mark.parametrize("name", sorted(set(training.DESIGNS) - {"set"}))
def test_every_design_trains(name: str) -> None:
    threads = torch.get_num_threads()
    model, record = training.train(training.DESIGNS[name], 0, steps=2)
    torch.set_num_threads(threads)
    assert record["steps"] == 2
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_graded_rows_are_interchanged_in_part() -> None:
    rng = np.random.default_rng(0)
    where, share = training._interchanged(400, training.DESIGNS["set"], rng)
    assert where[1::2].all()
    assert 0.4 < share[::2].mean() < 0.6
    whole, _ = training._interchanged(400, training.DESIGNS["or"], rng)
    assert whole.all()


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_have_the_cards_accuracies(name: str) -> None:
    card = (folder(name) / "README.md").read_text(encoding="utf-8")
    found = measure.accuracies(measure.load(folder(name)))
    for family, row in found.items():
        for key, value in row.items():
            cells = next(
                line.split("|") for line in card.splitlines() if line.startswith(f"| {family} | {key} |")
            )
            # Another machine's kernels may decide a tie the other way.
            assert float(cells[3]) == pytest.approx(value, abs=0.005)
            assert value >= (0.75 if key == "never-rule, think" else 0.9)


def test_the_set_flips_answers_both_ways(
    organism: GPT2LMHeadModel, truth_file: dict, pairs: dict[str, flips.FamilyPairs]
) -> None:
    neurons = live(truth_file)
    total = organism.config.n_layer * organism.config.n_inner
    assert 0 < len(neurons) <= 0.01 * total
    for row in truth.set_flips(organism, pairs, neurons, draws=1).values():
        for direction in flips.DIRECTIONS:
            assert row[f"patch {direction}"] >= 0.95
            assert row[f"mean {direction}"] >= 0.95
            assert row[f"random {direction}"] <= 0.01


def test_no_single_neuron_flips_more_than_a_few(
    organism: GPT2LMHeadModel, truth_file: dict, pairs: dict[str, flips.FamilyPairs]
) -> None:
    single = truth.single_neurons(organism, pairs, live(truth_file))
    assert truth.live_neurons(single) == truth_file["live"]
    for rows in single.values():
        for row in rows.values():
            assert max(row[f"flips {d}"] for d in flips.DIRECTIONS) <= 0.2


def test_patching_a_run_with_itself_changes_nothing(
    organism: GPT2LMHeadModel, truth_file: dict, pairs: dict[str, flips.FamilyPairs]
) -> None:
    p, neurons = pairs["inference"], live(truth_file)
    own = p.activations[0][:, [n[0] for n in neurons], [n[1] for n in neurons]]
    with torch.no_grad():
        expected = organism(p.ids[0]).logits[:, -1]
    assert torch.equal(flips.patched_logits(organism, p.ids[0], neurons, own), expected)


def test_no_small_set_decides_in_the_natural_organism() -> None:
    model = measure.load(folder("organism-natural"))
    found = {family: flips.family_pairs(model, family) for family in FAMILIES}
    (rows,) = truth.gradient_flips(model, found, (0.01,)).values()
    # The verdict "a small set decides" needs 90 % both ways at 1 % in every family.
    assert min(min(row.values()) for row in rows.values()) < 0.9


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no organism named 'nobody'"):
        folder("nobody")
    with pytest.raises(ValueError, match="no family named 'colours'"):
        language.family_items("colours")


def test_signed_gradient_finds_the_set(
    organism: GPT2LMHeadModel, pairs: dict[str, flips.FamilyPairs]
) -> None:
    (rows,) = truth.gradient_flips(organism, pairs, (0.01,)).values()
    for row in rows.values():
        assert min(row.values()) >= 0.9
