"""Kill a sweep with -9 at random moments, go on, and hold the merged file against an undisturbed one.

    python tests/faults/kill_resume.py --times 50
    python tests/faults/kill_resume.py --times 10 --ray worker     # one of two workers is killed
    python tests/faults/kill_resume.py --times 10 --ray driver     # the process that hands out parts
    python tests/faults/kill_resume.py --times 50 --command run    # or rank, circuit, mine

The command line's own `main` runs in a fork of this process, which has torch imported and nothing
computed; with --ray, in a process from scratch, on one cluster for all turns. A moment is: a random
number of parts is there (0: while the model is being loaded), and then a random bit of a second more.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import transformer_lens.model_bridge  # noqa: F401

import neurotrace as nt
from neurotrace.cli import main as cli

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import kill_commands

PART_ROWS = 1536  # a pair of the organism
MOST_DELAY = 0.03  # seconds; a part takes about half of that
MOST_LOADING = 1.0
LAST = 8  # parts before the end at which the last kills fall: later ones could come too late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--ray", choices=["worker", "driver"])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=["sweep", *kill_commands.WORDS], default="sweep")
    options = parser.parse_args()
    if options.command != "sweep":
        kill_commands.trials(options.command, options.times, options.seed, forked, wait)
        return
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        whole = Path(home, "whole")
        assert wait(start(whole, options.pairs)) == 0
        expected = fingerprint(whole)
        cluster = None
        if options.ray:
            from ray_cluster import start_cluster

            cluster = start_cluster(num_cpus=2)
        begun = time.monotonic()
        for turn in range(options.times):
            out = Path(home, f"run{turn}")
            there = trial(out, options, draw, cluster)
            found = fingerprint(out)
            assert found == expected, f"{out}: {found}, undisturbed {expected}"
            print(f"killed with {there} of {options.pairs} parts there: same bits", flush=True)
        seconds = time.monotonic() - begun
    size, cells = expected[1:]
    print(
        f"{options.times} times killed ({options.ray or 'process'}), {options.times} times the same "
        f"{size} bytes; {cells} cells, none lost or doubled; {seconds / options.times:.1f} s each"
    )


def trial(out: Path, options: argparse.Namespace, draw: random.Random, cluster: Any) -> int:
    """Start, kill, go on to the end; returns how many parts were there when it was killed."""
    wanted = draw.randrange(options.pairs - LAST)
    address = cluster.address if cluster else ""
    while cluster and workers_of(cluster):  # those of the turn before
        time.sleep(0.1)
    pid = start(out, options.pairs, address)
    while parts(out) < wanted:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"it ended before it was killed: {ended}"
        time.sleep(0.002)
    time.sleep(draw.uniform(0, MOST_LOADING if wanted == 0 else MOST_DELAY))
    if options.ray == "worker":
        kill_a_worker(cluster, draw)
        there = parts(out)
        assert wait(pid) == 0  # the driver has the parts done again
    else:
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        there = parts(out)
        if there:
            assert not nt.open_run(out).broken
        assert wait(start(out, options.pairs, address)) == 0
    return there


def start(out: Path, pairs: int, address: str = "") -> int:
    """`neurotrace sweep …` in another process, on the cluster at `address` if there is one; its id."""
    words = [
        "sweep",
        "--model",
        "organism",
        "--probes",
        "arithmetic",
        "--max-pairs",
        str(pairs),
        "--part-rows",
        str(PART_ROWS),
        "--threads",
        "1",
        "--out",
        str(out),
        *(["--ray", address, "--workers", "2"] if address else []),
    ]
    return forked(words, anew=bool(address))


def forked(words: list[str], *, anew: bool = False) -> int:
    """`neurotrace …` in a fork of this process, or in a process from scratch; its id."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if anew:
        os.execv(sys.executable, [sys.executable, "-m", "neurotrace.cli", *words])
    sys.argv = ["neurotrace", *words]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(1)


def wait(pid: int) -> int:
    """Its exit code; the negative signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_a_worker(cluster: Any, draw: random.Random) -> None:
    """One of the two workers, once there are two."""
    for _ in range(6000):
        workers = workers_of(cluster)
        if len(workers) == 2:
            draw.choice(workers).kill()
            return
        time.sleep(0.05)
    raise AssertionError("no two workers were started")


def workers_of(cluster: Any) -> list[Any]:
    from ray_cluster import worker_processes

    return worker_processes(cluster)


def parts(out: Path) -> int:
    return len(list(out.glob("parts/part-*.parquet")))


def fingerprint(out: Path) -> tuple[str, int, int]:
    """SHA-256 and size of the merged file, and the number of cells, each there once."""
    merged = out.with_suffix(".parquet")
    nt.open_run(out).merge(merged)
    table = pq.read_table(merged)
    cells = table.group_by(["pair", "layer", "neuron"]).aggregate([([], "count_all")])
    assert pc.max(cells["count_all"]).as_py() == 1
    assert len(cells) == nt.open_run(out).layout.cells
    content = merged.read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content), len(cells)


if __name__ == "__main__":
    main()
