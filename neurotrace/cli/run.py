"""`neurotrace run` and `neurotrace demo`: the main study."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurotrace.cli.asked import Asked, Ready, check, study_of
from neurotrace.cli.console import console, plain, tell, tell_json
from neurotrace.cli.options import (
    Answers,
    Device,
    Dtype,
    Model,
    MoreProbes,
    Probes,
    Quiet,
    Source,
    TrustRemoteCode,
    named,
    pairs_of,
)
from neurotrace.cli.together import Ray, Shard, Together, Workers
from neurotrace.core.process import quiet
from neurotrace.organism import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.core.process import Progress
    from neurotrace.core.prompts import Item
    from neurotrace.decoding.tokens import Dropped
    from neurotrace.folders.units import Units
    from neurotrace.models.protocol import HookedModel
    from neurotrace.studies.study import Study


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
    silent: Quiet = False,
) -> None:
    """The main study on the built-in organism, and its trust score: about a minute, no network."""
    _study(
        Asked(
            Source("organism", device="cpu"),
            list(_organism_probes()),
            out,
            as_json=as_json,
            overwrite=True,
            judge_trust=True,
        )
    )


def run(
    model: Model,
    probes: Probes,
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    more_probes: MoreProbes = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Ranker to try (repeatable). Default: gradient and two_ended."),
    ] = None,
    intervention: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind to try (repeatable): patch, set, zero, mean, shift, scale, steer; a strength may "
            "follow, shift:2 say. Default: all, steer at four strengths."
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(help="Number of neurons to try (repeatable). Default: four sizes up to 1 %."),
    ] = None,
    split: Annotated[str, typer.Option(help="group or group+template.")] = "group",
    folds: Annotated[int, typer.Option(help="Folds of the held-out groups.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds and controls.")] = 0,
    max_pairs: Annotated[int, typer.Option(help="Maximum number of pairs; 0: all.")] = 0,
    at_most: Annotated[
        int,
        typer.Option(
            help="Stop asking a family at this many correctly answered pairs, in random order; 0: ask all."
        ),
    ] = 0,
    answers: Answers = "first",
    positions: Annotated[
        str,
        typer.Option(
            help="Where neurons are changed: read (the prompt's last token) or onward (there and at each "
            "token of a whole answer)."
        ),
    ] = "read",
    units: Annotated[
        str,
        typer.Option(
            help="What is changed: neurons; or all, which adds decided.parquet: of neurons, attention "
            "heads and a direction, the fewest that flip both ways (by patches, on 96 pairs of a family)."
        ),
    ] = "neurons",
    neutral: Annotated[Path | None, typer.Option(help="Texts to measure damage on, one a line.")] = None,
    damage_task: Annotated[
        Path | None,
        typer.Option(
            help="Multiple-choice items to measure damage on: question, choices, answer (its place)."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    silent: Quiet = False,
    chat: Annotated[
        str | None,
        typer.Option(
            help="Render the pairs through the chat template, the prompt being the message of the user, or "
            "the beginning of the reply of the assistant: user or assistant."
        ),
    ] = None,
    chat_system: Annotated[str | None, typer.Option(help="With --chat: system message.")] = None,
    shard: Shard = "1/1",
    ray: Ray = None,
    workers: Workers = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run.")] = False,
) -> None:
    """Find the neurons, flip held-out pairs with them, and write the run's folder."""
    _study(
        Asked(
            Source(model, device, dtype, trust_remote_code),
            named(probes, more_probes),
            out,
            methods=method or (),
            interventions=intervention or (),
            ks=k or (),
            split=split,
            folds=folds,
            seed=seed,
            max_pairs=max_pairs,
            at_most=at_most,
            answers=answers,
            positions=positions,
            units=units,
            neutral=neutral,
            damage_task=damage_task,
            chat=chat,
            chat_system=chat_system,
            together=Together(shard, ray, workers),
            as_json=as_json,
            overwrite=overwrite,
        )
    )


