"""The settings of an exact sweep: pairs, intervention, positions; checked before any pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from neurotrace.ablation.batch import Batch, batch_for
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.sides import DIRECTIONS, Direction, Side
from neurotrace.interventions.kinds import KINDS, Affine, Kind, form_of, parse_kind
from neurotrace.interventions.reference import Reference, reference as slopes_and_means
from neurotrace.interventions.targets import provenance
from neurotrace.models.activations import Moments, moments
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import ModelInfo, inspect_model
from neurotrace.models.origins import engine_of, twin
from neurotrace.models.protocol import HookedModel

Where = Literal["read", "all"] | Sequence[int]

Precision = Literal["exact", "fast"]


@dataclass(frozen=True)
class Task:
    """One kind of intervention on these pairs; made by `prepare`."""

    model: HookedModel
    info: ModelInfo
    encoded: EncodedPairs
    kind: Kind
    donor: Side
    positions: Where
    reference: Moments | Reference | None
    engine: Any | None  # a copy of the shared engine, with this task's batch size
    batch: Batch

    @property
    def side(self) -> Side:
        return Direction.from_donor(self.donor).recipient

    @property
    def direction(self) -> Direction:
        return Direction.from_donor(self.donor)

    @property
    def precision(self) -> Precision:
        return "exact" if self.engine is None else self.engine.precision

    def rows(self) -> Affine:
        """The map of each neuron when it alone is changed."""
        name, strength = parse_kind(self.kind)
        return KINDS[name].rows(self.reference, self.direction, strength)

    @property
    def needs_donor(self) -> bool:
        return form_of(self.kind).needs == "donor"

    def record(self, **more: Any) -> dict[str, Any]:
        """The record of what was done, for a provenance."""
        path = "hooks" if self.engine is None else self.engine.path
        if self.engine is not None and self.positions != "read":
            path = self.engine.early or path
        where = self.positions if isinstance(self.positions, str) else list(self.positions)
        return provenance(self.model, self.encoded, self.donor, self.kind) | {
            "positions": where,
            "path": path,
            "precision": self.precision,
            **more,
        }


def prepare(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    kind: Kind,
    donor: Side,
    *,
    reference: Moments | Reference | None = None,
    positions: Where = "read",
    precision: Precision = "exact",
    batch_size: int | Literal["auto"] = "auto",
    memory_gb: float | None = None,
    progress: Progress = None,
) -> Task:
    """Check everything that can be checked before the first pass.

    Raises:
        InputError: an unknown kind, donor, position or precision; a patch elsewhere than at the final
            token position on pairs that don't align; a batch or budget below one.
    """
    Direction.from_donor(donor)
    form = form_of(kind)
    encoded, info = encode(model, pairs), inspect_model(model)
    if precision not in ("exact", "fast"):
        raise InputError(f"precision={precision!r}: expected 'exact' or 'fast'")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise InputError(f"batch_size={batch_size!r}: expected 'auto' or a number of neurons a pass")
    if memory_gb is not None and not memory_gb > 0:
        raise InputError(f"memory_gb={memory_gb!r}: expected a number above 0")
    side = Direction.from_donor(donor).recipient
    where = _checked(positions, encoded, side, patching=form.needs == "donor")
    if form.needs == "slopes" and reference is None:
        reference = slopes_and_means(model, encoded, progress=progress)
    elif form.needs == "means" and reference is None:
        reference = moments(model, encoded, progress=progress)
    form.reference(reference, parse_kind(kind)[0])
    engine = _engine(model, encoded.ids(side)[0], where, precision)
    batch = batch_for(info, None if batch_size == "auto" else batch_size, memory_gb)
    return Task(model, info, encoded, kind, donor, where, reference, engine, batch)


def _engine(model: HookedModel, ids: Tensor, positions: Where, precision: Precision) -> Any | None:
    """This task's copy of the model's engine, checked for these positions and this precision."""
    engine = engine_of(model)
    if engine is None:
        if precision == "fast":
            warnings.warn("exact, not fast: full passes have no delta form", stacklevel=4)
        return None
    if precision == "fast":
        from neurotrace.engine import proof

        engine = proof.engine(cast(Any, twin(model)), engine.path, precision="fast")
    if positions != "read":
        engine.clean(ids[None], absolute(positions, len(ids)))  # checks earlier positions, once
    return copy.copy(engine)


def _checked(positions: Any, encoded: EncodedPairs, side: Side, *, patching: bool) -> Where:
    if isinstance(positions, str):
        if positions not in ("read", "all"):
            raise InputError(f"positions={positions!r}: expected 'read', 'all' or a list of places")
    else:
        shortest = min(len(ids) for ids in encoded.ids(side))
        positions = tuple(positions)
        if not positions or any(not -shortest <= place < shortest for place in positions):
            raise InputError(
                f"positions={list(positions)}: expected places from {-shortest} (from the end) to "
                f"{shortest - 1}, inside the shortest prompt"
            )
    if positions != "read" and patching and not encoded.aligned:
        raise InputError(
            "a patch elsewhere than at the final token position needs prompts of equal length on both "
            "sides: patch at the final token position, or use 'set'"
        )
    return cast(Where, positions)


def absolute(positions: Where, length: int) -> tuple[int, ...]:
    if isinstance(positions, str):
        return tuple(range(length)) if positions == "all" else (length - 1,)
    return tuple(sorted({place % length for place in positions}))


def strength(effect: Tensor, direction: Direction | None) -> Tensor:
    """The size of an effect in this direction; None: its absolute size."""
    if direction is None:
        return effect.abs()
    return direction.sign * effect


def check_direction(direction: Direction | str | None) -> Direction | None:
    """The direction itself; None stays None; `InputError` for another word."""
    if direction is not None and direction not in DIRECTIONS:
        raise InputError(f"direction={direction!r}: expected {' or '.join(DIRECTIONS)}, or None")
    return None if direction is None else Direction(direction)


def places_of(neurons: Sequence[Neuron] | None, task: Task) -> Int[Tensor, " place"]:
    """Sorted places of these neurons (None: all for which the intervention is defined).

    Raises:
        InputError: none are left, or one lies outside the model.
    """
    info: ModelInfo = task.info
    if neurons is None:
        places = torch.arange(info.n_neurons)
    elif not len(neurons):
        raise InputError("neurons is empty: name those to measure, or None for all")
    else:
        for one in neurons:
            if one.layer >= info.n_layers or one.index >= info.d_mlp:
                raise InputError(
                    f"{one} is outside the model's {info.n_layers} layers × {info.d_mlp} neurons"
                )
        places = torch.tensor(sorted({one.layer * info.d_mlp + one.index for one in neurons}))
    offset = task.rows().offset
    if isinstance(offset, Tensor):
        places = places[~offset.isnan().flatten()[places]]
        if not len(places):
            raise InputError(f"{task.kind}: none of these neurons has a slope to move along")
    return places
