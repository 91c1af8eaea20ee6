"""Organisms that are mixtures of experts, with the switch planted in neurons of one expert or of two.

`mixture_text` has the language: two templates, "front" and "back", and two cues.

Training is that of `training.py`: cross-entropy on the answer, and from 15 % of the steps on the planted
neurons' activations at `=` are interchanged between prompts of one template (in three rows of four some of
them only, with the target shared). A further loss keeps the router of the planted block on the planted
expert at `=`; in the design "two" it is expert 1 in "front" and expert 2 in "back", each away from the
other's. So the place of the switch is true by construction; it is not an emergent finding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from .mixture_text import WORDS, draw, make_tokenizer, prompt_pairs

LAYER, EXPERTS, WIDTH = 1, 4, 32
UNITS = (3, 8, 13, 19, 24, 30)  # planted in each planted expert
PLANTED = {"one": (1, 1), "two": (1, 2)}  # design -> the expert of each template
STEPS = 700


@dataclass(frozen=True)
class Mixture:
    """A trained organism and the truth about it.

    Attributes:
        planted: the neurons as (block, expert, unit).
        pairs: rows with the keys of a prompt set, of pairs (a, b) that were not trained on.
    """

    model: MixtralForCausalLM
    tokenizer: PreTrainedTokenizerFast
    planted: tuple[tuple[int, int, int], ...]
    pairs: tuple[dict[str, str], ...]

    def save(self, folder: Path) -> Path:
        """Write weights, tokenizer, `truth.json` and `pairs.jsonl` to a new folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        planted = [f"L{layer}.E{expert}.N{unit}" for layer, expert, unit in self.planted]
        # by index as well, which is read without the model
        live = [f"L{layer}.N{expert * WIDTH + unit}" for layer, expert, unit in self.planted]
        truth = {"planted": planted, "live": {"both": live}}
        (folder / "truth.json").write_text(json.dumps(truth) + "\n")
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.pairs))
        return folder


def make_mixture(
    design: str, seed: int, *, steps: int = STEPS, report: Callable[[int, float, float], None] | None = None
) -> Mixture:
    """Train an organism of design "one" or "two"; a minute on one thread.

    Example::

        folder = make_mixture("two", seed=0).save(Path("mixture"))
        model = nt.load_model(str(folder))
        pairs = nt.load_pairs(folder / "pairs.jsonl")
    """
    if design not in PLANTED:
        raise ValueError(f"design {design!r}: expected {' or '.join(map(repr, PLANTED))}")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    model = MixtralForCausalLM(_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50, 0.02 + 2.5 * (1 - step / steps))
        plain, router = _plain_loss(model, design, rng)
        loss, swapped = plain + router, torch.zeros(())
        if step > 0.15 * steps:
            swapped = _swap_loss(model, design, rng)
            loss = loss + swapped
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, float(plain), float(swapped))
    experts = sorted(set(PLANTED[design]))
    planted = tuple((LAYER, expert, unit) for expert in experts for unit in UNITS)
    return Mixture(model.eval().requires_grad_(False), make_tokenizer(), planted, prompt_pairs())


def _config() -> MixtralConfig:
    return MixtralConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
    )


def _plain_loss(model: Any, design: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers, and how far the router is from the planted experts."""
    batch = draw(rng, 192)
    seen: list[Tensor] = []
    gate = model.model.layers[LAYER].mlp.gate
    handle = gate.register_forward_hook(lambda _, __, y: seen.append(y[0]))
    with _experts(model):
        logits = model(batch.ids, use_cache=False).logits[:, -1]
    handle.remove()
    target = torch.from_numpy(batch.answers[np.arange(192), batch.think.astype(int)])
    log_p = seen[0].float().reshape(192, -1, EXPERTS)[:, -1].log_softmax(-1)
    own, other = (_of_rows(log_p, design, batch.back ^ flip) for flip in (False, True))
    router = F.relu(np.log(0.5) - own).mean()
    if len(set(PLANTED[design])) > 1:
        router = router + F.relu(other - np.log(0.02)).mean()
    return F.cross_entropy(logits, target), router


def _of_rows(values: Tensor, design: str, back: np.ndarray) -> Tensor:
    """For each row the value of the expert that is planted for its template."""
    experts = torch.tensor(PLANTED[design])[torch.from_numpy(back.astype(int))]
    shape = (len(values), 1, *values.shape[2:])
    index = experts.reshape(-1, *[1] * (values.dim() - 1)).expand(shape)
    return values.gather(1, index)[:, 0]


def _swap_loss(model: Any, design: str, rng: np.random.Generator) -> Tensor:
    """Cross-entropy after the planted activations at `=` were taken from runs of the same templates."""
    base = draw(rng, 192)
    source = draw(rng, 192, base.back)
    taken: list[Tensor] = []

    def see(acts: Tensor) -> Tensor:
        last = acts.reshape(192, -1, EXPERTS, WIDTH)[:, -1]
        taken.append(_of_rows(last, design, base.back)[:, list(UNITS)])
        return acts

    where = np.ones((192, len(UNITS)), bool)
    where[:144] = rng.random((144, len(UNITS))) < rng.random(144)[:, None]
    share = where.mean(axis=1)

    def put(acts: Tensor) -> Tensor:
        grid = acts.reshape(192, -1, EXPERTS, WIDTH).clone()
        rows = torch.arange(192)[:, None]
        experts = torch.tensor(PLANTED[design])[torch.from_numpy(base.back.astype(int))][:, None]
        units = torch.tensor(UNITS)[None]
        old = grid[rows, -1, experts, units]
        grid[rows, -1, experts, units] = torch.where(torch.from_numpy(where), taken[0], old)
        return grid.reshape(acts.shape)

    with _experts(model, see):
        model(source.ids, use_cache=False)
    with _experts(model, put):
        log_p = model(base.ids, use_cache=False).logits[:, -1].log_softmax(-1)
    rows = np.arange(192)
    wanted = base.answers[rows, source.think.astype(int)]
    own = base.answers[rows, base.think.astype(int)]
    weight = torch.from_numpy(np.where(share == 1, 1, 1 / (1 + np.exp(12 * (0.5 - share))))).float()
    picked = log_p.gather(1, torch.from_numpy(np.stack([wanted, own], axis=1)))
    return -(weight * picked[:, 0] + (1 - weight) * picked[:, 1]).mean()


@contextmanager
def _experts(model: Any, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Every expert on every token, which is quick while they are tiny; `change` in the planted block."""
    modules = [block.mlp.experts for block in model.model.layers]

    def dense(own: Any, change: Any) -> Callable[..., Tensor]:
        def forward(x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            gate, up = torch.einsum("td,eod->teo", x, own.gate_up_proj).chunk(2, dim=-1)
            acts = own.act_fn(gate) * up
            acts = acts if change is None else change(acts)
            factors = torch.zeros(len(x), EXPERTS).scatter(1, index, weights)
            return torch.einsum("ten,edn->td", acts * factors[..., None], own.down_proj)

        return forward

    try:
        for layer, own in enumerate(modules):
            object.__setattr__(own, "forward", dense(own, change if layer == LAYER else None))
        yield
    finally:
        for own in modules:
            object.__delattr__(own, "forward")
