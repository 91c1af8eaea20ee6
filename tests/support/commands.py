"""The command line, called as a user calls it: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

from neurotrace.cli import main as cli

GOOD = {
    "id": "a",
    "family": "f",
    "template": "t",
    "group": "g",
    "memorization": "recall 1+1=",
    "reasoning": "think 1+1=",
    "memorized_answer": "3",
    "reasoned_answer": "2",
}

_IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
Done = subprocess.CompletedProcess[str]


def neurotrace(*arguments: str, cwd: Path | None = None) -> Done:
    """`neurotrace …` by its own `main` in this process: torch is not imported again, 5 s a call.

    Arguments, folder, warnings and signal handlers are as in a fresh process, and are put back.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        _as_called(arguments, cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # what the interpreter would do with it
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(["neurotrace", *arguments], code, out.getvalue(), err.getvalue())


def neurotrace_process(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Done:
    """`neurotrace …` in a process of its own, for what only that can show."""
    return subprocess.run(
        [sys.executable, "-m", "neurotrace.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=300,
    )


def unsealed(folder: Path) -> Path:
    """The folder, its manifest without hashes, as an earlier version wrote it: its files may be spoilt."""
    path = folder / "manifest.json"
    record = json.loads(path.read_text())
    kept = {name: value for name, value in record.items() if name not in ("files", "seal")}
    path.write_text(json.dumps(kept))
    return folder


def refused(done: Done, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("neurotrace: ")
    for word in words:
        assert word in line


def _print_warning(message, category, filename, lineno, *_) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)


@contextlib.contextmanager
def _as_called(arguments: tuple[str, ...], cwd: Path | None) -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = Path.cwd()
    try:
        with (
            mock.patch.object(sys, "argv", ["neurotrace", *arguments]),
            mock.patch.dict(os.environ),
            warnings.catch_warnings(),
        ):
            warnings.resetwarnings()  # Python's own filters, and where it shows what passes them
            for kind in _IGNORED:
                warnings.simplefilter("ignore", kind)
            warnings.showwarning = _print_warning
            os.chdir(cwd or before)
            yield
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
