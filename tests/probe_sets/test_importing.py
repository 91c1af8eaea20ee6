"""Files of the field, rebuilt small in their real layouts: what becomes of each, and their errors."""

from __future__ import annotations

import json
import warnings

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import neurotrace as nt
from neurotrace.cli import main as cli
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import load_pairs
from neurotrace.decoding.tokenizers import load_tokenizer
from neurotrace.probe_sets.checking import check_pairs
from neurotrace.probe_sets.importing import FORMAT_NAMES, format_of, import_pairs


def lines(records):
    return "\n".join(json.dumps(each) for each in records)


COUNTERFACT = [
    {
        "case_id": 0,
        "pararel_idx": 2796,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Shayna does this and Yossel goes still and dies. Danielle Darrieux"],
        "neighborhood_prompts": ["The mother tongue of Léon Blum is"],
        "attribute_prompts": [],
        "generation_prompts": ["Danielle Darrieux's mother tongue is"],
    },
    {
        "case_id": 1,
        "pararel_idx": 5827,
        "requested_rewrite": {
            "prompt": "The official religion of {} is",
            "relation_id": "P140",
            "target_new": {"str": "Islam", "id": "Q432"},
            "target_true": {"str": "Christianity", "id": "Q5043"},
            "subject": "Edwin of Northumbria",
        },
    },
]
FLAT = [
    {
        "relation": "The mother tongue of {} is",
        "relation_prefix": "The mother tongue of",
        "relation_suffix": "is",
        "prompt": "The mother tongue of Danielle Darrieux is",
        "relation_id": "P103",
        "target_false_id": "Q1860",
        "target_true_id": "Q150",
        "target_true": " French",
        "target_false": " English",
        "subject": "Danielle Darrieux",
    }
]
EASYEDIT = [
    {
        "case_id": 0,
        "prompt": "The mother tongue of Danielle Darrieux is",
        "target_new": "English",
        "subject": "Danielle Darrieux",
        "ground_truth": "French",
        "rephrase_prompt": "Where Danielle Darrieux is from, people speak the language of",
        "locality_prompt": "Michel Rocard is a native speaker of",
        "locality_ground_truth": "French",
    },
    {
        "subject": "Watts Humphrey",
        "prompt": "What university did Watts Humphrey attend?",
        "target_new": "University of Michigan",
        "ground_truth": ["Illinois Institute of Technology"],
        "portability": {},
        "locality": {},
    },
]
KNOWN = [
    {
        "known_id": number,
        "subject": subject,
        "attribute": attribute,
        "template": template,
        "prediction": f" {attribute}, and so on",
        "prompt": template.format(subject),
        "relation_id": relation,
    }
    for number, (subject, attribute, template, relation) in enumerate(
        [
            ("Vinson Massif", "Antarctica", "{} is located in the continent", "P30"),
            ("Beats Music", "Apple", "{} is owned by", "P127"),
            ("Audible.com", "Amazon", "{} is owned by", "P127"),
            ("Mount Kenya", "Africa", "{} is located in", "P30"),
        ]
    )
]
LRE = {
    "name": "country capital city",
    "prompt_templates": ["The capital city of {} is", "The capital of {} is"],
    "prompt_templates_zs": ["What is the capital of {}? It is the city of"],
    "properties": {"relation_type": "factual", "domain_name": "country", "symmetric": False},
    "samples": [
        {"subject": "Canada", "object": "Ottawa"},
        {"subject": "Mexico", "object": "Mexico City"},
        {"subject": "Brazil", "object": "Bras\u00edlia"},
    ],
}
PARAREL_PATTERNS = [
    {"pattern": "[X] was born in [Y].", "lemma": "born", "extended_lemma": "born-in", "tense": "past"},
    {"pattern": "[Y] is where [X] was born.", "lemma": "born", "extended_lemma": "born", "tense": "past"},
    {"pattern": "[X] is native to [Y].", "lemma": "native", "extended_lemma": "native", "tense": "present"},
]
PARAREL = [
    {"sub_label": "Allan Peiper", "obj_label": "Alexandra", "uuid": "6a9d91c1"},
    {"sub_label": "Moe Koffman", "obj_label": "Toronto", "uuid": "461eb46c"},
    {"sub_label": "Kurt Schwertsik", "obj_label": "Vienna", "uuid": "fcdfc037"},
]
COMP_MECH = [
    {
        "base_prompt": "Toyota Camry XV30 is a product of",
        "template": "{}: Toyota Camry XV30 is a product of{}. Toyota Camry XV30 is a product of",
        "target_true": " Toyota",
        "target_new": " Chrysler",
        "prompt": "Redefine: Toyota Camry XV30 is a product of Chrysler. Toyota Camry XV30 is a product of",
        "subject": "Toyota Camry XV30",
    }
]
FUNCTION_VECTORS = [
    {"input": "flawed", "output": "perfect"},
    {"input": "orthodox", "output": "unorthodox"},
    {"input": "true", "output": "false"},
    {"input": "daily", "output": "nightly"},
    {"input": "hot", "output": "cold"},
    {"input": "up", "output": "down"},
]
MQUAKE = [
    {
        "case_id": 1,
        "requested_rewrite": [
            {
                "prompt": "{} is a citizen of",
                "relation_id": "P27",
                "target_new": {"str": "Croatia", "id": "Q224"},
                "target_true": {"str": "United States of America", "id": "Q30"},
                "subject": "Ellie Kemper",
                "question": "What is Ellie Kemper's country?",
            }
        ],
        "questions": [
            "Who is the head of state of the country where Ellie Kemper holds a citizenship?",
            "Which person leads the country that Ellie Kemper is a citizen of?",
        ],
        "answer": "Joe Biden",
        "answer_alias": ["Joseph Biden"],
        "new_answer": "Zoran Milanović",
        "new_answer_alias": [],
        "single_hops": [{"question": "?", "cloze": "", "answer": ""}] * 2,
        "new_single_hops": [],
        "orig": {"triples": [], "triples_labeled": []},
    }
]
MEMOTRAP = (
    "prompt,classes,answer_index\n"
    '"Write a quote that ends in the word ""heavy"": Absence makes the heart grow",'
    "\"[' heavy.', ' fonder.']\",0\n"
    '"Write a quote that ends in the word ""never"": Better late than",'
    "\"[' never.', ' early.']\",0\n"
).replace("\"[' never.', ' early.']\",0", "\"[' early.', ' never.']\",1")
GREATER_THAN = (
    "clean,corrupted,label\n"
    "The contract lasted from the year 1352 to the year 13,"
    "The contract lasted from the year 1301 to the year 13,52\n"
    "The plan lasted from the year 1604 to the year 16,"
    "The plan lasted from the year 1601 to the year 16,04\n"
)
MIB = [
    {
        "prompt": "When John and Mary went to the store, John gave a drink to",
        "template": "",
        "metadata": {"subject": "John"},
        "choices": [" Mary", " John"],
        "answerKey": 0,
        "s2_io_flip_counterfactual": {
            "prompt": "When John and Mary went to the store, Mary gave a drink to",
            "choices": [" John", " Mary"],
            "answerKey": 0,
        },
    }
]