def _study(asked: Asked) -> None:
    from neurotrace.core.prompts import load_items
    from neurotrace.core.writing import hold_folder, prepare_folder
    from neurotrace.results.run import FILES
    from neurotrace.results.trust import prepare_trust

    # the whole call is checked before torch is loaded
    pairs_of(asked.probes, asked.max_pairs, asked.seed)
    items = load_items(asked.damage_task) if asked.damage_task else []
    check(asked)
    folder = prepare_folder(asked.out, FILES, overwrite=asked.overwrite)
    hold_folder(folder, shared=asked.together.shared)
    inside = prepare_trust(asked.out / "trust") if asked.judge_trust else None
    quiet()
    if (
        asked.source.name in NAMES
    ):  # so small that a second thread only waits, on a busy machine for minutes
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from neurotrace.models.origins import keeping_runs

    loaded = asked.source.load()
    with keeping_runs(loaded):  # what is asked is studied, too
        _studied(asked, loaded, items, inside)


def _studied(asked: Asked, loaded: HookedModel, items: Sequence[Item], inside: Path | None) -> None:
    from neurotrace.answers.judging import trust_study
    from neurotrace.core.process import bars, command_line
    from neurotrace.core.prompts import load_prompts
    from neurotrace.folders.units import Units
    from neurotrace.interventions.benchmark import benchmark
    from neurotrace.results.explorer import explore
    from neurotrace.results.run import save_run
    from neurotrace.results.trust import save_trust
    from neurotrace.studies.study import ALL

    ready = Ready.of(asked, loaded, items)
    prepare = partial(study_of, asked, ready.study.args[1])
    held: list[Units] = []  # those of the run, which also keep what is decided by which units

    def study(units: Units, progress: Progress) -> Any:
        held.append(units)
        return ready.study(units=units, progress=progress)

    found = asked.together.result(study, asked.out, overwrite=asked.overwrite, prepare=prepare)
    if found is None:
        return
    side = None
    if items:
        chosen = [each for each in found.interventions if each.provenance["fold"] == ALL]
        side = {"file": str(asked.damage_task)}
        side |= benchmark(loaded, items, chosen, progress=bars).record()
    try:
        shown = explore(loaded, found.encoded, found, progress=bars)
    except MemoryError:  # only the report needs it
        shown = None
        tell("warning: memory ran out for the neuron explorer; the report is without it", error=True)
    decided = _decided(loaded, found, held[0]) if asked.units == "all" else None
    if inside:
        prompts = [prompt for name in asked.probes for prompt in load_prompts(name)]
        kept = Units(inside, overwrite=asked.overwrite)
        trusted = trust_study(loaded, prompts, seed=asked.seed, units=kept, progress=bars)
        save_trust(trusted, inside, model=loaded, probes=asked.probes, command=command_line())
    summary = save_run(
        found,
        asked.out,
        model=loaded,
        probes=asked.probes,
        command=command_line(),
        chat=ready.rendering,
        overwrite=True,
        explorer=shown,
        benchmark=side,
        decided=decided,
    )
    if asked.as_json:
        tell_json(summary)
    else:
        _show(summary, asked.out, inside, found.encoded.dropped)


def _decided(model: HookedModel, study: Study, units: Units) -> pd.DataFrame:
    """What decides each family, said as soon as it is known: what the study chose, and what is patched."""
    import pandas as pd

    from neurotrace.core.process import bars
    from neurotrace.interventions.damage import neutral_texts
    from neurotrace.locating.deciding import in_words
    from neurotrace.locating.families import PAIRS, TEXTS, decided_families
    from neurotrace.locating.studied import decided_in_study
    from neurotrace.studies.held_out import flip_record

    place = "last" if study.settings["positions"] == "read" else study.settings["positions"]
    chosen = decided_in_study(map(flip_record, study.selected()), place)
    found = []
    for family, _, patched in decided_families(
        model,
        study.encoded,
        at_most=PAIRS,
        neutral=neutral_texts(model)[:TEXTS],
        everywhere=False,
        seed=study.seed,
        units=units,
        progress=bars,
    ):
        own = chosen[chosen["family"] == family] if len(chosen) else chosen
        found.append(pd.concat([own, patched], ignore_index=True))
        tell(f"{family}: {in_words(found[-1])}", error=True)
    return pd.concat(found, ignore_index=True)


