"""Significance and stability of scores: statistics over groups of pairs.

A score that is a mean over pairs (gradient, RelP, exact, contrast, ...) is a mean of group means, and
pairs of one group (one country, one sum) are not independent. So groups are what is resampled:

    p      sign-flip: under "no effect" a group's score is as likely to have either sign; how often a
           choice of signs gives a mean at least as far from 0 (`core.statistics.sign_flip_p`)
    q      p under false-discovery control (Benjamini and Hochberg, by scipy): of the neurons with
           q at most .05, one in twenty is expected to be chance
    p_family   family-wise (Westfall and Young): how often a choice of signs gives *any* neuron a mean
           that far from 0. It asks for large scores, q for steady ones
    low, high   percentile bootstrap of the mean over groups, 95 %
    kept   in which share of the bootstrap's resamples the neuron is among the top k

With G groups there are 2^G choices of signs, so no p is below 2 / 2^G, and q only where enough neurons
share that p. `provenance["resolution"]` says what cannot be found with the groups at hand.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from neurotrace.core import statistics
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import plain, takes_turns
from neurotrace.interventions.kinds import Kind, form_of
from neurotrace.models.activations import moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.protocol import HookedModel

Ranker = Callable[..., Scores]
By = Literal["group", "template", "family"]
LEVEL = 0.05  # at which p_family and q are said to be significant
_AT_ONCE = 2**25  # numbers of one product that are held


@dataclass(frozen=True)
class GroupScores:
    """A ranker's scores on each group of pairs alone; made by `group_scores`."""

    scores: Scores  # on all pairs: the mean of the groups', weighted by size
    value: Float[Tensor, "group neuron"]  # neurons flattened, layer by layer
    sizes: Float[Tensor, " group"]  # pairs

    def means(self, weights: Float[Tensor, "draw group"]) -> Float[Tensor, "draw neuron"]:
        """The scores if group g counted weights[g] times (a negative one: with its sign flipped)."""
        total = (weights.abs() * self.sizes).sum(dim=1, keepdim=True)
        return (weights * self.sizes) @ self.value / total

    def resampled(self, draws: int, *, seed: int) -> Float[Tensor, "draw group"]:
        """Bootstrap weights: how often each group is drawn, groups with replacement."""
        generator = torch.Generator().manual_seed(seed)
        count = len(self.sizes)
        drawn = torch.randint(count, (draws, count), generator=generator)
        return torch.nn.functional.one_hot(drawn, count).sum(dim=1).float()

    def tops(
        self, weights: Float[Tensor, "draw group"], k: int, *, direction: Direction | str
    ) -> list[set[int]]:
        """For each draw the places of the k neurons that push hardest in `direction`."""
        found: list[set[int]] = []
        step = max(1, _AT_ONCE // self.value.shape[1])
        for some in weights.split(step):
            means = self.means(some)
            sign = Direction(direction).sign
            strength = sign * means if self.scores.signed else means.abs()
            strength = strength.nan_to_num(nan=-torch.inf)
            order = torch.sort(strength, dim=1, descending=True, stable=True).indices[:, :k]
            found += [set(row) for row in order.tolist()]
        return found


@renamed(intervention="kind", budget_gb="memory_gb")
@takes_turns
def group_scores(
    ranker: Ranker,
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    by: By = "group",
    memory_gb: float = 4.0,
    progress: Progress = None,
) -> GroupScores:
    """Rank on each group of pairs separately.

    Args:
        ranker: a ranker whose score is a mean over pairs (`nt.gradient`, `nt.relp`, `nt.exact`, ...).
        by: the field that defines a group: `group`, `template` or `family`.

    Raises:
        InputError: fewer than two groups; a ranker that is no mean over pairs (Pearson, masks,
            random); more numbers than `memory_gb` holds.

    Example::

        grouped = nt.group_scores(nt.gradient, model, pairs)
        nt.assess(grouped, k=8)
    """
    if by not in ("group", "template", "family"):
        raise InputError(f"by={by!r}: expected 'group', 'template' or 'family'")
    encoded = encode(model, pairs)
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(encoded.pairs):
        rows.setdefault(getattr(pair, by), []).append(row)
    if len(rows) < 2:
        raise InputError(f"all pairs are of one {by}: two or more are needed to resample them")
    options: dict[str, Any] = {"donor": donor, "kind": kind}
    takes = inspect.signature(ranker).parameters
    if "reference" in takes and form_of(kind).needs == "means":
        options["reference"] = moments(model, encoded, progress=progress)  # per group, of all pairs
    named = list(rows.values())
    work = over(progress, named, "ranking by groups")
    parts: list[Scores] = []
    for places in work:
        parts.append(ranker(model, encoded.at(places), **options))
        size = len(rows) * parts[0].n_neurons * 4 / 2**30
        if size > memory_gb:
            raise InputError(
                f"scores of {len(rows)} groups take {size:.1f} GiB, memory_gb is {memory_gb:g}: "
                "pass fewer pairs, or raise it"
            )
        if len(parts) == 2:
            _refuse_no_mean(ranker, model, encoded, named[:2], parts, options)
    sizes = torch.tensor([float(len(places)) for places in named])
    value = torch.stack([part.value.flatten() for part in parts])
    mean = (sizes[:, None] * value).sum(dim=0) / sizes.sum()
    first = parts[0]
    record = dict(first.provenance) | {
        "pairs": len(encoded),
        "families": sorted({pair.family for pair in encoded.pairs}),
        "groups": len(rows),
        "by": by,
    }
    scores = replace(first, value=mean.view_as(first.value), columns={}, provenance=record)
    return GroupScores(scores, value, sizes)


@plain()
def assess(
    grouped: GroupScores, *, k: int, resamples: int = 1000, flips: int = 9999, seed: int = 0
) -> Scores:
    """The scores with the columns `low, high, p, q, p_family, kept, n`; see the module's docstring.

    The provenance says how stable the top k is: `jaccard`, the mean overlap of the top k of a
    resample with the top k of all pairs, as Jaccard's index.

    Args:
        k: how many neurons a choice would take.
        flips: random choices of signs, where all of them are more.

    Example::

        scores = nt.assess(nt.group_scores(nt.gradient, model, pairs), k=8)
        scores.to_frame().query("p_family <= 0.05")
    """
    scores, count = grouped.scores, len(grouped.sizes)
    measured = ~scores.value.flatten().isnan()
    kept, jaccard = stability(grouped, k=k, resamples=resamples, seed=seed)
    boot = grouped.resampled(resamples, seed=seed)
    signs = statistics.sign_choices(count, flips, seed=seed)
    columns = torch.full((7, scores.n_neurons), torch.nan)
    for places in measured.nonzero()[:, 0].split(max(1, _AT_ONCE // resamples)):
        means = replace(grouped, value=grouped.value[:, places]).means(boot)
        columns[:2, places] = means.quantile(torch.tensor([0.025, 0.975]), dim=0)
    p, p_family = statistics.sign_flip_p(grouped.sizes[:, None] * grouped.value[:, measured], signs)
    q = torch.from_numpy(stats.false_discovery_control(p.numpy()))
    columns[2:5, measured] = torch.stack([p, q, p_family]).float()
    columns[5] = kept
    columns[6] = grouped.sizes.sum()
    columns[:, ~measured] = torch.nan
    names = ("low", "high", "p", "q", "p_family", "kept", "n")
    shaped = (column.view_as(scores.value) for column in columns)
    record = dict(scores.provenance) | {
        "k": k,
        "jaccard": jaccard,
        "resamples": resamples,
        "sign_flips": len(signs),
        "resolution": _resolution(count, len(p), len(signs)),
    }
    return replace(scores, columns=dict(zip(names, shaped, strict=True)), provenance=record)


@plain()
def stability(
    grouped: GroupScores, *, k: int, resamples: int = 1000, seed: int = 0
) -> tuple[Float[Tensor, " neuron"], float]:
    """For each neuron the share of bootstrap resamples in which it is among the top k; their overlap.

    The overlap is Jaccard's index of a resample's top k with that of all pairs, as a mean.

    Raises:
        InputError: k is not a number of neurons that have a score.
    """
    scores = grouped.scores
    measured = int((~scores.value.isnan()).sum())
    if not 1 <= k <= measured:
        raise InputError(f"k={k}: expected 1 to {measured}, the neurons with a score")
    direction = Direction.from_donor(scores.provenance["donor"])
    full = set(grouped.tops(torch.ones(1, len(grouped.sizes)), k, direction=direction)[0])
    kept = torch.zeros(scores.n_neurons)
    overlap = 0.0
    for top in grouped.tops(grouped.resampled(resamples, seed=seed), k, direction=direction):
        kept[list(top)] += 1
        overlap += len(top & full) / len(top | full)
    return kept / resamples, round(overlap / resamples, 4)


def _resolution(groups: int, neurons: int, choices: int) -> str:
    """What cannot be found with so few groups, in a sentence."""
    least, family = 2.0 ** (1 - groups), max(2.0 ** (1 - groups), 1 / choices)
    alike = math.ceil(neurons * least / LEVEL)  # neurons at the least p that make q so
    found = f"{groups} groups: no p is below {least:.2g}, no p_family below {family:.2g}"
    if least > LEVEL:
        return f"{found}: nothing can be told from chance at {LEVEL:g}; add groups"
    if alike > 1:
        return f"{found}; q ≤ {LEVEL:g} takes {alike:,} neurons or more at the smallest p"
    return f"{found}; a single neuron can reach q ≤ {LEVEL:g}"


def _refuse_no_mean(
    ranker: Ranker,
    model: HookedModel,
    encoded: EncodedPairs,
    rows: list[list[int]],
    parts: list[Scores],
    options: dict[str, Any],
) -> None:
    """On two groups together the scores must be the mean of those on each."""
    together = ranker(model, encoded.at([*rows[0], *rows[1]]), **options).value
    size = [len(places) for places in rows]
    mean = (parts[0].value * size[0] + parts[1].value * size[1]) / sum(size)
    measured = ~together.isnan()
    off = (together - mean)[measured].abs().max() if measured.any() else torch.tensor(0.0)
    same = torch.equal(parts[0].value.nan_to_num(), parts[1].value.nan_to_num())
    if not off <= 1e-3 * together[measured].abs().max() or same:
        raise InputError(
            f"{parts[0].method} is not a mean over pairs: its groups can't be resampled; rank by "
            "gradient, two_ended, relp, integrated, direct, log_increase, exact or contrast"
        )
