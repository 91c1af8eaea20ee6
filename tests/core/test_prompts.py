"""Single prompts: reading, checking, and what a pair becomes."""

from __future__ import annotations

import json

import pytest

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.prompts import PROMPT_FIELDS, of_groups, originals

GOOD = {
    "id": "a",
    "family": "f",
    "template": "t",
    "group": "g",
    "prompt": "ask x",
    "memorized_answer": " one",
    "reasoned_answer": " two",
    "perturbs": None,
    "perturbation": None,
}


def test_packaged_prompts_are_valid():
    for name in nt.probe_names("prompts"):
        prompts = nt.load_prompts(name)
        known = {prompt.id for prompt in originals(prompts)}
        assert len(known) >= 100, name
        for prompt in prompts:
            assert (prompt.perturbs is None) == (prompt.perturbation is None)
            assert prompt.perturbs is None or prompt.perturbs in known, prompt.id


def test_what_is_optional_may_be_left_out(tmp_path):
    short = {name: value for name, value in GOOD.items() if value is not None}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(short) + "\n")
    (prompt,) = nt.load_prompts(tmp_path)
    assert prompt.perturbs is None
    assert nt.load_prompts([GOOD]) == [prompt]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " "}, "'prompt' is ' '; expected text"),
        ({"perturbs": 3}, "'perturbs' is 3"),
        ({"reasoned_answer": " one"}, "two different answers"),
        ({"colour": "red"}, "'colour' is unknown"),
    ],
)
def test_refusals_name_line_and_field(change, words):
    with pytest.raises(InputError, match=f"prompt 1.*{words}"):
        nt.load_prompts([GOOD | change])


def test_refusals_of_files(tmp_path):
    with pytest.raises(InputError, match="packaged sets arithmetic"):
        nt.load_prompts("nothing-here")
    with pytest.raises(InputError, match=f"with the fields {', '.join(PROMPT_FIELDS)}"):
        nt.load_prompts([])


def test_a_pair_is_two_prompts():
    pairs = nt.load_pairs("arithmetic")[:3]
    prompts = nt.prompts_of(pairs)
    assert [prompt.prompt for prompt in prompts[:2]] == [pairs[0].memorization, pairs[0].reasoning]
    assert len({prompt.id for prompt in prompts}) == 6
    assert nt.prompts_of(prompts) == prompts


def test_a_draw_of_groups_takes_all_their_prompts():
    prompts = nt.load_prompts("conflicts")
    some = of_groups(prompts, 7, seed=3)
    assert len(drawn := {prompt.group for prompt in some}) == 7
    assert some == [prompt for prompt in prompts if prompt.group in drawn]
    assert {prompt.group for prompt in of_groups(prompts, 7, seed=4)} != drawn
    assert of_groups(prompts, 0) == of_groups(prompts, 9_999) == prompts
