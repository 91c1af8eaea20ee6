"""Options shared by several commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from neurotrace.core.errors import InputError
from neurotrace.core.process import bars
from neurotrace.organism import NAMES

if TYPE_CHECKING:
    from neurotrace.core.pairs import PromptPair
    from neurotrace.models.encoding import Reading
    from neurotrace.models.protocol import HookedModel


def _silence(asked: bool) -> bool:
    bars.silent = asked
    return asked


Model = Annotated[str, typer.Option(help="Built-in model, hub name, local folder or .gguf file.")]
Probes = Annotated[
    list[str],
    typer.Option(help="Packaged set, file (.jsonl, .csv, .parquet) or folder; several are fine."),
]
MoreProbes = Annotated[list[str] | None, typer.Argument(help="Further sets: --probes A B C works.")]
Answers = Annotated[str, typer.Option(help="How answers are read: first (their first token) or whole.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps; auto: blocks spread over all accelerators, the CPU and the disk. "
        "Default: cuda if available, else cpu."
    ),
]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float16.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", callback=_silence)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]


@dataclass(frozen=True)
class Source:
    """The source of a model, as the command line names it."""

    name: str
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False

    def load(self) -> HookedModel:
        """The model; loads torch."""
        import torch

        from neurotrace.models.loading import load_model

        if self.name in NAMES and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # so small that a second thread would only wait for the first
        return load_model(
            self.name,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )


def named(probes: Sequence[str], more: Sequence[str] | None = None) -> list[str]:
    """All named sets: ``--probes A B`` is the same as ``--probes A --probes B``."""
    return [*probes, *(more or [])]


def reading_of(answers: str) -> Reading:
    """How answers are read, or InputError."""
    known: dict[str, Reading] = {"first": "first", "whole": "whole"}
    if answers not in known:
        raise InputError(f"--answers {answers}: expected first or whole")
    return known[answers]


def pairs_of(names: Sequence[str], max_pairs: int = 0, seed: int = 0) -> list[PromptPair]:
    """The pairs of these sets; `max_pairs` of them drawn at random, 0: all."""
    from neurotrace.core.pairs import load_pairs, sample_pairs

    pairs = [pair for name in names for pair in load_pairs(name)]
    return sample_pairs(pairs, max_pairs, seed=seed) if max_pairs else pairs
