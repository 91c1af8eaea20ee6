"""python -m neurotrace.paper --out DIR: train, compare, write the tables. Resumes after an interruption.

DIR/seed-N            a model, trained once, with checkpoints; `study.json` beside it once it is compared
DIR/arms.csv          flips, controls and damage of each method at each number of units
DIR/where.csv         flips by the class means' difference on all units of a site
DIR/consistency.csv   the choice of one family, applied to the others
DIR/pairs.csv         numbers of pairs answered correctly
DIR/pairs.jsonl       the pairs, for any other command (`neurotrace checkpoints DIR/seed-0 --probes ...`)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TABLES = ("arms", "where", "consistency", "pairs")


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m neurotrace.paper")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="models to train (3)")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps (1800)")
    args = parser.parse_args(given)
    parts = [one_model(args.out / f"seed-{seed}", seed, args.steps) for seed in range(args.seeds)]
    import pandas as pd

    from neurotrace.core.pairs import pair_record
    from neurotrace.core.writing import write_atomically
    from neurotrace.paper.language import pairs

    lines = "".join(json.dumps(pair_record(pair)) + "\n" for pair in pairs())
    write_atomically(args.out / "pairs.jsonl", lines)
    for name in TABLES:
        rows = [{"seed": seed} | row for seed, part in enumerate(parts) for row in part[name]]
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.4f")
        write_atomically(args.out / f"{name}.csv", text)
    print(pd.DataFrame(rows).to_string(index=False))


def one_model(folder: Path, seed: int, steps: int | None) -> dict[str, Any]:
    """The tables of one seed; trains and compares only what is missing."""
    from neurotrace.core.errors import InputError
    from neurotrace.core.process import quiet
    from neurotrace.core.writing import write_atomically
    from neurotrace.models.loading import load_model
    from neurotrace.paper import training
    from neurotrace.paper.study import study_model

    quiet()
    wanted = steps or training.STEPS
    record = folder / "training.json"
    if not record.is_file():
        model, made = training.train(
            seed,
            steps=wanted,
            keep=lambda step, copy: training.save(
                copy, {"seed": seed, "steps": step}, folder / f"step-{step:05}"
            ),
            report=lambda step, loss: print(f"seed {seed}, step {step}: {loss:.3f}", flush=True),
        )
        training.save(model, made | {"accuracies": training.accuracies(model)}, folder)
    if (found := json.loads(record.read_text("utf-8"))["steps"]) != wanted:
        raise InputError(f"{folder} was trained for {found} steps, not {wanted}: name another folder")
    done = folder / "study.json"
    if not done.is_file():
        tables = study_model(load_model(str(folder)))
        write_atomically(done, (json.dumps(tables, indent=1) + "\n"))
    tables = json.loads(done.read_text("utf-8"))
    return dict(tables)


if __name__ == "__main__":
    main()
