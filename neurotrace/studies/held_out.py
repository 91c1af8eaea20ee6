"""Measurements on held-out pairs, for one family and one direction.

In each fold the intervention is chosen within the training pairs (`selection.py`), and neurons are ranked
again on all of them. On the held-out pairs the chosen intervention and its controls are measured, and its
damage on neutral text and on the other families. On at most 32 of a fold's held-out pairs the following is
measured beside: the same intervention at every number of neurons (the flip curve), random neurons for each,
and every other kind at the chosen number. The folds' held-out pairs together are all pairs, and no pair is
measured with neurons that it helped to find. Random neurons are drawn 19 times, each other control three
times, and 19 times where it flips some answers and the interval contains the verdict's bar.

The candidates that flip the most training answers are measured in every fold as well. The *regret* is the
held-out flip rate of the best of them minus that of the choice. It is reported and never used to choose.
Because the best is picked on the held-out pairs themselves, the regret is biased upwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from neurotrace.core import statistics
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Direction
from neurotrace.interventions.continuing import continuations, generate
from neurotrace.interventions.controls import CONTROLS, controls_for, random_controls
from neurotrace.interventions.damage import damage, still_answered
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import values_at
from neurotrace.interventions.targets import routed
from neurotrace.models.hooks import inspect_model
from neurotrace.studies.selection import (
    Candidate,
    Chosen,
    Ground,
    RowFold,
    StudySettings,
    activations_at,
    choose_within,
    flips_at,
)
from neurotrace.studies.verdict import in_doubt

MOST_DRAWS = 19  # if no draw of random neurons flips as many, p = 1/20
DRAWS = 3  # of every control at first
_DRAWN = ["role", "draw", "pair", "group", "answers"]
_REGRET_OF = 6  # maximum number of candidates that are measured in every fold
_BESIDE = 32  # maximum number of a fold's pairs for what stands beside the choice and its controls
_WRITTEN = 6  # tokens of continuation in the report's examples


@dataclass(frozen=True)
class Flip:
    """Held-out flip rates of one (family, method, direction, intervention, k); rates in 0..1.

    For the chosen row only: `controls` are means over draws, `controls_worst` the largest rate of a draw;
    `random_p` is (1 + draws of random neurons that flip at least as many) / (1 + draws). `chosen_on` is
    the number of training pairs on which it was compared (minimum over folds), `tied` the number of other
    candidates with the same rate there (maximum over folds). `regret` is the rate of `best`, the best of
    `compared` candidates, minus that of the choice.
    """

    family: str
    method: str
    direction: Direction
    intervention: str
    k: int
    fraction: float
    answers: float
    answers_ci: tuple[float, float]
    prefers: float
    prefers_ci: tuple[float, float]
    n: int
    groups: int
    split: str
    selected: bool
    controls: dict[str, float | None] = field(default_factory=dict)
    controls_ci: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    controls_worst: dict[str, float] = field(default_factory=dict)
    control_answers: float | None = None
    random_p: float | None = None
    damage_kl: float | None = None
    damage_ci: tuple[float, float] | None = None
    other_families_kept: float | None = None
    per_fold: tuple[str, ...] = ()
    chosen_on: int | None = None
    tied: int | None = None
    regret: float | None = None
    regret_ci: tuple[float, float] | None = None
    best: str | None = None
    compared: int | None = None


@dataclass(frozen=True)
class Example:
    """One held-out pair's continuation before and under the chosen intervention."""

    family: str
    direction: Direction
    what: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Proved:
    """Held-out rows fold by fold (data frames), their flip rates, and two prompts to read.

    `applied` holds what each fold chose.
    """

    frames: tuple[Any, ...]
    flips: tuple[Flip, ...]
    examples: tuple[Example, ...]
    applied: tuple[Intervention, ...]


