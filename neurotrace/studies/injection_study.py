"""Recall@k of every ranker over injected facts: do they find the trained neurons?

Each (fact, fraction) is one part under `parts/`, written completely or not at all, so a stopped study
resumes. Rankings are for zeroing a neuron while the fact is recited (masks: for the neurons that must
be kept). A fact that cannot be taught is skipped and named. It is not replaced, so that the time of a
study is bounded and every fraction uses the same facts.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotrace import __version__
from neurotrace.core.errors import InputError
from neurotrace.core.files import check_inside, read_json
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.core.statistics import mean_interval
from neurotrace.core.writing import hold_folder, json_bytes, prepare_folder, sweep_up, write_atomically
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.content import first_differences
from neurotrace.folders.sealing import sealing
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import ModelInfo, inspect_model
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import RANKERS, compared_by, passes, ranker_of
from neurotrace.studies.faithfulness import recall
from neurotrace.studies.injection import Fact, UnteachableError, inject, unwritten

if TYPE_CHECKING:
    import pandas as pd

METHODS = compared_by("inject")
FORMAT = "neurotrace.inject/1"
FILES = ("settings.json", "parts", "recall.csv")


@takes_turns
def injection_study(
    model: HookedModel,
    facts: Sequence[Fact],
    out: str | Path,
    *,
    fractions: Sequence[float] = (0.01, 0.001),
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    steps: int = 500,
    progress: Progress = None,
) -> pd.DataFrame:
    """One row for each (fraction, ranker); also written to `recall.csv`.

        recall           mean over the facts taught of Recall@k, k = the neurons that were trained
        low, high        its 95 % bootstrap interval over facts
        passes, seconds  of one ranking: forward and backward passes; mean time on this machine
        facts, tried     number of facts taught, and tried
        skipped          ids of the others
        steps, changed   of the training, means over facts: steps, ||change of a row|| / ||row||

    Args:
        seed: the trained neurons of fact number i are drawn with seed + i.
        steps: training steps after which a fact is skipped; a fact that was skipped after fewer is
            tried again.

    Raises:
        UnteachableError: no fact could be taught.
        InputError: an unknown method; a folder that holds a study with other settings.

    Example::

        facts = nt.load_facts("facts-organism")[:3]
        table = nt.injection_study(model, facts, "runs/inject", methods=("gradient", "random"))
    """
    if not methods:
        raise InputError(f"methods is empty: expected one or more of {', '.join(RANKERS)}")
    for name in methods:
        ranker_of(name)
    _refuse_unwritten(model, facts)
    folder = prepare_folder(out, ())
    hold_folder(folder)
    (folder / "parts").mkdir(exist_ok=True)
    sweep_up(folder / "parts")
    _same_settings(folder, {**model_identity(model), "methods": list(methods), "seed": seed})
    work = [(place, fact, fraction) for place, fact in enumerate(facts) for fraction in fractions]
    rows: list[dict[str, Any]] = []
    for place, fact, fraction in over(progress, work, "injecting"):
        path = folder / "parts" / f"{fact.id}-{fraction:g}.json"
        part = read_json(check_inside(path)) if path.exists() else []
        if not part or part[0].get("skipped_after", steps) < steps:
            part = _part(model, fact, fraction, methods, seed + place, steps)
            write_atomically(path, (json.dumps(part, indent=1) + "\n"))
        rows += part
        if "skipped" in part[0]:
            warnings.warn(f"skipped at fraction {fraction:g}: {part[0]['skipped']}", stacklevel=2)
    found = _summary(rows, fractions, methods, inspect_model(model))
    record = {"format": FORMAT, "neurotrace": __version__, "model": inspect_model(model).name, "seed": seed}
    with sealing(folder, FILES, record):
        write_atomically(folder / "recall.csv", found.to_csv(index=False, float_format="%.3f"))
    if not found["facts"].any():
        raise UnteachableError(
            f"none of {len(facts)} facts could be taught; {rows[0]['skipped']}"
            if rows
            else "no facts: expected one or more"
        )
    return found


def _refuse_unwritten(model: HookedModel, facts: Sequence[Fact]) -> None:
    """Raise before any training if the tokenizer has unknown words in every fact."""
    why = [unwritten(model, fact) for fact in facts]
    if facts and all(why):
        raise UnteachableError(
            f"the model's tokenizer can write none of {len(facts)} facts ({facts[0].id}: {why[0]}): name "
            "facts in the model's language; the built-in models' are facts-organism"
        )


def _summary(
    rows: Sequence[dict[str, Any]],
    fractions: Sequence[float],
    methods: Sequence[str],
    info: ModelInfo,
) -> pd.DataFrame:
    import pandas as pd

    summary = []
    for fraction in fractions:
        here = [row for row in rows if row["fraction"] == fraction]
        skipped = [row["fact"] for row in here if "skipped" in row]
        for ranker in methods:
            own = [row for row in here if row.get("ranker") == ranker]
            mean = {
                name: float(np.mean([row[name] for row in own])) if own else np.nan
                for name in ("recall", "seconds", "steps", "changed")
            }
            low, high = mean_interval([r["recall"] for r in own], [r["fact"] for r in own])
            summary.append(
                {
                    "fraction": fraction,
                    "ranker": ranker,
                    "recall": mean["recall"],
                    "low": low,
                    "high": high,
                    "passes": passes(ranker, "zero", info, 1),
                    "seconds": mean["seconds"],
                    "facts": len(own),
                    "tried": len(own) + len(skipped),
                    "skipped": " ".join(skipped),
                    "k": round(fraction * info.n_neurons),
                    "steps": mean["steps"],
                    "changed": mean["changed"],
                }
            )
    return pd.DataFrame(summary)


def _part(
    model: HookedModel, fact: Fact, fraction: float, methods: Sequence[str], seed: int, steps: int
) -> list[dict[str, Any]]:
    """One row per ranker; a single row with the reason and the steps if the fact cannot be taught."""
    rows = []
    try:
        with inject(model, fact, fraction=fraction, seed=seed, steps=steps) as injection:
            for name in methods:
                start = time.perf_counter()
                scores = _rank(name, model, injection.pairs, seed)
                rows.append(
                    {
                        "fact": fact.id,
                        "fraction": fraction,
                        "ranker": name,
                        "recall": recall(scores, injection.neurons, direction=Direction.TO_REASONING),
                        "seconds": round(time.perf_counter() - start, 3),
                        "k": len(injection.neurons),
                        "steps": injection.steps,
                        "loss": round(injection.loss, 4),
                        "changed": round(injection.changed, 4),
                    }
                )
    except UnteachableError as error:
        return [{"fact": fact.id, "fraction": fraction, "skipped": str(error), "skipped_after": steps}]
    return rows


def _rank(name: str, model: HookedModel, pairs: EncodedPairs, seed: int) -> Scores:
    """The ranking of the neurons that support the memorized answer on the memorization prompt."""
    options: dict[str, Any] = {"donor": "reasoning", "kind": "zero"}
    ranker = ranker_of(name)
    if name == "random":
        options["seed"] = seed
    if ranker.learned:
        options["question"] = "keep"
    return ranker.function(model, pairs, **options)


def _same_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    known = read_json(check_inside(path)) if path.exists() else settings
    if found := first_differences(known, settings):
        raise InputError(f"{folder} holds a study with other settings: {found}; name another folder")
    write_atomically(path, json_bytes(settings))
