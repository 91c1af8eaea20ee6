"""What all of `ablation*.py` share: one kind of intervention, ready to be done to single neurons and to
sets of them, pair by pair, on the suffix engine or else through hooks.

Neurons are given as *places*: layer * d_mlp + index, in a sorted tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.ablation.batch import bytes_each
from neurotrace.ablation.reads import Pass, passes_of, together
from neurotrace.ablation.task import Task, absolute
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.process import Progress, over
from neurotrace.engine.edits import Edit, Run, affine_by_layer
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.targets import Targets
from neurotrace.models.hooks import forward

_MERGE = 128  # with fewer rows, neighbouring layers share a pass: few rows cost as much as many
_HOOKED = 64  # rows of one hooked pass
_SAMPLE = 4, 32  # pairs, and neurons a pair, on which `fast` is compared with `exact`


@dataclass(frozen=True)
class Clean:
    """The unchanged run of one pair's recipient prompt, and the donor values that the kind needs."""

    row: int
    where: tuple[int, ...]  # positions, counted from the prompt's start
    values: Float[Tensor, "position layer neuron"]
    given: Float[Tensor, "position layer neuron"] | None  # the donor's
    before: float  # L, nats
    passes: tuple[Pass, ...]  # one; or one for each accepted sequence of the two answers

    @property
    def ids(self) -> Int[Tensor, "1 pos"]:
        return self.passes[0].ids

    @property
    def run(self) -> Run | None:
        return self.passes[0].run


def clean(task: Task, row: int) -> Clean:
    """Run the pair at `row` unchanged; for a patch, its donor prompt as well."""
    ids = task.encoded.ids(task.side)[row][None]
    where = absolute(task.positions, ids.shape[1])
    made, read = [], []
    for each in passes_of(task, row, ids):
        run, values, logits = _values(task, each.ids, where, each.behind)
        # not from `encoded`: the model may have been another then
        read.append(each.read(logits) if run is None else each.of(task.engine, run.hidden))
        made.append(replace(each, run=run))
    given = None
    if task.needs_donor:
        other = task.encoded.ids(task.donor)[row][None]
        given = _values(task, other, absolute(task.positions, other.shape[1])).values
    return Clean(row, where, values, given, float(together(made, read)[0]), tuple(made))


def changes(
    task: Task,
    values: Float[Tensor, "row layer neuron"],
    given: Float[Tensor, "row layer neuron"] | None,
) -> Float[Tensor, "row layer neuron"]:
    """The change of each neuron if the intervention is applied to it alone; NaN: not defined.

    Args:
        values, given: the recipient's activations, and for a patch the donor's.
    """
    targets = Targets(task.kind, task.donor, given, task.reference)
    return targets.changes(range(len(values)), values)


def sweep(
    task: Task,
    rows: Sequence[int],
    places: Int[Tensor, " place"],
    *,
    progress: Progress = None,
    description: str = "ablating neurons",
) -> Iterator[tuple[Clean, Int[Tensor, " part"], Float[Tensor, " part"]]]:
    """(clean run, some of `places`, change of L in nats) until every place is done on each of `rows`.

    Raises:
        InputError: an effect is not finite; names the neuron and the pair.
    """
    parts = groups(places, task.info.d_mlp)
    work = [(row, part) for row in rows for part in parts]
    of: Clean | None = None
    for row, part in over(progress, work, description):
        if of is None or of.row != row:
            of = clean(task, row)
            new = of.values + changes(task, of.values, of.given)
        effect = one_by_one(task, of, part, new.flatten(1)[:, part].t()) - of.before
        refuse_nan(task, row, part, effect)
        yield of, part, effect


def sets(task: Task, of: Clean, made: Sequence[Intervention]) -> Float[Tensor, " set"]:
    """L (nats) of this pair under each of the interventions."""
    edits = []
    for each in made:
        layers = torch.tensor([neuron.layer for neuron in each.neurons])
        units = torch.tensor([neuron.index for neuron in each.neurons])
        offset = each.offset[:, None].expand(-1, len(of.where))
        if of.given is not None:
            offset = offset + each.gain[:, None] * of.given[:, layers, units].t()
        edits.append(Edit(layers, units, each.keep, offset))
    after = _edited(task, of, edits)
    for each, value in zip(made, after.tolist(), strict=True):
        if not abs(value) < float("inf"):
            raise InputError(
                f"{each} on pair {task.encoded.pairs[of.row].id}: L is {value}: "
                "load the model with dtype=float32, or use a weaker intervention"
            )
    return after


def made_on(task: Task, neurons: Sequence[Neuron]) -> Intervention:
    return make(task.kind, neurons, cast(Any, task.reference), direction=task.direction)


