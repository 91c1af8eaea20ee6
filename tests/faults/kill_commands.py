"""Commands that keep finished units: killed at random moments and resumed, held against undisturbed ones.

`kill_resume.py --command run` calls this. A trial: the command is started, killed at a moment drawn over
the time that an undisturbed one takes (with -9, or with SIGTERM or SIGHUP), resumed and killed again up to
twice, and run to its end. After each kill what is there must be refused as a result or be the finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.results.verify import verify

FEW = ["--max-pairs", "16"]
WORDS = {
    "run": [
        *["run", "--model", "organism", "--probes", "arithmetic", *FEW, "--folds", "2"],
        *["--intervention", "patch", "--method", "gradient", "--k", "8"],
    ],
    "rank": [
        *["rank", "--model", "organism", "--probes", "arithmetic", *FEW, "--exact-neurons", "16"],
        *["--methods", "gradient,contrast,random", "--curve-pairs", "0", "--k", "8"],
    ],
    "circuit": ["circuit", "--model", "organism", "--probes", "arithmetic", "inference", "--k", "8"],
    "mine": ["probes", "mine", "arithmetic", "letters", "--model", "organism"],
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
TIMES = ("created", "command", "seconds")  # what is never the same twice


def trials(
    command: str, times: int, seed: int, start: Callable[[list[str]], int], wait: Callable[[int], int]
) -> None:
    """Run them; raises at the first difference."""
    draw = random.Random(f"{command} {seed}")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home:
        whole = Path(home, "whole")
        begun = time.monotonic()
        assert wait(start(words(command, whole))) == 0
        seconds = time.monotonic() - begun
        expected = results(whole)
        begun = time.monotonic()
        for turn in range(times):
            out = Path(home, f"out{turn}")
            kills = 1 + draw.randrange(3)
            for _ in range(kills):
                pid = start(words(command, out))
                time.sleep(draw.uniform(0, seconds))
                with suppress(ProcessLookupError):
                    os.kill(pid, draw.choice(SIGNALS))
                code = wait(pid)
                counts["killed" if code else "killed too late"] += 1
                assert code in (0, 2, 130, *(-each for each in SIGNALS)), code
                if code in (0, 2):  # 2: finished by the one before, which was killed after that
                    break
                counts["resumed"] += bool(units(out))
                refused_or_finished(command, out, expected)
            else:
                assert wait(start(words(command, out))) in (0, 2)  # 2: finished, and killed after that
            found = results(out)
            assert found == expected, different(found, expected)
            assert sorted(os.listdir(out)) == sorted(os.listdir(whole)), os.listdir(out)
            if command != "mine":
                assert not verify(out).problems
            print(f"{turn + 1}: {kills} kills, the same {len(found)} files", flush=True)
    print(
        f"{command}: {times} trials, {dict(counts)}: {times} times the tables of an undisturbed call, no "
        f"mixture accepted; {(time.monotonic() - begun) / times:.1f} s each"
    )


def words(command: str, out: Path) -> list[str]:
    out.mkdir(exist_ok=True) if command == "mine" else None
    return [*WORDS[command], "--out", str(out / "pairs.jsonl" if command == "mine" else out)]


def units(out: Path) -> list[Path]:
    """Finished units that are kept."""
    return [path.parent for path in out.glob("**/unfinished/*/manifest.json")] if out.exists() else []


def refused_or_finished(command: str, out: Path, expected: dict[str, str]) -> None:
    """What a kill has left is no result, or it is the finished one."""
    if command == "mine":
        assert not (out / "pairs.jsonl").exists() or results(out) == expected
        return
    try:
        found = verify(out)
        if command == "run":
            nt.load_run(out)
    except InputError:
        return
    assert not found.problems
    assert results(out) == expected


def results(out: Path) -> dict[str, str]:
    """File -> hash of its content without times; pages and manifests hold times only besides."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(content(path)).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and path.suffix != ".html"
    }


def content(path: Path) -> bytes:
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        return frame.drop(columns=list(TIMES), errors="ignore").to_csv(index=False).encode()
    if path.suffix == ".csv":
        return pd.read_csv(path).drop(columns=list(TIMES), errors="ignore").to_csv().encode()
    if path.suffix == ".json":
        record = json.loads(path.read_bytes())
        return json.dumps({k: v for k, v in record.items() if k not in TIMES}).encode()
    return path.read_bytes()


def different(found: dict[str, str], expected: dict[str, str]) -> str:
    return ", ".join(name for name in {**found, **expected} if found.get(name) != expected.get(name))
