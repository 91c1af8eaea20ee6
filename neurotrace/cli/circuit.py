"""`neurotrace circuit`: find, calibrate and evaluate the neurons of a trust score."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.console import console
from neurotrace.cli.options import Device, Dtype, Model, MoreProbes, Quiet, Source, TrustRemoteCode
from neurotrace.cli.together import Ray, Shard, Together, Workers
from neurotrace.core.errors import InputError
from neurotrace.core.process import quiet
from neurotrace.core.writing import hold_folder

if TYPE_CHECKING:
    from neurotrace.answers.judging import TrustStudy
    from neurotrace.core.prompts import Prompt

_RIVALS, _FAILURES = 3, 5  # shown, the best ones
# always shown; what else uses the circuit is no rival
_SHOWN = ("causal margin", "combined score", "random neurons, same layers")


def circuit(
    model: Model,
    probes: Annotated[
        list[str],
        typer.Option(help="Packaged set, file of prompts or folder; several are fine."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the circuit and the tables.")],
    more_probes: MoreProbes = None,
    k: Annotated[int, typer.Option(help="Number of neurons of either kind; 0: chosen on one half.")] = 0,
    max_groups: Annotated[
        int, typer.Option(help="Maximum number of groups, drawn at random with all their prompts; 0: all.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the halves and of the draw.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    shard: Shard = "1/1",
    ray: Ray = None,
    workers: Workers = 0,
    silent: Quiet = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away what another call has left unfinished.")
    ] = False,
) -> None:
    """Find, calibrate and evaluate the memory and reasoning neurons of a model."""
    from neurotrace.core.process import command_line
    from neurotrace.core.prompts import load_prompts, of_groups
    from neurotrace.results.trust import prepare_trust, save_trust

    # the whole call is checked before torch is loaded
    names = [*probes, *(more_probes or [])]
    if max_groups < 0:
        raise InputError(f"--max-groups {max_groups}: expected 0, for all, or more")
    prompts = of_groups([p for name in names for p in load_prompts(name)], max_groups, seed=seed)
    together = Together(shard, ray, workers)
    folder = prepare_trust(out)
    hold_folder(folder, shared=together.shared)
    quiet()
    source = Source(model, device, dtype, trust_remote_code)
    prepare = partial(_study_of, source, prompts, k or None, seed)
    call = prepare()
    study = together.result(call, folder, overwrite=overwrite, prepare=prepare)
    if study is None:
        return
    save_trust(study, folder, model=call.args[0], probes=names, command=command_line())
    _show(study, folder)


def _study_of(source: Source, prompts: list[Prompt], k: int | None, seed: int) -> partial[TrustStudy]:
    """The study, to be called with `units`; on a Ray worker, too."""
    from neurotrace.answers.judging import trust_study

    return partial(trust_study, source.load(), prompts, k=k, seed=seed)


def _show(study: TrustStudy, folder: Path) -> None:
    import pandas as pd

    from neurotrace.answers.rivals import RIVALS
    from neurotrace.core.display import Table, View, to_rich

    terminal = console()
    terminal.width = max(terminal.width, 120)  # a row stays a line in a file
    means = study.signals[study.signals["of"] == "mean"]
    rivals = means[means["signal"].isin(RIVALS)].sort_values("auroc", kind="stable")
    kept = rivals.groupby("unseen").tail(_RIVALS).index
    shown = means[means.index.isin(kept) | means["signal"].isin(_SHOWN)]
    rows = []
    for mean in shown.to_dict("records"):
        own = study.signals[
            (study.signals["unseen"] == mean["unseen"]) & (study.signals["signal"] == mean["signal"])
        ]
        least = own[own["of"] != "mean"]["auroc"].min()
        ahead = ""
        if mean["signal"] != _SHOWN[0] and mean["behind"] == mean["behind"]:
            ahead = f"{mean['behind']:+.3f} [{mean['behind_lo']:+.3f}, {mean['behind_hi']:+.3f}]"
        interval = f"{mean['auroc_lo']:.3f}–{mean['auroc_hi']:.3f}"
        about = (mean["unseen"], mean["signal"], mean["passes"])
        rows.append((*about, f"{mean['auroc']:.3f}", interval, f"{least:.3f}", ahead))
    columns = ("unseen", "signal", "passes", "mean", "95 % *", "least", "margin minus it")
    left = len(means) - len(shown)
    terminal.print(
        to_rich(
            View(
                "AUROC for “the answer comes from memory” on held-out prompts",
                (Table(columns, rows),),
                f"The margin, the combined score, random neurons, the {_RIVALS} best rivals; {left} more "
                "rows: signals.parquet. Passes: forward passes a prompt",
            )
        )
    )
    drawn = int(study.signals["draws"].max())
    terminal.print(f"* of random neurons the lowest and the highest of {drawn} draws")
    ours = study.failures["signal"].isin(("trust score", "combined score"))
    best = study.failures[~ours].nlargest(_FAILURES, "auroc")
    for row in pd.concat([study.failures[ours], best]).to_dict("records"):
        terminal.print(
            f"fails on a changed version, {row['signal']}: AUROC {row['auroc']:.3f} "
            f"[{row['auroc_lo']:.3f}, {row['auroc_hi']:.3f}], {row['n']} prompts"
        )
    said: dict[str, Any] = study.summary
    edge = " (the largest tried)" if said["k_is_largest_tried"] else ""
    terminal.print(
        f"k {said['k']}{edge}, off {said['off']}; {said['held_out']} prompts judged; "
        f"ECE {said['ece']:.3f}; abstains on {said['abstains']:.1%}; neurotrace trust reads {said['score']}"
    )
    terminal.print(f"circuit: {folder / 'circuit.safetensors'}", soft_wrap=True)
