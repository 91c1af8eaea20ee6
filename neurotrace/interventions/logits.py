"""The model's logits at the end of a prompt, and on an answer behind it, under interventions.

Interventions on neurons run on the suffix engine, if the model has one; otherwise they run as full
forward passes with hooks. Both give the same numbers within rounding;
`tests/interventions/test_effects.py` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import by_layer
from neurotrace.engine.edits import Edit, Run
from neurotrace.engine.tops import Screen, is_top
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import ModelInfo, Site, forward
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import end_logits

# the prompt's last token; there and at each token of the answer behind it; every token of the prompt;
# places counted from the prompt's end, -1 the last token. `measure` also takes "cue" and "anywhere"
Positions = Literal["read", "onward", "all"] | tuple[int, ...]
WithinRun = Literal["read", "onward"]  # where a study changes neurons
# (places of the prompts, the tokens behind them) -> for each intervention the donor's values
Donors = Callable[[Sequence[int], Int[Tensor, "row token"]], list[Tensor | None]]


def places_in(positions: Positions, length: int, behind: int = 0) -> tuple[int, ...]:
    """The changed places, ascending, in a row of `length` tokens of which `behind` follow the prompt."""
    end = length - behind
    if positions == "read":
        return (end - 1,)
    if positions == "onward":
        return tuple(range(end - 1, length))
    if positions == "all":
        return tuple(range(end))
    return tuple(sorted({end + place for place in positions}))


def units_of(info: ModelInfo, site: Site) -> tuple[list[int], str]:
    """How many units each layer has at this site, and the word for them."""
    if site == "router":
        blocks = () if info.experts is None else info.experts.blocks
        return [experts for experts, _, _ in blocks] or [0] * info.n_layers, "experts"
    width, word = (info.d_mlp, "neurons") if site == "neurons" else (info.d_model, "dimensions")
    return [width] * info.n_layers, word


def logits_under(
    model: HookedModel,
    ids: Int[Tensor, "prompt pos"] | Sequence[Int[Tensor, " pos"]],
    interventions: Sequence[Intervention],
    donors: Sequence[Tensor | None],
    *,
    positions: Positions = "read",
    site: Site = "neurons",
    behind: int = 0,
    cleans: dict[bytes, Any] | None = None,
) -> tuple[Float[Tensor, "prompt *read vocab"], Iterator[Float[Tensor, "prompt *read vocab"]]]:
    """Logits at the prompt's last position: of the unchanged model, and under each intervention in turn.

    Args:
        ids: a list of prompts of several lengths where `mixed_run` has a run of them.
        donors: for each intervention the donor values of its neurons, Float[Tensor, "prompt neuron"],
            or "prompt place neuron" with a value for each changed place; None where it needs none.
        cleans: a dict in which the engine's clean runs are kept for the next call on the same prompts
            (they cost as much as twenty changed rows). Clear it when the model changes.
        behind: number of tokens at the end of `ids` that stand behind the prompt, tokens of an answer.
            With `behind` above 0 the logits are those at the prompt's last token and at each token
            behind it, "prompt 1+behind vocab".
    """
    engine = engine_of(model) if site == "neurons" else None
    if not isinstance(ids, Tensor):
        run = mixed_run(model, ids, positions, site)
        assert run is not None
        return _logits(engine, run, interventions, donors)
    places = places_in(positions, ids.shape[1], behind)
    if engine is None:
        together = zip(interventions, donors, strict=True)
        changed = (_hooked_logits(model, ids, each, own, places, site, behind) for each, own in together)
        return _squeezed(end_logits(model, ids, 1 + behind)), changed
    key = ids.numpy().tobytes()
    if places != (ids.shape[1] - 1,):
        key += f"{places} {behind}".encode()
    run = (cleans or {}).get(key)
    if run is None:
        run = engine.clean(ids, places, read=1 + behind)
    if cleans is not None:
        cleans[key] = run
    return _logits(engine, run, interventions, donors)


def mixed_run(
    model: HookedModel, prompts: Sequence[Int[Tensor, " pos"]], positions: Positions, site: Site = "neurons"
) -> Run | None:
    """A run of prompts of any lengths, changed at their last tokens; None where the engine has none."""
    kept = _kept(model, positions, site)
    found: Run | None = None if kept is None else kept.mixed(prompts)
    return found


def mixes(
    model: HookedModel, prompts: Sequence[Int[Tensor, " pos"]], positions: Positions, site: Site
) -> bool:
    """Whether `mixed_run` has a run of any of these prompts together."""
    kept = _kept(model, positions, site)
    two = [min(prompts, key=len), max(prompts, key=len)]
    return kept is not None and kept.add(prompts) and kept.mixed(two) is not None


def _kept(model: HookedModel, positions: Positions, site: Site) -> Any:
    """The clean runs that the model's engine keeps; None where it has none or the change is elsewhere."""
    engine = _at_last_tokens(model, positions, site)
    return None if engine is None else engine.kept


def _at_last_tokens(model: HookedModel, positions: Positions, site: Site = "neurons") -> Any:
    """The model's engine, if neurons are changed at the prompts' last tokens; else None."""
    # with no token behind the prompts, both are their last tokens
    return engine_of(model) if site == "neurons" and positions in ("read", "onward") else None


def _logits(
    engine: Any, run: Run, interventions: Sequence[Intervention], donors: Sequence[Tensor | None]
) -> tuple[Float[Tensor, "prompt *read vocab"], Iterator[Float[Tensor, "prompt *read vocab"]]]:
    """Those of `logits_under`, on the engine."""
    hidden = _hidden(engine, run, interventions, donors)
    logits = engine.logits(hidden.flatten(0, 1)).float().cpu().unflatten(0, hidden.shape[:2])
    return engine.logits(run.hidden).float().cpu(), iter(logits)


