"""The causal margin: the drop of the model's own answer with memory, or reasoning, neurons off.

    margin = [log p(y) - log p(y | memory off)] - [log p(y) - log p(y | reasoning off)]

with y the model's top-1 token: the *memory fall* minus the *reasoning fall*, in nats. A positive margin
means that the answer comes from memory. The margin is measured by intervention and needs no named
answers. With the suffix engine it takes one forward pass a prompt and two changed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.answers.answered import Answered, entropy_of, prompt_ids
from neurotrace.answers.circuit import Circuit
from neurotrace.core.display import Bar, Shown, Table, View
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.core.prompts import Prompt
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.logits import logits_under
from neurotrace.models.encoding import by_length
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Margins(Shown):
    """One number per prompt, in the order of the prompts; nats."""

    answer: Int[Tensor, " prompt"]  # id of the top-1 token
    log_probability: Float[Tensor, " prompt"]  # of the answer
    entropy: Float[Tensor, " prompt"]  # of the next token
    memory_fall: Float[Tensor, " prompt"]
    reasoning_fall: Float[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def margin(self) -> Float[Tensor, " prompt"]:
        return self.memory_fall - self.reasoning_fall

    def to_frame(self) -> pd.DataFrame:
        """A row a prompt: answer (token id), and the rest in nats."""
        import pandas as pd

        names = ("answer", "log_probability", "entropy", "memory_fall", "reasoning_fall", "margin")
        return pd.DataFrame({name: getattr(self, name).tolist() for name in names})

    def _view(self) -> View:
        bound = float(self.margin.abs().max()) if len(self) else 1.0
        rows = [
            (
                place,
                Bar(float(self.margin[place]), bound, f"{self.margin[place]:+.2f}", signed=True),
                f"{self.memory_fall[place]:+.2f}",
                f"{self.reasoning_fall[place]:+.2f}",
                f"{self.log_probability[place]:.2f}",
            )
            for place in range(min(10, len(self)))
        ]
        columns = ("prompt", "margin", "memory fall", "reasoning fall", "log p(answer)")
        return View(
            f"Causal margins of {len(self)} prompts' own answers, nats. {int((self.margin > 0).sum())} "
            "come from memory (above zero), the others from reasoning.",
            (Table(columns, rows),),
            "All prompts: .to_frame(); as probabilities: nt.trust.",
        )

    def __repr__(self) -> str:
        return f"Margins({len(self)} prompts)"


@takes_turns
def causal_margin(
    model: HookedModel,
    prompts: Sequence[str | Prompt] | Answered,
    circuit: Circuit,
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Margins:
    """The margin of the model's own answer to each prompt, with its two parts.

    Raises:
        InputError: the circuit is of another model; an empty prompt or one that is too long; numbers
            that are not finite.

    Example::

        margins = nt.causal_margin(model, ["recall 31+28="], circuit)
        margins.to_frame()
    """
    return causal_margins(model, prompts, [circuit], batch_size=batch_size, progress=progress)[0]


def causal_margins(
    model: HookedModel,
    prompts: Sequence[str | Prompt] | Answered,
    circuits: Sequence[Circuit],
    *,
    batch_size: int = 32,
    cleans: dict[bytes, Any] | None = None,
    progress: Progress = None,
) -> list[Margins]:
    """`causal_margin` by each of several circuits, over one clean run of every prompt.

    Args:
        cleans: a dict that keeps the engine's clean runs; see `measure`.
    """
    for circuit in circuits:
        circuit.check(model)
    ids: Sequence[Tensor]
    if isinstance(prompts, Answered):
        ids = prompts.ids
    else:
        ids = prompt_ids(model, [p if isinstance(p, str) else p.prompt for p in prompts])
    answer = torch.zeros(len(ids), dtype=torch.long)
    found = torch.zeros(2 + 2 * len(circuits), len(ids))
    off = [each for circuit in circuits for each in circuit.interventions()]
    batches = list(by_length(ids, batch_size))
    for rows, batch in over(progress, batches, "switching off"):
        clean, changed = logits_under(model, batch, off, [None] * len(off), cleans=cleans)
        top = clean.argmax(dim=-1)
        before = metrics.log_probability(clean, top)
        falls = [before - metrics.log_probability(logits, top) for logits in changed]
        answer[rows] = top
        found[:, rows] = torch.stack([before, entropy_of(clean), *falls])
    if not torch.isfinite(found).all():
        raise InputError(
            "the margin is not finite on these prompts: try dtype=float32, and check the weights"
        )
    return [
        Margins(answer, found[0], found[1], found[2 + 2 * place], found[3 + 2 * place])
        for place in range(len(circuits))
    ]