# name of the format -> (file, its text, options, number of pairs)
FILES = {
    "counterfact": ("counterfact.json", json.dumps(COUNTERFACT, indent=1), {}, 8),
    "counterfact, lines": ("counterfact.jsonl", lines(COUNTERFACT), {}, 8),
    "counterfact, flat": ("train.jsonl", lines(FLAT), {}, 4),
    "easyedit": ("edit.json", json.dumps(EASYEDIT), {}, 8),
    "known-facts": ("known_1000.json", json.dumps(KNOWN), {}, 16),
    "lre": ("country_capital_city.json", json.dumps(LRE, indent=4), {}, 3 * 2 * 4),
    "pararel": ("P19.jsonl", lines(PARAREL), {"patterns": True}, 3 * 2 * 4),
    "comp-mech": ("full_data_sampled_gpt2.json", json.dumps(COMP_MECH, indent=2), {}, 1),
    "function-vectors": ("antonym.json", json.dumps(FUNCTION_VECTORS, indent=4), {}, 6),
    "mquake": ("MQuAKE-CF-3k.json", json.dumps(MQUAKE), {}, 2),
    "memotrap": ("memo-trap_classification.csv", MEMOTRAP, {}, 2),
    "greater-than": (
        "greater_than_data.csv",
        GREATER_THAN,
        {"clean": "reasoning", "sets": "first"},
        2,
    ),
    "mib": ("ioi.jsonl", lines(MIB), {"clean": "reasoning"}, 1),
}


