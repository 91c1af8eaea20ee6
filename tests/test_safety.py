"""Files, prompts and manifests are data: nothing in them runs, leaves its folder or reaches a terminal."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import neurotrace
from planted import planted_pairs

import neurotrace as nt
from neurotrace.core.display import json_line, plain_lines
from neurotrace.core.errors import InputError
from neurotrace.decoding.tokenizers import load_tokenizer
from neurotrace.folders.shards import Shard
from neurotrace.sweeps.cost import config_from_file, shape_of
from neurotrace.sweeps.estimate import estimate

PACKAGE = Path(nt.__file__).parent
BANNED_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "tarfile",
    "zipfile",  # no archive is read anywhere, so none can write outside its folder
}
BANNED_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.save",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "os.system",
    "subprocess.getoutput",
}


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """The file that is there if something ran."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


def test_the_payload_would_work(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "it-ran")))
    assert (tmp_path / "it-ran").exists()


def test_no_pickle_and_no_code_from_data_in_the_package():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in BANNED_CALLS:
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")
            if any(name.split(".")[0] in BANNED_MODULES for name in names):
                found.append(f"{path.name}:{node.lineno} imports {names}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found.append(f"{path.name} allow_pickle")
    assert not found


def test_pickles_under_other_names_do_not_run(tmp_path, mark):
    evil = pickle.dumps(Payload(mark))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    for name in ("pytorch_model.bin", "model.safetensors"):
        (model / name).write_bytes(evil)
        with pytest.raises(InputError):
            nt.load_model(str(model))
    (tmp_path / "x.gguf").write_bytes(evil)
    (tmp_path / "pairs.jsonl").write_bytes(evil)
    (tmp_path / "scores.safetensors").write_bytes(evil)
    (tmp_path / "manifest.json").write_bytes(evil)
    for read in (
        lambda: nt.load_model(str(tmp_path / "x.gguf")),
        lambda: nt.load_pairs(tmp_path / "pairs.jsonl"),
        lambda: nt.Scores.load(tmp_path / "scores.safetensors"),
        lambda: nt.open_run(tmp_path),
    ):
        with pytest.raises(InputError):
            read()


@pytest.fixture(scope="module")
def asked(planted_folder):
    return nt.Sweep(str(planted_folder), (str(planted_folder),), part_rows=100, threads=1)


def test_parts_are_data_and_stay_in_their_folder(asked, tmp_path, mark):
    out, outside = tmp_path / "run", tmp_path / "outside"
    nt.sweep(asked, out)
    expected = nt.open_run(out).to_frame()
    parts = sorted(out.glob("parts/*.parquet"))
    parts[0].write_bytes(pickle.dumps(Payload(mark)))
    # a type that older versions of arrow unpickle when they meet it
    field = pa.field(
        "effect",
        pa.float32(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
        },
    )
    pq.write_table(pa.table([pa.array([1.0], pa.float32())], pa.schema([field])), parts[1])
    outside.write_bytes(parts[2].read_bytes())
    parts[2].unlink()
    parts[2].symlink_to(outside)
    parts[3].unlink()
    parts[3].symlink_to("/etc/passwd")
    assert len(nt.open_run(out).broken) == 4
    before = outside.read_bytes()
    with pytest.warns(UserWarning, match="set aside"):
        assert nt.sweep(asked, out).computed == 4
    assert nt.open_run(out).to_frame().equals(expected)
    assert outside.read_bytes() == before


def test_code_beside_a_model_runs_only_by_flag(tmp_path, mark, monkeypatch):
    """Neither loading nor planning asks on the terminal, and neither runs it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = f"open({str(mark)!r}, 'w')\nclass C: pass\n"
    (tmp_path / "evil.py").write_text(code)
    settings = {
        "model_type": "made-up",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": "evil.C"},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"")
    path = str(tmp_path / "config.json")
    for read in (
        lambda: nt.load_model(str(tmp_path)),
        lambda: estimate(nt.Sweep(str(tmp_path), ("letters",)), Shard()),
        lambda: shape_of(config_from_file(path), path),
    ):
        with pytest.raises(InputError):
            read()
    assert "trust_remote_code" not in nt.Sweep("m", ("p",)).record()


def test_prompts_are_data_everywhere(asked, tmp_path):
    """Markup, escapes, NULs and a megabyte of text go in and come out as they are."""
    words = [
        "<script>alert(1)</script>",
        "\x1b[31mred\x07",
        "a\0b",
        "[bold]x[/bold]",
        "\u202eb",
        "l\nn",
    ]
    pairs = planted_pairs()
    odd = [
        replace(pair, id=f"{word}{place}", family=word, group=f"{word}{place}")
        for place, (pair, word) in enumerate(zip(pairs, words, strict=False))
    ]
    long = replace(pairs[-1], id="long", memorization="the " * 250_000 + "item11 recall")
    lines = [json.dumps(pair.__dict__) for pair in [*odd, *pairs[len(odd) : -1], long]]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    out = tmp_path / "run"
    done = neurotrace(
        "sweep",
        "--model",
        asked.model,
        "--probes",
        str(tmp_path / "pairs.jsonl"),
        "--mode",
        "scale:3e38",
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).encode()
    assert b"not finite" in said
    assert not {b"\x1b", b"\x07", b"\0", "\u202e".encode()} & {bytes([c]) for c in said}
    assert "\u202e" not in said.decode()
    run = nt.open_run(out)
    assert run.manifest.notes["pairs"]["dropped"] == {"too long": 1}
    assert set(words) <= set(run.to_frame()["family"])
    broken = json.dumps(pairs[0].__dict__ | {"family": "half"}).replace("half", "\\ud800")
    (tmp_path / "pairs.jsonl").write_text(broken)
    with pytest.raises(InputError, match="half a surrogate pair"):
        nt.sweep(replace(asked, probes=(str(tmp_path / "pairs.jsonl"),)), tmp_path / "no")


OFFLINE = """
import socket, sys
def refuse(*what, **_): print("network:", what, file=sys.stderr); raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from neurotrace.cli.main import main
for words in {calls}:
    sys.argv = ["neurotrace", *words]
    try:
        main()
    except SystemExit as end:
        print("exit code:", end.code)
"""


def test_no_network_when_offline(asked, tmp_path):
    """From the first import on: a process of its own, one for all three calls."""
    calls = [
        (["sweep", "--model", asked.model, "--probes", asked.probes[0], "--out", "run"], 0),
        (["sweep", "--model", "organism", "--probes", "letters", "--out", "no", "--dry-run"], 0),
        (["sweep", "--model", "some/model", "--probes", "letters", "--out", "no"], 2),
    ]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(calls=[words for words, _ in calls])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    codes = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("exit code:")]
    assert codes == [str(code) for _, code in calls], done.stderr
    assert "network:" not in done.stderr


@pytest.mark.parametrize(("times", "seed"), [(160, 1), pytest.param(2000, 2, marks=pytest.mark.weekly)])
def test_generated_inputs_are_refused_in_a_line(times, seed, monkeypatch, capsys):
    """Some of the 10,000 of `tests/faults/fuzz.py`."""
    script = Path(__file__).parent / "faults" / "fuzz.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--times", str(times), "--seed", str(seed)])
    runpy.run_path(str(script), run_name="__main__")
    assert "no traceback, hang or stray file" in capsys.readouterr().out


SPOKEN = {"cli/console.py", "core/process.py", "core/display.py"}


def test_only_the_console_prints():
    """Text of prompts, files and paths reaches a terminal through `cli.console` alone."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if path.name == "__main__.py" or name in SPOKEN:  # scripts that print their own words
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "typer.echo", "typer.secho", "Console", "RichConsole") or (
                called.startswith(("sys.stdout", "sys.stderr")) and called.endswith("write")
            ):
                found.append(f"{name}:{node.lineno} {called}")
    assert found == []


