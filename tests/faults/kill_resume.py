"""Kill a sweep with -9 at random moments, go on, and hold the merged file against an undisturbed one.

    python tests/faults/kill_resume.py --times 50
    python tests/faults/kill_resume.py --times 10 --ray worker     # one of two workers is killed
    python tests/faults/kill_resume.py --times 10 --ray driver     # the process that hands out parts

The commands are those of a user, in processes of their own. A moment is: a random number of parts is
there (0: while Python, torch or the model are being loaded), and then a random bit of a second more.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import neurotrace as nt

PART_ROWS = 1536  # a pair of the organism
MOST_DELAY = 0.03  # seconds; a part takes about half of that
LAST = 8  # parts before the end at which the last kills fall: later ones could come too late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--ray", choices=["worker", "driver"])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        whole = Path(home, "whole")
        subprocess.run(command(whole, options.pairs, ray=False), check=True, stdout=-3)
        expected = fingerprint(whole)
        start = time.monotonic()
        for turn in range(options.times):
            out = Path(home, f"run{turn}")
            there = trial(out, options, draw)
            found = fingerprint(out)
            assert found == expected, f"{out}: {found}, undisturbed {expected}"
            print(f"killed with {there} of {options.pairs} parts there: same bits", flush=True)
    size, cells = expected[1:]
    seconds = time.monotonic() - start
    print(
        f"{options.times} times killed ({options.ray or 'process'}), {options.times} times the same "
        f"{size} bytes; {cells} cells, none lost or doubled; {seconds / options.times:.1f} s each"
    )


def trial(out: Path, options: argparse.Namespace, draw: random.Random) -> int:
    """Start, kill, go on to the end; returns how many parts were there when it was killed."""
    wanted = draw.randrange(options.pairs - LAST)
    process = subprocess.Popen(
        command(out, options.pairs, ray=bool(options.ray)), stdout=-3, stderr=subprocess.PIPE
    )
    while parts(out) < wanted and process.poll() is None:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 5 if wanted == 0 else MOST_DELAY))
    if options.ray == "worker":
        kill_a_worker(process.pid, draw)
    else:
        os.kill(process.pid, signal.SIGKILL)
    said = process.communicate()[1].decode()
    if options.ray == "worker":  # the driver has the parts done again
        assert process.returncode == 0, said
    else:
        assert process.returncode == -signal.SIGKILL, said
    there = parts(out)
    if there:
        assert not nt.open_run(out).broken
    subprocess.run(command(out, options.pairs, ray=bool(options.ray)), check=True, stdout=-3)
    return there


def kill_a_worker(driver: int, draw: random.Random) -> None:
    """One of the workers that this driver started, once there are two."""
    import psutil

    for _ in range(2000):
        family = psutil.Process(driver).children(recursive=True)
        workers = [one for one in family if named(one).startswith("ray::Worker")]
        if len(workers) == 2:
            draw.choice(workers).kill()
            return
        time.sleep(0.05)
    raise AssertionError("the driver started no two workers")


def named(process: object) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())  # type: ignore[attr-defined]
    except psutil.Error:
        return ""


def command(out: Path, pairs: int, *, ray: bool) -> list[str]:
    return [
        sys.executable, "-m", "neurotrace.cli", "sweep", "--model", "organism", "--probes",
        "arithmetic", "--max-pairs", str(pairs), "--part-rows", str(PART_ROWS), "--threads", "1",
        "--out", str(out), *(["--ray", "local", "--workers", "2"] if ray else []),
    ]  # fmt: skip


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
