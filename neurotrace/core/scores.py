"""A score for every neuron, and the selection of neurons by it.

A signed score predicts the change of L = logit(memorized) - logit(reasoned), in nats, that the ranker's
intervention on this one neuron would cause: negative values push towards reasoning, positive ones
towards memory, so the two directions are the two ends of one ranking. An unsigned score (contrast,
Pearson) measures how much a neuron differs and not what it causes; neurons are ranked by its magnitude.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.core.display import Bar, Shown, Table, View
from neurotrace.core.errors import InputError
from neurotrace.core.files import read_tensors
from neurotrace.core.neurons import NEURON_DEFINITION, Experts, Neuron, NeuronSet, name_of, places_like
from neurotrace.core.sides import DIRECTIONS, Direction, spoken
from neurotrace.core.writing import save_whole

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores(Shown):
    """Scores of one ranker. NaN means not measured; such neurons are never picked."""

    method: str
    value: Float[Tensor, "layer neuron"]
    unit: str = "nats of logit(memorized) - logit(reasoned)"
    signed: bool = True
    site: str = "mlp.hook_post"
    columns: Mapping[str, Float[Tensor, "layer neuron"]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value.ndim != 2:
            raise InputError(f"scores of shape {tuple(self.value.shape)}, expected [layer, neuron]")
        if self.experts is not None:  # shorter blocks end before the longest
            if len(self.experts.blocks) != self.n_layers:
                raise InputError(f"{len(self.experts.blocks)} blocks of experts, expected {self.n_layers}")
            places = torch.arange(self.value.shape[1])
            counts = torch.tensor([number * width + more for number, width, more in self.experts.blocks])
            value = self.value.masked_fill(places.to(self.value.device) >= counts[:, None], torch.nan)
            object.__setattr__(self, "value", value)
        if torch.isinf(self.value).any() or torch.isnan(self.value).all():
            raise InputError(f"{self.method}: scores are infinite or all NaN; nothing to rank")
        for name, column in self.columns.items():
            if column.shape != self.value.shape:
                raise InputError(
                    f"column {name!r} has shape {tuple(column.shape)}, expected that of the value, "
                    f"{tuple(self.value.shape)}"
                )

    @property
    def n_layers(self) -> int:
        return self.value.shape[0]

    @property
    def n_neurons(self) -> int:
        return self.value.numel()

    @property
    def direction(self) -> Direction | None:
        """The direction that the ranker was asked for; None where it was asked for none."""
        asked = self.provenance.get("direction")
        return None if asked is None else Direction(asked)

    @property
    def experts(self) -> Experts | None:
        """How a mixture's neurons are named; None: the model is no mixture."""
        return Experts.of(self.provenance.get("experts"))

    def name(self, neuron: Neuron) -> str:
        """``L3.N771``, or ``L3.E12.N57`` in a mixture of experts."""
        return name_of(neuron, self.experts)

    def _way(self, direction: Direction | str | None) -> Direction:
        if direction is not None:
            return Direction(direction)
        if self.direction is None:
            raise InputError(
                f"these scores by {self.method} have no direction of their own: pass "
                f"direction={' or '.join(map(repr, DIRECTIONS))}"
            )
        return self.direction

    def strength(self, direction: Direction | str | None = None) -> Float[Tensor, "layer neuron"]:
        """How strongly each neuron pushes in `direction`: larger is more, NaN stays NaN.

        `direction` defaults to the direction of the scores, here and below.
        """
        to = self._way(direction)
        return to.sign * self.value if self.signed else self.value.abs()

    def top(self, k: int, *, direction: Direction | str | None = None) -> NeuronSet:
        """The k neurons that push hardest in `direction`, strongest first (ties: lower first)."""
        measured = int((~self.value.isnan()).sum())
        if not 1 <= k <= measured:
            raise InputError(f"k={k}: expected 1 to {measured}, the number of neurons with a score")
        to = self._way(direction)
        strength = self.strength(to).nan_to_num(nan=-torch.inf).flatten()
        order = torch.sort(strength, descending=True, stable=True).indices[:k]
        width = self.value.shape[1]
        found = (Neuron(int(place) // width, int(place) % width) for place in order)
        return NeuronSet(found, to, self.experts)

    def random_like(self, neurons: Iterable[Neuron], *, seed: int) -> NeuronSet:
        """Random other neurons, as many in each layer, without replacement, with the same direction.

        In a mixture of experts as many in each expert, which is then used as often.
        """
        direction = getattr(neurons, "direction", None)
        chosen = tuple(neurons)
        generator = torch.Generator().manual_seed(seed)
        drawn: list[Neuron] = []
        width = self.value.shape[1]
        like = [(neuron.layer, places_like(neuron, width, self.experts)) for neuron in chosen]
        for layer, among in sorted(set(like), key=lambda each: (each[0], each[1].start)):
            taken = [neuron.index for neuron in chosen if neuron.layer == layer and neuron.index in among]
            free = torch.zeros(width, dtype=torch.bool)
            free[among.start : among.stop] = True
            free[taken] = False
            places = free.nonzero()[:, 0]
            if len(places) < len(taken):
                where = self.name(Neuron(layer, taken[0])).rpartition(".N")[0].removeprefix("L")
                raise InputError(f"layer {where} has too few other neurons to draw {len(taken)}")
            order = torch.randperm(len(places), generator=generator)[: len(taken)]
            drawn += [Neuron(layer, int(places[place])) for place in order]
        return NeuronSet(drawn, direction, self.experts)

    def rank_of(self, neuron: Neuron, *, direction: Direction | str | None = None) -> int:
        """Rank of a neuron, 1 for the strongest."""
        strength = self.strength(direction)
        own = strength[neuron.layer, neuron.index]
        if own.isnan():
            raise InputError(f"{neuron} was not measured by {self.method}")
        return int((strength > own).sum()) + 1

    def to_frame(self) -> pd.DataFrame:
        """Rows (layer, neuron, method, score, and the further columns), unmeasured left out."""
        import pandas as pd

        measured = (~self.value.isnan()).nonzero()
        layer, neuron = measured[:, 0], measured[:, 1]
        data = {
            "layer": layer.numpy().astype("int32"),
            "neuron": neuron.numpy().astype("int32"),
            "method": self.method,
            "score": self.value[layer, neuron].numpy(),
        }
        if self.experts is not None:
            data["name"] = [self.name(Neuron(*each)) for each in measured.tolist()]
        data |= {name: column[layer, neuron].numpy() for name, column in self.columns.items()}
        return pd.DataFrame(data)

    def save(self, path: str | Path) -> None:
        """Write as safetensors; values that are not tensors go into its header as JSON."""
        from safetensors.torch import save_file as save_tensors

        tensors = {"value": self.value.contiguous()}
        tensors |= {f"column.{name}": column.contiguous() for name, column in self.columns.items()}
        header = {
            "format": "neurotrace.scores/1",
            "method": self.method,
            "unit": self.unit,
            "signed": self.signed,
            "site": self.site,
            "neuron": NEURON_DEFINITION,
            "columns": list(self.columns),
            "provenance": dict(self.provenance),
        }
        save_whole(
            Path(path),
            lambda made: save_tensors(tensors, made, metadata={"neurotrace": json.dumps(header)}),
        )

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote; `InputError` for any other file."""
        header, tensors = read_tensors(path, "pt")
        if header.get("format") != "neurotrace.scores/1" or "value" not in tensors:
            raise InputError(f"{path}: not written by Scores.save of this version")
        prefix = "column."
        try:
            known = [name.removeprefix(prefix) for name in tensors if name != "value"]
            order = header.get("columns", known)  # safetensors sorts them
            return cls(
                header["method"],
                tensors.pop("value"),
                header["unit"],
                header["signed"],
                header["site"],
                {name: tensors[prefix + name] for name in order},
                header["provenance"],
            )
        except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: damaged scores ({error})") from None

    def _view(self) -> View:
        measured = int((~self.value.isnan()).sum())
        layers, width = self.value.shape
        some = f"{measured:,} of " if measured < self.n_neurons else ""
        meant = "negative pushes towards reasoning, positive towards memory"
        if not self.signed:
            meant = "measures how much a neuron differs, not what it causes"
        few = min(5 if self.signed else 8, measured)
        bound = float(self.value.nan_to_num().abs().max())
        tables = []
        for direction in DIRECTIONS if self.signed else DIRECTIONS[:1]:
            title = spoken(direction) if self.signed else "largest magnitude"
            rows = []
            for rank, neuron in enumerate(self.top(few, direction=direction), start=1):
                at = (neuron.layer, neuron.index)
                score = float(self.value[at])
                row: list[Any] = [rank, self.name(neuron), Bar(score, bound, f"{score:+.4g}", True)]
                if {"low", "high"} <= set(self.columns):
                    low, high = (float(self.columns[end][at]) for end in ("low", "high"))
                    row.append(f"{low:+.3g} to {high:+.3g}")
                rows.append(tuple(row))
            columns = ("rank", "neuron", "score", "95 %")[: len(rows[0])]
            tables.append(Table(columns, rows, title))
        return View(
            f"Scores by {self.method} of {some}{self.n_neurons:,} neurons ({layers} layers × {width:,}), "
            f"in {self.unit}; {meant}.",
            tuple(tables),
            "All of it: .to_frame(); the map: nt.plot_scores(scores)."
            + (f" {self.provenance['resolution']}." if "resolution" in self.provenance else ""),
        )

    def __repr__(self) -> str:
        ends = (
            ", ".join(
                f"{direction}: {' '.join(map(self.name, self.top(3, direction=direction)))}"
                for direction in DIRECTIONS
            )
            if self.signed and self.n_neurons >= 3
            else ""
        )
        layers, width = self.value.shape
        return f"Scores({self.method}, {layers} layers × {width} neurons; {ends})"
