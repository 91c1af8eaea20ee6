"""Does a ranking say what is true? Against exact effects, and against what whole sets do.

Agreement: Spearman's rho with the exact effect of one neuron at a time, over the neurons that have
any (`LIVE` nats and more), and the overlap of both tops.

Curves: with T the effect on L of doing the intervention to *all* neurons of the final token position,

    necessity(k)    effect of doing it to the top k, / T          what goes when they are changed
    sufficiency(k)  1 - effect of doing it to all the others, / T  what stays when they alone are kept

for k = 1, 2, 4, ... all; a curve's area is over log2 k, as a share of its width: a ranking that has
what matters in few neurons comes near 1 in both. Shares of an effect, not probabilities: where neurons
work against each other they leave [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from neurotrace.ablation.sets import ablate_sets
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.interventions.kinds import Kind
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

LIVE = 1e-3  # nats


def spearman(scores: Scores, exact: Scores) -> float:
    """Rank correlation with exact effects of at least `LIVE` nats; NaN for a constant ranking.

    An unsigned ranking is compared by magnitude with the effect's magnitude.
    """
    both = ~(scores.value.isnan() | exact.value.isnan()) & (exact.value.abs() >= LIVE)
    own, other = scores.value[both], exact.value[both]
    if not scores.signed:
        own, other = own.abs(), other.abs()
    if len(own) < 3 or bool((own == own[0]).all()):
        return float("nan")
    return float(stats.spearmanr(own.numpy(), other.numpy()).statistic)


def overlap_of_tops(
    scores: Scores, exact: Scores, *, share: float = 0.01, direction: Direction | str
) -> float:
    """Share of the exact top `share` of neurons that is in the ranking's own top of that size.

    Both tops are drawn up among the neurons whose exact effect is known: where that is a random sample,
    chance is `share`. A neuron that the ranking leaves out (Pearson, of a constant one) is in no top.
    NaN: not a neuron was scored by both.
    """
    known = ~exact.value.isnan()
    ranked = int((known & ~scores.value.isnan()).sum())
    if not ranked:
        return float("nan")
    k = max(1, int(share * int(known.sum())))
    own, true = (
        replace(each, value=each.value.where(known, torch.nan)) for each in (scores, exact)
    )
    top = own.top(min(k, ranked), direction=direction)
    return len({*top} & {*true.top(k, direction=direction)}) / k


def recall(scores: Scores, truth: Sequence[Neuron], *, direction: Direction | str) -> float:
    """Share of the true neurons among as many of the ranking's top."""
    if not truth:
        raise InputError("no true neurons to recall: the truth is empty")
    return len(set(truth) & set(scores.top(len(set(truth)), direction=direction))) / len(set(truth))


@renamed(intervention="kind")
def curves(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    scores: Scores,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Any = None,
) -> pd.DataFrame:
    """Rows `k, necessity, sufficiency`; see the module's docstring, and `area`.

    Raises:
        InputError: a ranking that leaves neurons out; an intervention on all neurons that does nothing.
    """
    import pandas as pd

    if scores.value.isnan().any():
        raise InputError(f"{scores.method} leaves neurons unranked: curves need all of them")
    encoded = encode(model, pairs)
    ranking = scores.top(scores.n_neurons, direction=Direction.from_donor(donor))
    total = len(ranking)
    ks = [2**power for power in range(total.bit_length()) if 2**power < total] + [total]
    options: dict[str, Any] = {"kind": kind, "donor": donor, "reference": reference}
    of_top = ablate_sets(model, encoded, ranking, ks, **options).effect.mean(dim=0)
    whole = float(of_top[-1])
    if abs(whole) < LIVE:
        raise InputError(f"{kind} of all neurons moves L by {whole:.1g} nats: no curve")
    left = [total - k for k in ks[:-1]]
    of_rest = ablate_sets(model, encoded, ranking[::-1], left, **options).effect.mean(dim=0)
    kept = torch.cat([1 - of_rest / whole, torch.ones(1)])
    return pd.DataFrame({"k": ks, "necessity": (of_top / whole).tolist(), "sufficiency": kept})


def area(ks: Sequence[int], shares: Sequence[float]) -> float:
    """Under a curve over log2 k, by trapezoids, as a share of its width."""
    x = np.log2(np.asarray(ks, dtype=float))
    y = np.asarray(shares, dtype=float)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))
