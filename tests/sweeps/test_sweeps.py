"""A sweep loses nothing: laws of its layout, bit-equality after interruptions, and each fault."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import neurotrace, refused
from hypothesis import given, strategies as st
from planted import PLANTED, planted_model

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.folders.shards import Shard, parse_shard
from neurotrace.models.origins import twin
from neurotrace.sweeps.folders import open_folder
from neurotrace.sweeps.layout import Layout
from neurotrace.sweeps.locks import LOCKS, locked, owners


@pytest.fixture(scope="module")
def asked(planted_folder):
    """A sweep of the planted model: 48 neurons × 12 pairs."""
    folder = str(planted_folder)
    return nt.Sweep(folder, (folder,), mode="patch", part_rows=100, threads=1)


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """The uninterrupted run's folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = nt.sweep(asked, out)
    assert outcome.complete
    assert outcome.computed == outcome.parts == 6
    return out


def merged(*folders):
    """The merged table's own bytes, so that equality is that of bits."""
    out = Path(str(folders[0])).parent / "merged.parquet"
    nt.open_run(*folders).merge(out)
    return pq.read_table(out)


def stop_after(parts):
    left = iter([False] * parts)
    return lambda: next(left, True)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 100), st.integers(1, 9))
def test_parts_cover_every_cell_once_and_shards_every_part(pairs, neurons, part_rows, count):
    layout = Layout(pairs, neurons, part_rows)
    bounds = [layout.bounds(part) for part in range(layout.parts)]
    assert [first for first, _ in bounds] == [0, *(last for _, last in bounds[:-1])]
    assert bounds[-1][1] == layout.cells
    assert all(0 < last - first <= part_rows for first, last in bounds)
    dealt = [layout.of_shard(Shard(index, count)) for index in range(1, count + 1)]
    assert sorted(part for parts in dealt for part in parts) == list(range(layout.parts))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "a/b", "-1/2", "1/0", "1/2/3", ""])
def test_a_shard_is_one_of_n(text):
    assert parse_shard("4/4") == Shard(4, 4)
    with pytest.raises(InputError, match="expected i/n"):
        parse_shard(text)


def test_it_is_what_ablation_finds(asked, whole, model, encoded):
    frame = nt.open_run(whole).to_frame().set_index(["pair", "layer", "neuron"])
    other = nt.ablation_effects(model, encoded, kind="patch").to_frame()
    other = other.set_index(["pair", "layer", "neuron"]).loc[frame.index]
    for column in ("L_before", "L_after", "effect"):
        assert np.allclose(frame[column], other[column], atol=1e-5)
    assert float(frame["effect"].abs().max()) > 0.5
    assert frame["mark"].isna().all()


def test_scores_are_those_of_ablate(asked, whole, model, encoded, tmp_path):
    found, wanted = nt.open_run(whole).scores(), nt.ablate(model, encoded, kind="patch")
    for name in ("low", "high", "n"):
        assert torch.allclose(found.columns[name], wanted.columns[name], atol=1e-5)
    assert torch.allclose(found.value, wanted.value, atol=1e-5)
    assert found.top(1, direction="to_reasoning") == (PLANTED,)
    few = replace(asked, mode="scale:3e38", layers="0")
    nt.sweep(few, tmp_path)
    run = nt.open_run(tmp_path)
    marked, frame = run.scores(), run.to_frame()
    means = frame.groupby(["layer", "neuron"])["effect"].agg(["mean", "count"])
    for (layer, neuron), row in means.iterrows():
        assert float(marked.columns["n"][layer, neuron]) == row["count"]
        value = float(marked.value[layer, neuron])
        assert value == pytest.approx(row["mean"], nan_ok=True, rel=1e-5)
    assert marked.value[1].isnan().all()
    assert (marked.columns["n"][0] < 12).sum() > 0
    nt.sweep(asked, tmp_path / "partly", stop=stop_after(1))
    with pytest.raises(InputError, match="run the sweep to its end"):
        nt.open_run(tmp_path / "partly").scores()


