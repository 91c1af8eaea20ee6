"""Two Ray workers beside two independent processes (shards 1/2 and 2/2), one thread each, in turns.

    python tests/benchmarks/ray_sweep.py --model FOLDER [--pairs 40] [--layers 25-29] [--turns 3]

Rows a second from the start of the first part to the end of the last one; the start of Python, of Ray
and the loading of the model are left out, and shown beside. *Busy* is the share of that time in which a
worker was computing a part: what handing out parts costs shows there even on a machine that is shared.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neurotrace.sweeps.driver import known_sweep
from neurotrace.sweeps.parts import present


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--layers", default="25-29")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"processes": [], "ray": []}
    with tempfile.TemporaryDirectory() as home:
        for turn in range(options.turns):
            for name in rates:
                out = Path(home, f"{name}{turn}")
                rate, busy, whole = measure(options, out, ray=name == "ray")
                rates[name].append(rate)
                print(
                    f"{name}: {rate:.0f} rows/s, busy {busy:.1%}, {whole:.0f} s with the start",
                    flush=True,
                )
    ratios = [ray / apart for ray, apart in zip(rates["ray"], rates["processes"], strict=True)]
    print(f"Ray does {statistics.median(ratios):.1%} of it ({', '.join(f'{r:.1%}' for r in ratios)})")


def measure(options: argparse.Namespace, out: Path, *, ray: bool) -> tuple[float, float, float]:
    """(rows a second, share of the time that workers computed, seconds in all)."""
    words = [
        sys.executable,
        "-m",
        "neurotrace.cli",
        "sweep",
        "--model",
        options.model,
        "--probes",
        "capitals",
        "--max-pairs",
        str(options.pairs),
        "--layers",
        options.layers,
        "--part-rows",
        "8000",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    more = [["--ray", "local", "--workers", "2"]] if ray else [["--shard", f"{i}/2"] for i in (1, 2)]
    begun = time.monotonic()
    started = [subprocess.Popen(words + own, stdout=subprocess.DEVNULL) for own in more]
    assert [process.wait() for process in started] == [0] * len(started)
    whole = time.monotonic() - begun
    folder, manifest = known_sweep(out)
    notes = list(present(folder, manifest)[0].values())
    first = min(note["finished"] - note["seconds"] for note in notes)
    spent = max(note["finished"] for note in notes) - first
    busy = sum(note["seconds"] for note in notes) / (2 * spent)
    return manifest.layout.cells / spent, busy, whole


if __name__ == "__main__":
    main()