def read(tmp_path, name, text=None, **changes):
    """The pairs of one of FILES."""
    file, own, options, _ = FILES[name]
    options = dict(options)
    if options.get("patterns") is True:
        (tmp_path / "patterns.jsonl").write_text(lines(PARAREL_PATTERNS))
        options["patterns"] = tmp_path / "patterns.jsonl"
    (tmp_path / file).write_text(own if text is None else text, "utf-8")
    return import_pairs(tmp_path / file, **{**options, **changes})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:1 of 3 patterns")
def test_each_layout_goes_in_by_its_columns(tmp_path, name):
    """Valid, minimal pairs in which both sides can be asked; known without the format's name."""
    pairs = read(tmp_path, name)
    assert len(pairs) == FILES[name][3]
    assert format_of(tmp_path / FILES[name][0]) == name.partition(",")[0]
    assert len({pair.id for pair in pairs}) == len(pairs)
    wrong = [each for each in check_pairs(pairs) if "group" not in each]
    assert wrong == []
    assert read(tmp_path, name, format=name.partition(",")[0]) == pairs
    for pair in pairs:
        assert "{}" not in pair.memorization + pair.reasoning
        assert not pair.memorization[-1].isspace()
        if pair.template != "examples" and name != "mquake":
            assert pair.reasoned_answer.strip(" .") in pair.reasoning or name in (
                "mib",
                "greater-than",
            )


