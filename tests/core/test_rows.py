"""Rows of every kind of file and table: text stays as it stands, and what is wrong is named by its line."""

from __future__ import annotations

import json

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PAIR_FIELDS, PromptPair, load_pairs, pair_record
from neurotrace.core.prompts import load_prompts

PAIRS = [
    PromptPair(
        id=str(number),
        family="f",
        template="t",
        group=f"{number:03d}",
        memorization=f'recall {number}, the "sum" =',
        reasoning=f"think {number};\nthe sum =",
        memorized_answer=f"00{number}",
        reasoned_answer=" two",
    )
    for number in range(1, 4)
]
RECORDS = [pair_record(pair) for pair in PAIRS]
CHANGES = {"id": "other id", "reasoning": "rule"}  # columns of other names


def as_csv(records=RECORDS, delimiter=","):
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


class Polars:
    """What is asked of a polars frame."""

    columns = PAIR_FIELDS

    def to_dicts(self):
        return RECORDS


class Interchange:
    """A frame that only the interchange protocol reads."""

    def __dataframe__(self, *given, **options):
        return pa.Table.from_pylist(RECORDS).__dataframe__(*given, **options)


@pytest.mark.parametrize(
    "source",
    [
        PAIRS,
        RECORDS,
        iter(RECORDS),
        pd.DataFrame(RECORDS),
        Polars(),
        Interchange(),
        pa.Table.from_pylist(RECORDS),
        datasets.Dataset.from_list(RECORDS),
        datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)),
    ],
    ids=["pairs", "dicts", "iterator", "pandas", "polars", "interchange", "arrow", "dataset", "dict"],
)
def test_tables_in_memory(source):
    assert load_pairs(source) == PAIRS


def test_a_polars_frame():
    polars = pytest.importorskip("polars")
    assert load_pairs(polars.DataFrame(RECORDS)) == PAIRS


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", "\n".join(json.dumps(each) for each in RECORDS)),
        ("p.json", json.dumps(RECORDS, indent=2)),
        ("lines.json", "\n".join(json.dumps(each) for each in RECORDS)),
        ("list.jsonl", json.dumps(RECORDS)),
        ("p.csv", as_csv()),
        ("p.tsv", as_csv(delimiter="\t")),
        ("semicolons.csv", as_csv(delimiter=";")),
        ("pipes.txt", as_csv(delimiter="|")),
        ("hats.csv", as_csv(delimiter="^")),
        (
            "windows.csv",
            as_csv().replace("\r\n", "\n").replace("\n", "\r\n").replace(";\r\n", ";\n"),
        ),
    ],
)
def test_files(tmp_path, name, text, mark):
    """Delimiters, quotes, line breaks in cells, a byte-order mark; and `001` is no 1."""
    (tmp_path / name).write_bytes((mark + text).encode())
    assert load_pairs(tmp_path / name) == PAIRS
    assert load_pairs(str(tmp_path)) == PAIRS  # the only file of its folder


def test_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "p.parquet")
    assert load_pairs(tmp_path / "p.parquet") == PAIRS
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"p\.parquet: can't be read as Parquet"):
        load_pairs(tmp_path / "p.parquet")


