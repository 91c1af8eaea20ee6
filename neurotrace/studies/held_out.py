"""Measurements on held-out pairs, for one family and one direction.

In each fold neurons are ranked and the intervention is chosen on the training pairs. On the held-out
pairs the following is measured: the chosen intervention at every number of neurons (the flip curve)
beside random neurons; every other kind at the chosen number; the controls of the chosen one; its damage
on neutral text and on the other families. The folds' held-out pairs together are all pairs, and no pair
is measured with neurons that it helped to find.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from neurotrace.core import statistics
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.interventions.controls import CONTROLS, controls_for, random_control
from neurotrace.interventions.damage import damage, standing_in
from neurotrace.interventions.effects import Effects, measure
from neurotrace.interventions.generation import generate
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import form_of, values_at
from neurotrace.interventions.logits import logits_under
from neurotrace.interventions.reference import Evidence, Reference
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import rank
from neurotrace.rankers.training import Training
from neurotrace.studies.selection import Candidate, StudySettings, choose, interventions_for

_WRITTEN = 6  # tokens of continuation in the report's examples


@dataclass(frozen=True)
class Flip:
    """Held-out flip rates of one (family, method, direction, intervention, k); rates in 0..1."""

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
    control_answers: float | None = None
    damage_kl: float | None = None
    damage_ci: tuple[float, float] | None = None
    other_families_kept: float | None = None
    per_fold: tuple[str, ...] = ()


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
class RowFold:
    """A fold as rows of the encoded pairs."""

    number: int
    train: list[int]
    test: list[int]


@dataclass(frozen=True)
class Ground:
    """What is proved on: one family's pairs and one direction, with the other families beside."""

    model: HookedModel
    own: EncodedPairs
    others: EncodedPairs
    evidence: Evidence  # of `own`
    family: str
    direction: Direction


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
    for fold in folds:
        proof.run(fold)
    applied = [
        replace(each, donor_mean=values_at(means, each.neurons)) for each, means in proof.applied
    ]
    return Proved(tuple(proof.frames), tuple(proof.flips()), tuple(proof.examples), tuple(applied))


