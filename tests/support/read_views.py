"""A model's own views of prompts that it answers from memory or by reasoning, kept in a folder.

Groups are dealt into `PARTS` parts. For each family left out and each part, what is learnt from prompts
(circuits, effects) is learnt from other families and other parts. The margin of a training row is that of
a circuit found on the other training part, so it is held out like a test row's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import HashingVectorizer

import neurotrace as nt
from neurotrace.answers.answered import Answered
from neurotrace.answers.circuit import Slopes, circuit_from, slopes
from neurotrace.answers.margin import causal_margin
from neurotrace.answers.rivals import Reading
from neurotrace.core.prompts import originals

PARTS, ASKED = 3, 2  # prompts asked per prompt used, because outcomes are rarely balanced
Array = np.ndarray


@dataclass(frozen=True)
class Read:
    """A row a prompt: `rows` has family, template, group, part, memory; `views` what is read of it.

    `margins` and `effects` have a key "FAMILY/PART" of what was left out: memory and reasoning fall
    [row, 2], NaN where no circuit may be used; predicted effect of switching each neuron off [neuron].
    """

    rows: pd.DataFrame
    views: dict[str, Array]
    margins: dict[str, Array]
    effects: dict[str, Array]

    def split(self, left: str, part: int) -> tuple[Array, Array]:
        """(training rows, test rows): neither family nor group of a test row is in training."""
        own, test = self.rows["family"] == left, self.rows["part"] == part
        return np.flatnonzero(~own & ~test), np.flatnonzero(own & test)


def read(model_name: str, probes: list[str], folder: Path, each: int) -> Read:
    """`each` prompts of every family and outcome; what the folder holds already is not read again."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.safetensors" for name in ("views", "margins", "effects")}
    if not all(file.is_file() for file in files.values()):
        model = nt.load_model(model_name)
        answered, rows = _rows(model, probes, each)
        rows.to_csv(folder / "rows.csv", index=False)
        if not files["views"].is_file():
            save_file(_views(model, answered), files["views"])
        _causal(model, answered, rows, files)
    return Read(pd.read_csv(folder / "rows.csv"), *(load_file(file) for file in files.values()))


def _rows(model: Any, probes: list[str], each: int) -> tuple[Answered, pd.DataFrame]:
    rng = np.random.default_rng(0)
    prompts = originals([prompt for name in probes for prompt in nt.load_prompts(name)])
    prompts = [prompts[at] for at in rng.permutation(len(prompts))]
    families = sorted({prompt.family for prompt in prompts})
    some = [[p for p in prompts if p.family == name][: 2 * ASKED * each] for name in families]
    answered = nt.answer(model, [prompt for own in some for prompt in own]).decided()
    frame = answered.to_frame().assign(memory=[own == "memory" for own in answered.outcome])
    answered = answered.at(frame.groupby(["family", "memory"]).head(each).index.tolist())
    frame = answered.to_frame()[["id", "family", "template", "group", "outcome"]]
    groups = np.unique(frame["group"])
    part = dict(zip(groups, rng.permutation(len(groups)) % PARTS, strict=True))
    frame["part"] = frame["group"].map(part)
    frame["memory"] = (frame.pop("outcome") == "memory").astype(int)
    return answered, frame


def _views(model: Any, answered: Answered) -> dict[str, Array]:
    depth = nt.inspect_model(model).n_layers
    deep = sorted({depth // 2, depth - 1})
    names = ["neurons", *(f"{site}@{at}" for site in ("residual", "attention") for at in deep)]
    views = nt.read_views(model, answered, [*names, "again", "confidence"])
    views["writes"] = Reading(model, answered, views["neurons"]).inside["writes"]
    words = HashingVectorizer(n_features=256, alternate_sign=False, norm=None, binary=True)
    views["words"] = words.transform([prompt.prompt for prompt in answered.prompts]).toarray()
    return {name: np.ascontiguousarray(view, dtype=np.float32) for name, view in views.items()}


def _causal(model: Any, answered: Answered, rows: pd.DataFrame, files: dict[str, Path]) -> None:
    """Circuits of the other families and parts: their margins, and the effects they were chosen by."""
    part, family = rows["part"].to_numpy(), rows["family"].to_numpy()
    found = [slopes(model, answered.at(np.flatnonzero(part == own).tolist())) for own in range(PARTS)]
    k = max(4, round(0.0011 * nt.inspect_model(model).n_neurons))
    families = sorted(set(family))
    margins = {
        f"{left}/{out}": np.full((len(rows), 2), np.nan) for left in families for out in range(PARTS)
    }
    effects: dict[str, Array] = {}

    def fill(left: str, own: Slopes, wanted: dict[int, Array]) -> None:
        """Margins of the rows wanted for each part left out."""
        circuit = circuit_from(model, own, k=k)
        at = np.flatnonzero(np.any(list(wanted.values()), axis=0))
        measured = causal_margin(model, answered.at(at.tolist()), circuit)
        both = np.full((len(rows), 2), np.nan)
        both[at] = np.stack([measured.memory_fall, measured.reasoning_fall], axis=1)
        for out, mask in wanted.items():
            margins[f"{left}/{out}"][mask] = both[mask]

    for left in families:
        kept = [own.where(partial(_other, left)) for own in found]
        for own in range(PARTS):
            others = [out for out in range(PARTS) if out != own]
            # a training row's circuit is that of the third part
            fill(
                left,
                kept[own],
                {out: (family != left) & (part == 3 - own - out) for out in others},
            )
            train = _joined([kept[other] for other in others])
            effects[f"{left}/{own}"] = train.mean(train.effect).flatten().numpy()
            fill(left, train, {own: (family == left) & (part == own)})
        print(f"margins without {left}", flush=True)
    save_file({name: own.astype(np.float32) for name, own in margins.items()}, files["margins"])
    save_file(effects, files["effects"])


def _other(left: str, family: str, template: str) -> bool:
    return family != left


def _joined(parts: list[Slopes]) -> Slopes:
    """The sums over all of the parts' prompts."""
    sums = []
    for name in ("counts", "effect", "slope", "value"):
        total: dict[Any, Any] = {}
        for part in parts:
            for cell, own in getattr(part, name).items():
                total[cell] = total[cell] + own if cell in total else own
        sums.append(total)
    return Slopes(*sums)