def tops_under(
    model: HookedModel,
    prompts: Sequence[Int[Tensor, " pos"]],
    interventions: Sequence[Sequence[Intervention]],
    donors: Sequence[Sequence[Tensor | None]],
    wanted: Int[Tensor, " prompt"],
    *,
    positions: Positions = "read",
) -> Bool[Tensor, "prompt intervention"]:
    """Whether each prompt's `wanted` is the top-1 token under each of its interventions (`engine/tops.py`).

    Args:
        interventions: each prompt's own, equally many.
        donors: each prompt's values for them, Float[Tensor, "neuron"], or "place neuron".

    Raises:
        InputError: an intervention leaves logits that are not finite.
    """
    engine = _at_last_tokens(model, positions)
    mixed = mixed_run(model, prompts, positions)
    count = len(interventions[0])
    if mixed is None and len({len(ids) for ids in prompts}) > 1:
        found = torch.zeros(len(prompts), count, dtype=torch.bool)
        for rows, ids in by_length(prompts, len(prompts)):
            some = [interventions[row] for row in rows], [donors[row] for row in rows]
            found[rows] = tops_under(model, list(ids), *some, wanted[rows], positions=positions)
        return found
    if engine is None:
        found = torch.zeros(len(prompts), count, dtype=torch.bool)
        for rows in _alike(interventions):
            ids = torch.stack([prompts[row] for row in rows])
            given = [
                None if each[0] is None else torch.stack(each)
                for each in zip(*map(donors.__getitem__, rows), strict=True)
            ]
            _, changed = logits_under(model, ids, interventions[rows[0]], given, positions=positions)
            for at, (each, logits) in enumerate(zip(interventions[rows[0]], changed, strict=True)):
                found[rows, at] = check_finite(each, logits).argmax(-1) == wanted[rows]
        return found
    edits = [
        _edit(each, values)
        for own, given in zip(interventions, donors, strict=True)
        for each, values in zip(own, given, strict=True)
    ]
    tokens = wanted.repeat_interleave(count)
    screen = None if mixed is None else Screen.of(engine, len(edits))
    if screen is not None and mixed is not None:
        tops, hidden = screen.tops(prompts, mixed, edits, tokens)
    else:
        hidden = engine.sets(mixed or engine.clean(torch.stack(list(prompts))), edits)
        tops = is_top(engine, hidden, tokens)
    finite = torch.isfinite(hidden).flatten(1).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        check_finite(interventions[row // count][row % count], hidden[row])
    return tops.cpu().view(len(prompts), count)


def _alike(interventions: Sequence[Sequence[Intervention]]) -> list[list[int]]:
    """Places of the prompts that have the same interventions."""
    places: dict[int, list[int]] = {}
    for place, own in enumerate(interventions):
        places.setdefault(id(own), []).append(place)
    return list(places.values())


def check_finite(intervention: Intervention, values: Tensor) -> Tensor:
    """`values`; InputError if they are not finite."""
    # a sum is read faster, and is not finite where a value is not
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        raise InputError(f"{intervention}: the logits it leaves are not finite")
    return values


def _hidden(
    engine: Any, run: Run, interventions: Sequence[Intervention], donors: Sequence[Tensor | None]
) -> Float[Tensor, "intervention prompt *read d_model"]:
    """The unembedding's input under each intervention."""
    edits = [
        _edit(each, None if values is None else values[row])
        for row in range(len(run.ids))
        for each, values in zip(interventions, donors, strict=True)
    ]
    rows = engine.sets(run, edits)
    return rearrange(rows, "(prompt each) ... -> each prompt ...", prompt=len(run.ids))


def _edit(intervention: Intervention, values: Float[Tensor, "*place neuron"] | None) -> Edit:
    """The engine's row for an intervention on one prompt."""
    layers = torch.tensor([neuron.layer for neuron in intervention.neurons])
    units = torch.tensor([neuron.index for neuron in intervention.neurons])
    given = torch.zeros(len(intervention)) if values is None else values
    offset = intervention.gain * given + intervention.offset
    return Edit(layers, units, intervention.keep, offset.t() if offset.ndim == 2 else offset)


def _hooked_logits(
    model: HookedModel,
    ids: Tensor,
    intervention: Intervention,
    donor: Tensor | None,
    where: tuple[int, ...],
    site: Site,
    behind: int,
) -> Float[Tensor, "prompt *read vocab"]:
    """A full forward pass with hooks that apply the map."""
    layers = by_layer(intervention.neurons)
    rows = torch.tensor(where)[:, None]

    def edit(layer: int, post: Tensor) -> Tensor:
        chosen = layers[layer]
        units = torch.tensor([intervention.neurons[place].index for place in chosen])
        given = None if donor is None else donor[..., chosen]
        if given is not None and given.ndim == 2:  # one value a prompt, at every place
            given = given[:, None]
        changed = post.clone()
        changed[:, rows, units] = intervention.apply(chosen, post[:, rows, units], given)
        return changed

    with torch.no_grad():
        every = behind > 0
        logits = forward(model, ids, edit=edit, layers=layers, site=site, every=every)
    return _squeezed(logits[:, -1 - behind :] if every else logits[:, None])


def _squeezed(logits: Float[Tensor, "prompt read vocab"]) -> Float[Tensor, "prompt *read vocab"]:
    """On the CPU, in float32; without its axis where one position is read."""
    return (logits[:, 0] if logits.shape[1] == 1 else logits).float().cpu()