def test_resumed_and_sharded_runs_have_the_same_bits(asked, whole, tmp_path):
    expected = merged(whole)
    assert len(expected) == 576
    out = tmp_path / "resumed"
    for parts in (0, 1, 2):
        outcome = nt.sweep(asked, out, stop=stop_after(parts))
        assert outcome.computed == parts
        assert not outcome.complete
    assert nt.sweep(asked, out).computed == 3
    before = sorted(os.stat(file).st_mtime_ns for file in out.glob("parts/*"))
    assert nt.sweep(asked, out).computed == 0
    assert sorted(os.stat(file).st_mtime_ns for file in out.glob("parts/*")) == before
    assert merged(out).equals(expected)
    apart = [tmp_path / f"shard{index}" for index in range(1, 5)]
    for index, folder in enumerate(apart, 1):
        nt.sweep(asked, folder, shard=f"{index}/4")
        nt.sweep(asked, tmp_path / "shared", shard=f"{index}/4")
    assert merged(*apart).equals(expected)
    together = nt.open_run(*apart)
    assert together.dataset().to_table().equals(nt.open_run(whole).dataset().to_table())
    assert torch.equal(together.scores().value, nt.open_run(whole).scores().value)
    assert merged(tmp_path / "shared").equals(expected)
    with pytest.raises(InputError, match=r"4 of 6 parts are missing \(the first: 1\)"):
        nt.open_run(apart[0]).check()


def test_slices_of_a_pair_give_the_same_numbers(asked, whole, tmp_path):
    sliced = replace(asked, part_rows=20)
    nt.sweep(sliced, tmp_path / "sliced")
    run = nt.open_run(tmp_path / "sliced")
    assert run.layout.slices == 3
    assert run.complete
    a, b = merged(tmp_path / "sliced").to_pandas(), merged(whole).to_pandas()
    assert np.allclose(a["effect"], b["effect"], atol=1e-5)
    assert a[["pair", "layer", "neuron"]].equals(b[["pair", "layer", "neuron"]])


def test_neurons_and_layers_are_those_asked_for(asked, tmp_path):
    (tmp_path / "names.txt").write_text("L1.N5 L0.N3\nL1.N7")
    few = replace(asked, neurons=str(tmp_path / "names.txt"))
    nt.sweep(few, tmp_path / "few")
    found = nt.open_run(tmp_path / "few").to_frame(["layer", "neuron"]).drop_duplicates()
    assert found.to_numpy().tolist() == [[0, 3], [1, 5], [1, 7]]
    nt.sweep(replace(few, layers="1"), tmp_path / "fewer")
    assert nt.open_run(tmp_path / "fewer").layout.neurons == 2
    for wrong, message in [
        ({"layers": "2"}, "layers are 0-1"),
        ({"layers": "0", "neurons": "/nowhere"}, "/nowhere: no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            nt.sweep(replace(asked, **wrong), tmp_path / "wrong")


def test_another_sweep_is_refused_by_name(asked, whole, tmp_path):
    folder = Path(asked.model)
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines[:-1]))
    other = twin(planted_model(tmp_path, seed=1))
    other.save_pretrained(tmp_path)
    for change, word in [
        ({"mode": "zero"}, "mode: was 'patch', is 'zero'"),
        ({"donor": "memorization"}, "donor: was 'reasoning'"),
        ({"dtype": "bfloat16"}, "model.dtype: was 'float32'"),
        ({"positions": "-1"}, "positions: was 'read'"),
        ({"layers": "0"}, "neurons_sha256"),
        ({"probes": (str(tmp_path),)}, "pairs_sha256.*layout.pairs: was 12, is 11"),
        ({"model": str(tmp_path)}, "model.weights_sha256"),
        ({"batch": 64}, "passes.batch: was 1536, is 64"),
        ({"part_rows": 99}, "layout.part_rows: was 100, is 99"),
    ]:
        with pytest.raises(InputError, match=f"holds another sweep: .*{word}"):
            nt.sweep(replace(asked, **change), whole)
    assert nt.open_run(whole).complete


def test_manifests_of_another_kind_are_refused(asked, whole, tmp_path):
    record = json.loads((whole / "manifest.json").read_text())
    newer = {**record, "format": "neurotrace.sweep/9"}
    changed = {**record, "content": {**record["content"], "mode": "zero"}}
    for content, message in [
        (json.dumps(newer), "newer neurotrace .format 9"),
        (json.dumps(changed), "changed by hand"),
        ("{", "not the manifest of a sweep"),
        ("[" * 10**5, "not the manifest of a sweep"),
        ('{"format": "neurotrace.run/1"}', "not the manifest of a sweep"),
        (json.dumps({**record, "asked": {"model": "x"}}), "probes is missing"),
        (json.dumps({**record, "asked": {**record["asked"], "seed": "0"}}), "seed is '0'"),
    ]:
        (tmp_path / "manifest.json").write_text(content)
        for call in (nt.open_run, lambda out: nt.sweep(asked, out)):
            with pytest.raises(InputError, match=message):
                call(tmp_path)
    with pytest.raises(InputError, match="no sweep in it"):
        nt.open_run(tmp_path / "nothing")