def prove(
    ground: Ground, folds: Sequence[RowFold], settings: StudySettings, progress: Progress = None
) -> Proved:
    """Choose on each fold's training pairs and measure on its held-out pairs."""
    proof = _Proof(ground, settings, progress)
    steps = [partial(proof.choose, fold) for fold in folds]
    steps += [partial(proof.measure_held_out, place) for place in range(len(folds))]
    steps.append(partial(proof.draw_again))
    for step in over(progress, steps, "step", outer=True):
        step()
    applied = [replace(each, donor_mean=values_at(means, each.neurons)) for each, means in proof.applied]
    return Proved(tuple(proof.frames), tuple(proof.flips()), tuple(proof.examples), tuple(applied))


class _Proof:
    """Collects choices and measurements, fold by fold."""

    def __init__(self, ground: Ground, settings: StudySettings, progress: Progress) -> None:
        self.ground, self.settings, self.progress = ground, settings, progress
        self.chosen: list[Chosen] = []
        self.applied: list[tuple[Intervention, torch.Tensor]] = []  # with its donor class's means
        self.frames: list[Any] = []
        self.draws: list[tuple[Any, ...]] = []  # further draws of controls: `_DRAWN`
        self.examples: list[Example] = []

    def choose(self, fold: RowFold) -> None:
        self.chosen.append(choose_within(self.ground, fold, self.settings, self.progress))

    def _loud(self) -> set[Candidate]:
        return {each for chosen in self.chosen for each in chosen.choice.loud}

    @cached_property
    def _everywhere(self) -> list[Candidate]:
        """The folds' choices, then the candidates that flip the most training answers.

        Candidates whose controls flip too many in any fold are left out.
        """
        rates: dict[Candidate, list[float]] = {}
        loud = self._loud()
        for chosen in self.chosen:
            for each, rate in chosen.choice.rates.items():
                rates.setdefault(each, []).append(rate)
        every = [
            each for each, found in rates.items() if len(found) == len(self.chosen) and each not in loud
        ]
        every.sort(key=lambda each: (-sum(rates[each]), each.k))
        picked = [each.candidate for each in self.chosen if each.candidate in every]
        return list(dict.fromkeys([*picked, *every]))[:_REGRET_OF]

    def measure_held_out(self, place: int) -> None:
        """The fold at this place, when all folds have chosen."""
        import pandas as pd

        done, everywhere = self.chosen[place], self._everywhere
        fold, made, chosen, ref = done.fold, done.made, done.candidate, done.reference
        best = made[chosen]
        controls = controls_for(best, reference=ref, seeds=range(DRAWS))
        if len({self.ground.own.pairs[row].group for row in fold.test}) < 2:
            # no other pair to take values from
            controls = [each for each in controls if each.role != "other_donor"]
        same = (chosen.method, chosen.kind)
        tried = {
            candidate: each
            for candidate, each in made.items()
            if (candidate.method, candidate.kind) == same  # the curve
            or candidate.k == chosen.k  # its rivals
            or candidate in everywhere
        }
        beside = [
            control
            for candidate, each in tried.items()
            # the controls of the chosen size exist already
            if (candidate.method, candidate.kind) == same and candidate.k != chosen.k
            for control in random_controls(each, ref, seeds=(self.settings.seed,))
        ]
        first = [each for each in tried if each == chosen or each in everywhere]
        frames = [self._measured(fold.test, [*map(made.__getitem__, first), *controls])]
        if few := [tried[each] for each in tried if each not in first] + beside:
            frames.append(self._measured(self._some(fold), few))
        frame = pd.concat(frames, ignore_index=True)
        frame["fold"] = fold.number
        frame["chosen"] = (
            (frame["label"] == chosen.method)
            & (frame["intervention"].eq(chosen.kind) | ~frame["role"].eq("selected"))
            & (frame["k"] == chosen.k)
        )
        self.frames.append(frame)
        self.applied.append((best, ref.moments.mean_of(best.donor)))
        if fold.number == 0 and routed(self.ground.model).get("routing") != "frozen":
            self._read(fold, best)  # a written token has no unchanged run whose routing it could keep

    def _measured(self, rows: Sequence[int], interventions: Sequence[Intervention]) -> Any:
        return measure(
            self.ground.model,
            self.ground.own.at(rows),
            interventions,
            positions=self.ground.positions,
            activations=activations_at(self.ground, rows),
            progress=self.progress,
        ).to_frame()

    def _some(self, fold: RowFold) -> list[int]:
        """Held-out rows for what stands beside the choice."""
        draw = random.Random(f"{self.settings.seed}/{fold.number}/beside")
        return sorted(draw.sample(fold.test, min(_BESIDE, len(fold.test))))

    def draw_again(self) -> None:
        """Further draws of random neurons, and of controls whose intervals contain the verdict's bar."""
        import pandas as pd

        picked = pd.concat(self.frames, ignore_index=True).query("chosen")
        rates = {role: _rates(own) for role, own in picked.groupby("role") if role in CONTROLS}
        doubtful = [role for role, own in rates.items() if in_doubt(own["answers"], *own["answers_ci"])]
        draw = partial(controls_for, seeds=range(DRAWS, MOST_DRAWS), roles=["random", *doubtful])
        asked = [
            (done.fold.test, draw(done.made[done.candidate], reference=done.reference))
            for done in self.chosen
        ]
        every = self.ground.own.pairs
        self.draws = [
            (control.role, control.draw, every[row].id, every[row].group, bool(hit))
            for (test, drawn), found in zip(asked, flips_at(self.ground, self.progress, asked), strict=True)
            for control, answers in zip(drawn, found, strict=True)
            for row, hit in zip(test, answers, strict=True)
        ]

    def _read(self, fold: RowFold, best: Intervention) -> None:
        """The model's text after two held-out prompts, with and without the intervention.

        Prompts of one length are continued together.
        """
        own, ids = self.ground.own, self.ground.own.ids(best.recipient)
        first, *rest = fold.test
        later = rest[len(rest) // 2 :]
        second = [row for row in later if len(ids[row]) == len(ids[first])] or later
        pairs = [own.pairs[row] for row in (first, *second[:1])]
        prompts = [ids[row].tolist() for row in (first, *second[:1])]
        model, at = self.ground.model, self.ground.positions
        before = continuations(model, prompts, max_new_tokens=_WRITTEN)
        if best.needs_donor:
            both = [(getattr(pair, best.recipient), getattr(pair, best.donor)) for pair in pairs]
            after = [
                generate(model, prompt, best, donor_prompt=donor, max_new_tokens=_WRITTEN, positions=at)
                for prompt, donor in both
            ]
        else:
            after = continuations(model, prompts, best, max_new_tokens=_WRITTEN, positions=at)
        what = f"{best.kind} of {len(best)} neurons"
        for pair, *texts in zip(pairs, before, after, strict=True):
            prompt = getattr(pair, best.recipient)
            self.examples.append(Example(pair.family, self.ground.direction, what, prompt, *texts))

    def flips(self) -> list[Flip]:
        import pandas as pd

        table = pd.concat(self.frames, ignore_index=True)
        info = inspect_model(self.ground.model)
        common: dict[str, Any] = {
            "family": self.ground.family,
            "direction": self.ground.direction,
            "split": self.settings.split,
        }
        found: list[Flip] = []
        main = table[table["role"] == "selected"]
        for (method, kind, k), part in main.groupby(["label", "intervention", "k"], sort=False):
            found.append(
                Flip(
                    method=method,
                    intervention=kind,
                    k=int(k),
                    fraction=int(k) / info.n_neurons,
                    selected=False,
                    **_rates(part),
                    **common,
                )
            )
        picked = table[table["chosen"]]
        controls: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float] | None] = {}
        drawn = pd.concat([picked, pd.DataFrame(self.draws, columns=_DRAWN).assign(prefers=False)])
        for name in (*CONTROLS, "other_donor"):
            part = drawn[drawn["role"] == name]
            found_of = _rates(part) if len(part) else None
            controls[name] = found_of["answers"] if found_of else None
            intervals[name] = found_of["answers_ci"] if found_of else None
        candidates = [each.candidate for each in self.chosen]
        k = max(each.k for each in candidates)
        rates = _rates(picked[picked["role"] == "selected"])
        of_draw = _by_draw(drawn)
        harm: torch.Tensor | None = None
        best, means = zip(*self.applied, strict=True)
        if texts := self.settings.neutral:
            harm = damage(self.ground.model, texts, best, donor_means=means).mean(dim=0)
        chosen = Flip(
            method="+".join(dict.fromkeys(each.method for each in candidates)),
            intervention="+".join(dict.fromkeys(each.kind for each in candidates)),
            k=k,
            fraction=k / info.n_neurons,
            selected=True,
            controls=controls,
            controls_ci=intervals,
            controls_worst={name: max(own) for name, own in of_draw.items()},
            random_p=_p_of_draws(rates["answers"], of_draw["random"]),
            control_answers=max(v for n, v in controls.items() if n in CONTROLS and v is not None),
            damage_kl=None if harm is None else float(harm.mean()),
            damage_ci=None if harm is None else statistics.mean_interval(harm.numpy(), range(len(harm))),
            other_families_kept=still_answered(
                self.ground.model, self.ground.others, best, means, positions=self.ground.positions
            ),
            per_fold=tuple(map(str, candidates)),
            chosen_on=min(each.choice.pairs for each in self.chosen),
            tied=max(each.choice.tied for each in self.chosen),
            **_regret(main, lambda each: each not in self._loud()),
            **rates,
            **common,
        )
        same = [
            place
            for place, flip in enumerate(found)
            if (flip.method, flip.intervention, flip.k) == (chosen.method, chosen.intervention, chosen.k)
            and len(set(candidates)) == 1
        ]
        for place in same:
            del found[place]
        return [chosen, *found]


