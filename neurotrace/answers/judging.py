"""Evaluation of the trust score: found, calibrated and tested on different prompts.

1. *Ask* the model every prompt; keep those that it answers with a named answer.
2. *Split* the groups in two halves, over all families at once, so that a group is in one half
   everywhere.
3. *Choose* k and what *off* means on the first half, each family's margins by a circuit of the others
   (of the other templates, or groups, where there is one family). While the largest k is the best,
   twice as many are tried, up to `_LARGEST` of all neurons.
4. *Find* circuits on the first half and test each on the second: the circuit of all prompts (unseen
   items), those without one template (unseen templates), those without one family (unseen families).
   AUROC for "the answer is the memorized one", within each family, with intervals from resampled
   groups.
5. *Compare*, on the same prompts, with `DRAWS` circuits of random neurons and with every rival
   (`rivals.py`): the outside view, which asks the model again with less of the prompt, confidence, and
   detectors that read the inside, trained on the same first half. The *combined score* is learnt on the
   second half, cross-fitted.
6. *Choose the default score*: the cheapest of three signals that is as good as the best (`score.py`).
7. *Calibrate* on one half of the second half, score the other, and the other way round: ECE, the
   AUROC for "the answer fails on a changed version", risk against coverage, LiMem.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurotrace.answers import tables
from neurotrace.answers.answered import Answered, answer
from neurotrace.answers.calibration import fit_familiar
from neurotrace.answers.circuit import OFFS, Circuit, Slopes, circuit_from, norms_of, slopes
from neurotrace.answers.margin import Margins, causal_margins
from neurotrace.answers.rivals import PLAIN, depths, read_rivals
from neurotrace.answers.score import MARGIN, fit_score
from neurotrace.answers.trust import consistencies, familiar_block, kinds_of, limem, parts_of
from neurotrace.core.display import Shown, Table, View, frame_table
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress
from neurotrace.core.prompts import Prompt
from neurotrace.core.scores import Scores
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import ARRAYS, JSON, NOTHING_KEPT, Form, Units
from neurotrace.models.activations import clean_activations
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import inspect_model
from neurotrace.models.identity import json_hash, model_record, surroundings
from neurotrace.models.protocol import HookedModel

SHARES = (0.0005, 0.001, 0.002, 0.004, 0.008)  # of all neurons: the sizes to choose from
DRAWS = 20  # circuits of random neurons: a single one may be predictive by chance
_LARGEST = 0.05  # of all neurons
_TOGETHER = 4  # circuits in one call: the logits of all of them are held in memory
Cell = tuple[str, str]  # family, template
Keep = Callable[[str, str], bool]  # (family, template) -> whether its prompts find the circuit


@dataclass(frozen=True)
class TrustStudy(Shown):
    """The results; every table is a data frame."""

    circuit: Circuit  # of the first half, calibrated on all of the second
    outcomes: pd.DataFrame  # family, template, memory, reasoning, other
    choices: pd.DataFrame  # k, off, auroc (first half, by circuits of the other families), chosen
    signals: pd.DataFrame  # unseen, of, signal, passes, auroc, n, memory, behind (the margin), combined
    scores: pd.DataFrame  # a row for each prompt of the second half
    failures: pd.DataFrame  # signal, auroc, behind, combined for "fails on a changed version"
    coverage: pd.DataFrame  # signal, coverage, risk, risk_lo, risk_hi
    summary: dict[str, Any]  # what was chosen; ECE; LiMem

    def to_frame(self) -> pd.DataFrame:
        """The AUROC of every signal: `signals`."""
        return self.signals

    def _view(self) -> View:
        said = self.summary
        failures = self.failures[["signal", "auroc", "auroc_lo", "auroc_hi", "n"]]
        failures.columns = ["signal", "AUROC", "from", "to", "prompts"]
        return View(
            f"A trust score for {self.circuit.provenance.get('model', 'a model')}, judged on "
            f"{said['held_out']} prompts that had no part in it: ECE {said['ece']:.3f}, abstains on "
            f"{said['abstains']:.1%}; {said['k']} neurons of either kind"
            f"{', the most that were tried' * said['k_is_largest_tried']}, off: {said['off']}. "
            f"nt.trust reads {said['score']}: of three signals the cheapest that is as good as the best.",
            (
                Table(
                    ("signal", *(f"unseen {name}" for name in tables.UNSEEN)),
                    tables.mean_rows(self.signals),
                    "AUROC for “from memory”, mean",
                ),
                frame_table(failures, "AUROC for “the answer fails on a changed version”, 95 %"),
            ),
            "Every figure: .signals, .failures, .coverage, .scores, .outcomes; the circuit: .circuit.",
        )

    def __repr__(self) -> str:
        return f"TrustStudy({self.summary['held_out']} prompts judged)"


@takes_turns
def trust_study(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    k: int | None = None,
    off: str | None = None,
    seed: int = 0,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> TrustStudy:
    """Find, calibrate and evaluate; see the module's docstring.

    Args:
        prompts: of one or several sets, changed versions among them.
        k, off: default: chosen on the first half.
        units: ``nt.Units("runs/trust")`` keeps what is finished in that folder; the same call goes on.

    Raises:
        InputError: too few groups, or one outcome only; `units` of another call.

    Example::

        study = nt.trust_study(model, nt.load_prompts("arithmetic"))
        study.signals
    """
    asked = answer(model, prompts, progress=progress)
    everything = asked.where(lambda prompt: prompt.perturbs is None)
    data = _Data.of(everything.decided(), seed)
    named = {"name": inspect_model(model).name}
    units.begin(
        {"command": "trust_study", "model": named | model_record(model), "k": k, "off": off, "seed": seed}
        | {"prompts_sha256": json_hash([each.__dict__ for each in prompts])}
        | {"surroundings": surroundings(model)}
    )
    asking = _Asking(model, data.asked, units, progress)
    found = units.once("slopes", _SLOPES, lambda: slopes(model, data.first, progress=progress))
    choices = _choose(asking, data, found, k, off)
    best = choices[choices["chosen"]].iloc[0]
    make = _maker(model, found, int(best["k"]), best["off"])
    circuit = make(lambda family, template: True)
    assert circuit is not None  # a subset of these prompts gave a circuit
    falls, random_margins = _falls(asking, data, make, circuit, seed)
    frame = tables.frame_of(data.asked, data.train, falls, consistencies(asked))
    rivals = read_rivals(model, data.asked, asking.values, progress=progress)
    frame = frame.assign(**{name: rivals[name] for name in PLAIN if name in rivals})
    frame = tables.calibrated(frame, seed)
    block, kinds, familiar = familiar_block(model), kinds_of(data.asked.prompts), None
    if "residual stream" in rivals:
        streams = rivals["residual stream"][:, depths(inspect_model(model).n_layers).index(block)]
        frame["strange"] = tables.strangers(frame, streams, kinds, block)
        familiar = fit_familiar(streams[~data.train], np.array(kinds)[~data.train], block)
    learned = tables.rival_scores(frame, rivals)
    risks = tables.risks(frame, learned)
    held = frame[~frame["train"]]
    signal = tables.cheapest(frame, learned)
    score = None
    if signal != MARGIN:
        about = [frame[name].to_numpy() for name in ("memory", "train", "group", "survived")]
        score = fit_score(signal, rivals[signal], *about)
    return TrustStudy(
        replace(circuit, calibration=replace(tables.calibration(held), familiar=familiar), score=score),
        tables.outcomes(everything),
        choices,
        tables.signals(frame, learned, random_margins),
        held.reset_index(drop=True),
        tables.failures(frame, risks),
        tables.coverage(frame, risks),
        {
            "k": int(best["k"]),
            "off": str(best["off"]),
            "seed": seed,
            "random_draws": DRAWS,
            "score": signal,
            "k_is_largest_tried": k is None and int(best["k"]) == int(choices["k"].max()),
        }
        | tables.summary(held, everything, consistencies(asked))
        | {"limem": limem(asked)},
    )


@dataclass(frozen=True)
class _Data:
    """The decided prompts, with their properties as arrays."""

    asked: Answered
    family: np.ndarray
    template: np.ndarray
    group: np.ndarray
    memory: np.ndarray
    train: np.ndarray  # of the first half

    @classmethod
    def of(cls, asked: Answered, seed: int) -> _Data:
        named = {
            name: np.array([getattr(prompt, name) for prompt in asked.prompts])
            for name in ("family", "template", "group")
        }
        groups = sorted(set(named["group"].tolist()))
        if len(groups) < 4:
            raise InputError(
                f"{len(asked)} prompts about {len(groups)} things: a study needs at least four "
                "groups, to find, calibrate and judge on different ones"
            )
        random.Random(seed).shuffle(groups)
        memory = np.array([outcome == "memory" for outcome in asked.outcome])
        train = np.isin(named["group"], groups[: len(groups) // 2])
        return cls(asked, **named, memory=memory, train=train)

    @property
    def first(self) -> Answered:
        return self.asked.at(np.nonzero(self.train)[0].tolist())

    def cells(self, train: bool) -> dict[tuple[str, str], np.ndarray]:
        """(family, template) -> places of its prompts in that half."""
        own = np.nonzero(self.train == train)[0]
        keys = list(zip(self.family[own].tolist(), self.template[own].tolist(), strict=True))
        return {key: own[[each == key for each in keys]] for key in dict.fromkeys(keys)}


def _maker(model: HookedModel, found: Slopes, k: int, off: str) -> Callable[[Keep], Circuit | None]:
    """Keep -> the circuit of those prompts; None if they have one outcome only, or are too few."""

    def make(keep: Keep) -> Circuit | None:
        try:
            return circuit_from(model, found.where(keep), k=k, off=off)  # type: ignore[arg-type]
        except InputError:
            return None

    return make


def _choose(asking: _Asking, data: _Data, found: Slopes, k: int | None, off: str | None) -> pd.DataFrame:
    """Candidates with their AUROC on the first half."""
    total = inspect_model(asking.model).n_neurons
    sizes = [k] if k else sorted({max(4, round(share * total)) for share in SHARES})
    middle = sizes[len(sizes) // 2]
    pairs = [(size, off or OFFS[0]) for size in sizes]
    pairs += [] if off else [(middle, other) for other in OFFS[1:]]
    table = _compared(asking, data, found, pairs)
    while k is None and (best := _best(table))["k"] == table["k"].max() <= _LARGEST / 2 * total:
        larger = [(2 * int(best["k"]), str(best["off"]))]
        table = pd.concat([table, _compared(asking, data, found, larger)], ignore_index=True)
    if table["auroc"].isna().all():
        raise InputError(
            "no circuit can be found on the first half of these prompts: the model answers nearly "
            "all of them in one way; add prompts that it answers the other way"
        )
    table["chosen"] = table.index == _best(table).name
    return table


def _best(table: pd.DataFrame) -> pd.Series:
    """The smallest and simplest of the candidates that are as good as the best."""
    as_good = table["auroc"] >= table["auroc"].max() - 0.002
    return table[as_good | table["auroc"].isna().all()].sort_values("k", kind="stable").iloc[0]


def _compared(
    asking: _Asking, data: _Data, found: Slopes, pairs: Sequence[tuple[int, str]]
) -> pd.DataFrame:
    """For each k and *off* the AUROC on the first half, by circuits of the other families."""
    makers = [_maker(asking.model, found, *pair) for pair in pairs]
    margin = np.full((len(pairs), len(data.asked)), np.nan)
    place = 0 if len(set(data.family)) > 1 else 1 if len(set(data.template)) > 1 else None
    circuits: dict[Cell, list[Circuit | None]] = {}
    for key in (cells := data.cells(train=True)):

        def others(*cell: str, own: tuple[str, str] = key) -> bool:
            return place is None or cell[place] != own[place]

        circuits[key] = [make(others) for make in makers]
    asked = {key: [each for each in own if each] for key, own in circuits.items()}
    got = asking(str(list(pairs)), cells, asked)
    for key, rows in cells.items():
        for row, circuit in enumerate(circuits[key]):
            if circuit:
                margin[row, rows] = next(got[key]).margin.numpy()
    table = pd.DataFrame(pairs, columns=["k", "off"])
    table["auroc"] = [
        tables.mean_auroc(own[data.train], data.memory[data.train], data.family[data.train])
        for own in margin
    ]
    return table


def _falls(
    asking: _Asking,
    data: _Data,
    make: Callable[[Keep], Circuit | None],
    circuit: Circuit,
    seed: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Memory and reasoning falls on the second half, [prompt, 2], by the circuit of all prompts and by
    those without the prompt's template and family; NaN if there is none. Margins by random circuits,
    [draw, prompt]."""
    controls = [_random_like(asking.model, circuit, seed + draw) for draw in range(DRAWS)]
    found = {name: np.full((len(data.asked), 2), np.nan) for name in ("items", "templates", "families")}
    drawn = np.full((DRAWS, len(data.asked)), np.nan)
    circuits: dict[Cell, dict[str, Circuit | None]] = {}
    for family, template in (cells := data.cells(train=False)):
        circuits[family, template] = {
            "items": circuit,
            "templates": make(lambda _, t, own=template: t != own),  # type: ignore[misc]
            "families": make(lambda f, _, own=family: f != own),  # type: ignore[misc]
        }
    asked = {key: [*filter(None, own.values()), *controls] for key, own in circuits.items()}
    got = asking("held out", cells, asked)
    for key, rows in cells.items():
        for name, own in circuits[key].items():
            if own:
                found[name][rows] = parts_of(next(got[key]))
        for draw in range(DRAWS):
            drawn[draw, rows] = next(got[key]).margin.numpy()
    return found, drawn


