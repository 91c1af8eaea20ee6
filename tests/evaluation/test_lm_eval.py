"""lm-evaluation-harness on our models: its numbers are ours, its tasks are of local files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from commands import neurotrace
from planted import planted_pairs

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.interventions.logits import logits_under
from neurotrace.organism import folder as organism_folder

pytestmark = [pytest.mark.evaluation, pytest.mark.bridge]
pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval import simple_evaluate  # noqa: E402 - after the skip
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from neurotrace.evaluation.lm_eval import NeurotraceLM  # noqa: E402


def requests(kind, rows):
    return [Instance(kind, {}, row, number) for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def run(planted_folder, tmp_path_factory):
    """A run on the planted model: its interventions flip every answer."""
    out = tmp_path_factory.mktemp("runs") / "planted"
    done = neurotrace(
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
        str(out),
    )
    assert done.returncode == 0, done.stderr
    return nt.load_run(out)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Three tasks of local files: a choice, a text's likelihood, a continuation."""
    folder = tmp_path_factory.mktemp("tasks")
    items = [
        {"prompt": pair.memorization, "choices": ["mem", "rea", "mem the"], "answer": 0}
        for pair in planted_pairs()
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    head = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'items.jsonl'}\n"
        "test_split: test\n"
    )
    bodies = {
        "choice": "output_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: choices\n"
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n",
        "text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: prompt\n"
        "metric_list:\n  - metric: word_perplexity\n",
        "written": "output_type: generate_until\ndoc_to_text: prompt\ndoc_to_target: 'mem'\n"
        "generation_kwargs:\n  until: [' ']\n  max_gen_toks: 2\nmetric_list:\n"
        "  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n",
    }
    for name, body in bodies.items():
        (folder / f"{name}.yaml").write_text(f"task: planted_{name}\n{head}{body}")
    return folder


def test_log_likelihoods_equal_ours(organism, tmp_path):
    change = nt.scale([nt.Neuron(1, 100), nt.Neuron(2, 250)], factor=-5.0, direction="to_reasoning")
    change.save(tmp_path / "change.safetensors")
    encoded = nt.encode(organism, nt.load_pairs("letters")[:16])
    rows = [(pair.memorization, f" {pair.memorized_answer.split()[0]}") for pair in encoded.pairs]
    for intervention in (None, tmp_path / "change.safetensors"):
        given = {} if intervention is None else {"intervention": str(intervention)}
        model = NeurotraceLM("organism", batch_size=8, **given)
        found = model.loglikelihood(requests("loglikelihood", rows), disable_tqdm=True)
        for (log_probability, greedy), ids, token in zip(
            found, encoded.memorization, encoded.memorized, strict=True
        ):
            clean, changed = logits_under(organism, ids[None], [change], [None])
            logits = clean[0] if intervention is None else next(changed)[0]
            assert log_probability == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
            assert greedy == (int(logits.argmax()) == int(token))


def test_unchanged_it_answers_as_lm_evals_own_model(organism, planted_folder):
    pairs = nt.load_pairs("letters")[:10] + nt.load_pairs("arithmetic")[:10]
    rows = [(p.memorization, f" {a}") for p in pairs for a in (p.memorized_answer, p.reasoned_answer)]
    where = {"pretrained": str(organism_folder("organism")), "device": "cpu", "dtype": "float32"}
    ours = NeurotraceLM("organism")
    asked = requests("loglikelihood", rows)
    theirs = HFLM(**where, batch_size=1, add_bos_token=True).loglikelihood(asked, disable_tqdm=True)
    for mine, other in zip(ours.loglikelihood(asked, disable_tqdm=True), theirs, strict=True):
        assert mine == (pytest.approx(other[0], abs=1e-4), other[1])
    texts = [(f"{pair.memorization} {pair.memorized_answer}",) for pair in pairs]
    texts += [(" ".join(text for (text,) in texts),)]  # longer than the model's context
    asked = requests("loglikelihood_rolling", texts)
    theirs = HFLM(**where, batch_size=1, add_bos_token=False).loglikelihood_rolling(asked)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs, abs=1e-3)
    written = requests(
        "generate_until",
        [(p.memorization, {"until": [" item2"], "max_gen_toks": 4}) for p in planted_pairs()],
    )
    theirs = HFLM(
        pretrained=str(planted_folder), device="cpu", dtype="float32", batch_size=1
    ).generate_until(written, disable_tqdm=True)
    assert NeurotraceLM(str(planted_folder)).generate_until(written) == theirs
    assert len(set(theirs)) > 1


