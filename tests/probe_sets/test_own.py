"""From a question of one's own to pairs that behave: draft, diagnose, mend."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from commands import neurotrace, refused

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.probe_sets.diagnosing import CAUSES, Diagnosis, Failure, _cause
from neurotrace.probe_sets.drafting import TEMPLATES
from neurotrace.probe_sets.mending import _ending, _examples, _next_word, _space

GOOD = nt.load_pairs("arithmetic")[:16]


def cut(pair):
    """The sign that ends the prompts is at the beginning of both answers."""
    return replace(
        pair,
        memorization=pair.memorization[:-1],
        reasoning=pair.reasoning[:-1],
        memorized_answer=pair.memorization[-1] + pair.memorized_answer,
        reasoned_answer=pair.reasoning[-1] + pair.reasoned_answer,
    )


def test_pairs_that_behave_have_no_failure(organism):
    found = nt.diagnose(organism, GOOD)
    assert (found.share, found.sides, found.failures) == (1.0, 1.0, ())
    assert "16 of 16 pairs behave" in repr(found) or len(found.behaving) == 16


def test_what_it_says_instead_and_why(organism):
    swapped = [
        replace(p, memorized_answer=p.reasoned_answer, reasoned_answer=p.memorized_answer) for p in GOOD[:4]
    ]
    found = nt.diagnose(organism, [*swapped, *GOOD[4:6]])
    assert found.causes() == {"follows the prompt": 4, "ignores the prompt": 4}
    assert found.share == pytest.approx(1 / 3)
    frame = found.to_frame()
    assert list(frame["side"]) == ["memorization", "reasoning"] * 4
    first = found.failures[0]
    assert len(first.says) == 5
    assert all(0 <= p <= 1 for _, p in first.says)
    assert first.says[0][1] == max(p for _, p in first.says)
    assert GOOD[0].memorized_answer.startswith(first.says[0][0].strip())
    asked = nt.encode(organism, GOOD[:1]).on_memorization.p_memorized
    assert first.says[0][1] == pytest.approx(float(asked[0]), abs=1e-5)


def word(said, *, side="memorization", reason="no memorized answer", more=()):
    """The cause of a failing prompt at which the model says this."""
    pair = nt.PromptPair("a", "f", "t", "g", "the lake of Rome is", "think Rome is", " Paris", " Oslo")
    dropped = type("Dropped", (), {"pair": pair, "reason": reason})
    return _cause(dropped, side, [(said, 0.5), *((each, 0.1) for each in more)], None)


def test_each_cause_by_what_is_said():
    assert word("Paris") == "space"
    assert word(" paris") == "space"
    assert word(" ") == "bare space"
    assert word("\n") == word(",") == word(" ...") == "no answer begun"
    assert word(" the") == word(" The") == "open ending"
    assert word(" Oslo") == "follows the prompt"
    assert word(" Paris", side="reasoning") == "ignores the prompt"
    assert word(" Lyon", more=[" Paris"]) == "nearly"
    assert word(" Rome") == "copies"
    assert word(" Lyon") == "not known"
    assert word(" Lyon", reason="too long") == "too long"
    assert word(" Lyon", reason="answer merges with the prompt") == "space"
    causes = ("space", "bare space", "open ending", "nearly", "copies", "not known", "too long")
    assert set(causes) < set(CAUSES)


def test_what_both_answers_begin_with_goes_back_into_the_prompts(organism):
    broken = [cut(pair) for pair in GOOD]
    assert nt.diagnose(organism, broken).share == 0
    mended = nt.mend_pairs(organism, broken, items=6)
    assert mended.pairs == tuple(GOOD)
    assert (mended.before.share, mended.after.share) == (0.0, 1.0)
    (kept,) = [step for step in mended.steps if step.kept]
    assert (kept.mend, kept.before, kept.after) == ("the shared beginning in the prompt", 0.0, 1.0)
    assert mended.line("arithmetic") == "0 of 16 pairs behaved, 16 do now"


def test_what_helps_no_pair_is_not_kept(organism):
    assert nt.mend_pairs(organism, GOOD, items=4).pairs == tuple(GOOD)
    hopeless = [replace(p, memorized_answer="qqq", reasoned_answer="zzz") for p in GOOD]
    mended = nt.mend_pairs(organism, hopeless, items=4)
    assert mended.after.share == 0
    assert "fewer than 10 are too few to study" in mended.line("arithmetic")
    with pytest.raises(InputError, match="at least 2"):
        nt.mend_pairs(organism, GOOD, items=1)
    with pytest.raises(InputError, match="no chat template"):
        nt.mend_pairs(organism, hopeless, items=2, chat=True)


def test_the_word_that_follows_is_put_at_the_end():
    def found(*said):
        failures = [Failure(GOOD[0], "reasoning", "open ending", ((each, 0.5),)) for each in said]
        return Diagnosis("m", tuple(GOOD[:4]), (), tuple(failures))

    assert _next_word(found(" the", " the", " a", " the")) == " the"
    assert _next_word(found(" the", " a")) == ""
    assert _next_word(found("\n", "\n", "\n")) == ""
    assert _next_word(found()) == ""
    (ended,) = _ending(" the")(GOOD[:1], GOOD)
    assert ended.reasoning == GOOD[0].reasoning + " the"
    assert ended.reasoned_answer == GOOD[0].reasoned_answer


def test_the_space_goes_where_the_mend_says():
    pair = replace(
        GOOD[0], memorization="a is ", reasoning="b is", memorized_answer="1", reasoned_answer=" 2"
    )
    out = _space(pair, "", " ")
    assert (out.memorization, out.reasoning, out.memorized_answer, out.reasoned_answer) == (
        "a is",
        "b is",
        " 1",
        " 2",
    )
    out = _space(pair, " ", "")
    assert (out.memorization, out.reasoning, out.memorized_answer, out.reasoned_answer) == (
        "a is ",
        "b is ",
        "1",
        "2",
    )


def test_examples_are_of_other_groups_and_answered_as_the_side_is():
    pairs = [
        nt.PromptPair(f"{g}{n}", "f", t, g, f"m {g}{n}", f"r {g}{n}", f" yes{g}", f" no{g}")
        for g in "abcdefgh"
        for n in (0, 1)
        for t in ("x", "y")[n : n + 1]
    ]
    for pair in pairs:
        made = _examples(pair, pairs, seed=0)
        lines = made.memorization.split("\n")
        assert len(lines) == 5
        assert lines[-1] == pair.memorization
        assert all(line[2] != pair.group for line in lines[:-1])
        assert len({line[2] for line in lines[:-1]}) == 4
        assert all(line[3] == pair.id[1] for line in lines)  # the same template
        assert all(line.endswith(f" yes{line[2]}") for line in lines[:-1])
        assert [
            line.replace("r", "m", 1).replace("no", "yes") for line in made.reasoning.split("\n")
        ] == lines
        assert (made.id, made.group, made.memorized_answer) == (pair.id, pair.group, pair.memorized_answer)


FACTS = [("France", "Paris"), ("Peru", "Lima"), ("Kenya", "Nairobi"), ("Chad", "N'Djamena")]
RELATION = "the capital of {subject} is the city of"


def test_a_draft_has_three_families_of_two_wordings():
    rows = [{"subject": s, "answer": a} for s, a in FACTS]
    pairs = nt.draft_pairs(rows, relation=RELATION)
    assert len(pairs) == 4 * 3 * 2
    assert {pair.family for pair in pairs} == set(TEMPLATES)
    answers = dict(FACTS)
    for pair in pairs:
        assert pair.memorized_answer == f" {answers[pair.group]}"
        wrong = pair.reasoned_answer
        assert wrong.strip() in answers.values()
        assert wrong != pair.memorized_answer
        assert wrong.strip() in pair.reasoning
        for prompt in (pair.memorization, pair.reasoning):
            assert prompt.endswith(f"the capital of {pair.group} is the city of")
            assert pair.memorized_answer.strip() not in prompt
    closed = next(pair for pair in pairs if pair.family == "closed-book")
    assert closed.reasoned_answer not in closed.memorization
    uses = [pair.reasoned_answer for pair in pairs if pair.template == "story"]
    assert max(map(uses.count, uses)) <= 2  # the least used first
    assert nt.draft_pairs(rows, relation=RELATION) == pairs
    own = nt.draft_pairs([{"subject": "A", "answer": "B", "wrong": "C", "relation": "{subject} likes"}])
    assert (own[0].reasoned_answer, own[0].memorization[-7:]) == (" C", "A likes")


def test_what_is_no_table_of_facts_is_said():
    for rows, words in (
        ([{"subject": "France"}], "no answer"),
        ([{"subject": "France", "answer": " "}], "no answer"),
        ([{"subject": "France", "answer": "Paris"}], "no other answer"),
        ([], "facts"),
        (["France"], "expected columns subject and answer"),
    ):
        with pytest.raises(InputError, match=words):
            nt.draft_pairs(rows)
    with pytest.raises(InputError, match=r"expected \{subject\}"):
        nt.draft_pairs([{"subject": "a", "answer": "b", "wrong": "c"}], relation="x")


def test_the_commands(tmp_path):
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,answer\n" + "".join(f"{s},{a}\n" for s, a in FACTS))
    done = neurotrace(
        "probes", "draft", "facts.csv", "--relation", RELATION, "--out", "mine.jsonl", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "24 pairs, 3 families" in done.stdout
    assert len(nt.load_pairs(tmp_path / "mine.jsonl")) == 24
    refused(neurotrace("probes", "draft", str(facts), "--relation", "x", "--out", "a.jsonl"), "{subject}")

    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join(json.dumps(cut(pair).__dict__) + "\n" for pair in GOOD))
    of = ("probes", "check", str(broken), "--model", "organism")
    done = neurotrace(*of)
    assert done.returncode == 0, done.stderr
    assert "0 of 16 pairs behave" in done.stdout
    done = neurotrace(*of, "--fix", "good.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the shared beginning in the prompt: 0% -> 100% of the few, kept" in done.stdout
    assert "0 of 16 pairs behaved, 16 do now" in done.stdout
    assert nt.load_pairs(tmp_path / "good.jsonl") == GOOD
    card = (tmp_path / "good.md").read_text()
    assert "- arithmetic: the shared beginning in the prompt" in card
    assert "0 of 16 pairs behaved, 16 do now" in card
    done = neurotrace(*of, "--json", "--max-pairs", "2")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["cause"] for row in rows} <= set(CAUSES)
    assert {row["pair"] for row in rows} == {pair.id for pair in GOOD[:2]}
    refused(neurotrace(*of, "--chat"), "goes with --fix")
    refused(neurotrace(*of, "--fix", str(broken)), "the source itself")


def test_a_run_without_pairs_points_to_the_check(organism):
    with pytest.raises(InputError, match="neurotrace probes check"):
        nt.encode(organism, [cut(pair) for pair in GOOD])


def test_a_failure_knows_its_prompt():
    failure = Failure(GOOD[0], "reasoning", "nearly", ())
    assert (failure.prompt, failure.wanted) == (GOOD[0].reasoning, GOOD[0].reasoned_answer)
