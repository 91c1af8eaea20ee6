"""Are the tests any good? One line of the package is changed at a time, and named tests must notice.

    make mutants                                   # all; one thread each, two at a time
    python tests/mutants/run.py --only sign --jobs 1

Each mutation (`mutations.py`) is applied to a temporary copy and its tests are run there; a row says
whether they failed (caught) or passed (survived). First the same tests must pass unchanged. Exit status 1
where one survived, or where its line is no longer in the code (stale). Not part of CI: about 15 minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).parent))
from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("neurotrace", "tests", "probes", "docs", "pyproject.toml", "README.md", "constraints.txt")


@dataclass(frozen=True)
class Outcome:
    mutation: Mutation
    what: str  # caught, survived, stale
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="those whose name or file holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="copies that are tested side by side")
    parser.add_argument("--skip-clean", action="store_true", help="don't run the unchanged tests first")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only in m.name or options.only in m.file]
    folders: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        for number in range(options.jobs):
            folders.put(copy(Path(scratch) / str(number)))

        def borrowed(work, *what):
            folder = folders.get()
            try:
                return work(folder, *what)
            finally:
                folders.put(folder)

        with ThreadPoolExecutor(options.jobs) as pool:
            if not options.skip_clean:
                suites = sorted({m.tests for m in chosen})
                for suite, passed in zip(
                    suites, pool.map(lambda tests: borrowed(passes, tests), suites), strict=True
                ):
                    if not passed:
                        print(f"these fail without any mutation: {' '.join(suite)}")
                        return 1
            found = []
            for outcome in pool.map(lambda m: borrowed(tried, m), chosen):
                found.append(outcome)
                m = outcome.mutation
                print(f"{outcome.what:9s} {outcome.seconds:6.1f} s  {m.name:38s} {m.file}", flush=True)
    counts = {what: sum(o.what == what for o in found) for what in ("caught", "survived", "stale")}
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["survived"] or counts["stale"] else 0


def copy(to: Path) -> Path:
    to.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)
    return to


def passes(folder: Path, tests: tuple[str, ...]) -> bool:
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": str(folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"pytest could not run {' '.join(tests)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def tried(folder: Path, mutation: Mutation) -> Outcome:
    path = folder / "neurotrace" / mutation.file
    text = path.read_text("utf-8")
    start = time.perf_counter()
    if text.count(mutation.old) != 1:
        return Outcome(mutation, "stale", 0.0)
    path.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    try:
        what = "survived" if passes(folder, mutation.tests) else "caught"
    finally:
        path.write_text(text, "utf-8")
    return Outcome(mutation, what, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
