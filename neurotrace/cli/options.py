"""Options that several commands take: one wording of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from neurotrace.core.pairs import PromptPair

Model = Annotated[str, typer.Option(help="Built-in model, hub name, local folder or .gguf file.")]
Probes = Annotated[
    list[str], typer.Option(help="Packaged set, .jsonl file or folder; several are fine.")
]
MoreProbes = Annotated[list[str] | None, typer.Argument(help="Further sets: --probes A B C works.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps; auto: blocks spread over all accelerators, the CPU and the disk. "
        "Default: cuda where there is one, else cpu."
    ),
]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float16.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]


def _pairs(probes: Sequence[str], max_pairs: int, seed: int) -> list[PromptPair]:
    from neurotrace.core.pairs import load_pairs, sample_pairs

    pairs = [pair for name in probes for pair in load_pairs(name)]
    return sample_pairs(pairs, max_pairs, seed=seed) if max_pairs else pairs