@pytest.mark.parametrize("name", FILES)
def test_each_goes_in_by_one_command(tmp_path, monkeypatch, capfd, name):
    """And, cut in the middle or with half a row, is refused in one line."""
    file, text, options, count = FILES[name]
    (tmp_path / "patterns.jsonl").write_text(lines(PARAREL_PATTERNS))
    (tmp_path / file).write_text(text, "utf-8")
    options = options | ({"patterns": "patterns.jsonl"} if "patterns" in options else {})
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["neurotrace", "probes", "import", file, *words, "--out", "o.jsonl"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0, capfd.readouterr().err
    assert len(load_pairs("o.jsonl")) == count
    assert f"{count} pairs, read as {name.partition(',')[0]}" in capfd.readouterr().out
    cut = f"{text}x\n" if file.endswith(".csv") else text[: len(text) * 2 // 3].rpartition('"')[0]
    (tmp_path / file).write_text(cut, "utf-8")
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr().err.strip().splitlines()
    assert (end.value.code, len(said)) == (2, 1), said
    assert said[0].startswith("neurotrace: ")
    assert file in said[0]


def test_every_format_has_a_file_here():
    assert {name.partition(",")[0] for name in FILES} | {"clean-corrupt"} == set(FORMAT_NAMES)


@pytest.mark.filterwarnings("ignore:1 of 3 patterns")
def test_what_the_pairs_say(tmp_path):
    def first(name):
        return read(tmp_path, name)[0]

    pair = first("counterfact")
    assert (pair.id, pair.family, pair.group) == (
        "P103-0-danielle-darrieux-story",
        "P103",
        "Danielle Darrieux",
    )
    assert pair.reasoning.endswith("In the story, The mother tongue of Danielle Darrieux is")
    assert (pair.memorized_answer, pair.reasoned_answer) == (" French", " English")
    assert first("counterfact, flat").memorization == pair.memorization
    assert first("easyedit").memorization == pair.memorization
    question = read(tmp_path, "easyedit")[4]
    assert question.memorization == (
        "In this story: What university did Watts Humphrey attend? Answer: University of Michigan. "
        "In real life: What university did Watts Humphrey attend? Answer:"
    )
    assert question.memorized_answer == " Illinois Institute of Technology"
    pair = first("known-facts")
    assert (pair.family, pair.memorized_answer, pair.reasoned_answer) == (
        "P127",
        " Apple",
        " Amazon",
    )
    lre = read(tmp_path, "lre")
    assert {pair.template for pair in lre} == {
        f"{context}-{wording}" for context in ("story", "game", "series", "rumour") for wording in (1, 2)
    }
    assert {pair.family for pair in lre} == {"country-capital-city"}
    assert {pair.group for pair in lre} == {"Canada", "Mexico", "Brazil"}
    pararel = read(tmp_path, "pararel")
    assert "Allan Peiper was born in" in pararel[0].memorization
    assert not any("where" in pair.memorization for pair in pararel)
    pair = first("comp-mech")
    assert pair.memorization == "Toyota Camry XV30 is a product of"
    assert pair.reasoning == COMP_MECH[0]["prompt"]
    assert (pair.memorized_answer, pair.reasoned_answer) == (" Toyota", " Chrysler")
    assert pair.group == "Toyota Camry XV30"
    pair = first("function-vectors")
    assert pair.memorization.count("Q:") == pair.reasoning.count("Q:") == 5
    assert pair.reasoning.count("Q: flawed") == 2
    assert pair.memorization.count("Q: flawed") == 1
    assert f"Q: flawed\nA:{pair.reasoned_answer}" in pair.reasoning
    assert "perfect" not in pair.memorization + pair.reasoning
    pair = first("mquake")
    assert pair.memorization == (
        "In this story, Ellie Kemper is a citizen of Croatia. In real life: "
        "Who is the head of state of the country where Ellie Kemper holds a citizenship? Answer:"
    )
    assert (pair.memorized_answer, pair.reasoned_answer) == (" Joe Biden", " Zoran Milanović")
    assert (pair.family, pair.template) == ("imported-2-hop", "question-1")
    pair, other = read(tmp_path, "memotrap")
    assert pair.memorization == "Absence makes the heart grow"
    assert pair.reasoning.startswith('Write a quote that ends in the word "heavy": Absence')
    assert (pair.memorized_answer, pair.reasoned_answer) == (" fonder.", " heavy.")
    assert (other.memorized_answer, other.reasoned_answer) == (" early.", " never.")
    first_, second = read(tmp_path, "greater-than")
    assert (first_.reasoned_answer, first_.memorized_answer) == ("53", "02")
    assert (second.reasoned_answer, second.memorized_answer) == ("05", "02")
    turned = read(tmp_path, "greater-than", clean="memorization")[0]
    assert (turned.memorization, turned.memorized_answer) == (first_.reasoning, "53")
    pair = first("mib")
    assert (pair.reasoned_answer, pair.memorized_answer) == (" Mary", " John")


def broken(name, change):
    """The file with its second (or only) record changed."""
    records = json.loads(
        json.dumps(
            {
                "counterfact": COUNTERFACT,
                "counterfact, flat": FLAT,
                "easyedit": EASYEDIT,
                "known-facts": KNOWN,
                "lre": [LRE],
                "pararel": PARAREL,
                "comp-mech": COMP_MECH,
                "function-vectors": FUNCTION_VECTORS,
                "mquake": MQUAKE,
                "mib": MIB,
            }[name]
        )
    )
    change(records[min(1, len(records) - 1)])
    return lines(records)


def put(*path):
    """A change that sets a value: `put("a", "b", value)`."""
    *names, last, value = path

    def change(record):
        for name in names:
            record = record[name]
        if value is KeyError:
            del record[last]
        else:
            record[last] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("counterfact", put("requested_rewrite", "target_new", "str", None), ["target_new", "empty"]),
        ("counterfact", put("requested_rewrite", "target_new", "str", ""), ["target_new", "empty"]),
        ("counterfact", put("requested_rewrite", "target_true", ["a", "b"]), ["set of 2", "sets='first'"]),
        ("counterfact", put("requested_rewrite", "target_true", 7), ["target_true", "7 and no text"]),
        ("counterfact", put("requested_rewrite", "target_true", KeyError), ["no 'target_true'"]),
        ("counterfact", put("requested_rewrite", [1]), ["list of 1", "mquake"]),
        ("counterfact", put("requested_rewrite", "x"), ["expected an object"]),
        ("counterfact", put("requested_rewrite", "prompt", "It is"), ["neither {} nor the subject"]),
        ("counterfact", put("requested_rewrite", "target_new", "Christianity"), ["both answers are"]),
        (
            "counterfact",
            put("requested_rewrite", "prompt", "{} is in Islam. The religion of {} is"),
            ["holds its context", "comp-mech", "memorization=..."],
        ),
        ("counterfact, flat", put("target_true", "['French']x"), []),
        ("counterfact, flat", put("target_true", "['French', 'English']"), ["set of 2"]),
        ("easyedit", put("ground_truth", ["a", "b"]), ["ground_truth", "set of 2"]),
        ("easyedit", put("ground_truth", []), ["ground_truth", "empty"]),
        ("easyedit", put("ground_truth", "<|endoftext|>"), ["stands for no answer"]),
        ("known-facts", put("attribute", None), ["attribute", "empty"]),
        ("known-facts", put("template", "{} was"), []),
        ("lre", put("samples", []), ["samples", "list that is not empty"]),
        ("lre", put("samples", 1, "object", None), ["sample 2", "object", "empty"]),
        ("lre", put("samples", 1, "x"), ["sample 2", "expected an object"]),
        ("lre", put("prompt_templates", ["The capital is"]), ["neither {} nor the subject"]),
        ("lre", put("samples", [{"subject": "a", "object": "b"}]), ["two different answers"]),
        ("pararel", put("obj_label", None), ["obj_label", "empty"]),
        ("pararel", put("sub_label", KeyError), ["no column 'sub_label'"]),
        ("comp-mech", put("prompt", "Redefine: it is"), ["Chrysler", "not in the prompt"]),
        ("comp-mech", put("base_prompt", ""), ["base_prompt", "empty"]),
        ("function-vectors", put("output", ["a", "b"]), ["output", "set of 2"]),
        ("function-vectors", put("output", 3.5), ["output", "3.5 and no text"]),
        ("mquake", put("new_answer", None), ["new_answer", "empty"]),
        ("mquake", put("requested_rewrite", []), ["requested_rewrite", "list that is not empty"]),
        ("mquake", put("requested_rewrite", 0, "subject", KeyError), ["no column 'subject'"]),
        ("mib", put("answerKey", 5), ["answerKey", "2 choices"]),
        ("mib", put("s2_io_flip_counterfactual", "prompt", ""), ["prompt", "empty"]),
        ("mib", put("s2_io_flip_counterfactual", None), ["counterfactual=", "--counterfactual"]),
        ("mib", put("choices", [None, "x"]), ["choices", "empty"]),
    ],
)
@pytest.mark.filterwarnings("ignore:1 of 3 patterns")
def test_a_record_that_cannot_be_meant_is_named_by_its_line(tmp_path, name, change, words):
    text = broken(name, change)
    if not words:
        assert read(tmp_path, name, text)
        return
    file = FILES[name][0].replace(".json", ".jsonl").replace(".jsonll", ".jsonl")
    options = {k: v for k, v in FILES[name][2].items() if k != "patterns"}
    if name == "pararel":
        options["patterns"] = [each["pattern"] for each in PARAREL_PATTERNS]
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError) as caught:
        import_pairs(tmp_path / file, name.partition(",")[0], **options)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said
    if "two different answers" not in said:
        assert f"{file}, line {min(2, text.count(chr(10)) + 1)}" in said


