"""The k neurons with the largest exact effect, without ablating all of them: `ablate_top`.

1. *Screen*: the signed gradient predicts every neuron's effect on every pair (`rankers/gradient.py`)
   for little more than a forward pass a pair. (The two-ended gradient costs twice as much and predicted
   single neurons less well in every test.)
2. *Confirm* on pairs in a random order. The prediction is known for all pairs, so only its error is
   sampled:  mean effect = mean(prediction, all pairs) + mean(exact - prediction, sampled pairs).
   The error varies a fifth as much as the effect, which saves some twenty-five times the pairs.
3. *Eliminate*, round after round, each with half as many pairs again: a neuron whose interval lies
   below the k-th best lower bound is out, one above the (k+1)-th best upper bound is in; the rest
   continue. The effect of a neuron measured on every pair is exact, and its interval has no width.
4. *Look back*: errors seen so far, on the strongest neurons and on some random ones, bound the effect
   of a neuron that was never measured. Those that could still reach the top are added.

The intervals are about the mean over *these* pairs (sampled without replacement). They are Student's t
of each neuron's errors, its variance shrunk towards that of the others, and hold for all neurons and
rounds at once (Bonferroni). They assume that the errors of unmeasured neurons are like those of the
measured ones, in proportion to the prediction's size, and like those of the random ones, whatever its
size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from neurotrace.ablation import passes
from neurotrace.ablation.task import Precision, Task, check_direction, places_of, prepare, strength
from neurotrace.core.display import Shown, View, frame_table
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.interventions.reference import Reference
from neurotrace.models.activations import Moments, read_activations
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.gradients import pair_slopes
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

_FIRST = 4  # pairs of the first round
_JOINING = 2  # pairs of those that are added later
_AUDIT = 64  # random neurons from those that the screen leaves out
_WEIGHT = 8.0  # weight of the common variance, in observations
_WINDOW = 48  # neurons whose errors give that variance


@dataclass(frozen=True)
class Top(Shown):
    """The k strongest neurons, and the cost of the search.

    Attributes:
        neurons: strongest first.
        scores: mean effect (nats) of every measured neuron, with `low, high` (at `confidence` for all
            of them at once) and `n`, the pairs it was measured on; the others are NaN.
        evaluations: number of (pair, neuron) interventions.
        sweep: the same number for a full sweep.
        passes: the whole search's cost (screen, clean runs, interventions) in forward passes of one
            prompt.
        converged: whether the intervals separate the top k from the rest. False:
            the budget was spent.
    """

    neurons: tuple[Neuron, ...]
    scores: Scores
    direction: Direction | None
    confidence: float
    evaluations: int
    sweep: int
    passes: float
    converged: bool

    @property
    def share(self) -> float:
        """Of the full sweep's evaluations."""
        return self.evaluations / self.sweep

    def to_frame(self) -> pd.DataFrame:
        """A row a neuron, strongest first: `neuron, score, low, high, n`."""
        table = self.scores.to_frame()
        rows = table.set_index(["layer", "neuron"]).loc[[(n.layer, n.index) for n in self.neurons]]
        named = rows.reset_index().assign(neuron=[self.scores.name(n) for n in self.neurons])
        return named[["neuron", "score", "low", "high", "n"]]

    def _view(self) -> View:
        known = "converged" if self.converged else "not converged: the budget was spent"
        return View(
            f"The {len(self.neurons)} strongest neurons by exact effect on L, nats; {known}, "
            f"{self.confidence:.0%} for all intervals at once, {self.share:.2%} of a full sweep.",
            (frame_table(self.to_frame()),),
            "All of them: .to_frame().",
        )

    def __repr__(self) -> str:
        named = " ".join(self.scores.name(neuron) for neuron in self.neurons[:4])
        more = f" … ({len(self.neurons)} in all)" if len(self.neurons) > 4 else ""
        known = f"converged at {self.confidence:.0%}" if self.converged else "not converged"
        return f"Top({named}{more}; {known}, {self.share:.2%} of a sweep)"


