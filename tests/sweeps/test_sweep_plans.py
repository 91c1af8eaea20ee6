"""What a sweep would take, and many of them from one file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from commands import neurotrace
from memory import peaks_in, said_by

import neurotrace as nt
from neurotrace.cli.plan import plan
from neurotrace.core.errors import InputError
from neurotrace.folders.shards import Shard
from neurotrace.organism import folder as organism_folder
from neurotrace.sweeps.asked import pairs_of
from neurotrace.sweeps.cells import read_cells, run_cells, status
from neurotrace.sweeps.cost import config_from_file, cost, growth, measured_gflops, needs, shape_of
from neurotrace.sweeps.estimate import estimate
from neurotrace.sweeps.folders import open_folder
from neurotrace.sweeps.locks import LOCKS, locked

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def config_file(folder: Path, **changes) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(LLAMA_70B | changes))
    return str(path)


def test_cost_of_a_model_that_is_not_here(tmp_path):
    shape = shape_of(config_from_file(config_file(tmp_path)), "llama")
    assert (shape.layers, shape.d_mlp, shape.parameters) == (80, 28672, 70553706496)
    # by hand: q and o, k and v, gate, up and down
    block = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    each = 2 * block + 4 * 32 * 8192
    one = cost(shape, [32], gflops=1e6, number_bytes=2)
    assert one.cells == 80 * 28672
    assert one.operations == 28672 * sum(range(80)) * each + 32 * 80 * each
    named = dict(growth(shape, 10, 32, everywhere=False, gflops=1e6, number_bytes=2, batch=4096))
    here = named["this model"]
    for name, operations, cells in [
        ("twice the layers", 4, 2),
        ("twice the width", 8, 2),
        ("twice the pairs", 2, 2),
        ("twice the length", 1, 1),
    ]:
        assert named[name].operations / here.operations == pytest.approx(operations, rel=0.02)
        assert named[name].cells == cells * here.cells
    everywhere = cost(shape, [32], gflops=1e6, tokens=[32])
    assert everywhere.operations / one.operations == pytest.approx(32, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nothing"}, "not a model's config.json"),
        ({"model_type": "mixtral"}, "mixture of experts"),
        ({"num_hidden_layers": 10**9}, "expected 1 to 1000"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"num_attention_heads": 0}, "config.json"),
    ],
)
def test_configurations_that_cannot_be_estimated(tmp_path, change, message):
    path = config_file(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        shape_of(config_from_file(path), path)


def command(*arguments: str) -> tuple[str, str, int]:
    """(stdout, stderr, exit code) of `neurotrace …`."""
    done = neurotrace(*arguments)
    return done.stdout, done.stderr, done.returncode


def test_plan_on_the_command_line(tmp_path):
    path = config_file(tmp_path)
    out, _, code = command("plan", "--config", path, "--gflops", "400000", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["this model"]["cells"] == 100 * 80 * 28672
    # 70.6 billion weights of two bytes, and to rank four numbers a neuron and pair
    jobs = found["jobs"]
    assert jobs["collect to a file"] == pytest.approx(2 * 70.6e9, rel=0.02)
    assert jobs["rank"] - jobs["gradient"] == pytest.approx(100 * 80 * 28672 * 4 * 4 + 2**28, rel=0.05)
    # a run keeps the clean runs of both prompts: keys and values of eight heads, neurons, block outputs
    clean = 200 * 80 * (32 * 2 * 8 * 128 + 28672 + 8192) * 2
    assert jobs["run"] - jobs["rank"] == pytest.approx(clean, rel=0.01)
    wide = shape_of(config_from_file(path), path)
    many, more = (needs(wide, pairs, 32, number_bytes=2) for pairs in (10**4, 10**5))
    assert (more["run"] - more["rank"]) == (many["run"] - many["rank"]) == 4 * 2**30  # at most
    with pytest.raises(InputError, match="--gflops -1: expected a number above 0"):
        plan(path, -1)
    out, err, code = command("plan", "--model", "organism", "--json")
    assert code == 0
    assert "measured here in float32" in err
    assert json.loads(out)["this model"]["cells"] == 100 * 1536


def test_plan_reads_a_gguf_file(tmp_path, monkeypatch, capsys):
    from tiny_gguf import write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    shape = shape_of(config_from_file(str(path)), "tiny")
    model = nt.load_model(str(path), device="cpu")
    assert (shape.layers, shape.d_mlp) == (model.cfg.n_layers, model.cfg.d_mlp)
    # its weights are in memory twice while it is loaded; the process counts in every job
    one, two = (
        needs(shape, 1, 8, number_bytes=4, copies=copies, base=1e6)["gradient"] for copies in (1, 1000)
    )
    assert one > 1e6 + 4 * shape.parameters
    assert two == 1e6 + 1000 * 4 * shape.parameters
    monkeypatch.setattr("neurotrace.sweeps.estimate.measured_gflops", lambda *_, **__: 10.0)
    monkeypatch.setattr("neurotrace.sweeps.estimate._resident", lambda: 1e6)
    dry = estimate(nt.Sweep(str(path), ("letters",), max_pairs=4, device="cpu"), Shard()).cost
    plan(str(path), pairs=4, length=8, as_json=True)
    planned = json.loads(capsys.readouterr().out)
    beside = dry.memory - 1e6 - 2 * 4 * shape.parameters
    assert planned["this model"]["memory"] == pytest.approx(dry.memory, abs=beside)
    assert min(planned["jobs"].values()) >= 1e6 + 2 * 4 * shape.parameters
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"can't read .*cut\.gguf' as GGUF"):
        config_from_file(str(cut))


def test_plan_and_dry_run_are_one_estimate(tmp_path, monkeypatch, capsys):
    """2.5 minutes and 1.6 s were said of the same work: plan timed bfloat16 on a CPU."""
    import torch

    timed = []

    def rate(shape, *, device, dtype, threads, batch):
        timed.append((device.type, dtype, batch))
        return 10.0 if dtype == torch.float32 else 0.1

    monkeypatch.setattr("neurotrace.sweeps.estimate.measured_gflops", rate)
    monkeypatch.setattr("neurotrace.sweeps.estimate._resident", lambda: 1e9)
    asked = nt.Sweep("organism", ("letters",), max_pairs=40, device="cpu")
    dry = estimate(asked, Shard()).cost
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pairs = [pair.memorization for pair in pairs_of(asked)]
    (length,) = {len(nt.load_model("organism").tokenizer(text).input_ids) for text in pairs}
    plan("organism", pairs=40, length=length, as_json=True)
    planned = json.loads(capsys.readouterr().out)["this model"]
    assert planned == pytest.approx(dry.__dict__)
    assert timed == [("cpu", torch.float32, 1536)] * 2


def test_a_multiplication_that_is_timed_is_not_endless(monkeypatch):
    """Of a large model few rows: at 70B 1536 of them would take minutes here."""
    import torch

    shape = shape_of(config_from_file(str(organism_folder("organism"))), "organism")
    sizes = []
    real = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, **how: sizes.append(size) or real(*size, **how))
    monkeypatch.setattr("neurotrace.sweeps.cost._MOST_TIMED", 2e7)
    for wide, rows in (
        (shape, 271),
        (replace(shape, d_mlp=3000), 64),
        (replace(shape, d_mlp=8), 1536),
    ):
        measured_gflops(wide, device=torch.device("cpu"), dtype=torch.float32, threads=0, batch=1536)
        assert sizes[-2][0] == rows


def test_memory_is_what_was_planned_and_does_not_grow(tmp_path):
    """±10 % of the budget that --dry-run states; twenty times the cells, the same peak."""

    def words(pairs: int) -> list[str]:
        return [
            "sweep",
            "--model",
            "organism",
            "--probes",
            "arithmetic",
            "--max-pairs",
            str(pairs),
            "--threads",
            "1",
            "--part-rows",
            "1536",
            "--out",
            str(tmp_path / str(pairs)),
            "--json",
        ]

    calls = [[*words(40), "--dry-run"], words(2), words(40)]
    said = said_by(PEAKS.format(calls=calls))
    first, second, third = (json.loads(line) for line in said.splitlines() if line[0] == "{")
    planned = first["cost"]
    assert planned["cells"] == 40 * 1536
    assert (second["computed"], third["computed"]) == (2, 40)  # the first one did nothing
    _, few, many = peaks_in(said)
    assert [few, many] == pytest.approx([planned["memory"]] * 2, rel=0.1)
    assert many < 1.025 * few


PEAKS = """
import sys
from memory import say_peak
from neurotrace.cli.main import main
for words in {calls}:
    sys.argv = ["neurotrace", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    say_peak()
"""


def spec(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)


CELLS = """
models: [organism, /nowhere/model]
probes: [inference, [letters, inference]]
modes: [zero, "scale:0.5"]
max_pairs: 3
threads: 1
"""


def test_cells_are_folders_that_fail_alone(tmp_path, organism, monkeypatch):
    cells = read_cells(spec(tmp_path, CELLS))
    assert len(cells) == 8
    assert all(cell.name == Path(cell.name).name for cell in cells)
    assert cells[2].asked.probes == ("letters", "inference")
    out = str(tmp_path / "out")
    assert {status(cell, out).state for cell in cells} == {"waiting"}
    folder = open_folder(f"{out}/{cells[0].name}")
    folder.make(LOCKS)
    with locked(folder, Shard()):
        found = run_cells(cells, out, stop=lambda: False)
        assert [one.state for one in found] == ["running", *["done"] * 3, *["failed"] * 4]
    assert str(os.getpid()) in found[0].note
    assert "no model at '/nowhere/model'" in found[-1].note
    done = [nt.open_run(f"{out}/{cell.name}") for cell in cells[1:4]]
    assert all(run.complete for run in done)
    assert [run.manifest.asked.mode for run in done] == ["scale:0.5", "zero", "scale:0.5"]
    text, err, code = command("sweep", "--spec", spec(tmp_path, CELLS), "--out", out, "--dry-run")
    assert (code, text.count("failed")) == (2, 4)
    assert text.count("no model at") == 4
    assert "4 of 8 failed" in err
    path = spec(tmp_path, CELLS.replace(", /nowhere/model", ""))
    again = [run.to_frame() for run in done]
    text, err, code = command("sweep", "--spec", path, "--out", out, "--json")
    assert code == 0, err
    assert [one["state"] for one in json.loads(text)] == ["done"] * 4
    assert all(one.equals(run.to_frame()) for one, run in zip(again, done, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: organism\nprobes: [letters]", "models is 'organism'; expected a list"),
        ("probes: [letters]", "models is None"),
        ("models: [organism]\nprobes: [letters]\nmods: [zero]", "'mods' is unknown"),
        ("models: [organism]\nprobes: [letters]\nmodes: [yes]", "mode is True: expected text"),
        ("models: [organism]\nprobes: [letters]\nseeds: [0, 1]", "name max_pairs"),
        ("models: [organism, organism]\nprobes: [letters]", "in it twice"),
        ("models: [organism]\nprobes: [letters]\nlayers: 3", "layers is 3: expected text"),
        ("- 1", "expected names and values"),
        ("a: &a [x]\nb: *a", "uses aliases"),
        ("models: !!python/object/apply:os.system [ls]", "can't be read as YAML"),
        ("[" * 5000, "can't be read as YAML"),
        ("models: [\0]", "can't be read as YAML"),
        (f"models: {list(range(101))}\nprobes: {list(range(100))}", "10100 cells"),
    ],
)
def test_specs_that_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_cells(spec(tmp_path, text))


def test_names_of_cells_stay_in_the_folder(tmp_path):
    text = 'models: ["../../x/..", "/", "a\\u202eb"]\nprobes: ["..", "C:\\\\x"]'
    for cell in read_cells(spec(tmp_path, text)):
        assert Path("/out", cell.name).resolve().parent == Path("/out")
        assert cell.name.isascii()


def test_estimate_counts_what_is_asked(tmp_path):
    asked = nt.Sweep("organism", ("letters",), mode="patch", layers="2-3", max_pairs=10, threads=1)
    found = estimate(asked, Shard(1, 2))
    assert (found.pairs, found.neurons, found.parts) == (10, 768, 1)
    assert found.cost.cells == 10 * 768
    (tmp_path / "n.txt").write_text("L9.N0")
    with pytest.raises(InputError, match=r"L9\.N0 is outside"):
        estimate(replace(asked, layers="all", neurons=str(tmp_path / "n.txt")), Shard())
    places = replace(asked, positions="-2,-1")  # two tokens of each row where there was one
    more = estimate(places, Shard(1, 2)).cost.operations - found.cost.operations
    assert 0.5 < more / found.cost.operations < 1
    with pytest.raises(InputError, match="longest prompt has"):
        estimate(replace(asked, positions="99"), Shard())
    for device in ("auto", "cpu"):
        assert estimate(replace(asked, device=device), Shard()).gflops > 0
    with pytest.raises(InputError, match="device='nonsense'"):
        estimate(replace(asked, device="nonsense"), Shard())
    with pytest.raises(InputError, match="can't read the configuration"):
        estimate(replace(asked, model=str(organism_folder("organism").parent)), Shard())
