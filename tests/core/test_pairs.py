"""Pairs: validation that names the place and the remedy; splits that share nothing."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import (
    PAIR_FIELDS,
    PromptPair,
    Span,
    fold_pairs,
    load_pairs,
    pair_again,
    pair_record,
    pair_records,
    sample_pairs,
    split_pairs,
)
from neurotrace.core.records import probe_names

GOOD = {
    "id": "a",
    "family": "f",
    "template": "t",
    "group": "g",
    "memorization": "recall x",
    "reasoning": "think x",
    "memorized_answer": " one",
    "reasoned_answer": " two",
}


def make(count: int, groups: int = 6, templates: int = 3) -> list[PromptPair]:
    return [
        PromptPair(
            **{**GOOD, "id": str(i), "group": f"g{i % groups}", "template": f"t{i // groups % templates}"}
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["arithmetic", "inference", "capitals"])
def test_packaged_sets_are_valid(name):
    pairs = load_pairs(name)
    assert len(pairs) >= 100
    assert len({pair.group for pair in pairs}) >= 40
    assert name in probe_names()


def test_reads_file_folder_list_and_dataset(tmp_path):
    import datasets

    (tmp_path / "pairs.jsonl").write_text(json.dumps(GOOD) + "\n\n")
    expected = [PromptPair(**GOOD)]
    assert load_pairs(tmp_path) == expected
    assert load_pairs(str(tmp_path / "pairs.jsonl")) == expected
    assert load_pairs([GOOD]) == expected
    assert load_pairs(datasets.Dataset.from_list([GOOD])) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["line 2", "not JSON", "expected"]),
        ("[1]", ["line 2", "expected a JSON object"]),
        (json.dumps({k: v for k, v in GOOD.items() if k != "group"}), ["line 2", "'group'"]),
        (json.dumps({**GOOD, "id": "b", "extra": "x"}), ["line 2", "'extra'", "unknown"]),
        (json.dumps({**GOOD, "id": "b", "family": 3}), ["line 2", "'family'", "3"]),
        (json.dumps({**GOOD, "id": "b", "reasoning": "  "}), ["line 2", "'reasoning'"]),
        (json.dumps({**GOOD, "id": "b", "reasoned_answer": " one"}), ["line 2", "both answers"]),
        (json.dumps(GOOD), ["'a'", "twice"]),
        ('{"id": "\\ud800", "family": "f"}', ["line 2"]),
        (json.dumps({**GOOD, "id": "b", "group": "\ud800"}), ["line 2", "surrogate"]),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(InputError) as caught:
        load_pairs(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_empty_and_absent_sets_say_what_to_do(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no pairs in it"):
        load_pairs(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match="arithmetic"):
        load_pairs("no such set")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_pairs(tmp_path / "latin.jsonl")


@given(st.text(max_size=300))
def test_any_text_is_pairs_or_a_named_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "pairs.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError):
        load_pairs(path)


@given(
    st.dictionaries(
        st.sampled_from(PAIR_FIELDS),
        st.one_of(st.text(max_size=5), st.none(), st.integers(), st.lists(st.integers())),
    )
)
def test_any_record_is_a_pair_or_a_named_error(record):
    complete = len(record) == len(PAIR_FIELDS) and all(
        isinstance(value, str) and value.strip() for value in record.values()
    )
    if complete and record["memorized_answer"] != record["reasoned_answer"]:
        assert load_pairs([record]) == [PromptPair(**record)]
    else:
        with pytest.raises(InputError, match="pair 1"):
            load_pairs([record])


@given(count=st.integers(12, 60), seed=st.integers(0, 5), by=st.sampled_from(["group", "template"]))
def test_split_shares_nothing(count, seed, by):
    pairs = make(count, templates=2)
    if len({getattr(pair, by) for pair in pairs}) < 2:
        return
    train, test = split_pairs(pairs, by=by, seed=seed)
    assert {getattr(p, by) for p in train}.isdisjoint({getattr(p, by) for p in test})
    assert sorted(p.id for p in train + test) == sorted(p.id for p in pairs)
    assert split_pairs(pairs, by=by, seed=seed) == (train, test)


@given(count=st.integers(18, 60), folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_every_pair_is_held_out_once(count, folds, seed):
    pairs = make(count)
    for split in ("group", "group+template"):
        made = fold_pairs(pairs, split=split, folds=folds, seed=seed)
        held_out = [pair.id for fold in made for pair in fold.test]
        assert sorted(held_out) == sorted(pair.id for pair in pairs)
        for fold in made:
            assert {p.group for p in fold.train}.isdisjoint({p.group for p in fold.test})
            if split == "group+template":
                assert {p.template for p in fold.train}.isdisjoint({p.template for p in fold.test})


def test_folds_that_cannot_be_say_so():
    with pytest.raises(InputError, match="template"):
        fold_pairs(make(12, templates=1), split="group+template")
    with pytest.raises(InputError, match="expected 'group'"):
        fold_pairs(make(12), split="family")
    with pytest.raises(InputError, match="two groups"):
        fold_pairs(make(4, groups=1))


def test_sample_keeps_order():
    pairs = make(30)
    drawn = sample_pairs(pairs, 10, seed=1)
    assert len(drawn) == 10
    assert [p.id for p in drawn] == [p.id for p in pairs if p in drawn]


def test_parts_of_the_prompts_have_names(tmp_path):
    """Read, written and read again; a table in which other rows have other names."""
    one = {**GOOD, "spans": {"subject": "x", "context": ["recall x", "think x"]}}
    pair, bare = load_pairs([one, {**GOOD, "id": "b"}])
    assert pair.spans == (Span("subject", "x", "x"), Span("context", "recall x", "think x"))
    assert pair_record(pair)["spans"] == {"subject": ["x", "x"], "context": ["recall x", "think x"]}
    assert "spans" not in pair_record(bare)
    table = pa.Table.from_pylist(pair_records([pair, bare]))
    assert load_pairs(table.to_pylist()) == [pair, bare]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ({"subject": "y"}, "span 'subject', 'y', is no part of the memorization prompt"),
        ({"subject": ["x", "recall"]}, "'recall', is no part of the reasoning prompt"),
        ({"cue": "x"}, "a span is called 'cue'"),
        ({"the subject": "x"}, "a span is called 'the subject'"),
        ({"subject": ["x"]}, "expected one text or two"),
        ("subject", "expected names and texts"),
    ],
)
def test_parts_that_are_not_there_are_refused(spans, said):
    with pytest.raises(InputError, match=said):
        load_pairs([{**GOOD, "spans": spans}])


def test_a_pair_comes_back_from_its_record():
    own = {**GOOD, "memorized_also": [" 1"], "spans": {"subject": "x"}}
    for pair in load_pairs([own, {**GOOD, "id": "b"}]):
        assert pair_again(json.loads(json.dumps(pair_record(pair)))) == pair
        assert load_pairs([pair]) == [pair]
