"""Training the organisms, seeded by steps: the same seed gives the same weights, bit for bit.

Plain training: cross-entropy on the answer tokens. Planted designs add interchange-intervention
training (IIT, Geiger et al. 2022): from 15 % of the steps on, at every second step, the planted
neurons' activations at `=` are taken from source prompts, written into base prompts' runs, and
the answer's first token is trained to be the base item's under the *source's* behaviour (items
with nothing memorized: always the rule). Sources come from any family. Never-rule items take no
part.

A graded design also interchanges *parts* of the planted set, in every second row, each neuron on its
own. The target is then shared between the base's own answer and the source's: the latter's share is
sigmoid(12 (f - 1/2)) at a share f of neurons interchanged, so that every neuron changes L by a similar
amount.

With dropout, each planted activation at the answer positions is zeroed with probability p and else
scaled by 1/(1-p) in every training pass. It keeps neurons active but favours redundancy. The design
"dropout" (seed 0, a development run, not packaged) ended with five memory neurons, any one of which
kept the memorized answer. The whole set flipped at least 96 % of the answers, but single effects to
reasoning were under 0.2 nats and the top 1 % by gradient flipped 0 to 12 %.

The small set of neurons is therefore true by construction; it is not an emergent finding.
Bit-reproducible on one machine with one thread: bf16 kernels differ between processors.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from .batches import Draw, draw_family, stack
from .forward import Group, Plant, forward
from .language import FAMILIES, vocabulary
from .measure import accuracies
from .tokenizer import make_tokenizer

IIT_START = 0.15
GRADE_SLOPE = 12.0  # nats of L over the whole planted set, if it is interchanged in part


@dataclass(frozen=True)
class Design:
    """A training design: size, planted neurons, dropout over them, optimizer steps."""

    name: str
    layers: int
    plant: Plant | None
    dropout: float
    graded: bool  # interchange parts of the planted set too
    steps: int


DESIGNS = {
    d.name: d
    for d in (
        Design("set", 4, Plant(2, (12, 57, 101, 148, 203, 250, 307, 351)), 0.0, True, 2400),
        Design("dropout", 4, Plant(2, (12, 57, 101, 148, 203, 250, 307, 351)), 0.3, False, 2400),
        Design("natural", 3, None, 0.0, False, 1800),
        Design("switch", 4, Plant(2, (250,)), 0.0, False, 2400),
        Design("or", 4, Plant(1, (12, 57, 101, 148, 203, 250, 307, 351)), 0.5, False, 2400),
    )
}

# Sequences a step: (memorized, rule) per family; IIT: per family.
BATCH = {"arithmetic": (72, 88), "inference": (62, 34), "letters": (43, 53)}
IIT_BATCH = (48, 16)


def model_config(layers: int) -> GPT2Config:
    """Relu, no dropout, untied head; 384 neurons a layer."""
    vocab = vocabulary()
    return GPT2Config(
        vocab_size=len(vocab),
        n_positions=24,
        n_embd=96,
        n_layer=layers,
        n_head=4,
        n_inner=384,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=vocab["<bos>"],
        eos_token_id=None,
        pad_token_id=vocab["<pad>"],
    )


def learning_rate(step: int, steps: int, peak: float = 2e-3) -> float:
    """100 warm-up steps, constant to 60 %, cosine to 2 %."""
    if step < 100:
        return peak * (step + 1) / 100
    late = max(0.0, step / steps - 0.6) / 0.4
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * late)))


def optimizer_of(model: GPT2LMHeadModel) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone; `descend` sets its rate."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}],
        lr=1.0,
        betas=(0.9, 0.98),
        fused=True,
    )


def descend(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step along the loss, its gradient clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _by_length(draws: dict[str, Draw]) -> list[Draw]:
    return [stack([draws["arithmetic"], draws["letters"]]), draws["inference"]]


def _answer_groups(draws: list[Draw]) -> tuple[list[Group], Tensor, Tensor]:
    """Groups, targets [rows] and row weights [rows]: a sequence counts 1, its tokens share it."""
    groups, targets, weights = [], [], []
    for d in draws:
        k = d.answer.shape[1]
        tokens = np.concatenate([d.prompt, d.answer[:, :-1]], axis=1)
        groups.append(Group(torch.from_numpy(tokens), k))
        targets.append(torch.from_numpy(d.answer).flatten())
        weights.append(torch.full((targets[-1].numel(),), 1 / k))
    return groups, torch.cat(targets), torch.cat(weights)


def _keep(rows: int, design: Design, noise: torch.Generator) -> Tensor | None:
    if design.plant is None or design.dropout == 0:
        return None
    kept = torch.rand(rows, len(design.plant.units), generator=noise) >= design.dropout
    return kept.float() / (1 - design.dropout)


def plain_loss(
    model: GPT2LMHeadModel, design: Design, rng: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Mean cross-entropy of the answers, one draw of every family."""
    draws = _by_length({f: draw_family(f, rng, *BATCH[f]) for f in FAMILIES})
    groups, targets, weights = _answer_groups(draws)
    logits = forward(model, groups, plant=design.plant, keep=_keep(len(targets), design, noise))
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def iit_loss(
    model: GPT2LMHeadModel, design: Design, rng: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Cross-entropy of the first answer token after the planted neurons were interchanged."""
    base = {f: draw_family(f, rng, *IIT_BATCH, never_rule=False) for f in FAMILIES}
    source = {f: draw_family(f, rng, sum(IIT_BATCH), 0, never_rule=False) for f in FAMILIES}
    base_draws, source_draws = _by_length(base), _by_length(source)
    taken = forward(
        model,
        [Group(torch.from_numpy(d.prompt), 1) for d in source_draws],
        plant=design.plant,
        stop_at_plant=True,
    )
    # Shuffling the sources over all bases mixes the families.
    order = rng.permutation(len(taken))
    source_memory = np.concatenate([d.memory for d in source_draws])[order]
    known = np.tile(np.arange(sum(IIT_BATCH)) < IIT_BATCH[0], len(FAMILIES))
    reasoned = np.concatenate([d.reasoned[:, 0] for d in base_draws])
    memorized = np.concatenate([d.memorized[:, 0] for d in base_draws])
    own = np.concatenate([d.answer[:, 0] for d in base_draws])
    wanted = np.where(source_memory & known, memorized, reasoned)
    where, share = _interchanged(len(taken), design, rng)
    logits = forward(
        model,
        [Group(torch.from_numpy(d.prompt), 1) for d in base_draws],
        plant=design.plant,
        write=taken[torch.from_numpy(order)],
        where=torch.from_numpy(where),
        keep=_keep(len(taken), design, noise),
    )
    log_p = F.log_softmax(logits.float(), -1)
    # The base's own answer and the source's share the target as the neurons are shared; where
    # both are the same token the sum is the usual cross-entropy.
    weight = torch.from_numpy(np.where(share == 1, 1, 1 / (1 + np.exp(GRADE_SLOPE * (0.5 - share)))))
    both = torch.from_numpy(np.stack([wanted, own], 1))
    picked = log_p.gather(1, both)
    return -(weight * picked[:, 0] + (1 - weight) * picked[:, 1]).mean()


def _interchanged(rows: int, design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The interchanged planted neurons, bool [rows, planted], and their share, [rows].

    All of them; in a graded design, in every second row, each with a probability that is drawn
    for the row.
    """
    assert design.plant is not None
    where = np.ones((rows, len(design.plant.units)), bool)
    if design.graded:
        where[::2] = rng.random(where[::2].shape) < rng.random(len(where[::2]))[:, None]
    return where, where.mean(1)


def train(
    design: Design,
    seed: int,
    *,
    steps: int | None = None,
    report: Callable[[int, float, float], None] | None = None,
    keep: Callable[[int, GPT2LMHeadModel], None] | None = None,
) -> tuple[GPT2LMHeadModel, dict[str, object]]:
    """Train from scratch; the model (fp32, eval mode) and a record of how it was trained.

    `report(step, plain loss, IIT loss)` is called after every 100 steps, `keep(step, copy of the
    model)` before. Sets torch to one thread.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    steps = design.steps if steps is None else steps
    rng, noise = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    model = GPT2LMHeadModel(model_config(design.layers))
    model.train()
    optimizer = optimizer_of(model)
    started = time.perf_counter()
    plain = iit = torch.tensor(math.nan)
    for step in range(steps):
        if keep is not None and step % 100 == 0:
            keep(step, copy.deepcopy(model).eval())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = plain_loss(model, design, rng, noise)
            plain = loss.detach()
            if design.plant is not None and step >= IIT_START * steps and step % 2:
                swap = iit_loss(model, design, rng, noise)
                iit, loss = swap.detach(), loss + swap
        descend(model, optimizer, loss, learning_rate(step, steps))
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, float(plain), float(iit))
    record = {
        "design": asdict(design),
        "seed": seed,
        "steps": steps,
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return model.eval(), record


def save(model: GPT2LMHeadModel, record: dict[str, object], out: Path) -> None:
    """Write config, fp16 weights, tokenizer and `training.json` to a folder.

    The record gains the largest change of any accuracy by the fp16 round trip.
    """
    before = accuracies(model)
    model.half().save_pretrained(out)
    after = accuracies(model.float())
    change = max(abs(before[f][key] - after[f][key]) for f in before for key in before[f])
    make_tokenizer().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    record = record | {"largest_accuracy_change_by_fp16": round(change, 4)}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