def test_broken_parts_are_named_and_done_again(asked, whole, tmp_path):
    out = tmp_path / "run"
    nt.sweep(asked, out)
    parts = sorted(out.glob("parts/*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:200])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[3].read_bytes())
    (out / "parts" / "part-00000099.parquet").write_bytes(parts[3].read_bytes())
    (out / "parts" / ".part-00000000.parquet.abc").write_bytes(b"half")
    run = nt.open_run(out)
    assert run.missing == (0, 1, 2)
    assert set(run.broken) == {
        f"{out}/parts/{name}" for name in (*(p.name for p in parts[:3]), "part-00000099.parquet")
    }
    with pytest.raises(InputError, match="run the sweep again"):
        run.check()
    with pytest.warns(UserWarning, match="set aside and computed again") as said:
        assert nt.sweep(asked, out).computed == 3
    assert len([one for one in said if "set aside" in str(one.message)]) == 4
    assert merged(out).equals(merged(whole))
    assert not (out / "parts" / ".part-00000000.parquet.abc").exists()
    data = bytearray(parts[4].read_bytes())
    data[len(data) // 4] ^= 1  # a bit of a page: the footer is as it was
    parts[4].write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        nt.open_run(out).check()
    raw = bytearray(parts[5].read_bytes())
    raw[raw.index(b"item", len(raw) - int.from_bytes(raw[-8:-4], "little"))] ^= 1
    parts[5].write_bytes(bytes(raw))  # a bit of a footer's statistics: Arrow would skip rows by it
    assert "footer" in nt.open_run(out).broken[str(parts[5])]


def test_two_writers_of_one_folder(asked, tmp_path):
    folder = open_folder(tmp_path)
    folder.make(LOCKS)
    with locked(folder, Shard(1, 2)), locked(folder, Shard(2, 2)):  # shares that don't overlap
        for shard in ("1/2", "1/1", "1/3"):
            with pytest.raises(InputError, match=f"written by process {os.getpid()} of .* on "):
                nt.sweep(asked, tmp_path, shard=shard)
    with locked(folder, Shard()):
        pass


def test_a_look_at_a_lock_keeps_nobody_out(tmp_path):
    """The tasks of an array start together, and each looks at the locks of all."""
    folder = open_folder(tmp_path)
    folder.make(LOCKS)
    handle = os.open(tmp_path / LOCKS / "shard-1-of-1.lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [handle]).start()
    with locked(folder, Shard()):
        assert list(owners(folder)) == [Shard()]


def test_a_store_without_locks_tells_the_dead_from_the_living(asked, monkeypatch):
    folder = open_folder("memory://locks")
    folder.make(LOCKS)
    with locked(folder, Shard()) as alive:
        alive()
        with pytest.raises(InputError, match="if that one is dead, delete"):
            nt.sweep(asked, "memory://locks")
        monkeypatch.setattr("neurotrace.sweeps.locks.DEAD_AFTER", 0.0)
        assert nt.sweep(asked, "memory://locks").complete


def test_a_store_behind_a_url(asked, whole):
    url = "memory://bucket/run"
    assert nt.sweep(asked, url, stop=stop_after(2)).computed == 2
    assert nt.sweep(asked, url).computed == 4
    run = nt.open_run(url)
    run.check()
    assert run.dataset().to_table().equals(nt.open_run(whole).dataset().to_table())
    with pytest.raises(InputError, match="expected a path, or a URL"):
        nt.sweep(asked, "nonsense://x")
    with pytest.raises(InputError, match="NUL"):
        nt.open_run("a\0b")


def test_a_full_disk_and_a_read_only_folder(asked, whole, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write to"):
        nt.sweep(asked, tmp_path / "file" / "run")
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 8:  # a file and its folder, four times
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    out = tmp_path / "run"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"can't write parts/part-00000002.*No space left"):
        nt.sweep(asked, out)
    monkeypatch.undo()
    assert len(list(out.glob("parts/*"))) == len(list(out.glob("parts/.*"))) + 2
    assert nt.sweep(asked, out).computed == 4
    assert merged(out).equals(merged(whole))


def test_what_is_not_finite_is_marked_and_in_no_mean(asked, tmp_path):
    outcome = nt.sweep(replace(asked, mode="scale:3e38"), tmp_path)
    assert outcome.complete
    run = nt.open_run(tmp_path)
    frame = run.to_frame()
    bad = frame["mark"].notna()
    assert 0 < bad.sum() < len(frame)
    assert frame.loc[bad, ["effect", "L_after"]].isna().all(axis=None)
    assert np.isfinite(frame.loc[~bad, "effect"]).all()
    assert sorted(outcome.marked) == sorted(run.marked())
    assert len(run.marked()) == bad.sum()
    parts = f"'{tmp_path}/parts/*.parquet'"
    ((mean,),) = duckdb.sql(f"SELECT avg(effect) FROM {parts}").fetchall()
    assert mean == pytest.approx(frame.loc[~bad, "effect"].astype(float).mean())
    one = frame[bad].iloc[0]
    assert f"L{one.layer}.N{one.neuron} on pair {one.pair}: {one.mark}" in run.marked()


def test_memory_that_runs_out_makes_passes_smaller_and_rows_say_so(asked, whole, tmp_path, monkeypatch):
    from neurotrace.engine.engine import Engine

    forward = Engine._forward

    def small(self, ids, *args, **kwargs):
        if len(ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate everything")
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr(Engine, "_forward", small)
    limit = 10
    assert nt.sweep(asked, tmp_path / "run", stop=stop_after(3)).short
    limit = 1000
    assert not nt.sweep(asked, tmp_path / "run").short
    frame, expected = merged(tmp_path / "run").to_pandas(), merged(whole).to_pandas()
    assert np.allclose(frame["effect"], expected["effect"], atol=1e-5)
    assert (frame["batch"][:200] < 1536).any()
    assert (frame["batch"][300:] == 1536).all()
    same = frame["batch"] == 1536
    assert frame["effect"][same].equals(expected["effect"][same])

    def nothing_left():
        nonlocal limit
        limit = 0
        return False

    with pytest.raises(InputError, match="out of memory on pair item0 with a single row"):
        nt.sweep(asked, tmp_path / "none", stop=nothing_left)


def test_what_is_asked_is_checked(asked):
    for change, message in [
        ({"probes": ()}, "probes"),
        ({"mode": 3}, "mode is 3: expected text"),
        ({"seed": -1}, "number from 0"),
        ({"seed": True}, "whole number"),
        ({"max_pairs": 1.5}, "whole number"),
        ({"memory_gb": float("nan")}, "number from 0"),
        ({"donor": "clean"}, "'reasoning' or 'memorization'"),
        ({"precision": "rough"}, "'exact' or 'fast'"),
        ({"positions": "last"}, "expected read, all"),
        ({"layers": "3-1"}, "numbers and ranges"),
        ({"part_rows": 0}, "at least one row"),
        ({"model": ""}, "name a model"),
    ]:
        with pytest.raises(InputError, match=message):
            replace(asked, **change)


def test_command_line(asked, tmp_path):
    """Refusals, a signal, going on, and doing nothing: as a user meets them."""
    folder = str(tmp_path / "run")
    words = [
        "--model",
        "organism",
        "--probes",
        "arithmetic",
        "--max-pairs",
        "60",
        "--out",
        folder,
        "--part-rows",
        "1536",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "neurotrace.cli", "sweep", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(Path(folder, "parts").glob("*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130, said
    again = f"neurotrace sweep --out {folder} --resume"
    assert again in said
    done = len(nt.open_run(folder).parts)
    assert 0 < done < 60
    assert not list(Path(folder, "parts").glob(".*"))
    assert nt.sweep(nt.open_run(folder).manifest.asked, folder).computed == 60 - done
    finished = neurotrace("sweep", "--out", folder, "--resume")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "60 of 60 parts are done, 0 of them now" in finished.stdout
    for more, word in [
        (["--mode", "mean"], "--mode is 'mean', the sweep in"),
        (["--shard", "3/2"], "expected i/n"),
    ]:
        refused(neurotrace("sweep", "--out", folder, "--resume", *more), word)
    refused(neurotrace("sweep", "--out", folder, "--probes", "arithmetic"), "--model is missing")


def test_signals_once_and_twice():
    from neurotrace.cli.sweep import finishing

    with finishing() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)  # nothing has begun: leave at once
    with finishing() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("times", "pairs"), [(2, 30), pytest.param(10, 60, marks=pytest.mark.weekly)])
def test_killed_with_9_and_resumed(times, pairs):
    """Some of the fifty times of `tests/faults/kill_resume.py --times 50`."""
    script = Path(__file__).parents[1] / "faults" / "kill_resume.py"
    words = [sys.executable, script, "--times", str(times), "--pairs", str(pairs)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none lost or doubled" in done.stdout
