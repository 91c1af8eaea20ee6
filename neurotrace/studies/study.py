"""The main study: from a model and pairs to neurons, flips on held-out pairs, and a verdict.

For each family of pairs and each direction, in folds that leave out groups (and templates):

1. rank neurons on the training pairs, for the intervention that will be applied;
2. choose intervention and number of neurons on the training pairs (`selection.choose`);
3. measure it on the held-out pairs, beside controls and damage (`held_out.prove`).

The verdict on each family follows a rule that is stated in advance (`verdict.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair, fold_pairs
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS, Direction, spoken
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import NOTHING_KEPT, TABLE, Units, many, records, several
from neurotrace.interventions.damage import neutral_ids
from neurotrace.interventions.effects import Effects
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import Kind, values_at
from neurotrace.interventions.logits import WithinRun
from neurotrace.interventions.reference import Evidence, gather
from neurotrace.interventions.targets import routed
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import ModelInfo, inspect_model
from neurotrace.models.identity import model_identity, model_record, pairs_hash, surroundings
from neurotrace.models.origins import keep_runs, keeps_runs
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.exact import exact
from neurotrace.rankers.registry import rank
from neurotrace.rankers.training import Training, interventions_for
from neurotrace.studies.held_out import Example, Flip, Proved, flip_record, prove
from neurotrace.studies.selection import (
    DEFAULT_KINDS,
    DEFAULT_METHODS,
    Ground,
    RowFold,
    StudySettings,
    default_ks,
    without_small_families,
)
from neurotrace.studies.verdict import Verdict, verdicts_of

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"  # the fold of an intervention that was made from all pairs
_ELSEWHERE = 64  # maximum number of pairs of the other families for a family's damage


@dataclass(frozen=True)
class Study(Shown):
    """The result of the main study; `save_run` writes it to a folder."""

    model: ModelInfo
    encoded: EncodedPairs
    read: int
    split: str
    folds: int
    seed: int
    scores: dict[tuple[str, str, Direction], Scores]  # (family, method, direction), all kept pairs
    effects: Effects  # held-out rows, with the columns `fold` and `chosen` as well
    flips: tuple[Flip, ...]
    estimates: tuple[tuple[str, Direction, Scores, Scores], ...]  # family, direction, estimate, exact
    smallest_train: int
    examples: tuple[Example, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    # for each family and direction: what each fold chose, then one made from all pairs
    interventions: tuple[Intervention, ...] = ()

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(pair.family for pair in self.encoded.pairs))

    def selected(self) -> list[Flip]:
        """For each family and direction the row that was chosen on training pairs."""
        return [flip for flip in self.flips if flip.selected]

    def verdicts(self) -> dict[str, Verdict]:
        """Family -> whether a small set of neurons decides, by the rule of `verdict.py`."""
        return verdicts_of(map(flip_record, self.flips))

    def to_frame(self) -> pd.DataFrame:
        """The flips: one row for each (family, method, direction, intervention, k) that was tried."""
        import pandas as pd

        return pd.DataFrame([flip.__dict__ for flip in self.flips])

    def _view(self) -> View:
        columns = (
            "family",
            "direction",
            "chosen",
            "k",
            "flipped",
            "95 %",
            "controls",
            "p",
            "regret",
            "damage",
        )
        rows = [
            (
                flip.family,
                spoken(flip.direction),
                f"{flip.method}, {flip.intervention}",
                flip.k,
                rate(flip.answers),
                f"{flip.answers_ci[0]:.0%}–{flip.answers_ci[1]:.0%}",
                f"≤ {flip.control_answers:.1%}, worst draw {max(flip.controls_worst.values()):.1%}",
                f"{flip.random_p:.2g}",
                "–" if flip.regret is None else f"{flip.regret:+.1%}",
                None if flip.damage_kl is None else f"{flip.damage_kl:.3f}",
            )
            for flip in self.selected()
        ]
        return View(
            f"A study of {len(self.encoded)} pairs on {self.model.name} "
            f"({self.model.n_neurons:,} neurons), each held out once. "
            f"{'. '.join(map(str, self.verdicts().values()))}.",
            (Table(columns, rows, "Held-out answers flipped by what training pairs chose"),),
            "Every intervention: .to_frame(); pair by pair: .effects; the page: nt.save_run(study, ...).",
        )

    def __repr__(self) -> str:
        return f"Study({self.model.name}: {len(self.encoded)} pairs, {len(self.flips)} interventions)"


@renamed(interventions="kinds")
@takes_turns
@keeps_runs
def study(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    ks: Sequence[int] | None = None,
    split: str = "group",
    folds: int = 5,
    seed: int = 0,
    neutral: Sequence[str] = (),
    tried_on: int = 32,
    positions: WithinRun = "read",
    exact_neurons: int = 100,
    exact_pairs: int = 4,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> Study:
    """Find the neurons that flip the model's answers, and measure their flip rates on held-out pairs.

    Args:
        methods: rankers to try, names from `rankers.registry.RANKERS`.
        kinds: interventions to try, in order of preference where they tie.
        ks: numbers of neurons to try; default: four sizes up to 1 % of the neurons, at most 64.
        split: ``"group"``, or ``"group+template"`` for unseen groups *and* unseen templates.
        neutral: texts on which damage (KL) is measured.
        tried_on: maximum number of training pairs on which candidates are compared.
        positions: where neurons are changed: ``"read"``, the prompt's last token; ``"onward"``, there and
            at each token of the answer, for whole answers. They are ranked at the prompt's last token.
        exact_neurons: per direction, number of neurons whose exact effect is measured as well; 0: none.
        units: ``nt.Units("runs/mine")`` keeps what is finished in that folder, and the same call goes on
            from there after an interruption, to the same bits.

    Raises:
        InputError: unknown names, k larger than the model, no pair answered correctly, too few groups in
            every family (else a family of one group is left out with a warning); `units` of another call.

    Example::

        study = nt.study(model, nt.load_pairs("arithmetic"))
        nt.save_run(study, "runs/mine", model=model, probes=["arithmetic"])
    """
    info = inspect_model(model)
    settings = StudySettings(
        tuple(methods),
        tuple(kinds),
        tuple(sorted(set(ks or default_ks(info.n_neurons)))),
        split,
        folds,
        seed,
        tuple(neutral),
        tried_on,
        positions,
    )
    settings.check(info)
    read = len(pairs.pairs) + len(pairs.dropped) if isinstance(pairs, EncodedPairs) else len(pairs)
    encoded = without_small_families(encode(model, pairs, progress=progress), split)
    keep_runs(model, [*encoded.memorization, *encoded.reasoning])  # together, whichever part comes first
    families = list(dict.fromkeys(pair.family for pair in encoded.pairs))
    neutral_ids(model, neutral)  # before any work: what can't be read would stop it half-way
    split_up = {}
    for family in families:
        own = encoded.at([r for r, pair in enumerate(encoded.pairs) if pair.family == family])
        split_up[family] = own, folds_of(own, split, folds, seed)
    smallest = min(len(part.train) for _, parts in split_up.values() for part in parts)
    exactly = (exact_neurons, exact_pairs) if "gradient" in methods else (0, 0)
    units.begin(
        {"command": "study", "model": {"name": info.name} | model_record(model), "exact": exactly}
        | {"pairs_sha256": pairs_hash(encoded), "settings": asdict(settings)}
        | {**routed(model), "surroundings": surroundings(model)}
    )
    jobs: dict[tuple[str, Direction], tuple[str, Callable[[], dict[str, Any]]]] = {}
    for family, (own, row_folds) in split_up.items():
        others = encoded.at(elsewhere(encoded, family, seed))
        evidence = cache(partial(gather, model, own, progress=progress))  # only for what isn't finished
        for direction in DIRECTIONS:
            asked = (model, own, others, evidence, family, direction, row_folds, settings, exactly)
            jobs[family, direction] = f"{family} {direction}", partial(_part, *asked, progress)
    del evidence  # the jobs have it
    parts = units.each(_PART, jobs, progress, "family and direction")
    return Study(
        info,
        encoded,
        read,
        split,
        folds,
        seed,
        {
            (family, method, direction): each
            for (family, direction), part in parts.items()
            for method, each in zip(methods, part["scores"], strict=True)
        },
        _join([part["effects"] for part in parts.values()], routed(model)),
        _all(parts, "flips"),
        tuple((*key, *part["estimates"]) for key, part in parts.items() if part["estimates"]),
        smallest,
        _all(parts, "examples"),
        settings.record() | {"answers": encoded.reading, **routed(model)},
        _all(parts, "interventions"),
    )


def _all(parts: Mapping[Any, dict[str, Any]], name: str) -> tuple[Any, ...]:
    return tuple(each for part in parts.values() for each in part[name])


_PART = several(  # the study of one family and one direction
    scores=many(Scores),  # of each method, on all kept pairs
    effects=TABLE,
    flips=records(Flip),
    examples=records(Example),
    interventions=many(Intervention),
    estimates=many(Scores),  # estimated and exact; or none
)


def _part(
    model: HookedModel,
    own: EncodedPairs,
    others: EncodedPairs,
    evidence: Callable[[], Evidence],
    family: str,
    direction: Direction,
    folds: Sequence[RowFold],
    settings: StudySettings,
    exactly: tuple[int, int],
    progress: Progress,
) -> dict[str, Any]:
    import pandas as pd

    known = evidence()
    scores = [
        rank(Training(model, own, known, range(len(own)), settings.kinds[0], direction), method)
        for method in settings.methods
    ]
    ground = Ground(model, own, others, known, family, direction, settings.positions)
    proved = prove(ground, folds, settings, progress)
    return {
        "scores": scores,
        "effects": pd.concat(proved.frames, ignore_index=True),
        "flips": proved.flips,
        "examples": proved.examples,
        "interventions": _findings(ground, folds, proved, model_identity(model)),
        "estimates": _estimates(model, own, known, direction, *exactly, progress) if exactly[0] else (),
    }


def _estimates(
    model: HookedModel,
    own: EncodedPairs,
    evidence: Evidence,
    direction: Direction,
    count: int,
    n_pairs: int,
    progress: Progress,
) -> tuple[Scores, Scores]:
    """Gradient and exact effect of a donor patch, on the same few pairs and neurons."""
    rows = list(range(0, len(own), max(1, len(own) // n_pairs)))[:n_pairs]
    estimate = rank(Training(model, own, evidence, rows, "patch", direction), "gradient")
    both = [d for d in DIRECTIONS]
    neurons = [n for d in both for n in estimate.top(min(count, estimate.n_neurons // 2), direction=d)]
    truth = exact(
        model,
        own.at(rows),
        donor=direction.donor,
        kind="patch",
        neurons=neurons,
        progress=progress,
    )
    return estimate, truth


def elsewhere(encoded: EncodedPairs, family: str, seed: int) -> list[int]:
    """Rows of other families' pairs, drawn so that the families are balanced if possible."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(encoded.pairs):
        rows.setdefault(pair.family, []).append(row)
    others = [rows[name] for name in rows if name != family]
    for of_one in others:
        random.Random(seed).shuffle(of_one)
    dealt = [row for layer in zip_longest(*others) for row in layer if row is not None]
    return sorted(dealt[:_ELSEWHERE])


