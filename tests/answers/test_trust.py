"""The trust score: calibrated probabilities, abstention, consistency, the monitor, the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import neurotrace as nt
from neurotrace.answers import judging, rivals
from neurotrace.answers.answered import Answered
from neurotrace.answers.calibration import Calibration, fit_calibration
from neurotrace.answers.rivals import RIVALS, read_rivals, sentences
from neurotrace.answers.trust import limem
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import originals


@pytest.fixture(scope="module")
def prompts():
    return nt.load_prompts("arithmetic")


@pytest.fixture(scope="module")
def circuit(organism, prompts):
    """Found in inference, calibrated on half of arithmetic."""
    found = nt.find_circuit(organism, originals(nt.load_prompts("inference"))[:80])
    return nt.calibrate(organism, prompts[:160], found)


def test_scores_on_prompts_that_nothing_was_fitted_on(organism, prompts, circuit):
    held = prompts[160:]
    scored = nt.trust(organism, held, circuit)
    frame = scored.to_frame().set_index("id")
    asked = nt.answer(organism, originals(held)).decided()
    memory = np.array([outcome == "memory" for outcome in asked.outcome])
    own = frame.loc[[prompt.id for prompt in asked.prompts]]
    assert ((own["p_memory"] > 0.5) == memory).mean() > 0.95
    # what is recalled doesn't survive the swap, and the score says so beforehand
    assert own["consistency"][memory].mean() < 0.1
    assert own["consistency"][~memory].mean() > 0.9
    assert own["p_survives"][~memory].mean() > own["p_survives"][memory].mean() + 0.8
    assert own["abstain"].mean() < 0.2
    assert "NaN" not in json.dumps(scored.rows(), allow_nan=True)


def test_texts_need_no_named_answers(organism, prompts, circuit):
    texts = [prompt.prompt for prompt in originals(prompts)[:5]]
    by_text = nt.trust(organism, texts, circuit).to_frame()
    by_prompt = nt.trust(organism, originals(prompts)[:5], circuit).to_frame()
    assert by_text["margin"].to_numpy() == pytest.approx(by_prompt["margin"].to_numpy(), abs=1e-5)
    assert by_text["consistency"].isna().all()


def test_a_detector_may_stand_for_the_calibration(organism, prompts, circuit):
    texts = [prompt.prompt for prompt in originals(prompts)[:6]]
    X = np.array([[3.0, 0.0], [0.0, 3.0]])
    detector = LogisticRegression().fit(X, [1, 0])
    frame = nt.trust(organism, texts, circuit, detector).to_frame()
    parts = frame[["memory_fall", "reasoning_fall"]].to_numpy()
    assert frame["p_memory"].to_numpy() == pytest.approx(detector.predict_proba(parts)[:, 1])
    with pytest.raises(InputError, match="is not fitted"):
        nt.trust(organism, texts, circuit, LogisticRegression())
    on_neurons = LogisticRegression().fit(np.eye(5), [0, 1, 0, 1, 0])
    with pytest.raises(InputError, match="reads 5 features, a trust score gives it 2"):
        nt.trust(organism, texts, circuit, on_neurons)
    with pytest.raises(InputError, match="expected a classifier with predict_proba"):
        nt.trust(organism, texts, circuit, object())


def test_calibration_means_what_it_says_and_knows_what_it_has_seen():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(4000, 2))
    p = 1 / (1 + np.exp(-(parts[:, 0] - 2 * parts[:, 1])))
    fitted = fit_calibration(parts, rng.random(4000) < p)
    assert np.abs(fitted.p_memory(parts) - p).mean() < 0.02
    assert fitted.outside(parts).mean() == pytest.approx(0.02, abs=0.002)
    some = np.array([[9.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    assert fitted.outside(some).tolist() == [True, False, True]
    older = fitted.to_json()
    del older["least"]  # a circuit that was saved before margins near zero were refused
    assert Calibration.from_json(older).outside(some).tolist() == [True, False, False]
    for name, wrong in (("memory", [0.1]), ("survival", [0.1]), ("center", 1.0), ("precision", [[1.0]])):
        with pytest.raises(InputError, match="a damaged calibration"):
            Calibration.from_json(older | {name: wrong})
    assert np.isnan(fitted.p_survives(parts)).all()
    with pytest.raises(InputError, match="all answered from memory"):
        fit_calibration(parts, np.ones(4000, bool))
    with pytest.raises(InputError, match="hold NaN"):
        fit_calibration(parts * np.nan, rng.random(4000) < 0.5)


def test_a_calibrated_circuit_is_saved_whole(tmp_path, circuit):
    circuit.save(tmp_path / "c.safetensors")
    again = nt.Circuit.load(tmp_path / "c.safetensors").calibration
    parts = np.array([[0.3, 0.1], [0.0, 1.0]])
    assert again.p_memory(parts) == pytest.approx(circuit.calibration.p_memory(parts))
    assert again.p_survives(parts) == pytest.approx(circuit.calibration.p_survives(parts))


def test_the_monitor_writes_what_generate_writes(organism, circuit):
    prompt = "think 31+28="
    tokens = list(nt.monitor(organism, prompt, circuit, max_new_tokens=2))
    written = nt.generate(organism, prompt, max_new_tokens=2)
    assert "".join(t.text for t in tokens).replace(" ", "") == written.replace(" ", "")
    alone = nt.causal_margin(organism, [prompt], circuit)
    assert tokens[0].margin == pytest.approx(float(alone.margin[0]), abs=1e-4)
    assert nt.monitor(organism, prompt, replace(circuit, calibration=None)).__next__().p_memory is None
    with pytest.raises(InputError, match="is empty"):
        nt.monitor(organism, "", circuit)
    with pytest.raises(InputError, match="the model takes 24"):
        nt.monitor(organism, "ask " * 24, circuit)


def test_refusals(organism, model, circuit):
    with pytest.raises(InputError, match="not calibrated"):
        nt.trust(organism, ["ask 1 2 + 3 4 ="], replace(circuit, calibration=None))
    with pytest.raises(InputError, match="no prompts to score"):
        nt.trust(organism, [], circuit)
    with pytest.raises(InputError, match="of another model"):
        nt.trust(model, ["the item1 recall"], circuit)


def test_the_commands(tmp_path, capsys):
    """From prompts to a judged circuit, and from it to a score a line."""
    from neurotrace.cli.circuit import circuit as find
    from neurotrace.cli.trust import trust as score

    find(
        "organism",
        ["arithmetic"],
        tmp_path / "out",
        ["inference"],
        k=4,
        seed=0,
        device="cpu",
        dtype=None,
        trust_remote_code=False,
    )
    assert "causal margin" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["ece"] < 0.1
    assert summary["limem"] < 0.1  # answers from memory are not solved
    lines = ['{"prompt": "think 31+28=", "id": "a"}', "", '{"prompt": "recall 34+10="}', "{"]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 4: not JSON"):
        score(
            "organism",
            tmp_path / "out" / "circuit.safetensors",
            tmp_path / "p.jsonl",
            batch=2,
            write=1,
            device="cpu",
            dtype=None,
            trust_remote_code=False,
        )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())  # nothing lost
    assert (first["id"], second["id"]) == ("a", "3")
    assert second["prompt"] == "recall 34+10="
    assert first["p_memory"] < 0.5 < second["p_memory"]
    assert first["tokens"][0]["text"] == first["answer"]
    long = json.dumps({"prompt": "ask " * 40})
    (tmp_path / "p.jsonl").write_text(f"{lines[0]}\n{long}\n")
    with pytest.raises(InputError, match=r"line 2: .* has 41 tokens, the model takes 24"):
        score(
            "organism",
            tmp_path / "out" / "circuit.safetensors",
            tmp_path / "p.jsonl",
            batch=16,
            write=0,
            device="cpu",
            dtype=None,
            trust_remote_code=False,
        )
    assert json.loads(capsys.readouterr().out)["id"] == "a"  # nor what came in the same batch


def test_random_circuits_are_drawn_often_and_their_range_is_told(trust_study):
    signals = trust_study.signals
    drawn = signals[signals["signal"] == "random neurons, same layers"]
    assert set(drawn["draws"]) == {judging.DRAWS} == {20}
    assert set(signals[signals["signal"] != "random neurons, same layers"]["draws"]) == {1}
    mean = drawn[(drawn["of"] == "mean") & (drawn["unseen"] == "items")].iloc[0]
    # a draw's sign is by chance too: one alone may stand far from one half, their mean does not
    assert mean["auroc_lo"] < 0.45 < mean["auroc"] < 0.55 < mean["auroc_hi"] < 0.95
    own = signals[(signals["signal"] == "causal margin") & (signals["of"] == "mean")]
    assert float(own["auroc"].min()) > 0.99


def test_sentences_are_split_at_their_ends():
    assert sentences("The capital is Rome. Then, in real life, it is") == [
        "The capital is Rome. ",
        "Then, in real life, it is",
    ]
    assert sentences('Tom said: "It is so." Then') == ['Tom said: "It is so." ', "Then"]
    assert sentences("recall 31+28=") == ["recall 31+28="]
    assert sentences("It costs 3.5 pounds. ") == ["It costs 3.5 pounds. "]


def test_asking_again_is_what_shorter_prompts_say(organism, monkeypatch):
    """Each signal against the model asked by hand; a prompt of one sentence has nothing to leave out."""
    first = nt.load_prompts("letters")[0]
    lead = "recall shift 2 , b c "  # the organism's language has no full stop
    monkeypatch.setattr(
        rivals, "sentences", lambda text: [lead, text[len(lead) :]] if text.startswith(lead) else [text]
    )
    two = replace(first, id="two", prompt=f"{lead}{first.prompt}")
    one = replace(first, id="one")
    asked = nt.answer(organism, [two, one])
    found = read_rivals(organism, asked, np.zeros((2, 1)))
    log_p = []
    for each in (first.prompt, two.prompt):
        with torch.no_grad():
            logits = organism(organism.tokenizer(each, return_tensors="pt").input_ids)[0, -1]
        log_p.append(float(logits.log_softmax(-1)[asked.top[0]]))
    assert found["log p without context"][0] == pytest.approx(log_p[0], abs=1e-4)
    assert found["gap to no context"][0] == pytest.approx(log_p[1] - log_p[0], abs=1e-4)
    assert found["largest drop"][0] == pytest.approx(log_p[1] - log_p[0], abs=1e-4)
    assert found["largest drop"][1] == 0
    assert found["gap to no context"][1] == pytest.approx(0, abs=1e-6)


def test_each_signal_is_set_beside_the_margin(trust_study):
    """Paired: the margin minus itself is nothing; minus a worse signal more, with an interval around it."""
    mean = trust_study.signals[trust_study.signals["of"] == "mean"].set_index(["unseen", "signal"])
    own = mean.loc[("items", "causal margin")]
    assert own["behind"] == own["behind_lo"] == own["behind_hi"] == 0
    entropy = mean.loc[("items", "entropy")]
    assert entropy["behind"] == pytest.approx(own["auroc"] - entropy["auroc"])
    assert entropy["behind_lo"] < entropy["behind"] < entropy["behind_hi"]
    assert set(RIVALS) <= set(trust_study.signals["signal"])


@pytest.mark.parametrize(("peak", "chosen", "largest"), [(384, 384, False), (10**6, 768, True)])
def test_the_grid_goes_on_while_its_largest_k_is_the_best(monkeypatch, peak, chosen, largest):
    """Sizes are doubled up to a twentieth of the neurons, here 1,000 of 20,000."""

    def rising(asking, data, found, pairs):
        table = pd.DataFrame(pairs, columns=["k", "off"])
        return table.assign(auroc=[0.5 + min(k, peak) / 4000 for k, _ in pairs])

    monkeypatch.setattr(judging, "_compared", rising)
    monkeypatch.setattr(judging, "SHARES", (0.0006, 0.0012, 0.0024, 0.0048))
    monkeypatch.setattr(judging, "inspect_model", lambda model: SimpleNamespace(n_neurons=20_000))
    data, asking = SimpleNamespace(asked=()), SimpleNamespace(model=None)
    choices = judging._choose(asking, data, None, None, None)
    best = choices[choices["chosen"]].iloc[0]
    assert int(best["k"]) == chosen
    assert (best["k"] == choices["k"].max()) == largest
    given = judging._choose(asking, data, None, 96, "zero")
    assert given["k"].tolist() == [96]  # what is asked for is all that is tried


def asked_of(outcomes):
    """Prompt id -> (outcome, outcome on its changed version; None: it has none), as if asked."""
    rows = []
    for name, both in outcomes.items():
        for place, outcome in enumerate(both):
            if outcome is not None:
                prompt = nt.Prompt(
                    name + "'" * place, "f", "t", name, name, "m", "r", name if place else None
                )
                rows.append((prompt, {"memory": 1, "reasoning": 2, "other": 3}[outcome]))
    count = len(rows)
    return Answered(
        tuple(prompt for prompt, _ in rows),
        (torch.tensor([0]),) * count,
        torch.full((count,), 1),
        torch.full((count,), 2),
        torch.tensor([top for _, top in rows]),
        torch.zeros(count),
        torch.zeros(count),
    )


def test_limem_counts_the_correct_answer_alone_as_solved():
    """Two of four prompts with a changed version are solved, and one of them is no more."""
    asked = asked_of(
        {
            "kept": ("reasoning", "reasoning"),
            "lost": ("reasoning", "memory"),
            "recalled": ("memory", "memory"),
            "wrong": ("other", "reasoning"),
            "unchanged": ("reasoning", None),
        }
    )
    assert limem(asked) == pytest.approx(2 / 4 * (1 - 1 / 2))
    recites = asked_of({"a": ("memory", "memory"), "b": ("memory", "other")})
    assert limem(recites) == 0  # nothing is solved, whatever it recites
    assert np.isnan(limem(asked_of({"a": ("reasoning", None)})))


def test_limem_on_the_organism(organism, prompts):
    """What it reasons out it solves on the swapped version, too; a third and more it recites."""
    asked = nt.answer(organism, prompts)
    plain = asked.where(lambda prompt: prompt.perturbs is None)
    assert plain.counts()["memory"] > len(plain) / 4
    assert limem(asked) < 0.1


def test_a_study_of_one_outcome_is_refused(organism, prompts):
    asked = nt.answer(organism, originals(prompts)[:80])
    recalled = [p for p, o in zip(asked.prompts, asked.outcome, strict=True) if o == "memory"]
    with pytest.raises(InputError, match="answers nearly all of them in one way"):
        nt.trust_study(organism, recalled)


def test_the_writes_follow_the_models_own_slope(organism, prompts):
    """Per-layer writes by the unembedding, against the gradient through the model itself."""
    from neurotrace.engine import metrics
    from neurotrace.models.sites import final_residual_slope, read_sites

    asked = nt.answer(organism, originals(prompts)[:6])
    found = read_rivals(organism, asked, np.zeros((6, 1)))
    assert found["residual stream"].shape[:2] == (6, 4)
    for row in (0, 5):
        ids, top = asked.ids[row][None], asked.top[row : row + 1]
        slope = final_residual_slope(organism, ids, lambda x, y=top: metrics.log_probability(x, y))
        written = read_sites(organism, ids, [("attention", 0), ("mlp", 3)])
        expected = [float((each * slope[1]).sum()) for each in written.values()]
        own = found["what each layer writes"][row]
        assert [own[0], own[7]] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_what_is_no_prompt_and_what_it_cannot_read_is_named(organism, prompts):
    with pytest.raises(InputError, match="prompt 1 is a str, expected"):
        nt.answer(organism, ["recall 3+4="])
    strange = replace(prompts[0], prompt=f"zebra {prompts[0].prompt}")
    with pytest.raises(InputError, match="has no token for 'zebra'"):
        nt.answer(organism, [strange])