def _show(summary: dict[str, Any], out: Path, inside: Path | None, dropped: Sequence[Dropped]) -> None:
    from rich import box
    from rich.table import Table

    from neurotrace.core.display import clip
    from neurotrace.core.sides import spoken
    from neurotrace.studies.verdict import verdicts_of

    terminal = console()
    pairs = summary["pairs"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in pairs["dropped"].items())
    terminal.print(
        plain(
            f"{summary['model']}: {pairs['kept']} of {pairs['read']} pairs "
            "answered correctly on both prompts" + (f" (dropped: {reasons})" if reasons else "")
        )
    )
    for first in {each.reason: each for each in reversed(dropped)}.values():
        terminal.print(plain(f"{first.reason}: {first.pair.id}, {clip(first.detail, 120)}"))
    table = Table(
        title="Held-out answers flipped by the neurons chosen on training pairs",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("family", "to", "by"):
        table.add_column(name, no_wrap=name == "to", overflow="fold")
    for name in ("k", "flipped", "95 %", "prefer", "controls", "KL", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    for flip in (flip for flip in summary["flips"] if flip["selected"]):
        low, high = flip["answers_ci"]
        damage = flip["damage_kl"]
        table.add_row(
            plain(flip["family"]),
            spoken(flip["direction"]).removeprefix("to "),
            flip["intervention"].replace("+", "\n"),
            str(flip["k"]),
            f"{flip['answers']:.1%}",
            f"{low * 100:.0f}–{high:.0%}",
            f"{flip['prefers']:.1%}",
            f"{flip['control_answers']:.1%}",
            "–" if damage is None else f"{damage:.3f}",
            str(flip["n"]),
        )
    terminal.print(table)
    terminal.print(
        plain(
            f"k: at most, of {summary['neurons']:,} neurons; controls: the largest flip rate of four "
            "controls; KL: nats, on neutral text"
        )
    )
    chosen = [flip for flip in summary["flips"] if flip["selected"]]
    for stated in _stated(chosen):
        terminal.print(plain(stated))
    if side := summary.get("benchmark"):
        after = (
            f"{each['accuracy']:.1%} ({each['family']} {spoken(each['direction'])})"
            for each in side["after"]
        )
        terminal.print(plain(f"{side['file']}: accuracy {side['before']:.1%} before, {', '.join(after)}"))
    for verdict in verdicts_of(summary["flips"]).values():
        terminal.print(plain(verdict.brief))
    if inside:
        terminal.print(plain(f"trust: {inside / 'circuit.safetensors'}, for neurotrace trust --circuit"))
    terminal.print(plain(f"report: {out / 'report.html'}"))


def _stated(chosen: Sequence[dict[str, Any]]) -> list[str]:
    """Largest control, resolution of the choice and regret, in a line each."""
    worst = max(max(flip["controls_worst"].values()) for flip in chosen)
    p = max(flip["random_p"] for flip in chosen)
    pairs = min(flip["chosen_on"] for flip in chosen)
    regrets = [flip["regret"] for flip in chosen if flip["regret"] is not None]
    lines = [
        f"controls: no draw flips more than {worst:.1%}; p against random neurons at most {p:.2g}",
        f"choice: on at least {pairs} training pairs that ranked no neuron (one pair is {1 / pairs:.1%})",
    ]
    if regrets:
        lines.append(f"regret: at most {max(regrets):.1%} of held-out answers (biased upwards)")
    return lines


def _organism_probes() -> tuple[str, ...]:
    from neurotrace.core.records import probe_names

    return tuple(n for n in ("arithmetic", "inference", "letters") if n in probe_names())