def test_a_chat_goes_through_the_template():
    ours = NeurotraceLM("organism")
    ours.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    asked = [{"role": "user", "content": "5+6="}]
    assert ours.apply_chat_template(asked) == "user: 5+6= assistant:"
    begun = [*asked, {"role": "assistant", "content": "1"}]
    assert ours.apply_chat_template(begun, add_generation_prompt=False).endswith("assistant: 1")


def test_rolling_likelihoods_are_of_every_token_once(model, planted_folder):
    """Also of a text longer than the model's 16 positions: each token as lm_eval's windows see it."""
    scaled = nt.scale([nt.Neuron(0, 3), nt.Neuron(1, 7)], factor=0.0, direction="to_reasoning")
    change = replace(scaled, offset=torch.tensor([3.0, 3.0]))
    change.save(planted_folder / "change.safetensors")
    text = " ".join(["the item3 recall mem other"] * 4)
    ids = [0, *model.tokenizer(text).input_ids]  # <unk> is BOS
    for path in (None, str(planted_folder / "change.safetensors")):
        ours = NeurotraceLM(str(planted_folder), intervention=path)
        (found,) = ours.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
        total = 0.0
        for place in range(1, len(ids)):
            # first window: the first 16 predictions; second: the last 16 inputs
            first = ids[:place] if place <= 16 else ids[len(ids) - 17 : place]
            logits = logits_under(model, torch.tensor([first]), [change], [None], positions="all")
            chosen = logits[0] if path is None else next(logits[1])
            total += float(chosen[0].log_softmax(-1)[ids[place]])
        assert found == pytest.approx(total, abs=1e-3)


def test_a_run_folder_flips_a_benchmark(run, tasks, planted_folder, model):
    def evaluated(**more):
        return simple_evaluate(
            model="neurotrace",
            model_args={"pretrained": str(planted_folder), **more},
            tasks=["planted_choice", "planted_text", "planted_written"],
            batch_size=4,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
        )

    before = evaluated()
    after = evaluated(intervention=str(run.folder), direction="to_reasoning")
    for name, metric in (("planted_choice", "acc,none"), ("planted_written", "exact_match,none")):
        assert before["results"][name][metric] == 1.0
        assert after["results"][name][metric] == 0.0
    perplexities = [each["results"]["planted_text"]["word_perplexity,none"] for each in (before, after)]
    assert perplexities[0] != pytest.approx(perplexities[1], rel=1e-3)
    about = after["config"]
    assert about["intervention"]["neurons"] == ["L1.N5"]
    assert "intervention" not in before["config"]
    assert about["neurotrace"]["weights_sha256"] == before["config"]["neurotrace"]["weights_sha256"]


def test_what_is_not_ours_to_do_is_refused(run, tmp_path):
    patch = tmp_path / "patch.safetensors"
    nt.patch([nt.Neuron(0, 3)], donor="reasoning").save(patch)
    with pytest.raises(InputError, match="carries no mean"):
        NeurotraceLM("organism", intervention=str(patch))
    with pytest.raises(InputError, match="has several"):
        NeurotraceLM("organism", intervention=str(run.folder))
    with pytest.raises(InputError, match="positions=here"):
        NeurotraceLM("organism", positions="here")
    with pytest.raises(InputError, match="batch_size=0"):
        NeurotraceLM("organism", batch_size=0)
    ours = NeurotraceLM("organism", batch_size="auto")
    with pytest.raises(InputError, match="greedily"):
        ours.generate_until(requests("generate_until", [("5+6=", {"do_sample": True, "temperature": 1})]))
    with pytest.raises(InputError, match="no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "5+6="}])
    assert ours.generate_until(requests("generate_until", [("5+6=", {"max_gen_toks": 2})])) == [
        nt.generate(ours.source.model, "5+6=", max_new_tokens=2)
    ]
