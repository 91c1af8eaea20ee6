"""python -m neurotrace.paper --out DIR: train, compare, write the tables. Resumes after an interruption.

    python -m neurotrace.paper --out runs/paper                   the paper's format
    python -m neurotrace.paper --out runs/lora --models lora --base M   fine-tuned on fewer texts
    python -m neurotrace.paper --out runs/ours --format ours      our tasks with a cue word

DIR/MODEL-N           a model of seed N, trained once; `study.json` beside it once it is compared
DIR/arms.csv          flips, controls and damage of each method at each number of units
DIR/pairs.csv         pairs, and what share of the instances they are
DIR/located.csv       the paper's format: heads, neurons, directions patched (`nt.locate`); not of lora
DIR/where.csv         ours: flips by the class means' difference on all units of a site
DIR/consistency.csv   ours: the choice of one family, applied to the others
DIR/pairs.jsonl       ours: the pairs, for any other command
                      (`neurotrace checkpoints DIR/seed-0 --probes ...`)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tables = dict[str, list[dict[str, Any]]]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m neurotrace.paper")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("paper", "ours"), default="paper", help="of the tasks (paper)")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the models (11 12 13; ours: 0 1 2)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("small", "large", "lora"),
        default=("small", "large"),
        help="of the paper's format (small large)",
    )
    parser.add_argument("--base", help="the model that lora fine-tunes: a folder, a .gguf file")
    parser.add_argument("--steps", type=int, help="optimizer steps (as the model's design says)")
    args = parser.parse_args(given)
    from neurotrace.core.process import quiet

    quiet()
    if args.format == "ours":
        own = {f"seed-{seed}": (seed, _ours(seed, args.steps)) for seed in args.seeds or (0, 1, 2)}
        _write_pairs(args.out)
    else:
        own = {
            f"{name}-{seed}": (
                seed,
                _lora(args.base, seed, args.steps) if name == "lora" else _paper(name, seed, args.steps),
            )
            for name in args.models
            for seed in args.seeds or (11, 12, 13)
        }
    rows: Tables = {}
    for name, (seed, make) in own.items():
        for table, found in make(args.out / name).items():
            rows.setdefault(table, []).extend({"model": name, "seed": seed} | row for row in found)
        _write(args.out, rows)


def _write(out: Path, rows: Tables) -> None:
    """After every model, so that an interruption leaves tables."""
    import pandas as pd

    from neurotrace.core.writing import write_atomically

    for name, found in rows.items():
        write_atomically(out / f"{name}.csv", pd.DataFrame(found).to_csv(index=False, float_format="%.4f"))


def _write_pairs(out: Path) -> None:
    from neurotrace.core.pairs import pair_record
    from neurotrace.core.writing import write_atomically
    from neurotrace.paper.language import pairs

    write_atomically(out / "pairs.jsonl", "".join(json.dumps(pair_record(pair)) + "\n" for pair in pairs()))


def _ours(seed: int, steps: int | None) -> Callable[[Path], Tables]:
    from neurotrace.models.loading import load_model
    from neurotrace.paper import study, training

    wanted = steps or training.STEPS

    def make(folder: Path) -> None:
        model, made = training.train(
            seed,
            steps=wanted,
            keep=lambda step, copy: training.save(
                copy, {"seed": seed, "steps": step}, folder / f"step-{step:05}"
            ),
            report=_report(folder),
        )
        training.save(model, made | {"accuracies": training.accuracies(model)}, folder)

    return lambda folder: _once(folder, wanted, make, lambda: study.study_model(load_model(str(folder))))


def _paper(name: str, seed: int, steps: int | None) -> Callable[[Path], Tables]:
    from dataclasses import replace

    from neurotrace.folders.units import Units
    from neurotrace.models.loading import load_model
    from neurotrace.paper import causal, comparison, stories, training

    size = causal.SIZES[name]
    size = replace(size, steps=steps or size.steps)
    families = {"inference": stories.inferences(), "addition": stories.sums()}

    def make(folder: Path) -> None:
        model, made = causal.train(seed, size, report=_report(folder))
        made["accuracies"] = causal.accuracies(model)
        training.save(model, made, folder, causal.make_tokenizer())

    def compare(folder: Path) -> Tables:
        return comparison.compare_model(load_model(str(folder)), families, units=Units(folder))

    return lambda folder: _once(folder, size.steps, make, lambda: compare(folder))


def _lora(base: str | None, seed: int, steps: int | None) -> Callable[[Path], Tables]:
    from dataclasses import replace

    from neurotrace.core.errors import InputError
    from neurotrace.core.writing import write_atomically
    from neurotrace.folders.units import Units
    from neurotrace.paper import comparison, lora

    if base is None:
        raise InputError("--models lora needs the model to fine-tune: --base FOLDER or FILE.gguf")
    tuning = replace(lora.TUNING, steps=steps or lora.TUNING.steps)

    def make(folder: Path) -> None:
        record = lora.tune(base, folder, seed, tuning, report=_report(folder))
        write_atomically(folder / "training.json", json.dumps(record, indent=2) + "\n")

    def compare(folder: Path) -> Tables:
        tuned = lora.load_tuned(base, folder)
        return comparison.compare_model(
            tuned, lora.few(), n_neutral=lora.N_NEUTRAL, located=False, units=Units(folder)
        )

    return lambda folder: _once(folder, tuning.steps, make, lambda: compare(folder))


def _report(folder: Path) -> Callable[[int, float], None]:
    return lambda step, loss: print(f"{folder.name}, step {step}: {loss:.3f}", flush=True)


def _once(folder: Path, steps: int, make: Callable[[Path], None], compare: Callable[[], Tables]) -> Tables:
    """The tables of one model; trains and compares only what is missing.

    Raises:
        InputError: the folder's model was trained for another number of steps.
    """
    from neurotrace.core.errors import InputError
    from neurotrace.core.writing import UNFINISHED, remove, write_atomically

    record = folder / "training.json"
    if not record.is_file():
        make(folder)
    if (found := json.loads(record.read_text("utf-8"))["steps"]) != steps:
        raise InputError(f"{folder} was trained for {found} steps, not {steps}: name another folder")
    done = folder / "study.json"
    if not done.is_file():
        write_atomically(done, json.dumps(compare(), indent=1) + "\n")
        remove(folder / UNFINISHED)
    return dict(json.loads(done.read_text("utf-8")))


if __name__ == "__main__":
    main()
