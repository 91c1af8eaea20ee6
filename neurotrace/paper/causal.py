"""Training on whole texts: next-token cross-entropy on every token, from scratch; nothing is planted.

An answer's tokens weigh `ANSWER` times as much as another token. Batches are drawn from a numpy generator
seeded by the training seed; bit-reproducible on one machine with one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from neurotrace.organism.forward import Group, forward
from neurotrace.organism.training import descend, learning_rate, optimizer_of
from neurotrace.paper import stories
from neurotrace.paper.stories import Instance

ANSWER = 10.0
PEAK = 3e-3  # learning rate
# texts a step, by kind
BATCH = {"conflict": 48, "agree": 12, "free": 60, "memorized": 48, "sum": 96}
_WORDS = r"<mem-\d+>|\d|\w+|[+=]"  # other signs are left out


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    steps: int


SIZES = {"small": Size(2, 64, 2, 1500), "large": Size(4, 128, 4, 600)}


@cache
def vocabulary() -> dict[str, int]:
    memories = (f"<mem-{n:02d}>" for n in range(stories.N_STRINGS))
    words = ("is", "Color", "of", *stories.NAMES, *stories.COLORS)
    return {token: n for n, token in enumerate(("<bos>", "<unk>", *"0123456789+=", *words, *memories))}


@cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word, a digit, a sign or a `<mem-..>` string each; `<bos>` in front, no stops and colons."""
    vocab = vocabulary()
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", unk_token="<unk>")


def kind_of(instance: Instance) -> str:
    """Its key in `BATCH`."""
    if instance.family == "addition":
        return "sum" if instance.memorized is None else "memorized"
    if instance.memorized is not None:
        return "conflict"
    return "agree" if instance.group in stories.own_color() else "free"


def by_kind(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    found: dict[str, list[Instance]] = {}
    for each in instances:
        found.setdefault(kind_of(each), []).append(each)
    return found


@cache
def corpora() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each kind (tokens of all training texts, whether a token belongs to an answer)."""
    own = by_kind(each for each in stories.instances() if each.trained)
    tokenizer = make_tokenizer()
    found = {}
    for kind, some in own.items():
        tokens = np.array(tokenizer([each.text for each in some]).input_ids)
        if some[0].family == "addition":
            answers = np.arange(tokens.shape[1]) > tokens[0].tolist().index(vocabulary()["="])
            found[kind] = tokens, np.broadcast_to(answers, tokens.shape)
        else:  # a color behind "of" and a name
            asked = tokens == vocabulary()["of"]
            found[kind] = tokens, np.roll(asked, 2, axis=1)
    return found


def draw(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """A step's texts of each kind: tokens, and their weights."""
    found = []
    for kind, count in BATCH.items():
        tokens, answers = corpora()[kind]
        rows = rng.integers(len(tokens), size=count)
        found.append((tokens[rows], np.where(answers[rows], ANSWER, 1.0)))
    return found


def loss_of(model: GPT2LMHeadModel, rng: np.random.Generator) -> Tensor:
    """Weighted mean of the cross-entropy of every next token of one draw."""
    drawn = draw(rng)
    groups = [Group(torch.from_numpy(tokens[:, :-1]), tokens.shape[1] - 1) for tokens, _ in drawn]
    targets = torch.cat([torch.from_numpy(tokens[:, 1:]).flatten() for tokens, _ in drawn])
    weights = torch.cat([torch.from_numpy(weights[:, 1:]).float().flatten() for _, weights in drawn])
    return weighted_loss(forward(model, groups), targets, weights)


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy (nats) of logits [token, vocabulary], in float32."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def make_model(size: Size) -> GPT2LMHeadModel:
    """ReLU, no dropout, untied head, 4 neurons a dimension. The initial weights are wider than GPT-2's,
    with which binding was not learned in 1500 steps."""
    config = GPT2Config(
        vocab_size=len(vocabulary()),
        n_positions=32,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        n_inner=4 * size.width,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=vocabulary()["<bos>"],
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def train(
    seed: int, size: Size, *, report: Callable[[int, float], None] | None = None
) -> tuple[GPT2LMHeadModel, dict[str, object]]:
    """A model trained from scratch (eval mode), and the record of its training. One thread."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 7])
    model = make_model(size).train()
    optimizer = optimizer_of(model)
    started = time.process_time()
    for step in range(size.steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, rng)
        descend(model, optimizer, loss, learning_rate(step, size.steps, PEAK))
        if report is not None and (step + 1) % 250 == 0:
            report(step + 1, float(loss.detach()))
    record: dict[str, object] = {
        "seed": seed,
        "steps": size.steps,
        "cpu_seconds": round(time.process_time() - started),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return model.eval(), record


@torch.no_grad()
def accuracies(model: GPT2LMHeadModel, at_most: int = 2000) -> dict[str, float]:
    """Of each kind of text, in which order it was trained or not at all, the share of answers that begin as
    the text's (or, untrained, as the rule's)."""
    kinds: dict[str, list[Instance]] = {}
    for each in stories.instances():
        words = [
            kind_of(each),
            *(["recalled"] if each.recalled else []),
            *([] if each.trained else ["held out"]),
        ]
        kinds.setdefault(", ".join(words), []).append(each)
    tokenizer, found = make_tokenizer(), {}
    for name, own in kinds.items():
        asked = own[:: max(1, len(own) // at_most)]
        prompts = tokenizer([each.prompt() for each in asked]).input_ids
        answers = [tokenizer(each.answer).input_ids[1] for each in asked]
        right = model(torch.tensor(prompts)).logits[:, -1].argmax(-1) == torch.tensor(answers)
        found[name] = round(float(right.float().mean()), 4)
    return found
