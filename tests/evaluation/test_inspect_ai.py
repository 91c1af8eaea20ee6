"""Inspect on our models: the provider writes what `generate` writes, the trust score stands in the log."""

from __future__ import annotations

import json

import pytest

import neurotrace as nt
from neurotrace.core.errors import InputError

pytestmark = [pytest.mark.evaluation, pytest.mark.bridge]
pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")

import inspect_ai  # noqa: E402 - after the skip
from inspect_ai.dataset import json_dataset  # noqa: E402
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, get_model  # noqa: E402
from inspect_ai.scorer import match  # noqa: E402
from inspect_ai.solver import generate, user_message  # noqa: E402

from neurotrace.evaluation.inspect_ai import trust_score  # noqa: E402


@pytest.fixture(scope="module")
def prompts():
    return [prompt.prompt for prompt in nt.load_prompts("arithmetic")[:6]]


@pytest.fixture(scope="module")
def folder(trust_study, organism, prompts, tmp_path_factory):
    """A calibrated circuit, an intervention, items whose targets are the unchanged model's answers."""
    place = tmp_path_factory.mktemp("inspect")
    trust_study.circuit.save(place / "circuit.safetensors")
    neurons = (*trust_study.circuit.memory, *trust_study.circuit.reasoning)
    change = nt.scale(neurons, factor=-20.0, direction="to_reasoning")
    change.save(place / "change.safetensors")
    items = [{"input": text, "target": nt.generate(organism, text, max_new_tokens=2)} for text in prompts]
    (place / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return place


def test_the_provider_writes_what_generate_writes(folder, organism, prompts):
    task = inspect_ai.Task(
        json_dataset(str(folder / "items.jsonl")),
        solver=generate(max_tokens=2),
        scorer=[match(), trust_score(str(folder))],
    )
    change = nt.Intervention.load(folder / "change.safetensors")
    found, written = [], []
    for path in (None, str(folder / "change.safetensors")):
        given = {} if path is None else {"intervention": path}
        (log,) = inspect_ai.eval(
            task,
            model="neurotrace/organism",
            model_args=given,
            display="none",
            log_dir=str(folder / "logs"),
        )
        assert log.status == "success", log.error
        under = None if path is None else change
        written.append([sample.output.completion for sample in log.samples])
        assert written[-1] == [nt.generate(organism, text, under, max_new_tokens=2) for text in prompts]
        assert ("intervention" in log.samples[0].output.metadata) == (path is not None)
        found.append([sample.scores["trust_score"] for sample in log.samples])
    assert written[0] != written[1]
    # the trust score is of the unchanged model, and ours
    table = nt.trust(organism, prompts, nt.Circuit.load(folder / "circuit.safetensors")).to_frame()
    for scores in found:
        for name in ("p_memory", "margin"):
            assert [each.value[name] for each in scores] == pytest.approx(list(table[name]), abs=1e-5)
        assert [each.answer for each in scores] == list(table["answer"])


def test_messages_become_a_prompt():
    api = get_model("neurotrace/organism", memoize=False).api
    said = [ChatMessageSystem(content="recall"), ChatMessageUser(content="5+6=")]
    assert api.prompt(said) == "recall\n5+6="
    api.source.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    assert api.prompt(said) == "<system>recall<user>5+6=<assistant>"


def test_a_mistake_is_named(folder):
    with pytest.raises(InputError, match=r"none\.safetensors"):
        get_model("neurotrace/organism", intervention=str(folder / "none.safetensors"))
    with pytest.raises(TypeError, match="strength"):
        get_model("neurotrace/organism", strength=2)
    task = inspect_ai.Task(
        json_dataset(str(folder / "items.jsonl")), solver=generate(), scorer=trust_score(str(folder))
    )
    (log,) = inspect_ai.eval(
        task,
        model="neurotrace/organism",
        temperature=0.7,
        display="none",
        log_dir=str(folder / "logs"),
    )
    assert "one greedy text" in log.error.message
    task.solver = user_message("and nothing is asked")
    (log,) = inspect_ai.eval(task, model="none/none", display="none", log_dir=str(folder / "logs"))
    assert "expected --model neurotrace/" in log.error.message
