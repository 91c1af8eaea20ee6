"""Runs `neurotrace …` as a process on one thread, and says what that process used."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Used:
    """What a process printed (None: to the terminal), its exit status, CPU seconds and peak memory."""

    printed: str | None
    status: int
    cpu_seconds: float
    peak_gib: float


def neurotrace(words: list[str], *, read: bool = False) -> Used:
    """`neurotrace WORDS`.

    Args:
        read: keep what it prints instead of showing it.
    """
    command = [sys.executable, "-m", "neurotrace.cli", *words]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    stdout = subprocess.PIPE if read else None
    process = subprocess.Popen(command, env=os.environ | one, stdout=stdout, text=True)
    printed = process.stdout.read() if process.stdout else None
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Used(printed, code, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