@pytest.mark.parametrize("subject", [True, False], ids=["with subjects", "without"])
def test_records_that_hold_their_context_are_not_wrapped_again(tmp_path, subject):
    """40,000 pairs of nonsense came of comp-mech's 10,000 as CounterFact."""
    record = {**COMP_MECH[0]}
    if not subject:
        del record["subject"]
    (tmp_path / "c.json").write_text(json.dumps([record]))
    with pytest.raises(InputError, match=r"line 1 .*import it as comp-mech"):
        nt.import_counterfact(tmp_path / "c.json")
    bare = {name: record[name] for name in record if name in ("prompt", "target_true", "target_new")}
    for extra in ({"subject": "Toyota Camry XV30"}, {"subject": "Camry"}):
        (tmp_path / "c.json").write_text(json.dumps([bare | extra]))
        with pytest.raises(InputError, match=r"line 1 .*holds its context.*comp-mech"):
            nt.import_counterfact(tmp_path / "c.json")
        with pytest.raises(InputError, match=r"record 1: .*holds its context"):
            import_pairs([bare | extra | {"ground_truth": "Toyota"}], "easyedit")


def test_wrong_answers_are_of_the_relation_and_the_same_every_time(tmp_path):
    pairs = read(tmp_path, "known-facts")
    assert pairs == read(tmp_path, "known-facts")
    of = {"P30": {"Antarctica", "Africa"}, "P127": {"Apple", "Amazon"}}
    for pair in pairs:
        assert {pair.memorized_answer.strip(), pair.reasoned_answer.strip()} == of[pair.family]
    alone = [KNOWN[0], *[each for each in KNOWN if each["relation_id"] == "P127"]]
    assert {pair.family for pair in import_pairs(alone, "known-facts")} == {"P127"}
    with pytest.raises(InputError, match="no relation has two different answers"):
        import_pairs([KNOWN[0]], "known-facts")