class _Proof:
    """Gathers what is chosen, applied and measured, fold by fold."""

    def __init__(self, ground: Ground, settings: StudySettings, progress: Progress) -> None:
        self.ground, self.settings, self.progress = ground, settings, progress
        self.chosen: list[Candidate] = []
        self.applied: list[tuple[Intervention, torch.Tensor]] = []  # with its donor class's means
        self.frames: list[Any] = []
        self.examples: list[Example] = []

    def run(self, fold: RowFold) -> None:
        reference = self.ground.evidence.reference(fold.train)
        made = self._candidates(fold, reference)
        draw = random.Random(f"{self.settings.seed}/{fold.number}")
        tried = sorted(draw.sample(fold.train, min(self.settings.tried_on, len(fold.train))))
        chosen = choose(made, reference, partial(self._measure, tried, cleans={}))
        self.chosen.append(chosen)
        self._held_out(fold, made, chosen, reference)

    def _measure(
        self,
        rows: Sequence[int],
        interventions: Sequence[Intervention],
        cleans: dict[bytes, Any] | None = None,
    ) -> Effects:
        values = self.ground.evidence.activations.values[:, list(rows)]
        pairs = self.ground.own.at(rows)
        return measure(
            self.ground.model, pairs, interventions,
            activations=Activations(values, pairs.pairs), cleans=cleans, progress=self.progress,
        )  # fmt: skip

    def _candidates(self, fold: RowFold, reference: Reference) -> dict[Candidate, Intervention]:
        ground, settings = self.ground, self.settings
        made: dict[Candidate, Intervention] = {}
        for method in settings.methods:
            for kind in settings.kinds:
                together = form_of(kind).together is not None
                if together and method == "gradient" and len(settings.methods) > 1:
                    continue  # its shift follows the two-ended slope, so its ranking does, too
                training = Training(
                    ground.model, ground.own, ground.evidence, fold.train, kind, ground.direction,
                    reference,
                )  # fmt: skip
                for each in interventions_for(
                    rank(training, method), kind=kind, direction=ground.direction, ks=settings.ks,
                    reference=reference,
                ):  # fmt: skip
                    made[Candidate(method, kind, len(each))] = each
        return made

    def _held_out(
        self, fold: RowFold, made: dict[Candidate, Intervention], chosen: Candidate, ref: Reference
    ) -> None:
        best = made[chosen]
        controls = controls_for(best, reference=ref)
        if (
            len({self.ground.own.pairs[row].group for row in fold.test}) < 2
        ):  # no other pair to take values from
            controls = [each for each in controls if each.role != "other_donor"]
        curve = [
            each
            for candidate, each in made.items()
            if (candidate.method, candidate.kind) == (chosen.method, chosen.kind)
        ]
        rivals = [
            each
            for candidate, each in made.items()
            if candidate.k == chosen.k
            and (candidate.method, candidate.kind) != (chosen.method, chosen.kind)
        ]
        drawn = Scores("random", torch.zeros_like(ref.norms))
        beside = [
            replace(
                random_control(each, drawn.random_like(each.neurons, seed=self.settings.seed), ref),
                label=each.label,
            )
            for each in curve
            if len(each) != chosen.k  # the controls of this size exist already
        ]
        everything = [*curve, *rivals, *controls, *beside]
        frame = self._measure(fold.test, everything).to_frame()
        frame["fold"] = fold.number
        frame["chosen"] = (
            (frame["label"] == chosen.method)
            & (frame["intervention"].eq(chosen.kind) | ~frame["role"].eq("selected"))
            & (frame["k"] == chosen.k)
        )
        self.frames.append(frame)
        self.applied.append((best, ref.moments.mean_of(best.donor)))
        if fold.number == 0:
            self._read(fold, best)

    def _read(self, fold: RowFold, best: Intervention) -> None:
        """The model's text after two held-out prompts, with and without the intervention."""
        for row in fold.test[:: max(1, len(fold.test) // 2)][:2]:
            pair = self.ground.own.pairs[row]
            prompt, donor = getattr(pair, best.recipient), getattr(pair, best.donor)
            before = generate(self.ground.model, prompt, max_new_tokens=_WRITTEN)
            after = generate(
                self.ground.model, prompt, best, donor_prompt=donor, max_new_tokens=_WRITTEN,
                positions="read",
            )  # fmt: skip
            what = f"{best.kind} of {len(best)} neurons"
            self.examples.append(
                Example(pair.family, self.ground.direction, what, prompt, before, after)
            )

    def flips(self) -> list[Flip]:
        import pandas as pd

        table = pd.concat(self.frames, ignore_index=True)
        info = inspect_model(self.ground.model)
        common: dict[str, Any] = {
            "family": self.ground.family, "direction": self.ground.direction,
            "split": self.settings.split,
        }  # fmt: skip
        found: list[Flip] = []
        main = table[table["role"] == "selected"]
        for (method, kind, k), part in main.groupby(["label", "intervention", "k"], sort=False):
            found.append(
                Flip(
                    method=method, intervention=kind, k=int(k), fraction=int(k) / info.n_neurons,
                    selected=False, **_rates(part), **common,
                )
            )  # fmt: skip
        picked = table[table["chosen"]]
        controls: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float] | None] = {}
        for name in (*CONTROLS, "other_donor"):
            part = picked[picked["role"] == name]
            rates = _rates(part) if len(part) else None
            controls[name] = rates["answers"] if rates else None
            intervals[name] = rates["answers_ci"] if rates else None
        k = max(each.k for each in self.chosen)
        harm: torch.Tensor | None = None
        best, means = zip(*self.applied, strict=True)
        if self.settings.neutral:
            harm = damage(self.ground.model, self.settings.neutral, best, donor_means=means).mean(
                dim=0
            )
        chosen = Flip(
            method="+".join(dict.fromkeys(each.method for each in self.chosen)),
            intervention="+".join(dict.fromkeys(each.kind for each in self.chosen)),
            k=k, fraction=k / info.n_neurons, selected=True,
            controls=controls, controls_ci=intervals,
            control_answers=max(v for n, v in controls.items() if n in CONTROLS and v is not None),
            damage_kl=None if harm is None else float(harm.mean()),
            damage_ci=None if harm is None else statistics.mean_interval(
                harm.numpy(), range(len(harm))),
            other_families_kept=_kept(self.ground.model, self.ground.others, best, means),
            per_fold=tuple(f"{each.method} {each.kind} {each.k}" for each in self.chosen),
            **_rates(picked[picked["role"] == "selected"]), **common,
        )  # fmt: skip
        same = [
            place for place, flip in enumerate(found)
            if (flip.method, flip.intervention, flip.k)
            == (chosen.method, chosen.intervention, chosen.k)
            and len(set(self.chosen)) == 1
        ]  # fmt: skip
        for place in same:
            del found[place]
        return [chosen, *found]


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


def _kept(
    model: HookedModel, others: EncodedPairs, applied: Sequence[Intervention],
    donor_means: Sequence[torch.Tensor],
) -> float | None:  # fmt: skip
    """Share of other families' prompts, on the side flipped *to*, that are answered as before.

    They have no donor run: as on neutral text, the donor class's mean is used.
    """
    if not len(others):
        return None
    donor = applied[0].donor
    wanted = others.reasoned if donor == "reasoning" else others.memorized
    hits = 0
    for rows, ids in by_length(others.ids(donor), 64):
        given = standing_in(applied, donor_means, len(rows))
        _, changed = logits_under(model, ids, applied, given)
        hits += sum(int((logits.argmax(-1) == wanted[rows]).sum()) for logits in changed)
    return hits / (len(others) * len(applied))


def flip_record(flip: Flip) -> dict[str, Any]:
    """The row for `summary.json`."""
    return asdict(flip)
