"""What a recipe is: a source, a ranking, interventions, sizes; how it is measured on held-out pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.interventions.kinds import Kind
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.rankers.registry import RANKERS, Ranker, register_ranker
from neurotrace.rankers.training import Training
from neurotrace.studies.held_out import Flip, prove
from neurotrace.studies.selection import Ground, RowFold, StudySettings, default_ks
from neurotrace.studies.verdict import RULE, Rule

# (one family in each direction, folds, settings, progress) -> the flips, the chosen rows among them
Prove = Callable[[Sequence[Ground], Sequence[RowFold], StudySettings, Progress], tuple[Flip, ...]]
Rank = Callable[[Training], Scores]


@dataclass(frozen=True)
class Recipe:
    """A published way to find neurons or directions and to change them.

    Attributes:
        title: for tables.
        source: where it was published.
        does: what it computes and changes, in a sentence.
        deviates: what is different here, a sentence each.
        prove: chooses on training pairs and measures held-out pairs, in folds.
        share: largest share of the units that its authors change.
        refuses: why it can't be done on a model; empty: it can.
    """

    name: str
    title: str
    source: str
    does: str
    deviates: tuple[str, ...]
    prove: Prove
    share: float = RULE.fraction
    refuses: Callable[[HookedModel], str] = lambda model: ""

    @property
    def rule(self) -> Rule:
        """The verdict's rule; a recipe that changes more units by design is judged at its own size."""
        return replace(RULE, fraction=max(RULE.fraction, self.share))


def sizes(n_units: int, shares: Sequence[float] = (), numbers: Sequence[int] = ()) -> tuple[int, ...]:
    """The study's own numbers of neurons (four up to 1 %, at most 64), with those of a recipe's authors."""
    asked = [max(1, round(share * n_units)) for share in shares]
    few = [k for k in numbers if k <= RULE.fraction * n_units]
    return tuple(sorted({*default_ks(n_units), *asked, *few}))


def by_neurons(
    name: str,
    kinds: Sequence[Kind],
    *,
    methods: Sequence[str] = (),
    prepare: Callable[[Ground, StudySettings, Progress], Rank] | None = None,
    shares: Sequence[float] = (),
    numbers: Sequence[int] = (),
) -> Prove:
    """A recipe that changes the top neurons of a ranking, by the machinery of `nt.study`.

    Args:
        kinds: interventions to try, in order of preference where they tie.
        methods: registered rankers; or
        prepare: reads what it needs from a family's pairs, once, and returns its ranking.
        shares: its authors' sizes, of all neurons.
        numbers: sizes as numbers of neurons, tried where they are at most 1 %.
    """

    def proved(
        grounds: Sequence[Ground],
        folds: Sequence[RowFold],
        settings: StudySettings,
        progress: Progress,
    ) -> tuple[Flip, ...]:
        ks = sizes(inspect_model(grounds[0].model).n_neurons, shares, numbers)
        own = replace(settings, methods=tuple(methods) or (name,), kinds=tuple(kinds), ks=ks)
        ranked = nullcontext() if prepare is None else lent(name, prepare(grounds[0], settings, progress))
        with ranked:
            return tuple(flip for each in grounds for flip in prove(each, folds, own, progress).flips)

    return proved


_lending = threading.RLock()


@contextmanager
def lent(name: str, rank: Rank) -> Iterator[None]:
    """Context in which the study's machinery knows a ranker of this name."""
    with _lending:
        register_ranker(name, Ranker(_by_pairs, from_evidence=rank, mean_over_pairs=False, compared=()))
        try:
            yield
        finally:
            del RANKERS[name]


def _by_pairs(*_: Any, **__: Any) -> Scores:
    raise NotImplementedError("a recipe's ranking is made from what a study has read")
