"""The main job: from a model and pairs to neurons, flips on held-out pairs, and a verdict.

For each family of pairs and each direction, in folds that leave out groups (and templates):

1. rank neurons on the training pairs, for the very intervention that will be applied;
2. choose intervention and number of neurons on the training pairs (`selection.choose`);
3. apply everything to the held-out pairs: each candidate (they make the flip curves), the chosen
   one's controls, and its damage on neutral text and on the other families.

The folds' held-out pairs together are all pairs, each judged by neurons that it had no part in
finding. Verdict, stated in advance: "a small set decides" where the chosen rows flip at least 90 % of
answers both ways with at most 1 % of the neurons, and no control flips more than 5 %.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from neurotrace import statistics
from neurotrace.activations import Activations, Moments
from neurotrace.controls import CONTROLS, controls_for, write_norms
from neurotrace.effects import Effects, logits_under, measure
from neurotrace.errors import InputError
from neurotrace.generation import generate
from neurotrace.hooks import ModelInfo, inspect_model
from neurotrace.interventions import Intervention, Kind, on_others, set_to_mean
from neurotrace.neutral import damage
from neurotrace.pairs import PromptPair, fold_pairs
from neurotrace.rankers import exact
from neurotrace.scores import DIRECTIONS, Direction, Scores
from neurotrace.selection import (
    METHODS,
    Candidate,
    Evidence,
    choose,
    default_ks,
    gather,
    interventions_for,
    rank,
)
from neurotrace.tokens import EncodedPairs, Progress, by_length, encode

DEFAULT_METHODS = ("gradient", "two_ended")
DEFAULT_KINDS: tuple[Kind, ...] = ("patch", "set", "zero", "mean", "shift")
_WRITTEN = 8  # tokens of continuation in the report's examples
VERDICT = {"answers": 0.90, "fraction": 0.01, "control_answers": 0.05}


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
class Study:
    """Everything that the main job found; `save_run` writes it to a folder."""

    model: ModelInfo
    encoded: EncodedPairs
    read: int
    split: str
    folds: int
    seed: int
    scores: dict[tuple[str, str, Direction], Scores]  # (family, method, direction), all kept pairs
    effects: Effects  # held-out rows, with `fold` and `chosen` beside the usual columns
    flips: tuple[Flip, ...]
    estimates: tuple[
        tuple[str, Direction, Scores, Scores], ...
    ]  # family, direction, estimate, exact
    smallest_train: int
    examples: tuple[Example, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(pair.family for pair in self.encoded.pairs))

    def selected(self) -> list[Flip]:
        """The one row for each family and direction that was chosen on training pairs."""
        return [flip for flip in self.flips if flip.selected]

    def verdicts(self) -> dict[str, bool]:
        """Family -> whether a small set of neurons decides, by the rule stated in the module."""
        found = {}
        for family in self.families:
            own = [flip for flip in self.selected() if flip.family == family]
            found[family] = len(own) == len(DIRECTIONS) and all(
                flip.answers >= VERDICT["answers"]
                and flip.fraction <= VERDICT["fraction"]
                and (flip.control_answers or 0.0) <= VERDICT["control_answers"]
                for flip in own
            )
        return found


@dataclass(frozen=True)
class _Fold:
    number: int
    train: list[int]
    test: list[int]


def study(
    model: Any,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    interventions: Sequence[Kind] = DEFAULT_KINDS,
    ks: Sequence[int] | None = None,
    split: str = "group",
    folds: int = 5,
    seed: int = 0,
    neutral: Sequence[str] = (),
    tried_on: int = 48,
    exact_neurons: int = 100,
    exact_pairs: int = 8,
    progress: Progress = None,
) -> Study:
    """Find the neurons that flip the model's answers, and measure on held-out pairs that they do.

    Args:
        methods: rankers to try, names from `selection.METHODS`.
        interventions: kinds to try, in order of preference where they tie.
        ks: numbers of neurons to try; default: powers of two up to 1 % of the neurons, at most 64.
        split: ``"group"``, or ``"group+template"`` for unseen groups *and* unseen templates.
        neutral: texts on which damage (KL) is measured.
        tried_on: training pairs, at most, on which candidates are compared.
        exact_neurons: per direction, how many get their exact effect beside the estimate; 0: none.

    Raises:
        InputError: unknown names, k larger than the model, no pair that behaves, too few groups.
    """
    info = inspect_model(model)
    ks = tuple(sorted(set(ks))) if ks else default_ks(info.n_neurons)
    _check(methods, interventions, ks, info)
    read = len(pairs.pairs) + len(pairs.dropped) if isinstance(pairs, EncodedPairs) else len(pairs)
    encoded = encode(model, pairs, progress=progress)
    norms = write_norms(model)
    families = list(dict.fromkeys(pair.family for pair in encoded.pairs))
    flips: list[Flip] = []
    tables = []
    scores: dict[tuple[str, str, Direction], Scores] = {}
    estimates = []
    examples: list[Example] = []
    smallest = len(encoded)
    for family in families:
        own = encoded.at([r for r, pair in enumerate(encoded.pairs) if pair.family == family])
        others = encoded.at([r for r, pair in enumerate(encoded.pairs) if pair.family != family])
        parts = _folds(own, split, folds, seed)
        smallest = min(smallest, *(len(part.train) for part in parts))
        evidence = gather(model, own, progress=progress)
        everything = range(len(own))
        for direction in DIRECTIONS:
            for method in methods:
                scores[family, method, direction] = rank(
                    model, own, evidence, everything, method=method, kind=interventions[0],
                    direction=direction,
                )  # fmt: skip
            tables += (job := _Job(
                model, own, others, evidence, direction, methods, interventions, ks, norms,
                neutral, tried_on, seed, progress,
            )).run(parts)  # fmt: skip
            flips += job.flips(info, family, split)
            examples += job.examples
            if exact_neurons and "gradient" in methods:
                estimates.append(
                    (family, direction, *_estimates(model, own, evidence, direction,
                                                    exact_neurons, exact_pairs, progress))
                )  # fmt: skip
    return Study(
        info, encoded, read, split, folds, seed, scores, _join(tables), tuple(flips),
        tuple(estimates), smallest, tuple(examples),
        {"methods": list(methods), "interventions": list(interventions), "ks": list(ks),
         "neutral_texts": len(neutral), "tried_on": tried_on},
    )  # fmt: skip


class _Job:
    """One family and direction: fills `chosen`, `damages`, `kept` and held-out frames by fold."""

    def __init__(
        self, model: Any, own: EncodedPairs, others: EncodedPairs, evidence: Evidence,
        direction: Direction, methods: Sequence[str], kinds: Sequence[Kind], ks: Sequence[int],
        norms: torch.Tensor, neutral: Sequence[str], tried_on: int, seed: int, progress: Progress,
    ):  # fmt: skip
        self.model, self.own, self.others, self.evidence = model, own, others, evidence
        self.direction, self.methods, self.kinds, self.ks = direction, methods, kinds, ks
        self.norms, self.neutral, self.tried_on = norms, neutral, tried_on
        self.seed, self.progress = seed, progress
        self.chosen: list[Candidate] = []
        self.damages: list[torch.Tensor] = []
        self.kept: list[float] = []
        self.frames: list[Any] = []
        self.examples: list[Example] = []

    def run(self, folds: Sequence[_Fold]) -> list[Any]:
        for fold in folds:
            reference = self.evidence.moments(fold.train)
            made = self._candidates(fold, reference)
            tried = random.Random(f"{self.seed}/{fold.number}").sample(
                fold.train, min(self.tried_on, len(fold.train))
            )
            on_train = self._measure(sorted(tried), list(made.values()))
            chosen = choose(on_train, list(made))
            self.chosen.append(chosen)
            self._held_out(fold, made, chosen, reference)
        return self.frames

    def _measure(self, rows: Sequence[int], interventions: Sequence[Intervention]) -> Effects:
        values = self.evidence.activations.values[:, list(rows)]
        pairs = self.own.at(rows)
        return measure(
            self.model, pairs, interventions, activations=Activations(values, pairs.pairs),
            progress=self.progress,
        )  # fmt: skip

    def _candidates(self, fold: _Fold, reference: Moments) -> dict[Candidate, Intervention]:
        made: dict[Candidate, Intervention] = {}
        for method in self.methods:
            for kind in self.kinds:
                ranking = rank(
                    self.model, self.own, self.evidence, fold.train, method=method, kind=kind,
                    direction=self.direction,
                )  # fmt: skip
                for each in interventions_for(
                    ranking, kind=kind, direction=self.direction, ks=self.ks, reference=reference
                ):
                    made[Candidate(method, kind, len(each))] = each
        return made

    def _held_out(
        self, fold: _Fold, made: dict[Candidate, Intervention], chosen: Candidate, ref: Moments
    ) -> None:
        best = made[chosen]
        controls = controls_for(best, reference=ref, norms=self.norms)
        if len({self.own.pairs[row].group for row in fold.test}) < 2:  # nobody to borrow from
            controls = [each for each in controls if each.role != "other_donor"]
        # the curves' control: random neurons under the chosen kind, at the other sizes
        drawn = Scores("random", torch.randn(self.norms.shape))
        curve = [
            replace(
                on_others(
                    each, drawn.random_like(each.neurons, seed=self.seed), ref, role="random"
                ),
                label=each.label,
            )
            for candidate, each in made.items()
            if candidate.kind == chosen.kind
            and candidate.method == chosen.method
            and candidate.k != chosen.k
        ]
        everything = [*made.values(), *controls, *curve]
        frame = self._measure(fold.test, everything).to_frame()
        frame["fold"] = fold.number
        frame["chosen"] = (
            (frame["label"] == chosen.method)
            & (frame["intervention"].eq(chosen.kind) | ~frame["role"].eq("selected"))
            & (frame["k"] == chosen.k)
        )
        self.frames.append(frame)
        donor_mean = ref.mean_of(best.donor)
        if self.neutral:
            self.damages.append(damage(self.model, self.neutral, best, donor_mean=donor_mean))
        if fold.number == 0:
            self._read(fold, best)
        if len(self.others):
            self.kept.append(_kept(self.model, self.others, best, ref))

    def _read(self, fold: _Fold, best: Intervention) -> None:
        """What the model writes on three held-out prompts, with and without the intervention."""
        for row in fold.test[:: max(1, len(fold.test) // 3)][:3]:
            pair = self.own.pairs[row]
            prompt, donor = getattr(pair, best.recipient), getattr(pair, best.donor)
            before = generate(self.model, prompt, max_new_tokens=_WRITTEN)
            after = generate(
                self.model, prompt, best, donor_prompt=donor, max_new_tokens=_WRITTEN,
                positions="read",
            )  # fmt: skip
            what = f"{best.kind} of {len(best)} neurons"
            self.examples.append(Example(pair.family, self.direction, what, prompt, before, after))

    def flips(self, info: ModelInfo, family: str, split: str) -> list[Flip]:
        import pandas as pd

        table = pd.concat(self.frames, ignore_index=True)
        common = {"family": family, "direction": self.direction, "split": split}
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
        harm = torch.stack(self.damages).mean(dim=0) if self.damages else None
        chosen = Flip(
            method="+".join(dict.fromkeys(each.method for each in self.chosen)),
            intervention="+".join(dict.fromkeys(each.kind for each in self.chosen)),
            k=k, fraction=k / info.n_neurons, selected=True,
            controls=controls, controls_ci=intervals,
            control_answers=max(v for n, v in controls.items() if n in CONTROLS and v is not None),
            damage_kl=None if harm is None else float(harm.mean()),
            damage_ci=None if harm is None else statistics.mean_interval(
                harm.numpy(), range(len(harm))),
            other_families_kept=sum(self.kept) / len(self.kept) if self.kept else None,
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


def _kept(model: Any, others: EncodedPairs, best: Intervention, reference: Moments) -> float:
    """Share of other families' prompts, of the kind flipped *to*, still answered as before."""
    used = best
    if best.needs_donor:  # no donor run belongs to these prompts: its class's mean stands in
        used = set_to_mean(best.neurons, reference, donor=best.donor)
    wanted = others.reasoned if best.donor == "reasoning" else others.memorized
    hits = 0
    for rows, ids in by_length(others.ids(best.donor), 64):
        _, (logits,) = logits_under(model, ids, [used], [None])
        hits += int((logits.argmax(-1) == wanted[rows]).sum())
    return hits / len(others)