def test_pararel_patterns(tmp_path):
    with pytest.warns(UserWarning, match="1 of 3 patterns don't end with"):
        given = import_pairs(PARAREL, patterns=[each["pattern"] for each in PARAREL_PATTERNS])
    data = tmp_path / "data"
    for folder, name, records in (
        ("trex_lms_vocab", "P19.jsonl", PARAREL),
        ("pattern_data/graphs_json", "P19.jsonl", PARAREL_PATTERNS),
    ):
        (data / folder).mkdir(parents=True)
        (data / folder / name).write_text(lines(records))
    with pytest.warns(UserWarning, match="1 of 3 patterns"):
        assert import_pairs(data / "trex_lms_vocab" / "P19.jsonl") == given
    both = [{**fact, "pattern": "[X] was born in [Y]."} for fact in PARAREL]
    with warnings.catch_warnings(action="error"):
        assert len(import_pairs(both)) == 3 * 4
    for records, words in (
        (PARAREL, "subjects without patterns.*--patterns"),
        (PARAREL_PATTERNS, "patterns without subjects"),
        ([{**PARAREL[0], "pattern": "[Y] is where [X] was born."}], "no pattern of 1 ends with"),
    ):
        with pytest.raises(InputError, match=words):
            import_pairs(records, "pararel")


def test_tables_with_sets_of_answers(tmp_path):
    """A pair holds one answer: a set is refused, unless its first is to stand for it."""
    with pytest.raises(InputError, match=r"line 2: every year after 1352 is right, a set.*--sets first"):
        read(tmp_path, "greater-than", sets="refuse")
    with pytest.raises(InputError, match="clean='memorization' or 'reasoning'"):
        read(tmp_path, "greater-than", clean=None)
    for change, words in (
        ((",52\n", ",53\n"), "'label' is 53; expected the last two digits"),
        ((",52\n", ",\n"), "'label' is ''"),
        (("1301", "1360"), "expected the corrupted one to be earlier"),
    ):
        with pytest.raises(InputError, match=f"line 2.*{words}"):
            read(tmp_path, "greater-than", GREATER_THAN.replace(*change))
    text = {
        "clean": "The nurse said that",
        "corrupted": "The man said that",
        "clean_answer": "[' she', ' her']",
        "corrupted_answer": [" he"],
    }
    with pytest.raises(InputError, match=r"'clean_answer' is a set of 2 answers.*sets='first'"):
        import_pairs([text], clean="reasoning")
    (pair,) = import_pairs([text], clean="reasoning", sets="first")
    assert (pair.reasoned_answer, pair.memorized_answer) == (" she", " he")
    with pytest.raises(InputError, match="sets='all'"):
        import_pairs([text], clean="reasoning", sets="all")


def test_memotrap_and_mib_rows_that_are_none(tmp_path):
    for change, words in (
        (("heavy.', ' fonder.", "fonder."), "expected a list of two answers"),
        (('heart grow",', 'heart grow",x'), "cells"),
        (("fonder.']\",0", "fonder.']\",2"), "'answer_index' is 2"),
        (("fonder.']\",0", "fonder.']\",1"), "an instruction that names 'fonder.'"),
        (("[' heavy.', ' fonder.']", "[' heavy.’]"), "expected a list of two answers"),
    ):
        with pytest.raises(InputError, match=f"line 2.*{words}"):
            read(tmp_path, "memotrap", MEMOTRAP.replace(*change))
    lettered = {
        "prompt": "Q: 1+1?\nA. 2\nB. 3\nAnswer:",
        "choices": {"label": ["A", "B"], "text": ["2", "3"]},
        "answerKey": "A",
        "flip": {
            "prompt": "Q: 1+2?\nA. 2\nB. 3\nAnswer:",
            "choices": {"label": ["A", "B"], "text": ["2", "3"]},
            "answerKey": 1,
        },
        "random": {"prompt": "Q", "choices": ["x"], "answerKey": 0},
    }
    (pair,) = import_pairs([lettered], clean="reasoning", counterfactual="flip")
    assert (pair.reasoned_answer, pair.memorized_answer) == (" A", " B")
    with pytest.raises(InputError, match=r"counterfactual= .*one of flip, random"):
        import_pairs([lettered], clean="reasoning")


