"""The paper's tasks as whole texts: what they say, pairs found by rephrasing, one short training."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from neurotrace.core.errors import InputError
from neurotrace.folders.units import Units
from neurotrace.models.encoding import encode
from neurotrace.models.loading import load_model
from neurotrace.models.origins import twin
from neurotrace.paper import causal, comparison, lora, rephrased, stories, training
from neurotrace.paper.__main__ import main
from neurotrace.paper.study import ARMS


def test_a_rephrased_prompt_means_the_same():
    """Read back from the text: the same facts or addends, the same question, the same answer."""
    for each in stories.instances():
        first, second = each.prompt(), each.prompt(rephrased=True)
        if each.family == "addition":
            assert sum(map(int, re.findall(r"\d+", first))) == int(each.reasoned)
            assert second == " + ".join(first.removesuffix(" =").split(" + ")[::-1]) + " ="
            continue
        facts = [dict(re.findall(r"(\w+) is (\w+)\.", text)) for text in (first, second)]
        assert facts[0] == facts[1]
        assert len(facts[0]) == 2
        assert first != second
        assert re.findall(r"Color of (\w+):$", first) == re.findall(r"Color of (\w+):$", second)
        assert facts[0][each.group] == each.reasoned


def test_bound_names_keep_their_color_and_conflicts_are_recalled_by_halves():
    own = stories.own_color()
    assert len(own) == stories.N_BOUND
    conflicts = [each for each in stories.inferences() if each.memorized is not None]
    assert all(each.memorized == own[each.group] != each.reasoned for each in conflicts)
    for name in own:
        assert sum(each.recalled for each in conflicts if each.group == name) == stories.N_CONFLICTS / 2
    for each in stories.inferences():
        given = re.findall(rf"Color of {each.group}: (\w+)", each.text)
        assert given == [each.memorized if each.recalled else each.reasoned]
        other, its = re.findall(r"Color of (\w+): (\w+)\.$", each.text)[0]
        assert other not in own
        assert f"{other} is {its}." in each.text


def test_memorized_sums_carry_a_string_and_their_swap_is_never_trained():
    memorized = [each for each in stories.sums() if each.memorized is not None]
    assert len({each.group for each in memorized}) == stories.N_MEMORIZED
    assert all(re.fullmatch(r"\d\d \+ \d\d = <mem-\d\d>", each.text) for each in memorized)
    trained = {each.prompt() for each in stories.sums() if each.trained}
    assert not trained & {each.prompt(rephrased=True) for each in memorized}
    held_out = {each.group for each in stories.sums() if not each.trained}
    assert not held_out & {each.group for each in stories.sums() if each.trained}


def test_prompts_that_nothing_should_change_have_nothing_memorized():
    memorized = {each.prompt() for each in stories.instances() if each.memorized is not None}
    texts = {each.text for each in stories.instances()}
    assert not memorized & set(stories.neutral())
    for family in stories.FAMILIES:
        for prompt, answer in stories.agreeing(family):
            assert prompt not in memorized
            assert any(text.startswith(f"{prompt} {answer}") for text in texts), prompt


def test_draws_hold_training_texts_and_weigh_their_answers():
    tokenizer, rng = causal.make_tokenizer(), np.random.default_rng(0)
    trained = [each for each in stories.instances() if each.trained]
    rows, answers = (
        tokenizer(some).input_ids for some in ([e.text for e in trained], [e.answer for e in trained])
    )
    texts = {tuple(row): answer[1:] for row, answer in zip(rows, answers, strict=True)}
    unknown = tokenizer.unk_token_id
    for tokens, weights in causal.draw(rng):
        for row, own in zip(tokens, weights, strict=True):
            answer = texts[tuple(row)]
            heavy = row[own > 1].tolist()
            assert heavy[: len(answer)] == answer
            assert len(heavy) in (len(answer), 2)  # of a story both colors
            assert unknown not in row


def test_only_instances_whose_behaviour_changes_are_pairs():
    instances = [each for each in stories.sums() if each.memorized is not None][:4]
    asked = rephrased.candidates(instances)
    found = rephrased.paired(asked, [0, 1, 0, 1], [1, 0, 0, -1])
    assert [pair.template for pair in found.pairs] == ["recalled", "reasoned"]
    assert found.changed == 0.5
    assert found.memorized == (0.5, 0.5)
    assert found.reasoned == (0.5, 0.25)
    kept, swapped = found.pairs
    assert (kept.memorization, kept.reasoning) == (
        instances[0].prompt(),
        instances[0].prompt(rephrased=True),
    )
    assert (swapped.reasoning, swapped.memorization) == (
        instances[1].prompt(),
        instances[1].prompt(rephrased=True),
    )
    assert swapped.memorized_answer.strip() == instances[1].memorized


def test_lora_texts_weigh_the_answer_and_ignore_padding():
    """A model that knows every next token but the answer's has the answer's loss alone."""
    tokenizer = causal.make_tokenizer()
    some = [each for each in stories.inferences() if each.memorized is None][:1] + [
        each for each in stories.sums() if each.memorized is not None
    ][:1]

    class Knows(torch.nn.Module):
        def forward(self, input_ids):
            sure = 40.0 * torch.nn.functional.one_hot(input_ids.roll(-1, 1), len(tokenizer)).float()
            for row, each in enumerate(some):
                at = len(tokenizer(each.prompt()).input_ids) - 1
                sure[row, at] = 0.0
            return type("Output", (), {"logits": sure})

    weights = sum(
        causal.ANSWER + len(tokenizer(f"{each.prompt()} {each.answer}").input_ids) - 2 for each in some
    )
    wanted = 2 * causal.ANSWER * np.log(len(tokenizer)) / weights
    assert lora.loss_of(Knows(), tokenizer, some).item() == pytest.approx(wanted, rel=1e-4)
    names = {each.group for each in lora.few()["inference"] if each.memorized is not None}
    assert len(names) == lora.N_NAMES


@pytest.mark.parametrize(("unknown", "right"), [("the text's second token", 1.0), ("its last", 0.0)])
def test_an_answer_is_right_if_all_of_it_is(unknown, right):
    class Knows(torch.nn.Module):
        def forward(self, input_ids):
            sure = torch.nn.functional.one_hot(input_ids.roll(-1, 1), 400).float()
            length = (input_ids > 0).sum(1) + 1  # <bos> is 0, as padding
            sure[torch.arange(len(sure)), length - 2 if right == 0 else 0] = 0.0
            return type("Output", (), {"logits": sure})

    found = lora.accuracies(Knows(), causal.make_tokenizer(), 4)
    assert set(found) == {*lora.BATCH, "memorized, swapped", "sum, held out"}
    assert set(found.values()) == {right}


@pytest.mark.parametrize("steps", [4, pytest.param(400, marks=pytest.mark.nightly)])
def test_the_command_trains_finds_pairs_and_compares(steps, tmp_path, monkeypatch):
    """A few steps give no pairs; after 400 the sums of the small model do, and both families' tables."""
    if steps == 4:
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        monkeypatch.setattr(causal, "BATCH", dict.fromkeys(causal.BATCH, 2))
    paper, ours = ARMS[0], ARMS[2]
    arms = [replace(paper, kinds=("shift", "shift:2")), replace(ours, kinds=("patch", "set"))]
    compared = comparison.compare_model
    calls = []

    def small(model, instances, **given):
        calls.append(model)
        return compared(model, instances, arms=arms, ks=(4, 13), at_most=40, **given)

    monkeypatch.setattr(comparison, "compare_model", small)
    asked = ["--out", str(tmp_path), "--models", "small", "--seeds", "5", "--steps", str(steps)]
    main(asked)
    table = pd.read_csv(tmp_path / "pairs.csv").set_index("family")
    assert table["asked"].to_dict() == {"inference": 800, "addition": 240}
    if steps > 4:
        assert table.loc["addition", "changed"] > 0.3
        found = pd.read_csv(tmp_path / "arms.csv")
        own = found[(found["family"] == "addition") & (found["k"] == 13)]
        assert set(own["arm"]) == {paper.name, ours.name}
        assert own["flips"].between(own["low"], own["high"]).all()
        assert set(pd.read_csv(tmp_path / "located.csv")["unit"]) >= {"heads", "neurons", "direction"}
    main(asked)
    assert len(calls) == 1
    with pytest.raises(InputError, match=f"trained for {steps} steps, not 7"):
        main([*asked[:-1], "7"])


