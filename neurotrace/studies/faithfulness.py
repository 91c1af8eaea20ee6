"""Faithfulness of a ranking: agreement with exact effects, and with the effects of sets.

Agreement: Spearman's rho with the exact effect of one neuron at a time, over the neurons with an effect
(`LIVE` nats or more), and the overlap of both tops.

Curves: with T the effect on L of the intervention on *all* neurons at the final token position,

    necessity(k)    effect on the top k / T                    the share lost if they are changed
    sufficiency(k)  1 - effect on all the others / T           the share left if only they are kept

for k = 1, 2, 4, ... all. A curve's area is over log2 k, as a share of its width; it is near 1 in both
if the ranking puts the neurons that matter first. These are shares of an effect, not probabilities:
they leave [0, 1] if neurons work against each other.
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
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

LIVE = 1e-3  # nats


def spearman(scores: Scores, exact: Scores) -> float:
    """Rank correlation with exact effects of at least `LIVE` nats; NaN for a constant ranking.

    An unsigned ranking is compared by magnitude with the effect's magnitude.

    Example::

        nt.spearman(scores, nt.exact(model, pairs))
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

    Both tops are taken among the neurons whose exact effect is known. If these are a random sample,
    chance is `share`. A neuron that the ranking leaves out (Pearson, of a constant one) is in no top.
    NaN: no neuron was scored by both.

    Example::

        truth = nt.exact(model, pairs)
        nt.overlap_of_tops(scores, truth, share=0.01, direction="to_reasoning")
    """
    known = ~exact.value.isnan()
    ranked = int((known & ~scores.value.isnan()).sum())
    if not ranked:
        return float("nan")
    k = max(1, int(share * int(known.sum())))
    own, true = (replace(each, value=each.value.where(known, torch.nan)) for each in (scores, exact))
    top = own.top(min(k, ranked), direction=direction)
    return len({*top} & {*true.top(k, direction=direction)}) / k


def recall(scores: Scores, truth: Sequence[Neuron], *, direction: Direction | str) -> float:
    """Share of the true neurons in a top of the same size.

    Example::

        nt.recall(scores, planted, direction="to_reasoning")
    """
    if not truth:
        raise InputError("no true neurons to recall: the truth is empty")
    return len(set(truth) & set(scores.top(len(set(truth)), direction=direction))) / len(set(truth))


@renamed(intervention="kind")
@takes_turns
def curves(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    scores: Scores,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    reference: Any = None,
) -> pd.DataFrame:
    """Rows `family, ranker, direction, k, necessity, sufficiency`; see the module's docstring, and `area`.

    Raises:
        InputError: a ranking that leaves neurons out; an intervention on all neurons without effect.

    Example::

        nt.plot_curves(nt.curves(model, pairs, nt.gradient(model, pairs)))
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
    families = dict.fromkeys(pair.family for pair in encoded.pairs)
    return pd.DataFrame(
        {
            "family": ", ".join(families),
            "ranker": scores.method,
            "direction": Direction.from_donor(donor),
            "k": ks,
            "necessity": (of_top / whole).tolist(),
            "sufficiency": kept,
        }
    )


def area(ks: Sequence[int], shares: Sequence[float]) -> float:
    """Area under a curve over log2 k, by trapezoids, as a share of its width.

    Example::

        nt.area([1, 2, 4, 8], [0.1, 0.4, 0.8, 1.0])
    """
    x = np.log2(np.asarray(ks, dtype=float))
    y = np.asarray(shares, dtype=float)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))