def test_unknown_layouts_are_told_what_to_do():
    with pytest.raises(
        InputError, match=r"no known layout has the columns 'a, b'; name the format .*columns="
    ):
        import_pairs([{"a": "x", "b": "y"}])
    with pytest.raises(InputError, match="format 'xml' is unknown: expected one of mquake"):
        import_pairs([{"a": "x"}], "xml")
    with pytest.raises(InputError, match="no records in it"):
        import_pairs([])
    with pytest.raises(InputError, match="record 2: expected an object"):
        import_pairs([{"input": "a", "output": "b"}, "c"])
    with pytest.raises(InputError, match="2 examples, expected at least 5"):
        import_pairs(FUNCTION_VECTORS[:2])


# --- answers as token ids


NAMES = ("Mary", "John", "Amber", "Aaron", "Nathan", "Tiffany", "Olivia", "Jacob")


def bpe(words, size=400):
    """A byte-level BPE tokenizer, trained on these words."""
    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")


PROMPT = "Then, {a} and {b} were working at the house. {a} decided to give a drink to"


@pytest.fixture(scope="module")
def tokenizer():
    return bpe([PROMPT.format(a=a, b=b) for a in NAMES for b in NAMES] * 3, 500)


@pytest.fixture(scope="module")
def ioi(tokenizer):
    """EAP-IG's ioi_llama.csv: an index without a name, three prompts, ids."""
    text = ",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n"
    for number, (a, b, other) in enumerate(
        zip(NAMES, NAMES[1:] + NAMES[:1], NAMES[2:] + NAMES[:2], strict=True)
    ):
        prompts = (
            PROMPT.format(a=a, b=b),
            PROMPT.format(a=a, b=b).replace(f"{a} decided", f"{other} decided"),
            PROMPT.format(a=a, b=b).replace(f"{a} decided", f"{b} decided"),
        )
        ids = [tokenizer(f" {name}").input_ids for name in (b, a)]
        assert all(len(each) == 1 for each in ids)
        text += f"{470 + number}," + ",".join(f'"{p}"' for p in prompts) + f",{ids[0][0]},{ids[1][0]}\n"
    return text


def test_token_ids_are_read_in_their_place(tmp_path, tokenizer, ioi):
    (tmp_path / "ioi.csv").write_text(ioi)
    pairs = import_pairs(tmp_path / "ioi.csv", clean="reasoning", tokenizer=tokenizer)
    assert [(pair.reasoned_answer, pair.memorized_answer) for pair in pairs[:2]] == [
        (" John", " Mary"),
        (" Amber", " John"),
    ]
    assert pairs[0].reasoning == PROMPT.format(a="Mary", b="John")
    with pytest.raises(InputError, match="pass their tokenizer"):
        import_pairs(tmp_path / "ioi.csv", clean="reasoning")


@pytest.mark.parametrize(
    "text", ["def f(x): return [y for y in range(x)] if x else None", "der die das und nicht"]
)
def test_ids_of_another_tokenizer_are_noticed(tmp_path, ioi, text):
    other = bpe([text, PROMPT.format(a="Li", b="Bo"), "interpretability of thinking machines", *NAMES], 500)
    (tmp_path / "ioi.csv").write_text(ioi)
    with pytest.raises(InputError, match=r"another tokenizer|not the one that made"):
        import_pairs(tmp_path / "ioi.csv", clean="reasoning", tokenizer=other)


def test_signs_of_another_tokenizer(tokenizer):
    """Each alone is enough: pieces that can't follow the prompt, pieces and whole words mixed."""
    words = [tokenizer(f" {name}").input_ids[0] for name in NAMES]
    row = {"clean": "a t", "corrupted": "a t"}

    def read_with(*ids):
        rows = [row | {"correct_idx": a, "incorrect_idx": b} for a, b in ids]
        return import_pairs(rows, clean="reasoning", tokenizer=tokenizer)

    end, other = tokenizer.convert_tokens_to_ids(["o", "x"])  # "a to" is written with the token " to"
    with pytest.raises(InputError, match=r"another tokenizer.*1 of 2 answers, 'o' .*can't follow"):
        read_with((end, other))
    spaced = [(words[0], words[1]), (words[2], words[3])]
    row = {"clean": "Mary, Amber (", "corrupted": "Mary, Amber ("}
    assert len(read_with(*spaced)) == 2
    with pytest.raises(InputError, match=r"another tokenizer.*some answers begin a word \(' Mary'"):
        read_with(*spaced, (words[4], other))


