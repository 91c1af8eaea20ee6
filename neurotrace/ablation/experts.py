"""The router as a unit: an expert switched off, its logit moved or taken from the other prompt.

A router's logits are changed as neurons are (`nt.measure(..., site="router")`): a' = keep * a + gain * d +
offset, at the prompt's last token, before the model's own code picks experts and weighs them. What the
blocks above then do follows, so routing is "free". Nothing is chosen here: every expert is measured, on
all pairs, beside another expert of its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.display import Shown, View, frame_table
from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.effects import Effects, measure
from neurotrace.interventions.intervention import Intervention, make
from neurotrace.interventions.kinds import Kind
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import router_factors

if TYPE_CHECKING:
    import pandas as pd

OFF = -1e4  # a logit that no softmax or sigmoid leaves anything of, in any precision
_EVERY = "every router"


@dataclass(frozen=True)
class ExpertEffects(Shown):
    """What `ablate_experts` found.

    Attributes:
        effects: a row for each pair and change, `measure`'s columns; `label` is the unit, ``"L1.E2"``,
            ``"L1 router"`` or ``"every router"``; `role` ``"selected"``, ``"control"``, ``"other_donor"``.
        used: of each expert, the share of the changed prompts whose last token is sent to it.
        controls: of each expert, the one of its block that is used about as often.
    """

    effects: Effects
    used: dict[str, float]
    controls: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """A row for each unit and change: `unit, used, change, flipped, low, high, kl, n, control,
        control_used, control_flipped`. The control of a whole router is another pair's donor run."""
        import pandas as pd

        rates = self.effects.rates(("label", "intervention", "role")).set_index("role")
        own = rates.loc[["selected"]]
        beside = rates[rates.index != "selected"].set_index(["label", "intervention"])["answers"]
        rows = []
        for row in own.itertuples():
            control = self.controls.get(row.label, "another pair's logits")
            rows.append(
                {
                    "unit": row.label,
                    "used": self.used.get(row.label),
                    "change": row.intervention,
                    "flipped": row.answers,
                    "low": row.answers_low,
                    "high": row.answers_high,
                    "kl": row.kl,
                    "n": row.n,
                    "control": control,
                    "control_used": self.used.get(control),
                    "control_flipped": beside.get((row.label, row.intervention)),
                }
            )
        return pd.DataFrame(rows)

    def _view(self) -> View:
        table = self.to_frame().sort_values("flipped", ascending=False, kind="stable")
        return View(
            "Answers that flip when a router is changed at the prompt's last token, on all pairs, beside "
            f"another expert of the block. Routing: {self.effects.routing}.",
            (frame_table(table, "most flips first"),),
            "All rows: .to_frame(); pair by pair: .effects.",
        )

    def __repr__(self) -> str:
        return f"ExpertEffects({len(self.used)} experts, {len(self.effects)} rows)"


@takes_turns
def ablate_experts(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    direction: Direction | str,
    kinds: Sequence[Kind] = ("off", "patch"),
    progress: Progress = None,
) -> ExpertEffects:
    """Change the router at the prompt's last token: each expert, each block's router, all routers.

    Args:
        direction: of the flips that are counted; the recipient's prompts are changed.
        kinds: ``"off"``: the expert's logit falls to -10,000, so that another is picked in its place;
            ``"patch"``: it takes the value of the pair's other prompt; ``"shift:2"``: it moves by twice
            the difference of the two sides' means; any kind that needs no slopes. A patch is done to
            whole routers as well, beside the logits of another pair.

    Raises:
        InputError: the model is no mixture of experts, or routing is frozen; an unknown kind.

    Example::

        nt.ablate_experts(model, pairs, direction="to_reasoning").to_frame()
    """
    info, to = inspect_model(model), Direction(direction)
    if info.experts is None:
        raise InputError(f"{info.name} has no experts: nt.ablate measures the neurons of a dense model")
    encoded = encode(model, pairs, progress=progress)
    counts = [experts for experts, _, _ in info.experts.blocks]
    logits = router_logits(model, encoded, progress=progress)
    share = _used(model, encoded, to)
    units = [Neuron(layer, each) for layer, count in enumerate(counts) for each in range(count)]
    names = {unit: f"L{unit.layer}.E{unit.index}" for unit in units}
    used = {name: float(share[unit.layer, unit.index]) for unit, name in names.items()}
    near = {unit: _near(unit, units, share) for unit in units if counts[unit.layer] > 1}
    changes = []
    for kind in kinds:
        for unit in units:
            changes.append(replace(_made(kind, [unit], logits, to), label=names[unit]))
            if unit in near:
                beside = _made(kind, [near[unit]], logits, to)
                changes.append(replace(beside, label=names[unit], role="control"))
        if kind != "off" and _made(kind, units[:1], logits, to).needs_donor:
            whole = {f"L{n} router": [u for u in units if u.layer == n] for n, c in enumerate(counts) if c}
            for label, chosen in (whole | {_EVERY: units}).items():
                change = replace(_made(kind, chosen, logits, to), label=label)
                changes += [change, replace(change, role="other_donor")]
    effects = measure(model, encoded, changes, site="router", activations=logits, progress=progress)
    return ExpertEffects(effects, used, {names[unit]: names[each] for unit, each in near.items()})


def router_logits(model: HookedModel, encoded: EncodedPairs, *, progress: Progress = None) -> Activations:
    """The routers' logits at the last token of both prompts, [side, pair, layer, expert].

    0 where a block has fewer experts than the one with the most.
    """
    info = inspect_model(model)
    assert info.experts is not None
    counts = [experts for experts, _, _ in info.experts.blocks]
    values = torch.zeros(len(SIDES), len(encoded), info.n_layers, max(counts))
    for place, side in enumerate(SIDES):
        for rows, ids in over(progress, list(by_length(encoded.ids(side), 32)), "reading routers"):

            def keep(layer: int, seen: Tensor, at: tuple[int, list[int]] = (place, rows)) -> None:
                values[at[0], at[1], layer, : counts[layer]] = seen[:, -1].detach().float().cpu()

            with torch.no_grad():
                layers = [layer for layer, count in enumerate(counts) if count]
                forward(model, ids, edit=keep, layers=layers, site="router")
    return Activations(values, encoded.pairs)


def _used(model: HookedModel, encoded: EncodedPairs, to: Direction) -> Float[Tensor, "layer expert"]:
    """The share of the recipient's prompts whose last token is sent to each expert."""
    info = inspect_model(model)
    assert info.experts is not None
    counts = torch.zeros(info.n_layers, max(experts for experts, _, _ in info.experts.blocks))
    for _, ids in by_length(encoded.ids(to.recipient), 32):
        factors = router_factors(model, ids)
        assert factors is not None
        for layer, (experts, width, _) in enumerate(info.experts.blocks):
            first = [expert * width for expert in range(experts)]
            counts[layer, :experts] += (factors[:, layer, first] != 0).sum(dim=0)
    return counts / len(encoded)


def _near(unit: Neuron, units: Sequence[Neuron], share: Float[Tensor, "layer expert"]) -> Neuron:
    """The other expert of its block that is used about as often."""
    own = share[unit.layer]
    others = [each for each in units if each.layer == unit.layer and each != unit]
    return min(others, key=lambda each: float((own[each.index] - own[unit.index]).abs()))


def _made(kind: Kind, units: Sequence[Neuron], logits: Activations, to: Direction) -> Intervention:
    if kind != "off":
        return make(kind, units, logits, direction=to)
    none = torch.zeros(len(units))
    return Intervention("off", tuple(units), to, none, none, torch.full_like(none, OFF))