def folds_of(own: EncodedPairs, split: str, folds: int, seed: int) -> list[RowFold]:
    """The folds as rows; fewer where there are fewer groups."""
    place = {pair.id: row for row, pair in enumerate(own.pairs)}
    groups = len({pair.group for pair in own.pairs})
    made = fold_pairs(own.pairs, split=split, folds=max(2, min(folds, groups)), seed=seed)
    return [
        RowFold(number, [place[p.id] for p in fold.train], [place[p.id] for p in fold.test])
        for number, fold in enumerate(made)
    ]


def _join(frames: Sequence[Any], note: Mapping[str, str]) -> Effects:
    import pandas as pd
    import pyarrow as pa

    table = pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)
    return Effects(table.replace_schema_metadata({**(table.schema.metadata or {}), **note}))


def _findings(
    ground: Ground, folds: Sequence[RowFold], proved: Proved, identity: Mapping[str, str]
) -> tuple[Intervention, ...]:
    """The folds' interventions in order, then one from all pairs; each says how it was judged.

    Every pair helped to make the last one, so it has no held-out figures of its own: the folds' together
    say what to expect of it.
    """
    found = []
    about: dict[str, Any] = dict(identity) | {
        "family": ground.family,
        "site": "mlp.hook_post",
        "positions": ground.positions,
    }
    for fold, intervention, frame in zip(folds, proved.applied, proved.frames, strict=True):
        own = frame[frame["chosen"] & frame["role"].eq("selected")]
        judged = {
            "on": "the pairs that this fold left out",
            "pairs": len(own),
            "answers": float(own["answers"].mean()),
            "prefers": float(own["prefers"].mean()),
        }
        note = about | {"fold": fold.number, "trained_on": len(fold.train), "judged": judged}
        found.append(replace(intervention, provenance=note))
    chosen = next(flip for flip in proved.flips if flip.selected)
    judged = {
        "on": "held-out pairs, by the folds' interventions; this one was made from all pairs",
        "pairs": chosen.n,
        "answers": chosen.answers,
        "answers_ci": list(chosen.answers_ci),
        "prefers": chosen.prefers,
    }
    note = about | {"fold": ALL, "trained_on": len(ground.own), "judged": judged}
    found.append(replace(_from_all(ground, proved.applied), provenance=note))
    return tuple(found)


def _from_all(ground: Ground, applied: Sequence[Intervention]) -> Intervention:
    """What most folds chose (of equals, the first), ranked again and made from all pairs."""
    votes = Counter((each.label, each.kind, len(each)) for each in applied)
    ((method, kind, k), _) = votes.most_common(1)[0]
    everything = range(len(ground.own))
    reference = ground.evidence.reference(everything)
    training = Training(
        ground.model, ground.own, ground.evidence, everything, kind, ground.direction, reference
    )
    (made,) = interventions_for(
        rank(training, method), kind=kind, direction=ground.direction, ks=[k], reference=reference
    )
    mean = values_at(reference.moments.mean_of(made.donor), made.neurons)
    return replace(made, donor_mean=mean)
