"""The causal margin: the drop of the model's own answer with memory, or reasoning, neurons off.

    margin = [log p(y) - log p(y | memory off)] - [log p(y) - log p(y | reasoning off)]

with y the model's top-1 token: the *memory fall* minus the *reasoning fall*, in nats. A positive margin
means that the answer comes from memory. The margin is measured by intervention and needs no named
answers. With the suffix engine it takes one forward pass a prompt and two changed rows.

`monitor` gives each token that the model writes its own margin. The text is that of plain (greedy)
generation. With the suffix engine this costs little more than generation; by full passes, three times as
much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
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
from neurotrace.engine.turns import takes_turns, turn
from neurotrace.interventions.logits import logits_under
from neurotrace.models.encoding import by_length
from neurotrace.models.origins import context_length, tokenizer_of
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
        cleans: a dict in which the engine's clean runs are kept for the next call on the same prompts.
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


@dataclass(frozen=True)
class Token:
    """One generated token and its score; nats. Without a calibration `p_memory` and `abstain` are None."""

    text: str
    id: int
    log_probability: float
    memory_fall: float
    reasoning_fall: float
    p_memory: float | None
    abstain: bool | None

    @property
    def margin(self) -> float:
        return self.memory_fall - self.reasoning_fall


@takes_turns
def monitor(
    model: HookedModel, prompt: str, circuit: Circuit, *, max_new_tokens: int = 16
) -> Iterator[Token]:
    """The model's greedy continuation, token by token, each with its score.

    Stops at the end-of-text token, after `max_new_tokens`, or when the context is full.

    Raises:
        InputError: an empty or too long prompt; a circuit of another model; numbers that are not
            finite. All but the last are raised at the call, before any token.

    Example::

        for token in nt.monitor(model, "recall 31+28=", circuit, max_new_tokens=2):
            print(token.text, token.margin)
    """
    circuit.check(model)
    ids = prompt_ids(model, [prompt])[0][None]
    limit = context_length(model)
    if limit and ids.shape[1] >= limit:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, the model takes {limit}")
    return _write(model, ids, circuit, max_new_tokens, limit)


def _write(
    model: HookedModel, ids: torch.Tensor, circuit: Circuit, most: int, limit: int
) -> Iterator[Token]:
    tokenizer = tokenizer_of(model)
    end = getattr(tokenizer, "eos_token_id", None)
    off = circuit.interventions()
    for _ in range(most):
        if limit and ids.shape[1] >= limit:
            return
        with turn(model):
            clean, changed = logits_under(model, ids, off, [None, None])
            top = clean.argmax(dim=-1)
            before = metrics.log_probability(clean, top)
            falls = [float(before - metrics.log_probability(logits, top)) for logits in changed]
        if int(top) == end:
            return
        parts = np.array([falls])
        if not np.isfinite(parts).all():
            raise InputError("the margin is not finite here: try dtype=float32")
        calibration = circuit.calibration
        yield Token(
            tokenizer.decode([int(top)]),
            int(top),
            float(before),
            falls[0],
            falls[1],
            float(calibration.p_memory(parts)[0]) if calibration else None,
            bool(calibration.outside(parts)[0]) if calibration else None,
        )
        ids = torch.cat([ids, top[:, None]], dim=1)