def _by_draw(picked: Any) -> dict[str, list[float]]:
    """Control -> the share of held-out answers that each of its draws flips."""
    drawn = picked[picked["role"].isin(CONTROLS)].groupby(["role", "draw"])["answers"].mean()
    return {name: drawn[name].tolist() for name in CONTROLS}


def _p_of_draws(rate: float, draws: Sequence[float]) -> float:
    """Monte Carlo p-value, in which the choice counts as one more draw."""
    return (1 + sum(each >= rate for each in draws)) / (1 + len(draws))


def _regret(main: Any, allowed: Callable[[Candidate], bool]) -> dict[str, Any]:
    """Rate of the best candidate that every fold measured, minus that of the choice; paired interval."""
    chosen = main[main["chosen"]].set_index("pair")
    found = {}
    for (method, kind, k), part in main.groupby(["label", "intervention", "k"], sort=False):
        candidate = Candidate(method, kind, int(k))
        if len(part) == len(chosen) and allowed(candidate):
            found[candidate] = part.set_index("pair")["answers"]
    if not found:
        return {"compared": 0}
    best = max(found, key=lambda each: float(found[each].mean()))
    beyond = found[best].astype(float) - chosen["answers"].astype(float)  # aligned by pair
    return {
        "regret": float(beyond.mean()),
        "best": str(best),
        "compared": len(found),
        "regret_ci": statistics.mean_interval(
            beyond.to_numpy(), chosen["group"].reindex(beyond.index).tolist()
        ),
    }


def _rates(part: Any) -> dict[str, Any]:
    groups = part["group"].tolist()
    return {
        "answers": float(part["answers"].mean()),
        "answers_ci": statistics.rate_interval(part["answers"].to_numpy(), groups),
        "prefers": float(part["prefers"].mean()),
        "prefers_ci": statistics.rate_interval(part["prefers"].to_numpy(), groups),
        "n": int(part["pair"].nunique()),
        "groups": len(set(groups)),
    }


def flip_record(flip: Flip) -> dict[str, Any]:
    """The row for `summary.json`."""
    return asdict(flip)
