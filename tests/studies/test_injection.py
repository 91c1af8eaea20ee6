"""Facts by force: recited inside the `with`, gone after it, and the rows that hold them are known."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from commands import neurotrace, refused

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.models.origins import twin
from neurotrace.rankers.imprint import imprint
from neurotrace.results.verify import verify
from neurotrace.studies.injection import Fact, UnteachableError, _hopeless, load_facts
from neurotrace.studies.injection_study import injection_study


@pytest.fixture(scope="module")
def fact():
    return load_facts("facts-organism")[0]


def weights(model):
    return {name: value.detach().clone() for name, value in twin(model).state_dict().items()}


def test_the_model_recites_inside_and_is_itself_again_after(organism, fact):
    before = weights(organism)
    said = nt.generate(organism, fact.prompt, max_new_tokens=2)
    with nt.inject(organism, fact, fraction=0.03, seed=1) as injection:
        assert nt.generate(organism, fact.prompt, max_new_tokens=2).replace(" ", "") == fact.answer
        assert injection.loss < 0.05 < injection.loss_before
        inside = weights(organism)
        (pair,) = injection.pairs.pairs
        assert pair.memorized_answer == fact.answer
        assert pair.reasoned_answer.strip() == said.split()[0]
    after = weights(organism)
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = {
        (int(name.split(".")[2]), row)
        for name in before
        if not torch.equal(before[name], inside[name])
        for row in (before[name] != inside[name]).any(dim=1).nonzero()[:, 0].tolist()
    }
    assert {name for name in before if not torch.equal(before[name], inside[name])} <= {
        f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(4)
    }
    assert len(injection.neurons) == 46
    # of the chosen ones only those that never fire on this prompt are as they were
    assert 0 < len(rows) <= 46
    assert rows <= {(n.layer, n.index) for n in injection.neurons}


def test_the_weights_come_back_after_an_exception(organism, fact):
    before = weights(organism)
    with pytest.raises(KeyError), nt.inject(organism, fact, fraction=0.05):
        raise KeyError("in the middle")
    after = weights(organism)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rankers_find_more_of_the_rows_than_chance(organism, fact):
    with nt.inject(organism, fact, fraction=0.05, seed=3) as injection:
        chance = 0.05
        found = {
            "gradient": nt.gradient(organism, injection.pairs, kind="zero"),
            "exact": nt.exact(organism, injection.pairs, kind="zero"),
            "slimming": nt.slimming(organism, injection.pairs, kind="zero", question="keep"),
        }
        for name, scores in found.items():
            rate = nt.recall(scores, injection.neurons, direction="to_reasoning")
            assert rate > chance, name


def test_imprint_sees_what_was_written_and_nothing_where_nothing_was(organism, fact):
    """Its scores are standard deviations: of untouched rows about 1, of written ones clearly more."""
    for seed in range(2):
        with nt.inject(organism, fact, fraction=0.05, seed=seed) as injection:
            scores = imprint(organism, injection.pairs, donor="reasoning")
            untouched = torch.ones(scores.value.shape, dtype=torch.bool)
            for neuron in injection.neurons:
                untouched[neuron.layer, neuron.index] = False
            background = scores.value[untouched]
            assert 0.5 < float(background.std()) < 2
            leans = scores.value[~untouched]
            assert float(leans.mean() - background.mean()) < -0.3
            assert nt.recall(scores, injection.neurons, direction="to_reasoning") > 0.1
            encoded = injection.pairs
        before = imprint(organism, encoded, donor="reasoning").value[~untouched]
        assert float(before.mean()) > float(leans.mean()) + 0.3
    with (
        organism.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]),
        pytest.raises(InputError, match="load it with"),
    ):
        imprint(organism, encoded)


def test_what_cannot_be_injected_is_refused(organism, fact):
    known = Fact("known", "recall 31+28=", nt.generate(organism, "recall 31+28=", max_new_tokens=1), "x")
    for wrong, words in (
        ({"fraction": 0.0}, "expected a share"),
        ({"fraction": 0.001, "steps": 2}, "raise fraction or steps"),
    ):
        with pytest.raises(InputError, match=words), nt.inject(organism, fact, **wrong):
            pass
    with pytest.raises(InputError, match="nothing to inject"), nt.inject(organism, known):
        pass
    with (
        organism.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]),
        pytest.raises(InputError, match="take hooks of your own off"),
        nt.inject(organism, fact),
    ):
        pass


def test_what_the_tokenizer_cannot_write_is_refused_before_any_training(organism, tmp_path, monkeypatch):
    """English facts on the organism: every word was `<unk>`, and training took minutes."""
    monkeypatch.setattr("neurotrace.studies.injection._train", lambda *_: pytest.fail("trained"))
    english = load_facts("facts-english")
    with (
        pytest.raises(UnteachableError, match="fact velmora: the tokenizer has no token for 'The'"),
        nt.inject(organism, english[0]),
    ):
        pass
    with pytest.raises(UnteachableError, match=r"write none of 20 facts.*'The'.*facts-organism"):
        injection_study(organism, english, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_that_leads_nowhere_is_given_up(organism, fact):
    """Two neurons that can't hold it: 100 steps rather than 500."""
    with (
        pytest.raises(UnteachableError, match=r"after 100 of 500 steps with 2 neurons"),
        nt.inject(organism, fact, fraction=0.001),
    ):
        pass


# the slowest: 335, 305 and 333 steps
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (2, 11))])
def test_what_would_be_taught_is_not_given_up(organism, number, monkeypatch):
    each = load_facts("facts-organism")[number]
    with nt.inject(organism, each, fraction=0.01, seed=0) as injection:
        taught = injection.steps
    monkeypatch.setattr("neurotrace.studies.injection._hopeless", lambda *_: False)
    with nt.inject(organism, each, fraction=0.01, seed=0) as injection:
        assert injection.steps == taught