def test_answers_that_do_not_occur_are_said_where_no_one_knows_whether_they_should(tokenizer):
    ids = [tokenizer(f" {name}").input_ids[0] for name in NAMES]
    row = {
        "clean": "The man is",
        "corrupted": "The nurse is",
        "correct_idx": ids[0],
        "incorrect_idx": ids[1],
    }
    with pytest.warns(UserWarning, match=r"1 of 1 right answers, ' Mary' .*don't occur in their prompts"):
        import_pairs([row], clean="reasoning", tokenizer=tokenizer)
    with warnings.catch_warnings(action="error"):
        import_pairs([row | {"clean": "Mary is"}], clean="reasoning", tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"another tokenizer: .*where IOI's do"):
        import_pairs([row | {"corrupted_hard": "x"}], clean="reasoning", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (10**6, "1000000, and this tokenizer has"),
        (-1, "not one token's id"),
        ("", "not one token's id"),
        ("Mary", "not one token's id"),
        (1.5, "not one token's id"),
        (None, "not one token's id"),
        (0, "no answer"),
        (True, "not one token's id"),
    ],
)
def test_ids_that_are_none(tokenizer, value, words):
    row = {"clean": PROMPT.format(a="Mary", b="John"), "corrupted": "x", "correct_idx": 300}
    with pytest.raises(InputError, match=rf"record 1: 'incorrect_idx' is .*{words}"):
        import_pairs([row | {"incorrect_idx": value}], clean="reasoning", tokenizer=tokenizer)


def test_half_a_character_is_no_answer(tokenizer):
    (half,) = tokenizer.convert_tokens_to_ids(["Ã"])
    row = {"clean": "a", "corrupted": "b", "correct_idx": half, "incorrect_idx": half}
    with pytest.raises(InputError, match="which is no answer"):
        import_pairs([row], clean="reasoning", tokenizer=tokenizer)


def test_sets_of_ids(tokenizer):
    ids = [tokenizer(f" {name}").input_ids[0] for name in NAMES]
    row = {"clean": "a", "corrupted": "b", "correct_idx": str(ids[:3]), "incorrect_idx": ids[2:5]}
    with pytest.raises(InputError, match=r"a set of 3; .*sets='first'"):
        import_pairs([row], clean="reasoning", tokenizer=tokenizer)
    row["correct_idx"] = str(ids[2:5][::-1])
    row["incorrect_idx"] = ids[4:6]
    with pytest.warns(UserWarning, match="don't occur"):
        (pair,) = import_pairs([row], clean="reasoning", tokenizer=tokenizer, sets="first")
    # of each set the first that is not in the other one
    assert (pair.reasoned_answer, pair.memorized_answer) == (" Aaron", " Tiffany")


def test_tokenizers_come_from_folders_and_run_no_code(tmp_path, tokenizer, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "good")
    assert load_tokenizer(str(tmp_path / "good"))(" Mary").input_ids == tokenizer(" Mary").input_ids
    assert load_tokenizer("organism")("recall").input_ids
    mark = tmp_path / "it-ran"
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    (tmp_path / "evil" / "config.json").write_text('{"model_type": "made-up"}')
    (tmp_path / "evil" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "C", "auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}'
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (tmp_path / "file.json").write_text("{}")
    for name in ("evil", "empty", "file.json", "none.gguf"):
        with pytest.raises(InputError) as caught:
            load_tokenizer(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_tokenizer_from_a_gguf_file(tmp_path, tokenizer):
    gguf = pytest.importorskip("gguf")
    state = json.loads(tokenizer._tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(each) for each in state["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = load_tokenizer(str(tmp_path / "t.gguf"))
    assert read(" Mary", add_special_tokens=False).input_ids == tokenizer(" Mary").input_ids
    (tmp_path / "t.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"t\.gguf: can't be loaded"):
        load_tokenizer(str(tmp_path / "t.gguf"))


def test_pairs_go_round(tmp_path):
    """What was imported is read back as it was, also from a `datasets.Dataset`."""
    pairs = read(tmp_path, "counterfact")
    assert load_pairs(pairs) == pairs
    rows = nt.to_dataset(pairs)
    assert load_pairs(rows) == pairs
    rows.save_to_disk(tmp_path / "saved")
    assert load_pairs(tmp_path / "saved") == pairs
