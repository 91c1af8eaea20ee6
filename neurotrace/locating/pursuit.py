"""Units that flip answers together, chosen in rounds on training pairs.

The slope of a run in which nothing is changed predicts each unit's effect alone. Units that take over from
each other, or act only together, are misjudged by it. So a set grows in rounds, as in orthogonal matching
pursuit (Pati et al. 1993): those with the largest predicted effects are added, their values are replaced by
the donor's, and the slopes are taken anew in that run. What is predicted is the log-probability of the
donor's answer, which a flip must bring to the top, and not L, which rises with any harm to the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.process import Progress, over
from neurotrace.core.sides import Direction, Side
from neurotrace.locating.patching import Change, Patching
from neurotrace.models.hooks import Site

Place = tuple[int, int]  # layer, number of the unit in it


@dataclass(frozen=True)
class Chosen:
    """Units to be patched together, and their predicted effect.

    Attributes:
        units: those of the smaller sets first.
        score: effect on log p(donor's answer), nats: of each unit when it was added, summed.
    """

    units: tuple[Place, ...]
    score: float


def pursue(
    patching: Patching,
    site: Site,
    count: int,
    sizes: Sequence[int],
    change: Callable[[Sequence[Place]], Change],
    donor: Side,
    progress: Progress = None,
) -> tuple[list[Chosen], Float[Tensor, "layer unit"]]:
    """A set of each size, each in the next one; and every unit's predicted effect alone.

    Args:
        count: units of the site in each layer (neurons; heads, of several values each).
        sizes: ascending.
        change: what patches these units.
    """
    recipient = Direction.from_donor(donor).recipient
    points = [(site, layer) for layer in range(patching.n_layers)]
    own, given = (patching.values("train", side) for side in (recipient, donor))
    found: list[Chosen] = [Chosen((), 0.0)]
    alone = torch.zeros(0)
    for size in over(progress, sizes, f"choosing {site}"):
        slopes = patching.slopes(recipient, points, answer=donor, change=change(found[-1].units))
        scores = torch.stack(
            [
                (slopes[at] * (given[at] - own[at])).unflatten(2, (count, -1)).sum((1, 3)).mean(0)
                for at in points
            ]
        )
        alone = alone if len(alone) else scores
        left = scores.flatten().clone()
        left[[layer * count + unit for layer, unit in found[-1].units]] = -torch.inf
        added = left.topk(size - len(found[-1].units))
        units = *found[-1].units, *(divmod(place, count) for place in added.indices.tolist())
        found.append(Chosen(units, found[-1].score + float(added.values.sum())))
    return found[1:], alone
