"""Recall@k of every ranker over injected facts: which neurons hold what was just taught?

One part a (fact, fraction) under `parts/`, written whole or not at all: a study that was stopped goes on
where it was. Rankings are for zeroing a neuron while the fact is recited (masks: for what must be kept).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotrace import rankers
from neurotrace.errors import InputError
from neurotrace.faithfulness import recall
from neurotrace.hooks import inspect_model
from neurotrace.imprint import imprint
from neurotrace.injection import Fact, inject
from neurotrace.runs import prepare_folder, write_atomically
from neurotrace.scores import Scores
from neurotrace.statistics import mean_interval
from neurotrace.tokens import EncodedPairs, Progress

if TYPE_CHECKING:
    import pandas as pd

METHODS = (
    "imprint", "gradient", "relp", "integrated", "direct", "log_increase", "slope", "slimming",
    "hard_concrete", "exact", "contrast", "magnitude", "random",
)  # fmt: skip


def injection_study(
    model: Any,
    facts: Sequence[Fact],
    out: str | Path,
    *,
    fractions: Sequence[float] = (0.01, 0.001),
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    progress: Progress = None,
) -> pd.DataFrame:
    """Rows `fraction, ranker, recall, low, high, seconds, facts, k`; also written to `recall.csv`.

    `recall` is the mean over facts of Recall@k, k = the neurons that were trained; `low, high` its 95 %
    bootstrap interval over facts; `seconds` a ranking's mean time on this machine.

    Args:
        seed: the trained neurons of fact number i are drawn with seed + i.

    Raises:
        InputError: an unknown method; a folder that holds a study with other settings.
    """
    import pandas as pd

    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(f"methods {unknown}: wanted one or more of {', '.join(METHODS)}")
    folder = prepare_folder(out, overwrite=True)
    (folder / "parts").mkdir(exist_ok=True)
    _same_settings(
        folder, {"model": inspect_model(model).name, "methods": list(methods), "seed": seed}
    )
    work = [(place, fact, fraction) for place, fact in enumerate(facts) for fraction in fractions]
    parts: list[list[dict[str, Any]]] = []
    for place, fact, fraction in progress(work, description="injecting") if progress else work:
        path = folder / "parts" / f"{fact.id}-{fraction:g}.json"
        if not path.is_file():
            rows = list(_rows(model, fact, fraction, methods, seed + place))
            write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
        parts.append(json.loads(path.read_text("utf-8")))
    table = pd.DataFrame([row for rows in parts for row in rows])
    summary = []
    for (fraction, ranker), own in table.groupby(["fraction", "ranker"], sort=False):
        low, high = mean_interval(own["recall"].to_numpy(), own["fact"].tolist())
        summary.append(
            {
                "fraction": fraction, "ranker": ranker, "recall": own["recall"].mean(), "low": low,
                "high": high, "seconds": own["seconds"].mean(), "facts": len(own),
                "k": int(own["k"].iloc[0]), "steps": own["steps"].mean(),
                "changed": own["changed"].mean(),
            }
        )  # fmt: skip
    found = pd.DataFrame(summary)
    write_atomically(folder / "recall.csv", found.to_csv(index=False, float_format="%.3f").encode())
    return found


def _rows(
    model: Any, fact: Fact, fraction: float, methods: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    with inject(model, fact, fraction=fraction, seed=seed) as injection:
        for name in methods:
            start = time.perf_counter()
            scores = _rank(name, model, injection.pairs, seed)
            yield {
                "fact": fact.id, "fraction": fraction, "ranker": name,
                "recall": recall(scores, injection.neurons, direction="to_reasoning"),
                "seconds": round(time.perf_counter() - start, 3), "k": len(injection.neurons),
                "steps": injection.steps, "loss": round(injection.loss, 4),
                "changed": round(injection.changed, 4),
            }  # fmt: skip


def _rank(name: str, model: Any, pairs: EncodedPairs, seed: int) -> Scores:
    """The ranking of the neurons that hold the memorized answer on the memorization prompt."""
    options: dict[str, Any] = {"donor": "reasoning", "intervention": "zero"}
    if name == "random":
        return rankers.random_scores(model, pairs, seed=seed, **options)
    if name == "imprint":
        return imprint(model, pairs, **options)
    if name in ("slimming", "hard_concrete"):
        options["question"] = "keep"
    ranked: Scores = getattr(rankers, name)(model, pairs, **options)
    return ranked


def _same_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if path.is_file() and path.read_text("utf-8") != text:
        raise InputError(
            f"{folder} holds a study with other settings ({path.name}): name another folder"
        )
    write_atomically(path, text.encode())