def _random_like(model: HookedModel, circuit: Circuit, seed: int) -> Circuit:
    """As many other neurons in each layer, assigned at random to memory and reasoning."""
    info = inspect_model(model)
    blank = Scores("random", torch.zeros(info.n_layers, info.d_mlp), provenance=info.naming)
    drawn = blank.random_like((*circuit.memory, *circuit.reasoning), seed=seed)
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = tuple(drawn[place] for place in order)
    size = len(circuit.memory)
    zeros = torch.zeros(len(mixed))
    return Circuit(mixed[:size], mixed[size:], zeros[:size], zeros[size:], norms_of(model, mixed))


class _Asking:
    """Margins by circuits, cell by cell; the prompts' activations go into `values` on the way."""

    def __init__(self, model: HookedModel, asked: Answered, units: Units, progress: Progress) -> None:
        self.model, self.asked, self.units, self.progress = model, asked, units, progress
        self.values = np.zeros((len(asked), inspect_model(model).n_neurons), dtype=np.float32)

    def __call__(
        self, stage: str, cells: Mapping[Cell, np.ndarray], circuits: Mapping[Cell, Sequence[Circuit]]
    ) -> dict[Cell, Iterator[Margins]]:
        """Cell -> margins of its prompts by each of its circuits."""
        jobs: dict[Cell, tuple[str, Callable[[], dict[str, np.ndarray]]]] = {
            key: (f"{stage}: {key}", partial(self._measured, rows, circuits[key]))
            for key, rows in cells.items()
        }
        found = self.units.each(ARRAYS, jobs, self.progress, "family and template")
        for key, rows in cells.items():
            self.values[rows] = found[key].pop("values")
        return {key: self._margins(columns, len(circuits[key])) for key, columns in found.items()}

    def _margins(self, columns: Mapping[str, np.ndarray], circuits: int) -> Iterator[Margins]:
        tensors = {each: torch.from_numpy(array.copy()) for each, array in columns.items()}
        for place in range(circuits):
            yield Margins(**{each: column[place] for each, column in tensors.items()})

    def _measured(self, rows: np.ndarray, circuits: Sequence[Circuit]) -> dict[str, np.ndarray]:
        own = self.asked.at(rows.tolist())
        cleans: dict[bytes, Any] = {}
        margins: list[Margins] = []
        for start in range(0, len(circuits), _TOGETHER):
            some = circuits[start : start + _TOGETHER]
            margins += causal_margins(self.model, own, some, cleans=cleans, progress=self.progress)
        values = np.zeros((len(rows), self.values.shape[1]), dtype=np.float32)
        for places, ids in by_length(own.ids, 32):
            run = cleans.get(ids.numpy().tobytes())
            read = run.activations.float().cpu() if run else clean_activations(self.model, list(ids))
            values[places] = read.flatten(1).numpy()
        names = [each.name for each in fields(Margins)]
        columns = {each: [getattr(own, each).cpu().numpy() for own in margins] for each in names}
        return {"values": values} | {each: np.array(column) for each, column in columns.items()}


def _save_slopes(found: Slopes, folder: Path) -> None:
    sums = {each: np.stack(list(getattr(found, each).values())) for each in _SUMS}
    ARRAYS.save(sums, folder)
    JSON.save(list(found.counts.items()), folder)


def _load_slopes(folder: Path) -> Slopes:
    counts = {tuple(cell): count for cell, count in JSON.load(folder)}
    sums = ARRAYS.load(folder)
    return Slopes(  # type: ignore[arg-type]
        counts,
        *(dict(zip(counts, torch.from_numpy(sums[each].copy()), strict=True)) for each in _SUMS),
    )


_SUMS = ("effect", "slope", "value")
_SLOPES = Form(_save_slopes, _load_slopes)