def test_code_of_a_folder_never_runs_unasked():
    """Each call of transformers that could ask on standard input says that it must not."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if "Auto" not in called or not called.endswith((".from_pretrained", ".from_config")):
                continue
            if "trust_remote_code" not in {each.arg for each in node.keywords}:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_code_beside_a_tokenizer_or_a_gguf_file_does_not_run(tmp_path, mark, monkeypatch):
    from tiny_gguf import write_tiny_gguf

    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    settings = {
        "model_type": "made-up",
        "tokenizer_class": "C",
        "auto_map": {
            "AutoConfig": "evil.C",
            "AutoModelForCausalLM": "evil.C",
            "AutoTokenizer": ["evil.C", "evil.C"],
        },
    }
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(settings))
    gguf = str(write_tiny_gguf(tmp_path / "tiny.gguf"))
    for read in (nt.load_model, load_tokenizer):
        for source in (gguf, str(tmp_path)):
            with contextlib.suppress(InputError):
                read(source)


NASTY = "\x1b[31mred\x1b[0m \x9b31m \x07 \x7f \u202etfel\u2066 \ud83d \u200f [bold]b[/bold] [/x] ü"


@pytest.fixture
def nasty_pairs(tmp_path):
    """Pairs that the planted model answers, with such words in every name."""
    words = NASTY.replace("\ud83d", "")
    pairs = [
        replace(pair, id=pair.id + words, family=words, template=words, group=pair.group + words)
        for pair in planted_pairs()
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair.__dict__) + "\n" for pair in pairs))
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ["probes", "show", "PAIRS"],
        ["probes", "show", "PAIRS", "--json"],
        ["probes", "validate", "PAIRS"],
        ["probes", "validate", "PAIRS", "--json"],
        ["probes", "validate", "PAIRS", "--model", "MODEL"],
        ["probes", "mine", "PAIRS", "--model", "MODEL", "--out", "OUT"],
        ["probes", "mine", "PAIRS", "--model", "MODEL", "--out", "OUT2", "--json"],
        ["checkpoints", "MODEL", "OTHER", "--probes", "PAIRS", "--out", "OUT3", "--k", "1"],
        ["overlap", "--model", "MODEL", "--probes", "PAIRS", "--max-pairs", "4"],
        ["rank", "--model", "MODEL", "--probes", "PAIRS", "--out", "[/x]", "--methods", "random"],
        ["sweep", "--model", "MODEL", "--probes", "PAIRS", "--out", "\x1b[31m", "--max-pairs", "1"],
    ],
    ids=" ".join,
)
def test_no_escape_sequence_reaches_a_terminal(words, nasty_pairs, planted_folder, tmp_path):
    other = tmp_path / "\x1b[31mcopy"
    if "OTHER" in words:
        shutil.copytree(planted_folder, other)
    names = {"PAIRS": nasty_pairs, "MODEL": str(planted_folder), "OTHER": str(other)}
    done = neurotrace(*(names.get(word, word) for word in words), cwd=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "internal error" not in said
    assert all(char.isprintable() or char == "\n" for char in said), repr(said)
    if "--json" in words:
        assert "show" not in words or "\\u001b[31m" in said
        assert "show" not in words or "\\u202e" in said
        json.loads(done.stdout)


def test_words_of_the_terminal():
    assert plain_lines(f"a\n{NASTY}").count("\n") == 1
    assert all(char.isprintable() for char in plain_lines(NASTY))
    assert all(char.isprintable() for char in json_line({NASTY: [NASTY]}))
    assert json.loads(json_line({NASTY: [NASTY]})) == {NASTY: [NASTY]}
    assert json.loads(json_line(NASTY, ascii_only=True)) == NASTY
