"""The neurons of a trust score: those that support memory, and those that support reasoning.

    score_i = mean over prompts of (a_i - off_i) * dL/da_i,   L = logit(memorized) - logit(reasoned)

is the predicted drop of L if neuron i is switched off at the final token position. All neurons of a
prompt take about one forward pass (`engine/slopes.py`). The k highest are the memory neurons, the k
lowest the reasoning neurons. Families and outcomes have equal weight, whatever their number of prompts,
because a neuron that is silent during recall is only visible during reasoning. Prompts that the model
answers with neither named answer are left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.answers.answered import Answered, Outcome, answer
from neurotrace.answers.calibration import FEATURES, Calibration
from neurotrace.answers.score import Score
from neurotrace.core.display import Shown, Table, View
from neurotrace.core.errors import InputError, one_of
from neurotrace.core.files import read_tensors
from neurotrace.core.neurons import NEURON_DEFINITION, Experts, Neuron, NeuronSet
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.prompts import Prompt, prompts_of
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.core.writing import save_whole
from neurotrace.engine.metrics import first_tokens
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.targets import finite, routed
from neurotrace.models.encoding import by_length
from neurotrace.models.gradients import slopes_of
from neurotrace.models.hooks import inspect_model, w_out
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

Off = Literal["zero", "mean", "class mean"]
OFFS: tuple[Off, ...] = ("zero", "mean", "class mean")
Cell = tuple[str, str, Outcome]  # family, template, outcome
_FORMAT = "neurotrace.circuit/1"


@dataclass(frozen=True)
class Circuit(Shown):
    """Memory and reasoning neurons of one model, and the value that *off* gives each of them."""

    memory: tuple[Neuron, ...]
    reasoning: tuple[Neuron, ...]
    memory_off: Float[Tensor, " neuron"]
    reasoning_off: Float[Tensor, " neuron"]
    norms: Float[Tensor, " neuron"]  # ||W_out row||, memory's then reasoning's: identifies the model
    provenance: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    score: Score | None = None  # what `nt.trust` reads instead of the margin: cheaper or better

    def __post_init__(self) -> None:
        every = (*self.memory, *self.reasoning)
        if not self.memory or not self.reasoning or len(set(every)) != len(every):
            raise InputError("a circuit needs memory neurons and reasoning neurons, each neuron once")
        offs = torch.cat([self.memory_off, self.reasoning_off])
        if not len(every) == len(offs) == len(self.norms) or not torch.isfinite(offs).all():
            raise InputError("a circuit needs a finite off value and a norm for each neuron")

    def interventions(self) -> tuple[Intervention, Intervention]:
        """Memory off, reasoning off."""
        return (
            _off(self.memory, self.memory_off, Direction.TO_REASONING),
            _off(self.reasoning, self.reasoning_off, Direction.TO_MEMORIZATION),
        )

    @takes_turns
    def check(self, model: HookedModel) -> None:
        """InputError unless the model has exactly these neurons."""
        info = inspect_model(model)
        every = (*self.memory, *self.reasoning)
        beyond = [n for n in every if n.layer >= info.n_layers or n.index >= info.d_mlp]
        found = None if beyond else norms_of(model, every)
        # a model in half precision has the same rows up to rounding
        if found is None or not torch.allclose(found, self.norms, rtol=5e-3):
            raise InputError(
                f"this circuit is of another model: expected {self.provenance.get('model', 'unknown')}, "
                f"got {info.name}: find one with nt.find_circuit(model, pairs)"
            )

    def save(self, path: str | Path) -> None:
        """Write as safetensors; neurons and provenance go into its header as JSON."""
        from safetensors.torch import save_file as save_tensors

        header = {
            "format": _FORMAT,
            "neuron": NEURON_DEFINITION,
            "memory": [str(neuron) for neuron in self.memory],
            "reasoning": [str(neuron) for neuron in self.reasoning],
            "provenance": dict(self.provenance),
            "calibration": self.calibration and self.calibration.to_json(),
            "score": self.score and self.score.to_json(),
        }
        tensors = {name: getattr(self, name) for name in ("memory_off", "reasoning_off", "norms")}
        if self.calibration is not None:
            tensors |= {name: torch.from_numpy(own) for name, own in self.calibration.arrays().items()}
        if self.score is not None:
            tensors["score_weights"] = torch.from_numpy(np.ascontiguousarray(self.score.weights))
        save_whole(
            Path(path),
            lambda made: save_tensors(tensors, made, metadata={"neurotrace": json.dumps(header)}),
        )

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote, or a folder of `neurotrace circuit`; `InputError` for any other file."""
        if os.path.isdir(path):
            path = Path(path) / "circuit.safetensors"
        if not os.path.isfile(path):  # returns False, not an OSError, for a name that is too long
            raise InputError(
                f"no circuit at {path}: make one with `neurotrace circuit --model M --probes P --out DIR`"
            )
        header, tensors = read_tensors(path, "pt")
        if header.get("format") != _FORMAT:
            raise InputError(f"{path}: not written by Circuit.save of this version")
        try:
            memory, reasoning = (tuple(map(Neuron.parse, header[name])) for name in ("memory", "reasoning"))
            found = cls(
                memory,
                reasoning,
                tensors["memory_off"],
                tensors["reasoning_off"],
                tensors["norms"],
                dict(header["provenance"]),
                _calibration(header["calibration"], tensors) if header["calibration"] else None,
                _score(header.get("score"), tensors),
            )
            found._named([*memory, *reasoning])  # by its record of a mixture's experts
            return found
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: a damaged circuit ({error})") from None

    def to_frame(self) -> pd.DataFrame:
        """Rows (kind, layer, neuron, off, norm): memory's, then reasoning's, strongest first."""
        import pandas as pd

        every = (*self.memory, *self.reasoning)
        return pd.DataFrame(
            {
                "kind": ["memory"] * len(self.memory) + ["reasoning"] * len(self.reasoning),
                "layer": [neuron.layer for neuron in every],
                "neuron": [neuron.index for neuron in every],
                "off": torch.cat([self.memory_off, self.reasoning_off]).tolist(),
                "norm": self.norms.tolist(),
            }
        )

    def _named(self, neurons: Sequence[Neuron]) -> list[str]:
        return NeuronSet(neurons, experts=Experts.of(self.provenance.get("experts"))).names

    def _view(self) -> View:
        about = self.provenance
        found = (
            f" Found on {about['prompts']} prompts of {', '.join(about['families'])}; off: {about['off']}."
            if "families" in about
            else ""
        )
        rows = [
            (kind, f"{len(neurons)}", " ".join(self._named(neurons[:8])) + " …" * (len(neurons) > 8))
            for kind, neurons in (("memory", self.memory), ("reasoning", self.reasoning))
        ]
        state = "not calibrated: nt.calibrate(model, held_out_prompts, circuit)"
        if self.calibration is not None:
            read = self.score.signal if self.score else "the causal margin"
            state = f"calibrated on {self.calibration.count} prompts: "
            state += f"nt.trust(model, prompts, circuit) reads {read}"
        return View(
            f"The neurons behind memory and reasoning in {about.get('model', 'a model')}.{found}",
            (Table(("kind", "count", "neurons, strongest first"), rows),),
            f"It is {state}. All neurons and what off sets them to: .to_frame().",
        )

    def __repr__(self) -> str:
        first = ", ".join(
            f"{name}: {' '.join(self._named(neurons[:3]))}{' …' if len(neurons) > 3 else ''}"
            for name, neurons in (("memory", self.memory), ("reasoning", self.reasoning))
        )
        return f"Circuit({len(self.memory)} + {len(self.reasoning)} neurons; {first})"