def groups(places: Int[Tensor, " place"], width: int) -> list[Int[Tensor, " part"]]:
    """Places by layer; neighbouring layers with few of them together."""
    counts = torch.unique_consecutive(places // width, return_counts=True)[1].tolist()
    found: list[Tensor] = []
    for part in places.split(counts):
        if found and len(found[-1]) + len(part) <= _MERGE:
            found[-1] = torch.cat([found[-1], part])
        else:
            found.append(part)
    return found


def fast_error(task: Task, places: Int[Tensor, " place"]) -> float:
    """RMS of fast minus exact effects over the RMS of exact ones, on a random few."""
    generator = torch.Generator().manual_seed(0)
    engine: Any = task.engine
    wrong = size = 0.0
    for row in torch.randperm(len(task.encoded), generator=generator)[: _SAMPLE[0]].tolist():
        drawn = torch.randperm(len(places), generator=generator)[: _SAMPLE[1]]
        of = clean(task, row)
        some = places[drawn]
        new = of.values + changes(task, of.values, of.given)
        edits = _singles(task, some, new.flatten(1)[:, some].t())
        exact, fast = (
            together(
                of.passes,
                [each.of(engine, engine.sets(each.run, edits, exact=exact)) for each in of.passes],
            )
            .double()
            .cpu()
            for exact in (True, False)
        )
        wrong += float((fast - exact).square().sum())
        size += float((exact - of.before).square().sum())
    return (wrong / size) ** 0.5 if size else 0.0


def named(place: int, width: int) -> Neuron:
    return Neuron(place // width, place % width)


def refuse_nan(task: Task, row: int, places: Tensor, effects: Tensor) -> None:
    bad = ~torch.isfinite(effects)
    if bad.any():
        at = int(bad.nonzero()[0, 0])
        neuron = named(int(places[at]), task.info.d_mlp)
        raise InputError(
            f"{task.kind} of {neuron} on pair {task.encoded.pairs[row].id}: the change of L is "
            f"{float(effects[at])}: load the model with dtype=float32, or use a weaker intervention"
        )


def one_by_one(
    task: Task, of: Clean, places: Int[Tensor, " c"], new: Float[Tensor, "c position"]
) -> Float[Tensor, " c"]:
    """L with one neuron set to its new values, for each of `places`."""
    width, engine = task.info.d_mlp, task.engine
    layer = int(places[0]) // width
    if engine is None or int(places[-1]) // width != layer:
        return _edited(task, of, _singles(task, places, new))
    read = []
    for each in of.passes:
        run = cast(Run, each.run)
        tokens = each.ids.shape[1] - run.start
        bytes_a_row = bytes_each(task.model, task.info, each.ids.shape[1])
        size, trial = task.batch.size(tokens, bytes_a_row, len(places))
        engine.batch_size = size
        start = time.perf_counter()
        hidden = engine.single(run, layer, places % width, new)
        read.append(each.of(engine, hidden).float().cpu())
        if trial:
            blocks = task.info.n_layers - layer
            task.batch.seconds[size] = (time.perf_counter() - start) / (len(places) * tokens * blocks)
        if engine.batch_size < size:
            task.batch.held = engine.batch_size
    return together(of.passes, read)


def _singles(task: Task, places: Tensor, new: Float[Tensor, "c position"]) -> list[Edit]:
    at, width = places.tolist(), task.info.d_mlp
    return [
        Edit.set([place // width], [place % width], value[None])
        for place, value in zip(at, new, strict=True)
    ]


def _edited(task: Task, of: Clean, edits: Sequence[Edit]) -> Float[Tensor, " edit"]:
    """L under each edit."""
    return together(of.passes, [_read_under(task, each, of.where, edits) for each in of.passes])


def _read_under(
    task: Task, of: Pass, changed: tuple[int, ...], edits: Sequence[Edit]
) -> Float[Tensor, " edit"]:
    if of.run is None:
        where = torch.tensor(changed, device=task.info.device)
        found = []
        for start in range(0, len(edits), min(_HOOKED, task.batch.rows or _HOOKED)):
            some = edits[start : start + min(_HOOKED, task.batch.rows or _HOOKED)]
            maps = affine_by_layer(some, where)

            def edit(layer: int, post: Tensor, maps: dict = maps) -> Tensor:
                return maps[layer](post.clone())

            found.append(of.read(_hooked(task, of.ids.expand(len(some), -1), edit, maps, of.behind)).cpu())
        return torch.cat(found)
    engine: Any = task.engine
    tokens = of.ids.shape[1] - of.run.start
    size = engine.batch_size = task.batch.size(
        tokens, bytes_each(task.model, task.info, of.ids.shape[1]), 0
    )[0]
    hidden = engine.sets(of.run, edits)
    if engine.batch_size < size:
        task.batch.held = engine.batch_size
    return of.of(engine, hidden).float().cpu()


def _hooked(
    task: Task,
    ids: Int[Tensor, "row pos"],
    edit: Callable[[int, Tensor], Tensor | None],
    layers: Iterable[int],
    behind: int,
) -> Float[Tensor, "row *token vocab"]:
    """Logits of a full pass at the prompt's end and at each token behind it."""
    with torch.no_grad():
        logits = forward(task.model, ids, edit=edit, layers=layers, every=True)
    return logits[:, -1 - behind :] if behind else logits[:, -1]


class _Read(NamedTuple):
    run: Run | None
    values: Float[Tensor, "position layer neuron"]
    logits: Float[Tensor, "1 *token vocab"]  # of full passes; empty where there is a run


def _values(task: Task, ids: Int[Tensor, "1 pos"], where: tuple[int, ...], behind: int = 0) -> _Read:
    if task.engine is not None:
        try:
            run = task.engine.clean(ids, where, read=1 + behind)
        except ValueError as error:
            raise InputError(f"{error}: load the model with dtype=float32") from None
        values = torch.stack([x[0].float().cpu() for x in run.inputs], dim=1)
        return _Read(run, values, torch.empty(1, 0))
    values = torch.empty(len(where), task.info.n_layers, task.info.d_mlp)

    def keep(layer: int, post: Tensor) -> None:
        values[:, layer] = post[0, list(where)].float().cpu()

    return _Read(None, values, _hooked(task, ids, keep, range(task.info.n_layers), behind))