@renamed(mode="kind")
@takes_turns
def ablate_top(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    k: int,
    *,
    direction: Direction | str | None = None,
    kind: Kind = "zero",
    donor: Side = "reasoning",
    reference: Moments | Reference | None = None,
    confidence: float = 0.95,
    max_share: float = 1.0,
    seed: int = 0,
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    predictions_gb: float = 4.0,
    progress: Progress = None,
) -> Top:
    """The k neurons whose intervention at the final token position changes mean L most, exactly.

    Args:
        direction: the strongest one way, as `Scores.top` has it; None: by |mean effect|.
        max_share: the share of a full sweep's evaluations at which to stop without convergence.
        seed: for the order of the pairs and the random neurons.
        predictions_gb: GiB for the predictions, one number a pair and neuron.
        (The other arguments are those of `ablate`.)

    Raises:
        InputError: as for `ablate`; k, confidence or max_share out of range; `max_share` too small for
            one round; predictions beyond their budget, or not finite.

    Example::

        top = nt.ablate_top(model, pairs, 10, direction="to_reasoning")
        top.to_frame()
    """
    direction = check_direction(direction)
    for name, value in (("confidence", confidence), ("max_share", max_share)):
        if not 0 < value <= 1 or (name == "confidence" and value == 1):
            raise InputError(f"{name}={value!r}: expected a share between 0 and 1")
    task = prepare(
        model,
        pairs,
        kind,
        donor,
        reference=reference,
        precision=precision,
        batch_size=batch_size,
        memory_gb=memory_gb,
        progress=progress,
    )
    places = places_of(None, task)
    if not 1 <= k <= len(places):
        raise InputError(f"k={k}: expected 1 to {len(places)}, the neurons that it can be done to")
    size = len(task.encoded) * task.info.n_neurons * 4 / 2**30
    if size > predictions_gb:
        raise InputError(
            f"predictions for {len(task.encoded)} pairs take {size:.1f} GiB, predictions_gb is "
            f"{predictions_gb:g}: pass fewer pairs or raise it"
        )
    found = _Search(task, places, _predictions(task, progress)[:, places], k, direction, confidence)
    converged = found.run(max_share, seed, progress)
    layers, width = task.info.n_layers, task.info.d_mlp
    columns = torch.full((4, layers * width), torch.nan, dtype=torch.float64)
    done = found.count > 0
    mean, half = found.estimate()
    for row, column in zip(columns, (mean, mean - half, mean + half, found.count), strict=True):
        row[places[done]] = column[done].double()
    value, low, high, n = columns.float().view(4, layers, width)
    order = strength(mean, direction).masked_fill(~done, -torch.inf)
    best = places[order.sort(descending=True, stable=True).indices[:k]]
    record = task.record(k=k, direction_of_search=direction, confidence=confidence, seed=seed)
    return Top(
        tuple(passes.named(place, width) for place in best.tolist()),
        Scores("ablate_top", value, columns={"low": low, "high": high, "n": n}, provenance=record),
        direction,
        confidence,
        found.evaluations,
        len(task.encoded) * len(places),
        found.passes,
        converged,
    )


