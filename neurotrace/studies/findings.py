"""What a study found, as interventions that can be saved and used elsewhere.

For one family and one direction: the intervention that each fold chose, and one made from all pairs. The
latter is what most folds chose (of equals, the first), ranked again on all pairs. Every pair helped to
make it, so it has no held-out figures of its own: the folds' together say what to expect of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import values_at
from neurotrace.rankers.registry import rank
from neurotrace.rankers.training import Training
from neurotrace.studies.held_out import Ground, Proved, RowFold
from neurotrace.studies.selection import interventions_for

ALL = "all"  # the fold of what was made from all pairs


def findings(
    ground: Ground, folds: Sequence[RowFold], proved: Proved, identity: Mapping[str, str]
) -> tuple[Intervention, ...]:
    """The folds' interventions in order, then the one from all pairs; each says how it was judged.

    Args:
        identity: of the model, from `models.identity.model_identity`.
    """
    found = []
    about: dict[str, Any] = dict(identity) | {
        "family": ground.family, "site": "mlp.hook_post", "positions": "read",
    }  # fmt: skip
    for fold, intervention, frame in zip(folds, proved.applied, proved.frames, strict=True):
        own = frame[frame["chosen"] & frame["role"].eq("selected")]
        judged = {
            "on": "the pairs that this fold left out", "pairs": len(own),
            "answers": float(own["answers"].mean()), "prefers": float(own["prefers"].mean()),
        }  # fmt: skip
        note = about | {"fold": fold.number, "trained_on": len(fold.train), "judged": judged}
        found.append(replace(intervention, provenance=note))
    chosen = next(flip for flip in proved.flips if flip.selected)
    judged = {
        "on": "held-out pairs, by the folds' interventions; this one was made from all pairs",
        "pairs": chosen.n, "answers": chosen.answers, "answers_ci": list(chosen.answers_ci),
        "prefers": chosen.prefers,
    }  # fmt: skip
    note = about | {"fold": ALL, "trained_on": len(ground.own), "judged": judged}
    found.append(replace(_from_all(ground, proved.applied), provenance=note))
    return tuple(found)


def _from_all(ground: Ground, applied: Sequence[Intervention]) -> Intervention:
    """What most folds chose, made from all pairs."""
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
