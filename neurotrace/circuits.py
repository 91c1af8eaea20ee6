"""The neurons that a trust score asks: those that hold up memory, and those that hold up reasoning.

    score_i = mean over prompts of (a_i - off_i) * dL/da_i,   L = logit(memorized) - logit(reasoned)

is what switching neuron i off is predicted to take from L at the read position, for all neurons of a
prompt in about one forward pass (`suffix_slopes.py`). The k highest are the memory neurons, the k
lowest the reasoning neurons. Families and outcomes weigh alike, however many prompts they bring: a
neuron that is silent while the model recalls can only be seen while it reasons. Prompts that the model
answers with neither named answer say nothing about the two and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace.answers import Answered, answer
from neurotrace.errors import InputError
from neurotrace.hooks import inspect_model, w_out
from neurotrace.interventions import Intervention
from neurotrace.neurons import NEURON_DEFINITION, Neuron
from neurotrace.pairs import PromptPair
from neurotrace.prompts import Prompt, prompts_of
from neurotrace.rankers.gradient import slopes_of
from neurotrace.scores import Direction, Scores
from neurotrace.tokens import Progress, by_length

Off = Literal["zero", "mean", "class mean"]
OFFS: tuple[Off, ...] = ("zero", "mean", "class mean")
_FORMAT = "neurotrace.circuit/1"


@dataclass(frozen=True)
class Circuit:
    """Memory and reasoning neurons of one model, and what *off* sets each of them to."""

    memory: tuple[Neuron, ...]
    reasoning: tuple[Neuron, ...]
    memory_off: Float[Tensor, neuron]
    reasoning_off: Float[Tensor, neuron]
    norms: Float[Tensor, neuron]  # ||W_out row||, memory's then reasoning's: tells models apart
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = (*self.memory, *self.reasoning)
        if not self.memory or not self.reasoning or len(set(every)) != len(every):
            raise InputError(
                "a circuit needs memory neurons and reasoning neurons, each neuron once"
            )
        offs = torch.cat([self.memory_off, self.reasoning_off])
        if not len(every) == len(offs) == len(self.norms) or not torch.isfinite(offs).all():
            raise InputError("a circuit needs a finite off value and a norm for each neuron")

    def interventions(self) -> tuple[Intervention, Intervention]:
        """Memory off, reasoning off."""
        return (
            _off(self.memory, self.memory_off, "to_reasoning"),
            _off(self.reasoning, self.reasoning_off, "to_memorization"),
        )

    def check(self, model: Any) -> None:
        """InputError unless the model has these very neurons."""
        info = inspect_model(model)
        every = (*self.memory, *self.reasoning)
        beyond = [n for n in every if n.layer >= info.n_layers or n.index >= info.d_mlp]
        found = None if beyond else norms_of(model, every)
        # a model in half precision has the same rows but for rounding
        if found is None or not torch.allclose(found, self.norms, rtol=5e-3):
            raise InputError(
                f"this circuit is of another model ({self.provenance.get('model', 'unknown')}), "
                f"came {info.name}: find one with nt.find_circuit(model, pairs)"
            )

    def save(self, path: str | Path) -> None:
        """Write as safetensors; neurons and provenance go into its header as JSON."""
        from safetensors.torch import save_file

        header = {
            "format": _FORMAT, "neuron": NEURON_DEFINITION,
            "memory": [str(neuron) for neuron in self.memory],
            "reasoning": [str(neuron) for neuron in self.reasoning],
            "provenance": dict(self.provenance),
        }  # fmt: skip
        tensors = {name: getattr(self, name) for name in ("memory_off", "reasoning_off", "norms")}
        save_file(tensors, path, metadata={"neurotrace": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote; `InputError` for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("neurotrace", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"can't read a circuit from {path}: {error}") from None
        if header.get("format") != _FORMAT:
            raise InputError(f"{path}: not written by Circuit.save of this version")
        memory, reasoning = (
            tuple(map(Neuron.parse, header[name])) for name in ("memory", "reasoning")
        )
        return cls(
            memory, reasoning, tensors["memory_off"], tensors["reasoning_off"], tensors["norms"],
            header["provenance"],
        )  # fmt: skip

    def __repr__(self) -> str:
        first = ", ".join(
            f"{name}: {' '.join(map(str, neurons[:3]))}{' …' if len(neurons) > 3 else ''}"
            for name, neurons in (("memory", self.memory), ("reasoning", self.reasoning))
        )
        return f"Circuit({len(self.memory)} + {len(self.reasoning)} neurons; {first})"


def find_circuit(
    model: Any,
    pairs: Sequence[PromptPair | Prompt],
    *,
    k: int = 50,
    off: Off = "zero",
    batch_size: int = 16,
    progress: Progress = None,
) -> Circuit:
    """The k memory and k reasoning neurons over (training) pairs or prompts of one or several sets.

    Args:
        off: what *off* sets a neuron to: 0, its mean, or its mean where the *other* outcome came.

    Raises:
        InputError: only one outcome occurs; k neurons of either kind aren't there.
    """
    answered = answer(model, prompts_of(pairs), progress=progress).decided()
    scores, means = attribution(model, answered, off=off, batch_size=batch_size, progress=progress)
    return make_circuit(model, scores, means, k=k, answered=answered, off=off)


def attribution(
    model: Any, answered: Answered, *, off: Off = "zero", batch_size: int = 16, progress: Progress = None
) -> tuple[Scores, Float[Tensor, "kind layer neuron"]]:  # fmt: skip
    """(score of every neuron, what off sets it to as a memory and as a reasoning neuron)."""
    if off not in OFFS:
        raise InputError(f"off={off!r}: wanted one of {', '.join(OFFS)}")
    info = inspect_model(model)
    weights = _weights(answered)
    recalled = torch.tensor([outcome == "memory" for outcome in answered.outcome])
    total = torch.zeros(2, info.n_layers, info.d_mlp)  # of a * slope, by kind
    slope = torch.zeros_like(total)
    means = torch.zeros_like(total)  # over reasoned prompts, over recalled ones
    batches = list(by_length(answered.ids, batch_size))
    for rows, ids in progress(batches, description="finding a circuit") if progress else batches:
        values, slopes = slopes_of(model, ids, answered.memorized[rows], answered.reasoned[rows])
        for kind in (0, 1):
            own = weights[rows] * (recalled[rows] == (kind == 1))
            total[kind] += torch.einsum("b,bln->ln", own, values * slopes)
            slope[kind] += torch.einsum("b,bln->ln", own, slopes)
            means[kind] += torch.einsum("b,bln->ln", own, values)
    if off == "zero":
        offs = torch.zeros_like(means)
    elif off == "mean":
        offs = means.sum(dim=0).expand_as(means).clone()
    else:
        shares = torch.stack([weights[~recalled].sum(), weights[recalled].sum()])
        offs = means / shares[:, None, None]
    as_memory, as_reasoning = (total.sum(dim=0) - offs[kind] * slope.sum(dim=0) for kind in (0, 1))
    value = torch.where(as_memory > 0, as_memory, torch.where(as_reasoning < 0, as_reasoning, 0))
    return Scores("off", value), offs


def make_circuit(
    model: Any, scores: Scores, offs: Tensor, *, k: int, answered: Answered, off: Off
) -> Circuit:
    """The two ends of the ranking."""
    memory = scores.top(k, direction="to_memorization")
    reasoning = scores.top(k, direction="to_reasoning")
    value = scores.value
    if any(value[n.layer, n.index] <= 0 for n in memory) or any(
        value[n.layer, n.index] >= 0 for n in reasoning
    ):
        least = int(min((value > 0).sum(), (value < 0).sum()))
        raise InputError(f"k={k}: on these prompts only {least} neurons of one kind have an effect")
    info = inspect_model(model)
    provenance = {
        "model": info.name, "layers": info.n_layers, "neurons_per_layer": info.d_mlp, "k": k,
        "off": off, "prompts": len(answered), "outcomes": answered.counts(),
        "families": sorted({prompt.family for prompt in answered.prompts}),
        "templates": sorted({f"{p.family}/{p.template}" for p in answered.prompts}),
        "groups": sorted({prompt.group for prompt in answered.prompts}),
    }  # fmt: skip
    return Circuit(
        memory, reasoning, _at(offs[0], memory), _at(offs[1], reasoning),
        norms_of(model, (*memory, *reasoning)), provenance,
    )  # fmt: skip


def norms_of(model: Any, neurons: Sequence[Neuron]) -> Float[Tensor, neuron]:
    """||W_out row|| of each neuron."""
    rows = {layer: w_out(model, layer) for layer in {neuron.layer for neuron in neurons}}
    return torch.stack([rows[n.layer][n.index].float().norm().cpu() for n in neurons])


def _weights(answered: Answered) -> Float[Tensor, prompt]:
    """One over the size of the prompt's (family, outcome), so that both weigh alike; their sum is 1."""
    cells = [
        (prompt.family, outcome)
        for prompt, outcome in zip(answered.prompts, answered.outcome, strict=True)
    ]
    if len({outcome for _, outcome in cells}) < 2:
        raise InputError(
            f"the model answers all {len(cells)} prompts from {cells[0][1]}: a circuit needs both "
            "outcomes; add prompts that it answers the other way"
        )
    weights = torch.tensor([1.0 / cells.count(cell) for cell in cells])
    return weights / weights.sum()


def _off(neurons: tuple[Neuron, ...], values: Tensor, direction: Direction) -> Intervention:
    count = len(neurons)
    zeros = torch.zeros(count)
    return Intervention("set", neurons, direction, keep=zeros, gain=zeros, offset=values)


def _at(values: Tensor, neurons: Sequence[Neuron]) -> Float[Tensor, neuron]:
    return torch.stack([values[neuron.layer, neuron.index] for neuron in neurons])