def test_one_record_over_many_lines(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(RECORDS[0], indent=2))
    assert load_pairs(tmp_path / "p.json") == PAIRS[:1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_folders_that_datasets_reads(tmp_path, cache):
    """Cells of its CSV files are text, too; of several splits one has to be named."""
    saved = datasets.Dataset.from_list(RECORDS)
    saved.save_to_disk(tmp_path / "saved")
    assert load_pairs(tmp_path / "saved") == PAIRS
    both = datasets.DatasetDict(train=saved, test=saved.select([0]))
    both.save_to_disk(tmp_path / "both")
    assert load_pairs(tmp_path / "both", split="test") == PAIRS[:1]
    with pytest.raises(InputError, match="split=None: expected one of train, test"):
        load_pairs(tmp_path / "both")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.csv").write_text(as_csv())
    (tmp_path / "files" / "test.csv").write_text(as_csv(RECORDS[:1]))
    assert load_pairs(str(tmp_path / "files"), split="train") == PAIRS
    for split in ("train", "test"):
        (tmp_path / "files" / f"{split}.csv").write_text(as_csv(renamed("")))
    with pytest.raises(InputError, match="row 2: field 'reasoned_answer' is empty"):
        load_pairs(tmp_path / "files", columns=CHANGES, split="train")
    (tmp_path / "files" / "test.csv").write_text("other,columns\na,b\n")
    with pytest.raises(InputError, match="files: datasets can't load it") as caught:
        load_pairs(tmp_path / "files", split="train")
    assert "An error occurred" not in str(caught.value)
    assert load_pairs(both, split="train") == PAIRS
    with pytest.raises(InputError, match="expected none"):
        load_pairs(PAIRS, split="train")


def test_a_data_set_on_the_hub(monkeypatch, cache):
    """By `datasets.load_dataset`; a name that is none, and no network, are one line."""
    asked = []

    class Builder:
        class info:
            builder_name = "parquet"

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: Builder())
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *given, **options: (
            asked.append((given, options))
            or datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS))
        ),
    )
    assert load_pairs("owner/name", split="train") == PAIRS
    assert asked == [(("owner/name",), {})]
    Builder.info.builder_name = "imagefolder"
    with pytest.raises(InputError, match="owner/name: a data set of the kind 'imagefolder'"):
        load_pairs("owner/name")

    def out_of_reach(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", out_of_reach)
    with pytest.raises(InputError, match=r"^owner/name: datasets can't load it \(no route\)$"):
        load_pairs("owner/name")
    for name in ("letters/pairs.jsonl", "nothing", "../up"):
        with pytest.raises(InputError, match="no pairs at"):
            load_pairs(name)


def renamed(value, field="reasoned_answer"):
    """The second record has this value; the columns have other names."""
    records = [dict(each) for each in RECORDS]
    records[1][field] = value
    return [{CHANGES.get(name, name): cell for name, cell in each.items()} for each in records]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "empty"),
        (float("nan"), "empty"),
        (pd.NA, "empty"),
        (pd.NaT, "empty"),
        ("", "empty"),
        (" ", "' '"),
        (["France"], "a list of 1"),
        (["a", "b"], "a list of 2"),
        ("['France']", "a list of 1"),
        ('["a", "b"]', "a list of 2"),
        (7, "7 and no text"),
        (7.0, "7.0 and no text"),
        (True, "True and no text"),
        ({"a": 1}, "{'a': 1}"),
        (b"x", "b'x'"),
    ],
    ids=repr,
)
def test_what_is_no_answer_never_becomes_one(value, words):
    for source, where in (
        (renamed(value), "pair 2"),
        (pd.DataFrame(renamed(value)), "row 2"),
    ):
        with pytest.raises(InputError, match="'reasoned_answer'") as caught:
            load_pairs(source, columns=CHANGES)
        assert f"'reasoned_answer' is {words}" in str(caught.value)
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        # behind the header and a record that takes two lines
        ("p.csv", as_csv(renamed("")), "line 4"),
        ("p.tsv", as_csv(renamed("['France']"), "\t"), "line 4"),
        ("p.jsonl", "\n\n" + "\n".join(json.dumps(each) for each in renamed(None)), "line 4"),
        ("p.json", json.dumps(renamed(3), indent=1), "line 12 (record 2)"),
        ("p.json", json.dumps(renamed(3)), "line 1 (record 2)"),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path, name, text, where):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        load_pairs(tmp_path / name, columns=CHANGES)
    assert f"{tmp_path / name}, {where}: field 'reasoned_answer'" in str(caught.value)