class _Search:
    """The state of the search; indices are into the candidates, `places`."""

    def __init__(
        self,
        task: Task,
        places: Int[Tensor, " candidate"],
        predicted: Float[Tensor, "pair candidate"],
        k: int,
        direction: Direction | None,
        confidence: float,
    ) -> None:
        self.task, self.places, self.predicted = task, places, predicted
        self.k, self.direction, self.confidence = k, direction, confidence
        self.prior = predicted.double().mean(dim=0)
        self.size = predicted.double().square().mean(dim=0)  # mean square of the predictions
        self.count = torch.zeros(len(places), dtype=torch.long)
        self.total, self.squares = torch.zeros(2, len(places), dtype=torch.float64)  # of errors
        self.evaluations = 0
        self.passes = _screening_passes(task)

    def run(self, max_share: float, seed: int, progress: Progress) -> bool:
        """Rounds until convergence or the end of the budget; returns whether it converged."""
        pairs, limit = len(self.predicted), max_share * self.predicted.numel()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(pairs, generator=generator).tolist()
        ranked = strength(self.prior, self.direction).sort(descending=True, stable=True).indices
        most = max(2 * self.k, _AUDIT)
        others = torch.randperm(max(0, len(ranked) - most), generator=generator)[:_AUDIT]
        active = torch.zeros(len(ranked), dtype=torch.bool)
        active[ranked[:most]] = True
        active[ranked[most:][others]] = True
        upto = min(_FIRST, pairs)
        while True:
            # new ones are measured on few pairs first, because most are eliminated again
            goal = torch.full_like(self.count, upto)
            if self.evaluations:
                goal[self.count == 0] = min(_JOINING, upto)
            todo = int((goal - self.count)[active].clamp(min=0).sum())
            if self.evaluations + todo > limit:
                if self.evaluations:
                    return False
                raise InputError(
                    f"max_share={max_share:g} of a full sweep is {limit:.0f} evaluations, the first "
                    f"round for k={self.k} takes {todo}: raise max_share, or pass more pairs"
                )
            self._confirm(active, goal, order, progress)
            active, joined = self._contenders()
            if not active.any() or int(self.count[active].min()) == pairs:
                return True
            if not joined:
                upto = min(pairs, upto + max(1, upto // 2))

    def estimate(self) -> tuple[Float[Tensor, " candidate"], Float[Tensor, " candidate"]]:
        """(mean effect, half the width of its interval) of every candidate, measured or not."""
        pairs = len(self.predicted)
        done, n = self.count > 0, self.count.clamp(min=1).double()
        bias = self.total / n
        within = (self.squares - n * bias**2).clamp(min=0)
        free = (self.count - 1).clamp(min=0).double()
        # two common variances: of a neuron's errors about their mean, and of that mean
        about = self._variance(within, free)
        between = self._variance(bias**2, done.double()) + about / pairs
        variance = (_WEIGHT * about + within) / (_WEIGHT + free)
        # half of the error probability for measured neurons, over all rounds; half for the others
        rounds = 2 + math.ceil(math.log(max(1.0, pairs / _FIRST), 1.5))
        tails = [(1 - self.confidence) / (4 * rounds * n) for n in (int(done.sum()), len(done))]
        quantiles = stats.t.isf(tails[0], [_WEIGHT + count for count in range(pairs)])
        quantile = torch.as_tensor(quantiles)[free.long()]
        half = quantile * (variance * (1 / n - 1 / pairs).clamp(min=0)).sqrt()
        never = float(stats.norm.isf(tails[1])) * between.sqrt()
        return self.prior + torch.where(done, bias, 0.0), torch.where(done, half, never)

    def _variance(self, squares: Tensor, free: Tensor) -> Float[Tensor, " candidate"]:
        """Expected squared error: that of measured neurons whose predictions are as large."""
        order = self.size.masked_fill(self.count == 0, torch.inf).argsort()[
            : int(self.count.count_nonzero())
        ]
        width = min(_WINDOW, len(order))
        sums = [torch.cat([x.new_zeros(1), x[order].cumsum(0)]) for x in (squares, free)]
        near = torch.searchsorted(self.size[order], self.size)
        low = (near - width // 2).clamp(0, len(order) - width)
        total, count = (each[low + width] - each[low] for each in sums)
        return total.clamp(min=0) / count.clamp(min=1)

    def _contenders(self) -> tuple[Bool[Tensor, " candidate"], bool]:
        """Candidates that need more pairs, and whether any of them is new."""
        mean, half = self.estimate()
        point = strength(mean, self.direction)
        low, high = point - half, point + half
        if self.direction is None:
            low = low.clamp(min=0)
        done = self.count > 0
        enough = low.masked_fill(~done, -torch.inf).topk(self.k).values[-1]
        undecided = high >= enough
        if self.k < len(high):
            undecided &= low <= high.topk(self.k + 1).values[-1]
        return undecided, bool((undecided & ~done).any())

    def _confirm(self, active: Tensor, goal: Tensor, order: Sequence[int], progress: Progress) -> None:
        """Measure each active candidate on those of the first `goal` pairs of `order` that it lacks."""
        ways = torch.stack([self.count, goal], dim=1)[active & (self.count < goal)]
        for count, upto in ways.unique(dim=0).tolist():
            some = (active & (self.count == count) & (goal == upto)).nonzero()[:, 0]
            rows = order[count:upto]
            at = torch.full((self.task.info.n_neurons,), -1)
            at[self.places[some]] = some
            label = f"confirming {len(some)} neurons"
            work = passes.sweep(self.task, rows, self.places[some], progress=progress, description=label)
            for of, part, effect in work:
                own = at[part]
                error = effect.double() - self.predicted[of.row, own]
                self.total[own] += error
                self.squares[own] += error**2
                self.passes += _evaluation_passes(self.task, of, part)
            self.count[some] += len(rows)
            self.evaluations += len(rows) * len(some)
            self.passes += len(rows) * (2 if self.task.needs_donor else 1)


def _predictions(task: Task, progress: Progress) -> Float[Tensor, "pair place"]:
    """First-order effect of the intervention on every neuron, for every pair."""
    encoded, info = task.encoded, task.info
    found = torch.empty(len(encoded), info.n_neurons)
    batches = list(by_length(encoded.ids(task.side), 16))
    for rows, ids in over(progress, batches, "screening"):
        values, slopes = pair_slopes(task.model, encoded, rows, ids)
        given = None
        if task.needs_donor:
            given = torch.empty_like(values)
            for own, others in by_length(encoded.at(rows).ids(task.donor), len(rows)):
                given[own] = read_activations(task.model, others, info.n_layers, info.d_mlp)
        found[rows] = (passes.changes(task, values, given) * slopes).flatten(1)
        dead = torch.isnan(found[rows]) & (slopes.flatten(1) == 0)  # steer is not defined for those
        if not torch.isfinite(found[rows])[~dead].all():
            raise InputError("gradients are not finite: load the model with dtype=float32")
    return found


def _screening_passes(task: Task) -> float:
    """The cost of the predictions in forward passes; a backward pass counts as two."""
    resumed = task.engine is not None and task.engine.path != "naive"
    tokens = [len(ids) for ids in task.encoded.ids(task.side)]
    slopes = sum(1 + 2 / n if resumed else 3 for n in tokens)
    return slopes + (len(tokens) if task.needs_donor else 0)


def _evaluation_passes(task: Task, of: passes.Clean, part: Tensor) -> float:
    """The same for `part`: only the last token, above the neuron's block, where passes resume."""
    if of.run is None or of.run.path == "naive":
        return float(len(part))
    layers = part // task.info.d_mlp
    above = (task.info.n_layers - layers).sum() / task.info.n_layers
    return float(above) / of.ids.shape[1]
