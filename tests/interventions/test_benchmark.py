"""Accuracy on multiple-choice items: what is counted, what is refused, and where a run shows it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from commands import neurotrace, refused
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import Item, load_items
from neurotrace.interventions import benchmark as benchmarks
from neurotrace.interventions.benchmark import benchmark

pytestmark = pytest.mark.bridge
GOOD = {"question": "the item0 recall", "choices": ["mem", "rea"], "answer": 0}


def items_of(pairs):
    """Half of the items ask for memory, half for reasoning."""
    texts = [pair.memorization for pair in pairs[:6]] + [pair.reasoning for pair in pairs[6:]]
    return [
        {"question": text, "choices": ["other", "rea", "mem"], "answer": 2 if place < 6 else 1}
        for place, text in enumerate(texts)
    ]


def test_accuracy_is_counted_before_and_after(model, pairs, encoded):
    items = load_items(items_of(pairs))
    moments = nt.moments(model, encoded)
    both = [nt.set_to_mean([PLANTED], moments, donor=side) for side in ("reasoning", "memorization")]
    found = benchmark(model, items, [*both, nt.zero([nt.Neuron(0, 3)], direction="to_reasoning")])
    assert found.before.all()
    assert found.after[0].tolist() == [False] * 6 + [True] * 6  # all are reasoned now
    assert found.after[1].tolist() == [True] * 6 + [False] * 6
    assert found.after[2].all()
    record = found.record()
    assert (record["before"], record["items"]) == (1.0, 12)
    assert [each["change"] for each in record["after"]] == [-0.5, -0.5, 0.0]
    low, high = record["after"][0]["change_ci"]
    assert -0.9 < low < -0.5 < high < -0.1
    assert record["after"][2]["change_ci"] == (0.0, 0.0)
    json.dumps(record)


def test_the_choice_is_by_all_tokens_together(organism):
    """The first token of a choice alone would say otherwise."""
    (pair,) = nt.encode(organism, nt.load_pairs("letters")[:1]).pairs
    first, second = pair.memorized_answer.split()
    wrong = [f"{first} {letter}" for letter in "abc" if letter != second]
    item = Item("1", pair.memorization, (*wrong, pair.memorized_answer), len(wrong))
    assert benchmark(organism, [item], []).before.all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": " "}, "item 1: question: expected a text"),
        ({"choices": "mem"}, "choices: expected a list of texts"),
        ({"choices": ["mem"]}, "two or more that differ"),
        ({"choices": ["mem", "mem"]}, "two or more that differ"),
        ({"answer": 2}, "expected the place of a choice, 0 to 1, got 2"),
        ({"answer": "0"}, "expected the place of a choice"),
        ({"answer": True}, "expected the place of a choice"),
    ],
)
def test_items_that_cannot_be_asked_are_named(change, words):
    with pytest.raises(InputError, match=words):
        load_items([GOOD | change])


def test_a_question_longer_than_the_model_takes_is_named(model):
    with pytest.raises(InputError, match="item 1: 17 tokens, 18 with the choice 'mem'"):
        benchmark(model, load_items([GOOD | {"question": "the " * 17}]), [])


def test_a_choice_that_merges_with_the_question_is_named(model):
    """Byte pairs join across the border: what is left of the whole is not the choice."""

    class Joins:
        def __call__(self, text):
            return SimpleNamespace(input_ids=[7] * (1 + len(text) // 10) if " b" in text else [5, 6])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "tokenizer_of", lambda model: Joins())
        with pytest.raises(InputError, match="changes the tokens of the question before it"):
            benchmark(model, [Item("1", "a question?", ("b" * 30, "b" * 20), 0)], [])


def test_a_run_shows_it(planted_folder, pairs, tmp_path):
    task = tmp_path / "<i>items.jsonl"
    task.write_text("".join(json.dumps(item) + "\n" for item in items_of(pairs)))
    call = [
        "run",
        "--model",
        str(planted_folder),
        "--probes",
        str(planted_folder / "pairs.jsonl"),
        "--method",
        "gradient",
        "--intervention",
        "patch",
        "--k",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    done = neurotrace(*call, "--damage-task", str(task))
    assert done.returncode == 0, done.stderr
    assert "accuracy 100.0% before, 50.0% (planted to reasoning), 50.0%" in " ".join(done.stdout.split())
    run = nt.load_run(tmp_path / "run")
    assert [each["accuracy"] for each in run.summary["benchmark"]["after"]] == [0.5, 0.5]
    page = " ".join(nt.write_report(run).split())
    assert "&lt;i&gt;items.jsonl (12 items): 100.0% before, 50.0% after, change -50.0 points" in page
    assert "<i>items" not in page
    task.write_text(json.dumps(GOOD | {"answer": 5}))
    refused(neurotrace(*call, "--overwrite", "--damage-task", str(task)), "line 1: answer")
