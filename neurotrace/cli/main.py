"""The command line. `--help` loads no torch; a mistake of the user is one line and exit code 2."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated, Any

import typer

from neurotrace import __version__
from neurotrace.cli import (
    card,
    checkpoints,
    circuit,
    compare,
    detect,
    export,
    inject,
    locate,
    overlap,
    plan,
    probes,
    probes_own,
    rank,
    replicate,
    report,
    run,
    sweep,
    trust,
    verify,
)
from neurotrace.cli.console import ENDING, say, tell
from neurotrace.core.errors import InputError
from neurotrace.core.process import bars
from neurotrace.core.writing import remove_empty

_HELP = "Find and test the MLP neurons that make a language model recall or reason."
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=_HELP)
for _command in (
    run.demo,
    run.run,
    rank.rank,
    replicate.replicate,
    inject.inject,
    overlap.overlap,
    locate.locate,
    checkpoints.checkpoints,
    detect.detect,
    circuit.circuit,
    trust.trust,
    sweep.sweep,
    plan.plan,
    report.report,
    compare.compare,
    verify.verify,
    export.export,
    card.card,
):
    app.command()(_command)
probes.app.command()(probes_own.draft)
probes.app.command()(probes_own.check)
app.add_typer(probes.app, name="probes")

_INTERRUPTED = "interrupted: no incomplete file was left; run the same command again, it goes on"


class _Interrupt(KeyboardInterrupt):
    """A KeyboardInterrupt that goes through `exec` makes Python exit by the signal, caught or not."""


def main() -> None:
    """Entry point: one-line errors. Exit codes: 0, 1 internal error, 2 user's mistake, 130 interrupt."""
    signals: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        signals.append(number)
        raise _Interrupt

    for stream in (sys.stdout, sys.stderr):  # a path need not be text: its last words cost no result
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
            signal.signal(number, interrupt)
    try:
        with bars:
            code = app(standalone_mode=False)
    except InputError as error:
        sys.exit(say(str(error), 2))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(say(_INTERRUPTED, 130))
    except Exception as error:
        if isinstance(error, getattr(_click(), "ClickException", ())):
            told = error.format_message()  # type: ignore[attr-defined]
            sys.exit(say(told, 2) if told else 2)  # a group without a command printed its help
        if signals:  # a library that is being imported may convert the interrupt into its own error
            sys.exit(say(_INTERRUPTED, 130))
        if os.environ.get("NEUROTRACE_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error} (NEUROTRACE_DEBUG=1 shows the traceback)"
        sys.exit(say(f"internal error, please report it: {what}", 1))
    finally:
        remove_empty()
    if code == 130:  # typer's exit after an interrupt that it caught itself
        sys.exit(say(_INTERRUPTED, 130))
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        tell(f"neurotrace {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _click() -> Any:
    """The click that typer uses (its own copy in newer versions)."""
    try:
        from typer import _click as module
    except ImportError:
        import click as module  # type: ignore[no-redef]
    return module