def _estimates(
    model: Any,
    own: EncodedPairs,
    evidence: Evidence,
    direction: Direction,
    count: int,
    n_pairs: int,
    progress: Progress,
) -> tuple[Scores, Scores]:
    """Gradient and exact effect of a donor patch, on the same few pairs and neurons."""
    rows = list(range(0, len(own), max(1, len(own) // n_pairs)))[:n_pairs]
    estimate = rank(
        model, own, evidence, rows, method="gradient", kind="patch", direction=direction
    )
    both = [d for d in DIRECTIONS]
    neurons = [
        n for d in both for n in estimate.top(min(count, estimate.n_neurons // 2), direction=d)
    ]
    donor = "reasoning" if direction == "to_reasoning" else "memorization"
    truth = exact(
        model, own.at(rows), donor=donor, intervention="patch", neurons=neurons, progress=progress
    )
    return estimate, truth


def _folds(own: EncodedPairs, split: str, folds: int, seed: int) -> list[_Fold]:
    place = {pair.id: row for row, pair in enumerate(own.pairs)}
    groups = len({pair.group for pair in own.pairs})
    made = fold_pairs(own.pairs, split=split, folds=max(2, min(folds, groups)), seed=seed)
    return [
        _Fold(number, [place[p.id] for p in fold.train], [place[p.id] for p in fold.test])
        for number, fold in enumerate(made)
    ]


def _join(frames: Sequence[Any]) -> Effects:
    import pandas as pd
    import pyarrow as pa

    return Effects(pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False))


def _check(
    methods: Sequence[str], kinds: Sequence[str], ks: Sequence[int], info: ModelInfo
) -> None:
    for method in methods:
        if method not in METHODS:
            raise InputError(f"method {method!r}: wanted one of {', '.join(METHODS)}")
    known = ("patch", "set", "zero", "mean", "shift", "scale")
    for kind in kinds:
        if kind not in known:
            raise InputError(f"intervention {kind!r}: wanted one of {', '.join(known)}")
    if not methods or not kinds:
        raise InputError("wanted at least one method and one intervention")
    if min(ks) < 1 or max(ks) > info.n_neurons // 2:
        wrong = next(k for k in ks if k < 1 or k > info.n_neurons // 2)
        raise InputError(
            f"k={wrong}: wanted 1 to {info.n_neurons // 2}, half of the model's neurons"
        )


def flip_record(flip: Flip) -> dict[str, Any]:
    """The row as it stands in `summary.json`."""
    return asdict(flip)
