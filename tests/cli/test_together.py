"""`run` by several processes and on Ray workers: the bits of a single one, also where a worker dies."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import pytest
from commands import neurotrace, neurotrace_process

FEW = (
    *("run", "--model", "organism", "--probes", "arithmetic", "inference", "letters"),
    *("--max-pairs", "45", "--folds", "2", "--method", "gradient", "--intervention", "set", "--k", "8"),
)
TIMED = {"report.html", "manifest.json"}


def bits(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in TIMED
    }


def kill_one(folder, killed, name):
    """Kill a worker when the first part is there."""
    import psutil

    while not killed:
        if list(folder.glob("unfinished/*/manifest.json")):
            for each in psutil.Process().children(recursive=True):
                if name in " ".join(each.cmdline()):
                    os.kill(each.pid, signal.SIGKILL)
                    killed.append(each.pid)
                    break
        time.sleep(0.1)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of a run by one process."""
    out = tmp_path_factory.mktemp("run") / "one"
    done = neurotrace_process(*FEW, "--out", str(out), env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return bits(out)


@pytest.mark.nightly
@pytest.mark.parametrize("more", [(), ("--ray", "local")], ids=["processes", "ray"])
def test_two_workers_of_which_one_is_killed_write_the_same_folder(more, one, tmp_path):
    killed: list[int] = []
    name = "_Worker" if more else "spawn_main"
    killer = threading.Thread(target=kill_one, args=(tmp_path / "two", killed, name), daemon=True)
    killer.start()
    words = (*FEW, "--out", str(tmp_path / "two"), *more, "--workers", "2")
    done = neurotrace_process(*words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    killed.append(0)
    assert done.returncode == 0, done.stderr
    assert killed[0], "no worker was killed"
    assert more or "a worker process died" in done.stderr
    assert bits(tmp_path / "two") == one


def test_what_does_not_go_together_is_refused(tmp_path):
    for words, said in (
        (("--ray", "local", "--shard", "1/2"), "--ray divides the work itself"),
        (("--workers", "2", "--shard", "1/2"), "--workers divides the work itself"),
        (("--shard", "3/2"), "expected i/n"),
    ):
        done = neurotrace(*FEW, "--out", str(tmp_path / "run"), *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
