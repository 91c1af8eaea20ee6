"""Published recipes beside this package's own, on the same held-out groups, by the same verdict.

For each family every recipe is proved in the same folds: what its authors leave open (size, strength,
block) is chosen on training pairs, everything is measured on held-out pairs, beside controls of the same
size and damage on neutral text. The verdict is the study's rule (`studies/verdict.py`) in other words:

    causal        both ways at least 90 % of held-out answers flip, and no control flips more than 5 %
    not causal    one of these is on the wrong side of its bar with its whole 95 % interval
    undecided     an interval holds a bar, and none is beyond it

*Not causal* is said of the recipe's neurons or direction: that they decide the answer. It does not say
that they have no effect.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.sides import DIRECTIONS, spoken
from neurotrace.decoding.tokens import refuse_whole
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.units import JSON, NOTHING_KEPT, Units, records, several
from neurotrace.interventions.damage import neutral_ids
from neurotrace.interventions.reference import Evidence, gather
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import ModelInfo, inspect_model
from neurotrace.models.identity import model_record, pairs_hash, surroundings
from neurotrace.models.origins import keep_runs, keeps_runs
from neurotrace.models.protocol import HookedModel
from neurotrace.recipes.table import RECIPES, recipe_of
from neurotrace.studies.held_out import Flip, flip_record
from neurotrace.studies.selection import Ground, StudySettings, without_small_families
from neurotrace.studies.study import elsewhere, folds_of
from neurotrace.studies.verdict import Verdict, Word, verdicts_of

if TYPE_CHECKING:
    import pandas as pd

WORDS: dict[Word, str] = {"decides": "causal", "no": "not causal", "undecided": "undecided"}


@dataclass(frozen=True)
class Replication(Shown):
    """Each recipe's held-out flips on one model.

    Attributes:
        flips: recipe -> the chosen rows, of each family and direction.
        seconds: recipe -> time on this machine, all families.
        refused: recipe -> why it can't be done on this model.
    """

    model: ModelInfo
    encoded: EncodedPairs
    flips: Mapping[str, tuple[Flip, ...]]
    seconds: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def verdicts(self) -> dict[tuple[str, str], Verdict]:
        """(recipe, family) -> what the rule says, both ways together."""
        return {
            (name, family): verdict
            for name, flips in self.flips.items()
            for family, verdict in verdicts_of(map(flip_record, flips), recipe_of(name).rule).items()
        }

    def to_frame(self) -> pd.DataFrame:
        """A row for each recipe, family and direction.

        Columns: `recipe, family, direction`; what training pairs chose: `by` (intervention), `k`,
        `fraction`; held-out `flipped, low, high`; `controls`, the largest mean of a control, and
        `worst_draw`; `p` against random units; `other_donor`; `kl` (nats, neutral text) and `kept`, the
        share of other families' answers that stay; `pairs, groups`; `verdict` both ways, `one_way` of this
        direction alone, and `why`.
        """
        import pandas as pd

        rows = []
        both = self.verdicts()
        for name, flips in self.flips.items():
            for flip in flips:
                record, rule = flip_record(flip), recipe_of(name).rule
                alone = verdicts_of([record], rule, ways=(flip.direction,))[flip.family]
                verdict = both[name, flip.family]
                rows.append(
                    {
                        "recipe": name,
                        "family": flip.family,
                        "direction": str(flip.direction),
                        "by": flip.intervention,
                        "k": flip.k,
                        "fraction": flip.fraction,
                        "flipped": flip.answers,
                        "low": flip.answers_ci[0],
                        "high": flip.answers_ci[1],
                        "controls": flip.control_answers,
                        "worst_draw": max(flip.controls_worst.values()),
                        "p": flip.random_p,
                        "other_donor": flip.controls.get("other_donor"),
                        "kl": flip.damage_kl,
                        "kept": flip.other_families_kept,
                        "pairs": flip.n,
                        "groups": flip.groups,
                        "verdict": WORDS[verdict.word],
                        "one_way": WORDS[alone.word],
                        "why": "; ".join(verdict.why),
                    }
                )
        return pd.DataFrame(rows)

    def _view(self) -> View:
        table = self.to_frame()
        tables = []
        for family, part in table.groupby("family", sort=False):
            rows = []
            for name, own in part.groupby("recipe", sort=False):
                for place, row in enumerate(own.itertuples()):
                    rows.append(
                        (
                            recipe_of(str(name)).title if not place else "",
                            spoken(row.direction).removeprefix("to "),
                            int(row.k),
                            rate(row.flipped),
                            f"{row.low:.0%}–{row.high:.0%}",
                            f"{row.controls:.1%}",
                            None if row.kl is None or row.kl != row.kl else f"{row.kl:.3f}",
                            row.one_way,
                            row.verdict if not place else "",
                        )
                    )
            columns = ("recipe", "to", "k", "flipped", "95 %", "controls", "KL", "one way", "verdict")
            tables.append(Table(columns, rows, str(family)))
        left_out = "".join(f" {name}: {why}." for name, why in self.refused.items())
        return View(
            f"{len(self.flips)} recipes on {self.model.name}, {len(self.encoded)} pairs, each held out "
            "once. Causal: both ways at least 90 % flip and no control more than 5 %, by whole 95 % "
            "intervals." + left_out,
            tuple(tables),
            "All columns: .to_frame(); why a verdict is what it is: .verdicts().",
        )

    def __repr__(self) -> str:
        return f"Replication({self.model.name}: {', '.join(self.flips)})"


@takes_turns
@keeps_runs
def replicate(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    recipes: Sequence[str] | None = None,
    *,
    folds: int = 5,
    split: str = "group",
    seed: int = 0,
    neutral: Sequence[str] = (),
    tried_on: int = 32,
    units: Units = NOTHING_KEPT,
    progress: Progress = None,
) -> Replication:
    """Prove published recipes for finding neurons on held-out pairs, beside this package's own.

    Args:
        recipes: names of `recipes.table.RECIPES`; default: all that the model allows.
        folds: of held-out groups, the same for all recipes.
        neutral: texts on which damage (KL) is measured.
        tried_on: maximum number of training pairs on which a recipe's sizes and strengths are compared.
        units: ``nt.Units("runs/claims")`` keeps what is finished in that folder; the same call goes on.

    Raises:
        InputError: an unknown recipe, or one that the model does not allow; pairs read whole; no pair
            answered correctly; too few groups; `units` of another call.

    Example::

        found = nt.replicate(model, nt.load_pairs("arithmetic"), ["ours", "cna"])
        found.to_frame()
    """
    names = list(dict.fromkeys(recipes or RECIPES))
    info = inspect_model(model)
    refused = {}
    for name in list(names):
        if why := recipe_of(name).refuses(model):
            if recipes:
                raise InputError(f"recipe {name!r}: {why}")
            refused[name] = why
            names.remove(name)
            warnings.warn(f"{name} is left out: {why}", stacklevel=2)
    encoded = without_small_families(encode(model, pairs, progress=progress), split)
    refuse_whole(encoded, "replicate")
    keep_runs(model, [*encoded.memorization, *encoded.reasoning])
    neutral_ids(model, neutral)
    settings = StudySettings((), (), (), split, folds, seed, tuple(neutral), tried_on)
    families = list(dict.fromkeys(pair.family for pair in encoded.pairs))
    units.begin(
        {"command": "replicate", "model": {"name": info.name} | model_record(model), "recipes": names}
        | {"pairs_sha256": pairs_hash(encoded), "settings": asdict(settings)}
        | {"surroundings": surroundings(model)}
    )
    jobs: dict[tuple[str, str], tuple[str, Callable[[], dict[str, Any]]]] = {}
    for family in families:
        own = encoded.at([row for row, pair in enumerate(encoded.pairs) if pair.family == family])
        folds_of(own, split, folds, seed)  # pairs that can't be split stop it before any work
        evidence = cache(partial(gather, model, own, progress=progress))
        others = encoded.at(elsewhere(encoded, family, seed))
        for name in names:
            jobs[name, family] = (
                f"{name}: {family}",
                partial(_proved, name, model, own, others, evidence, family, settings, progress),
            )
    found = units.each(_PART, jobs, progress, "recipe")
    return Replication(
        info,
        encoded,
        {
            name: tuple(flip for family in families for flip in found[name, family]["flips"])
            for name in names
        },
        {name: sum(found[name, family]["seconds"] for family in families) for name in names},
        refused,
        {"folds": folds, "split": split, "seed": seed, "tried_on": tried_on, "neutral": len(neutral)},
    )


_PART = several(flips=records(Flip), seconds=JSON)


def _proved(
    name: str,
    model: HookedModel,
    own: EncodedPairs,
    others: EncodedPairs,
    evidence: Callable[[], Evidence],
    family: str,
    settings: StudySettings,
    progress: Progress,
) -> dict[str, Any]:
    known = evidence()
    start = time.perf_counter()
    grounds = [Ground(model, own, others, known, family, direction) for direction in DIRECTIONS]
    parts = folds_of(own, settings.split, settings.folds, settings.seed)
    flips = recipe_of(name).prove(grounds, parts, settings, progress)
    return {
        "flips": [flip for flip in flips if flip.selected],
        "seconds": round(time.perf_counter() - start, 1),
    }