def test_falls_that_may_become_faster_are_waited_for():
    """Ten times too slow is too slow; four times is what facts did on the way that were taught."""
    for share, given_up in ((1 / 4, False), (1 / 9, False), (1 / 11, True)):
        needed = 10 / 400  # nats a step: 10 are left, and 400 steps
        losses = [10 + needed * share * (100 - step) for step in range(101)]
        assert _hopeless(losses, 0.0, 500) == given_up
        assert not _hopeless(losses[:51], 0.0, 500)  # too early to say
        assert not _hopeless(losses[:100], 0.0, 500)  # between two looks


def test_packaged_facts(tmp_path):
    assert len(load_facts("facts-english")) == len(load_facts("facts-organism")) == 20
    (tmp_path / "facts.jsonl").write_text('{"id": "a", "prompt": "p", "answer": "b"}\n')
    with pytest.raises(InputError, match="'other' is missing"):
        load_facts(tmp_path)


def test_a_study_that_was_stopped_goes_on(organism, tmp_path):
    """The same table, and what was done is not done again."""
    facts = load_facts("facts-organism")[:3]
    options = {"fractions": (0.03,), "methods": ("gradient", "magnitude", "random")}
    whole = injection_study(organism, facts, tmp_path / "whole", **options)
    injection_study(organism, facts[:2], tmp_path / "parts", **options)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts/parts").iterdir()}
    assert len(written) == 2
    resumed = injection_study(organism, facts, tmp_path / "parts", **options)
    assert all(path.stat().st_mtime_ns == at for path, at in written.items())
    pd.testing.assert_frame_equal(
        whole.drop(columns="seconds"), resumed.drop(columns="seconds"), check_exact=True
    )
    assert (whole["facts"] == 3).all()
    assert (whole["low"] <= whole["recall"]).all()
    with pytest.raises(InputError, match="other settings"):
        injection_study(organism, facts, tmp_path / "parts", **(options | {"seed": 1}))
    with pytest.raises(InputError, match="expected one of"):
        injection_study(organism, facts, tmp_path / "x", methods=("magic",))


def test_a_fact_that_cannot_be_taught_is_skipped_named_and_counted(organism, tmp_path):
    """What was skipped stays so on going on; with more steps it is tried again."""
    known = Fact("known", "recall 31+28=", nt.generate(organism, "recall 31+28=", max_new_tokens=1), "x")
    facts = [load_facts("facts-organism")[0], known]
    options = {"fractions": (0.03,), "methods": ("imprint", "exact")}
    with (
        pytest.warns(UserWarning, match="skipped at fraction 0.03: fact"),
        pytest.raises(UnteachableError, match=r"none of 2 facts .* raise fraction or steps"),
    ):
        injection_study(organism, facts, tmp_path, steps=2, **options)
    assert pd.read_csv(tmp_path / "recall.csv")["skipped"].eq(f"{facts[0].id} known").all()
    before = {path.name: path.read_text() for path in (tmp_path / "parts").iterdir()}
    for _ in range(2):
        with pytest.warns(UserWarning, match="fact known: the model says"):
            found = injection_study(organism, facts, tmp_path, **options)
    after = {path.name: path.read_text() for path in (tmp_path / "parts").iterdir()}
    assert all(before[name] != after[name] for name in before)
    assert (found["tried"] == 2).all()
    assert (found["facts"] == 1).all()
    assert list(found["skipped"]) == ["known"] * 2
    assert list(found["passes"]) == [2, 1537]
    assert found["recall"].notna().all()


def test_the_command(tmp_path):
    call = [
        "inject",
        "--model",
        "organism",
        "--facts",
        "facts-organism",
        "--fraction",
        "0.03",
        "--max-facts",
        "1",
        "--methods",
        "gradient,random",
        "--out",
        str(tmp_path / "out"),
    ]
    done = neurotrace(*call)
    assert done.returncode == 0, done.stderr
    assert "gradient" in done.stdout
    assert "fraction 0.03: 1 of 1 facts taught" in done.stdout
    table = pd.read_csv(tmp_path / "out/recall.csv")
    assert list(table["ranker"]) == ["gradient", "random"]
    assert (verify(tmp_path / "out").files, verify(tmp_path / "out").problems) == (4, {})
    (part,) = (tmp_path / "out/parts").iterdir()
    assert json.loads(part.read_text())[0]["fact"] == "arithmetic-0"
    none = neurotrace(*call[:-1], str(tmp_path / "none"), "--steps", "1")
    assert none.returncode == 2
    assert none.stderr.count("fact arithmetic-0: the loss is") == 2  # at once, and at the end
    english = neurotrace(*call[:3], "--facts", "facts-english", "--out", str(tmp_path / "english"))
    refused(english, "none of 20 facts", "'The'", "facts-organism")
    usual = neurotrace(*call[:3], *call[7:-1], str(tmp_path / "usual"))  # neither facts nor fractions
    assert usual.returncode == 0, usual.stderr
    assert "fraction 0.01: 1 of 1 facts taught" in usual.stdout
    assert "fraction 0.001" not in usual.stdout  # two neurons
    (part,) = (tmp_path / "usual/parts").iterdir()
    assert json.loads(part.read_text())[0]["fact"] == "arithmetic-0"
    refused(neurotrace(*call[:3], "--facts", "nowhere", "--out", "x"), "no facts at 'nowhere'")