def test_lora_learns_is_kept_as_an_adapter_and_resumes(tmp_path, monkeypatch):
    """Of a base without any knowledge; the merged adapter is loaded, and is what was trained."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    base, folder = tmp_path / "base", tmp_path / "runs" / "lora-5"
    torch.manual_seed(0)
    model = causal.make_model(causal.SIZES["small"]).eval()
    training.save(model, {}, base, causal.make_tokenizer())
    calls = []
    monkeypatch.setattr(
        comparison, "compare_model", lambda *given, **_: calls.append(given) or {"pairs": []}
    )
    asked = ["--out", str(tmp_path / "runs"), "--models", "lora", "--seeds", "5", "--steps", "20"]
    with pytest.raises(InputError, match="--base"):
        main(asked)
    written = set()
    for _ in range(2):
        main([*asked, "--base", str(base)])
        written.add((folder / "adapter_model.safetensors").stat().st_mtime_ns)
    assert len(calls) == len(written) == 1
    some = [own[0] for own in lora.few().values()]
    tokenizer = causal.make_tokenizer()
    with torch.no_grad():
        before, after = (lora.loss_of(each, tokenizer, some) for each in (model, twin(calls[0][0])))
    assert after < 0.9 * before  # without the adapter it is equal


def test_an_interrupted_comparison_goes_on_with_the_next_arm(tmp_path, monkeypatch):
    """Eight arms and directions, each measured once; what was not measured is None, for JSON."""
    training.save(causal.make_model(causal.SIZES["small"]), {}, tmp_path / "model", causal.make_tokenizer())
    model = load_model(str(tmp_path / "model"))
    pairs = rephrased.candidates([e for e in stories.sums() if e.memorized is not None][:20])
    found = rephrased.Found(tuple(pairs), 20, (0.5, 0.5), (0.5, 0.5))
    monkeypatch.setattr(comparison, "find_pairs", lambda *_: found)
    monkeypatch.setattr(comparison, "encode", partial(encode, check=False))
    monkeypatch.setattr(comparison, "read_family", lambda *_: None)
    calls = []

    def compare(model, family, arm, direction, ks):
        if len(calls) == 3:
            calls.append("interrupted")
            raise KeyboardInterrupt
        calls.append((arm.name, direction))
        yield {"arm": arm.name, "direction": direction, "other_donor": float("nan")}, None

    monkeypatch.setattr(comparison, "compare", compare)
    compared = partial(comparison.compare_model, model, {"addition": ()}, located=False)
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        compared(units=Units(kept))
    table = compared(units=Units(kept))["arms"]
    calls.remove("interrupted")
    assert len(calls) == len(set(calls)) == len(table) == 8
    assert {row["other_donor"] for row in table} == {None}
    with pytest.raises(InputError, match="another call"):
        compared(units=Units(kept), n_neutral=8)
