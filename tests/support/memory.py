"""Peaks of memory, in a process of its own.

`ru_maxrss` does not do on Linux: it begins with the peak of the process that the new one was forked from.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path


def said_by(program: str) -> str:
    """What a fresh process that runs the program prints."""
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def peaks_in(said: str) -> list[int]:
    """Bytes, one for each call of `say_peak`."""
    return [int(line[5:]) for line in said.splitlines() if line.startswith("peak ")]


def say_peak() -> None:
    """Prints the most that this process has held in memory so far."""
    if Path("/proc/self/status").exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    else:  # macOS counts bytes
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak {kilobytes * 1024}")
