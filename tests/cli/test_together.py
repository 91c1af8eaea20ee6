"""`run` on Ray workers and in shards: the bits of a single process, also where a worker dies."""

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


def kill_one(folder, killed):
    """Kill a Ray worker when the first part is there."""
    import psutil

    while not killed:
        if list(folder.glob("unfinished/*/manifest.json")):
            for each in psutil.Process().children(recursive=True):
                if "_Worker" in " ".join(each.cmdline()):
                    os.kill(each.pid, signal.SIGKILL)
                    killed.append(each.pid)
                    break
        time.sleep(0.1)


@pytest.mark.nightly
def test_two_ray_workers_of_which_one_is_killed_write_the_same_folder(tmp_path):
    assert neurotrace(*FEW, "--out", str(tmp_path / "one")).returncode == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "two", killed), daemon=True)
    killer.start()
    done = neurotrace_process(*FEW, "--out", str(tmp_path / "two"), "--ray", "local", "--workers", "2")
    killed.append(0)
    assert done.returncode == 0, done.stderr
    assert killed[0], "no worker was killed"
    assert bits(tmp_path / "two") == bits(tmp_path / "one")


def test_what_does_not_go_together_is_refused(tmp_path):
    for words, said in (
        (("--ray", "local", "--shard", "1/2"), "--ray divides the work itself"),
        (("--workers", "2"), "--workers 2 goes with --ray"),
        (("--shard", "3/2"), "expected i/n"),
    ):
        done = neurotrace(*FEW, "--out", str(tmp_path / "run"), *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