def test_the_lines_above_are_those_of_the_files(tmp_path):
    lines = as_csv(renamed("")).split("\r\n")
    assert lines[2].startswith("2,f,t,")  # the first one holds a line feed of its own
    assert json.dumps(renamed(3), indent=1).splitlines()[11].strip() == "{"


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("p.csv", "id,family\na\n", ["line 2", "1 cells, expected the header's 2"]),
        ("p.csv", "id,family\n\na,b,c\n", ["line 3", "3 cells", "needs quotes"]),
        ("p.csv", "id,id\na,b\n", ["line 1", "two columns are called 'id'"]),
        ("p.csv", "id,family\n", ["no pairs in it"]),
        ("p.csv", "", ["no pairs in it"]),
        ("p.csv", "id\n" + "x" * 200_000, ["CSV", "limit"]),
        ("p.csv", as_csv().encode("utf-16"), ["UTF-16", "save the file as UTF-8"]),
        ("p.jsonl", b"\xff\xfe\x00\x00{", ["UTF-32", "save the file as UTF-8"]),
        ("p.jsonl", json.dumps(RECORDS[0]).encode("utf-16-be"), ["not JSON"]),
        ("p.csv", b"id\nf\xfcr", ["byte 4 is not UTF-8"]),
        ("p.json", '[{"id": 1}', ["not JSON"]),
        ("p.json", '[{"id": 1}] x', ["not JSON"]),
        ("p.json", "[1]", ["line 1 (record 1)", "expected a JSON object"]),
        ("p.json", "[]", ["no pairs in it"]),
        ("p.json", '{\n"id": 1,\n', ["line 1", "not JSON"]),
        ("p.xlsx", b"PK", [".xlsx can't be read", "save it as"]),
        ("p.pkl", b"", [".pkl can't be read"]),
    ],
)
def test_broken_files(tmp_path, name, raw, words):
    (tmp_path / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(InputError) as caught:
        load_pairs(tmp_path / name)
    for word in (name, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text("ab,;\t|\"'\n\r[]{}: 1\ufeff", max_size=60).map(str.encode))
def test_any_bytes_are_rows_or_a_named_error(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp()
    for name in ("fuzz.csv", "fuzz.tsv", "fuzz.json", "fuzz.parquet"):
        (folder / name).write_bytes(raw)
        with pytest.raises(InputError, match=name):
            load_pairs(folder / name)


def test_columns_and_constants(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,rule,old,new,note\na recall,a think,007,8,\n")
    columns = {
        "memorization": "prompt",
        "reasoning": "rule",
        "memorized_answer": "old",
        "reasoned_answer": "new",
    }
    constants = {"family": "sums", "template": "plain"}
    (pair,) = load_pairs(tmp_path / "p.csv", columns=columns, constants=constants)
    assert (pair.id, pair.group, pair.family) == ("row-1", "row-1", "sums")
    assert (pair.memorized_answer, pair.reasoned_answer) == ("007", "8")
    with pytest.raises(InputError, match="line 2: no column 'gone' for 'id'; it has prompt, rule"):
        load_pairs(tmp_path / "p.csv", columns=columns | {"id": "gone"}, constants=constants)
    with pytest.raises(InputError, match="field 'colour' is unknown"):
        load_pairs(tmp_path / "p.csv", columns={"colour": "prompt"})
    # a number serves as a name, not as an answer
    (pair,) = load_pairs([RECORDS[0] | {"id": 7, "group": 3}], columns={})
    assert (pair.id, pair.group) == ("7", "3")


def test_no_rows_at_all_and_no_table():
    for source in ({"a": ["x"]}, {}, 3, None):
        with pytest.raises(InputError, match="expected"):
            load_pairs(source)


def test_prompts_are_read_alike(tmp_path):
    (tmp_path / "prompts.csv").write_text(
        "id,family,template,group,prompt,memorized_answer,reasoned_answer,perturbs,perturbation\n"
        "a,f,t,g,x =,1,01,,\nb,f,t,g,y =,1,01,a,swap\n"
    )
    first, second = load_prompts(tmp_path / "prompts.csv")
    assert (first.reasoned_answer, first.perturbs, second.perturbs) == ("01", None, "a")


def test_an_id_that_occurs_twice_names_both_lines(tmp_path):
    (tmp_path / "p.csv").write_text(as_csv([RECORDS[0], RECORDS[1], RECORDS[0]]))
    with pytest.raises(InputError, match=r"line 6: the id '1' occurs twice, first at line 2"):
        load_pairs(tmp_path / "p.csv")