def _calibration(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Calibration:
    arrays = {name: own.numpy() for name, own in tensors.items() if name.startswith("familiar_")}
    found = Calibration.from_json(content, arrays)
    if found.features != FEATURES:
        raise InputError(f"a circuit's calibration is of {' and '.join(FEATURES)}, got {found.features}")
    return found


def _score(content: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Score | None:
    return Score.from_json(content, tensors["score_weights"].numpy()) if content else None


@dataclass(frozen=True)
class Slopes:
    """Sums over the prompts of each (family, template, outcome); circuits are computed from them.

    Any subset of the cells gives the circuit of its prompts, so leaving out a family or a template
    needs no further pass.
    """

    counts: Mapping[Cell, int]
    effect: Mapping[Cell, Float[Tensor, "layer neuron"]]  # of a * dL/da
    slope: Mapping[Cell, Float[Tensor, "layer neuron"]]
    value: Mapping[Cell, Float[Tensor, "layer neuron"]]  # of a

    def where(self, keep: Callable[[str, str], bool]) -> Slopes:
        """The cells whose (family, template) is kept."""
        cells = [cell for cell in self.counts if keep(cell[0], cell[1])]
        parts = (self.counts, self.effect, self.slope, self.value)
        return Slopes(*({cell: part[cell] for cell in cells} for part in parts))  # type: ignore[arg-type]

    def mean(
        self, sums: Mapping[Cell, Tensor], outcome: Outcome | None = None
    ) -> Float[Tensor, "layer neuron"]:
        """Mean over prompts, in which every (family, outcome) has equal weight."""
        kinds = sorted({(f, o) for f, _, o in self.counts if outcome in (None, o)})
        means = []
        for kind in kinds:
            own = [cell for cell in self.counts if (cell[0], cell[2]) == kind]
            total = torch.stack([sums[cell] for cell in own]).sum(dim=0)
            means.append(total / sum(self.counts[cell] for cell in own))
        return torch.stack(means).mean(dim=0)


@takes_turns
def find_circuit(
    model: HookedModel,
    pairs: Sequence[PromptPair | Prompt],
    *,
    k: int | None = None,
    off: Off = "zero",
    batch_size: int = 16,
    progress: Progress = None,
) -> Circuit:
    """The k memory and k reasoning neurons over (training) pairs or prompts of one or several sets.

    Args:
        k: default: one neuron in a thousand, at least 4.
        off: the value that *off* gives a neuron: 0, its mean, or its mean over the *other* outcome.

    Raises:
        InputError: only one outcome occurs; fewer than k neurons of a kind exist.

    Example::

        train, held_out = nt.split_pairs(nt.load_pairs("arithmetic"))
        circuit = nt.find_circuit(model, train, k=8)
        circuit = nt.calibrate(model, nt.prompts_of(held_out), circuit)
        nt.trust(model, ["recall 31+28="], circuit)
    """
    answered = answer(model, prompts_of(pairs), progress=progress).decided()
    found = slopes(model, answered, batch_size=batch_size, progress=progress)
    return circuit_from(model, found, k=k, off=off)


def slopes(
    model: HookedModel, answered: Answered, *, batch_size: int = 16, progress: Progress = None
) -> Slopes:
    """One pass over the prompts; each must be answered with a named answer (`Answered.decided`)."""
    outcome = answered.outcome
    cells: list[Cell] = [
        (prompt.family, prompt.template, own) for prompt, own in zip(answered.prompts, outcome, strict=True)
    ]
    counts = dict(Counter(cells))
    info = inspect_model(model)
    sums: tuple[dict[Cell, Tensor], ...] = tuple(
        {cell: torch.zeros(info.n_layers, info.d_mlp) for cell in counts} for _ in range(3)
    )
    batches = list(by_length(answered.ids, batch_size))
    for rows, ids in over(progress, batches, "finding a circuit"):
        values, found = slopes_of(
            model, ids, first_tokens(answered.memorized[rows], answered.reasoned[rows])
        )
        for place, row in enumerate(rows):
            own = values[place] * found[place], found[place], values[place]
            for into, number in zip(sums, own, strict=True):
                into[cells[row]] += number
    return Slopes(counts, *sums)


def circuit_from(model: HookedModel, found: Slopes, *, k: int | None = None, off: Off = "zero") -> Circuit:
    """The two ends of the ranking by the predicted effect of switching off."""
    if off not in OFFS:
        raise InputError(f"off={off!r}: {one_of(off, OFFS)}")
    outcomes = {outcome for _, _, outcome in found.counts}
    if outcomes != {"memory", "reasoning"}:
        raise InputError(
            f"the model answers all {sum(found.counts.values())} prompts from "
            f"{' '.join(outcomes)}: a circuit needs both outcomes; add prompts that it answers the "
            "other way"
        )
    info = inspect_model(model)
    k = k or max(4, round(info.n_neurons / 1000))
    if off == "zero":
        offs = torch.zeros(2, info.n_layers, info.d_mlp)
    elif off == "mean":
        offs = found.mean(found.value).expand(2, -1, -1)
    else:
        offs = torch.stack([found.mean(found.value, own) for own in ("reasoning", "memory")])
    effect, slope = found.mean(found.effect), found.mean(found.slope)
    predicted = finite(effect - offs * slope, "the circuit's slopes")
    # a neuron may qualify for both kinds: it gets the one in which its effect is larger
    of_memory = predicted[0] > -predicted[1]
    predicted = torch.stack([predicted[0] * of_memory, predicted[1] * ~of_memory])
    memory = Scores("memory", predicted[0]).top(k, direction="to_memorization")
    reasoning = Scores("reasoning", predicted[1]).top(k, direction="to_reasoning")
    if any(predicted[0, n.layer, n.index] <= 0 for n in memory) or any(
        predicted[1, n.layer, n.index] >= 0 for n in reasoning
    ):
        least = int(min((predicted[0] > 0).sum(), (predicted[1] < 0).sum()))
        raise InputError(f"k={k}: on these prompts only {least} neurons of one kind have an effect")
    outcome = Counter[str]()
    for cell, count in found.counts.items():
        outcome[cell[2]] += count
    provenance = {
        "model": info.name,
        "k": k,
        "off": off,
        "prompts": sum(found.counts.values()),
        "outcomes": dict(outcome),
        "families": sorted({cell[0] for cell in found.counts}),
        **info.naming,
        **routed(model),
        "templates": sorted({f"{cell[0]}/{cell[1]}" for cell in found.counts}),
    }
    return Circuit(
        memory,
        reasoning,
        _at(offs[0], memory),
        _at(offs[1], reasoning),
        norms_of(model, (*memory, *reasoning)),
        provenance,
    )


def norms_of(model: HookedModel, neurons: Sequence[Neuron]) -> Float[Tensor, " neuron"]:
    """||W_out row|| of each neuron: of the weights, which no run moves, to tell models apart."""
    rows = {layer: w_out(model, layer) for layer in {neuron.layer for neuron in neurons}}
    return torch.stack([rows[n.layer][n.index].float().norm().cpu() for n in neurons])


def _off(neurons: tuple[Neuron, ...], values: Tensor, direction: Direction) -> Intervention:
    count = len(neurons)
    zeros = torch.zeros(count)
    return Intervention("set", neurons, direction, keep=zeros, gain=zeros, offset=values)


def _at(values: Tensor, neurons: Sequence[Neuron]) -> Float[Tensor, " neuron"]:
    return torch.stack([values[neuron.layer, neuron.index] for neuron in neurons])
