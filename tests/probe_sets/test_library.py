"""The probe library: sets that ship keep their promises; mining, importing, chat rendering."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import datasets
import pytest
from planted import WORDS, planted_pairs, word_tokenizer

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import load_pairs
from neurotrace.core.prompts import load_prompts
from neurotrace.core.records import probe_names, probes_folder
from neurotrace.probe_sets import checking, mining
from neurotrace.probe_sets.cards import BEGIN, END, behaviour_table, digest, write_behaviour
from neurotrace.probe_sets.chat import chat_pairs, chat_record
from neurotrace.probe_sets.checking import build_set, check_pairs, check_set, set_folder
from neurotrace.probe_sets.importing import (
    import_clean_corrupt,
    import_counterfact,
    import_table,
)
from neurotrace.probe_sets.making import Item, fill, rows
from neurotrace.probe_sets.mining import mine_pairs

FOR_ORGANISMS = ("arithmetic", "inference", "letters")
FOR_REAL_MODELS = [name for name in probe_names() if name not in FOR_ORGANISMS]


@pytest.mark.parametrize("name", probe_names())
def test_a_set_that_ships_keeps_its_promises(name):
    assert check_set(set_folder(name)) == []


@pytest.mark.parametrize("name", FOR_REAL_MODELS)
def test_sets_for_real_models_are_large_and_varied(name):
    pairs = load_pairs(name)
    assert len(pairs) >= 200
    assert len({pair.template for pair in pairs}) >= 4
    assert (set_folder(name) / "pairs.jsonl").stat().st_size < 400_000


@pytest.mark.parametrize("name", sorted(set(probe_names("prompts")) - set(probe_names())))
def test_a_set_of_prompts_that_ships_keeps_its_promises(name, tmp_path):
    """Its card, the same bytes again, and in every template at least 20 answers of each kind."""
    folder = probes_folder() / name
    card = (folder / "README.md").read_text("utf-8")
    assert [word for word in checking._SAID if word.lower() not in card.lower()] == []
    (made,) = build_set(folder, tmp_path)
    assert made.read_bytes() == (folder / "prompts.jsonl").read_bytes()
    prompts = load_prompts(name)
    rows = {
        (family, template): (int(memory), int(reasoning))
        for family, template, memory, reasoning in re.findall(
            r"^\| ([\w-]+) \| ([\w-]+) \| (\d+) \| (\d+) \| \d+ \|$", card, re.MULTILINE
        )
    }
    assert rows.keys() == {(prompt.family, prompt.template) for prompt in prompts}
    assert min(min(counts) for counts in rows.values()) >= 20
    for prompt in prompts:
        assert prompt.prompt == prompt.prompt.strip()


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(set_folder("letters"), tmp_path / "letters")
    return tmp_path / "letters"


def test_a_changed_set_is_found_out(copy):
    lines = (copy / "pairs.jsonl").read_text("utf-8").splitlines(keepends=True)
    (copy / "pairs.jsonl").write_text("".join(lines[1:]), "utf-8")
    wrong = check_set(copy)
    assert any("other pairs" in each for each in wrong)
    assert any("another pairs.jsonl" in each for each in wrong)


def test_a_set_without_card_or_build_is_found_out(copy):
    card = (copy / "README.md").read_text("utf-8")
    (copy / "README.md").write_text(card.replace("Known shortcuts", ""), "utf-8")
    assert check_set(copy) == ["the card says nothing of 'Known shortcuts'"]
    (copy / "README.md").unlink()
    (copy / "build.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="no function build"):
        build_set(copy, copy)
    (copy / "build.py").unlink()
    assert [each.split(":")[0] for each in check_set(copy)] == ["no card", "no build.py"]


def test_pairs_that_are_not_minimal_pairs_are_named():
    good = planted_pairs()[0]
    assert check_pairs(planted_pairs()) == []
    for bad, word in (
        (replace(good, reasoning=good.memorization), "the same"),
        (replace(good, memorization=good.memorization + " "), "space"),
        (replace(good, reasoned_answer=" mem ory"), "both answers begin"),
    ):
        assert any(word in each for each in check_pairs([*planted_pairs()[1:], bad]))
    again = replace(good, id="again")
    assert any("2 pairs" in each for each in check_pairs([*planted_pairs(), again]))
    assert any("one group" in each for each in check_pairs([good]))


def test_a_template_has_two_sides():
    assert fill("In [life|the {p}], {x} is", {"p": "play", "x": "snow"}) == (
        "In life, snow is",
        "In the play, snow is",
    )
    item = Item("snow", "snow", " white", " red", {"x": "snow"})
    made = load_pairs(rows("colour", {"a": "[A|B] {x}", "b": "{x} [A|B] is"}, [item]))
    assert [pair.id for pair in made] == ["colour-snow-a", "colour-snow-b"]
    assert [pair.reasoning for pair in made] == ["B snow", "snow B is"]


def candidates():
    """The planted pairs, and three more that do not behave, each in its way."""
    pairs = planted_pairs()
    swapped = replace(
        pairs[0], id="neither", memorized_answer=" rea", reasoned_answer=" mem", template="bad"
    )
    other = replace(pairs[0], id="recalls only", reasoned_answer=" other", template="bad")
    same = replace(pairs[0], id="same", memorized_answer=" other", reasoned_answer=" other x")
    return [swapped, *pairs, other, replace(same, template="bad")]


def test_mining_finds_what_the_model_answers_both_ways(model):
    mined = mine_pairs(model, candidates())
    assert list(mined.pairs) == planted_pairs()
    assert mined.reasons() == {
        "neither answer": 1,
        "no reasoned answer": 1,
        "same first token": 1,
    }
    shares = mined.shares().set_index("template")
    assert shares.loc["bad", ["pairs", "behaves"]].tolist() == [3, 0.0]
    assert shares.loc["bad", "recalls"] == pytest.approx(1 / 3)
    assert shares.loc["long", ["recalls", "reasons", "behaves"]].tolist() == [1, 1, 1]
    assert nt.mine_pairs(model, [candidates()[0]]).pairs == ()


def test_mining_stops_when_there_is_enough(model, monkeypatch):
    monkeypatch.setattr("neurotrace.probe_sets.mining._FEW", 4)
    many = [
        replace(pair, id=f"{pair.id}/{n}", family=f"family {n}")
        for n in range(2)
        for pair in planted_pairs()
    ]
    asked = []
    ask = mining.ask
    monkeypatch.setattr(
        mining, "ask", lambda own, some, **how: (asked.append(some), ask(own, some, **how))[1]
    )
    mined = mine_pairs(model, many, max_pairs=3, seed=1)
    assert [len({pair.family for pair in some}) for some in asked] == [1] * len(asked)  # they begin alike
    assert sum(map(len, asked)) < len(many) / 2
    families = [pair.family for pair in mined.pairs]
    assert sorted(families) == ["family 0"] * 3 + ["family 1"] * 3
    assert [pair for pair in many if pair in mined.pairs] == list(mined.pairs)
    assert mine_pairs(model, many, max_pairs=3, seed=2).pairs != mined.pairs
    with pytest.raises(InputError, match="max_pairs=0"):
        mine_pairs(model, many, max_pairs=0)


def test_the_card_gets_its_figures(model, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("x")
    (tmp_path / "README.md").write_text(f"# a\n\n{BEGIN}\nold\n{END}\n\nend\n")
    mined = mine_pairs(model, candidates())
    table = behaviour_table(mined, model="planted", dtype="float32", of=digest(tmp_path))
    write_behaviour(tmp_path, table)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "old" not in card
    assert card.endswith(f"{END}\n\nend\n")
    assert "| planted | bad | 3 | 33% | 0% | 0% | 0%–" in card
    assert "12 of 15 pairs are answered correctly on both prompts; the others: 1 neither answer" in card
    (tmp_path / "README.md").write_text("# a\n")
    with pytest.raises(InputError, match="no place"):
        write_behaviour(tmp_path, table)


CHAT = (
    "{{ bos_token }} {% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


class Talker:
    """What `chat_pairs` needs of a model: its tokenizer."""

    def __init__(self, folder, *, template=CHAT, prepends=False):
        from tokenizers.processors import TemplateProcessing

        words = [*WORDS, "<bos>", "user", "assistant", "system"]
        self.tokenizer = word_tokenizer(folder, words)
        self.tokenizer.bos_token = "<bos>"
        self.tokenizer.chat_template = template
        if prepends:
            self.tokenizer._tokenizer.post_processor = TemplateProcessing(
                single="<bos> $A", special_tokens=[("<bos>", words.index("<bos>"))]
            )


@pytest.mark.parametrize("prepends", [False, True])
def test_chat_pairs_have_one_bos_and_answers_that_follow(tmp_path, prepends):
    talker = Talker(tmp_path, prepends=prepends)
    pair = planted_pairs()[0]
    (user,) = chat_pairs(talker, [pair], system="the")
    assert user.memorization.split("<bos>")[-1].strip() == f"system the user {pair.memorization} assistant"
    assert user.memorized_answer == "mem"
    (assistant,) = chat_pairs(talker, [pair], role="assistant", request="the")
    assert assistant.reasoning.endswith(f"user the assistant {pair.reasoning}")
    assert assistant.reasoned_answer == " rea"
    for rendered in (user.memorization, assistant.reasoning):
        ids = talker.tokenizer(rendered).input_ids
        assert ids.count(talker.tokenizer.bos_token_id) == 1
        assert ids[0] == talker.tokenizer.bos_token_id
    record = chat_record(talker, system="the")
    assert record["template"] == CHAT
    assert "PROMPT" in record["rendered"]


def test_chat_refusals(tmp_path):
    with pytest.raises(InputError, match="no chat template"):
        chat_pairs(Talker(tmp_path, template=None), planted_pairs())
    with pytest.raises(InputError, match="role='robot'"):
        chat_pairs(Talker(tmp_path), planted_pairs(), role="robot")
    picky = Talker(tmp_path, template="{{ raise_exception('no system message, please') }}")
    with pytest.raises(InputError, match="no system message, please"):
        chat_pairs(picky, planted_pairs(), system="x")


def write_csv(path, rows_):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows_[0])
        writer.writeheader()
        writer.writerows(rows_)
    return path


def test_clean_corrupt_tables(tmp_path, model):
    row = {"clean": "item1 recall", "corrupted": "item1 think"}
    texts = write_csv(tmp_path / "t.csv", [row | {"clean_answer": " mem", "corrupted_answer": " rea"}])
    (pair,) = import_clean_corrupt(texts, clean="memorization")
    assert (pair.memorization, pair.reasoned_answer) == (
        "item1 think".replace("think", "recall"),
        " rea",
    )
    (other,) = import_clean_corrupt(texts, clean="reasoning", family="f")
    assert (other.memorization, other.memorized_answer, other.family) == (
        "item1 think",
        " rea",
        "f",
    )
    ids = write_csv(tmp_path / "i.csv", [row | {"correct_idx": 3, "incorrect_idx": 4}])
    from neurotrace.models.origins import tokenizer_of

    (pair,) = import_clean_corrupt(ids, clean="memorization", tokenizer=tokenizer_of(model))
    assert (pair.memorized_answer.strip(), pair.reasoned_answer.strip()) == ("mem", "rea")
    with pytest.raises(InputError, match="pass their tokenizer"):
        import_clean_corrupt(ids, clean="memorization")
    with pytest.raises(InputError, match="expected the side"):
        import_clean_corrupt(ids, clean="clean")
    years = write_csv(tmp_path / "y.csv", [row | {"correct_idx": "[1, 2]", "incorrect_idx": 4}])
    with pytest.raises(InputError, match="not one token's id"):
        import_clean_corrupt(years, clean="memorization", tokenizer=tokenizer_of(model))
    with pytest.raises(InputError, match="no named answers"):
        import_clean_corrupt([row], clean="memorization")
    with pytest.raises(InputError, match="no columns"):
        import_clean_corrupt([{"prompt": "x"}], clean="memorization")
    with pytest.raises(InputError, match="CSV"):
        import_clean_corrupt(tmp_path / "none.csv", clean="memorization")


def test_mib_rows():
    row = {
        "prompt": "When John and Mary",
        "choices": [" John", " Mary"],
        "answerKey": 0,
        "flip": {"prompt": "When Mary and John", "choices": [" Mary", " John"], "answerKey": 0},
    }
    (pair,) = import_clean_corrupt([row], clean="reasoning", counterfactual="flip")
    assert (pair.reasoning, pair.reasoned_answer) == ("When John and Mary", " John")
    assert (pair.memorization, pair.memorized_answer) == ("When Mary and John", " Mary")
    with pytest.raises(InputError, match="not a row of MIB's"):
        import_clean_corrupt([row], clean="reasoning", counterfactual="absent")


def test_counterfact(tmp_path):
    record = {
        "case_id": 7,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English"},
            "target_true": {"str": "French"},
            "subject": "Danielle Darrieux",
        },
    }
    (tmp_path / "c.json").write_text(json.dumps([record]))
    pairs = import_counterfact(tmp_path / "c.json")
    assert len({pair.template for pair in pairs}) == len(pairs) == 4
    assert {pair.family for pair in pairs} == {"P103"}
    assert pairs[0].memorization == (
        "In this story, The mother tongue of Danielle Darrieux is English. "
        "In real life, The mother tongue of Danielle Darrieux is"
    )
    assert (pairs[0].memorized_answer, pairs[0].reasoned_answer) == (" French", " English")
    (one,) = import_counterfact([record], templates={"t": "[No|Yes], {fact}"})
    assert one.reasoning == "Yes, The mother tongue of Danielle Darrieux is"
    with pytest.raises(InputError, match="target_new"):
        import_counterfact([{"subject": "x", "prompt": "y", "target_true": "z"}])
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="JSON list"):
        import_counterfact(tmp_path / "c.json")


def test_any_table():
    table = datasets.Dataset.from_dict(
        {
            "m": ["a recall", "b recall"],
            "r": ["a think", "b think"],
            "ma": [" x", " y"],
            "ra": [" z"] * 2,
        }
    )
    columns = {
        "memorization": "m",
        "reasoning": "r",
        "memorized_answer": "ma",
        "reasoned_answer": "ra",
    }
    pairs = import_table(table, columns=columns, constants={"family": "f", "template": "t"})
    assert [pair.id for pair in pairs] == [pair.group for pair in pairs] == ["row-1", "row-2"]
    assert pairs[1].reasoning == "b think"
    with pytest.raises(InputError, match="no column 'gone'"):
        import_table(table, columns=columns | {"id": "gone"}, constants={"family": "f"})
    with pytest.raises(InputError, match="'template' is missing"):
        import_table(table, columns=columns, constants={"family": "f"})
    with pytest.raises(InputError, match="field 'colour' is unknown"):
        import_table(table, columns={"colour": "m"})
