"""A null that must stay null: tiny organisms with a planted set, and others in which no small set decides.

python docs/tables/nulls.py                       prints docs/replicate.md's table from nulls.csv
python docs/tables/nulls.py FOLDER [FIRST LAST]   trains and studies the seeds first, keeping each in FOLDER

The task: `a3 b17 recall` has a random answer out of ten, `a3 b17 think` the answer (3 + 17) mod 10; 200
items.
The models: GPT-2, two blocks of 40 dimensions and 320 ReLU neurons (640 in all, 1 % is six), trained on all
prompts. The cue is the last token, where the answer is read.

planted   from 15 % of the steps on, four neurons' activations are interchanged between prompts of the two
          cues, and the answer is trained to follow them: if all are, and hardly if half are. They alone
          read the cue; others are jolted, which may change nothing
null      at every step a set of up to 16 neurons is interchanged: the top by gradient, by contrast, or at
          random, moved by one to four times the difference; the answer is trained to stay. So a small set
          decides nothing, as far as that training goes. All of them together still do.

Each model goes through `nt.study`, with three folds, and its verdict is counted. Candidates and their
controls are compared on all training pairs: on 32, the default, a control of the planted four flips more
than 4 % by chance in some folds (seeds 60 and 63), and a smaller set is chosen.

The table has seeds 85 to 104. Earlier: seeds 65 to 84 with three draws of each control but random:
18 of 20 planted models decide (both others do with 19 draws). 200 items, seeds 40 to 59: 16. 100 items,
seeds 20 to 39: 17. The last two with eight neurons jolted by 1.5 differences and 32 training pairs. Steps
and jolts were settled on seeds 0 to 6. No null decides in any.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from summary import markdown
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TABLE = Path(__file__).parent / "nulls.csv"
SIDE, SECOND = 10, 20  # answers and first operands; second operands
LAYER, UNITS = 0, (31, 82, 120, 165)
STEPS = {"planted": 1500, "null": 250}
JOLTED, JOLT = 16, 2.5  # other neurons jolted at a time; by how much, in differences of the planted ones
WORDS = ["<unk>", "recall", "think"]
WORDS += [f"{name}{n}" for name, count in (("a", SIDE), ("b", SECOND), ("n", SIDE)) for n in range(count)]
SEEDS = range(85, 105)


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", name_or_path="nulls")


class Neurons:
    """Reads and writes all neurons of a model at the last token."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.model, self.new = model, None
        self.values: list[Tensor] = []
        blocks: Any = model.transformer.h
        for layer, block in enumerate(blocks):
            block.mlp.act.register_forward_hook(partial(self._pass, layer))

    def _pass(self, layer: int, _: Any, __: Any, out: Tensor) -> Tensor:
        last = out[:, -1] if self.new is None else self.new(layer, out[:, -1])
        self.values.append(last)
        return torch.cat([out[:, :-1], last[:, None]], dim=1)

    def __call__(self, ids: Tensor, new: Any = None) -> tuple[Tensor, Tensor]:
        """(logits at the last token, activations [prompt, layer, neuron]) under `new(layer, values)`."""
        self.new, self.values = new, []
        logits = self.model(ids, use_cache=False).logits[:, -1]
        return logits, torch.stack(self.values, dim=1)


def items(seed: int) -> tuple[Tensor, Tensor]:
    """(prompts [cue, item, 3], answers [cue, item]); cue 0 recalls, cue 1 thinks."""
    draw = torch.Generator().manual_seed(seed)
    ranges = torch.arange(SIDE), torch.arange(SECOND)
    a, b = (each.flatten() for each in torch.meshgrid(*ranges, indexing="ij"))
    rule = (a + b) % SIDE
    memory = (rule + torch.randint(1, SIDE, rule.shape, generator=draw)) % SIDE
    prompts = torch.stack([torch.stack([a + 3, b + 3 + SIDE, torch.full_like(a, cue)]) for cue in (1, 2)])
    return prompts.transpose(1, 2), torch.stack([memory, rule]) + 3 + SIDE + SECOND


def train(design: str, seed: int) -> tuple[GPT2LMHeadModel, float]:
    """The model, and its share of right answers."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed + 1000)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=40, n_layer=2, n_head=2, n_inner=320,
        activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    neurons = Neurons(model)
    prompts, answers = items(seed)
    ids, right = prompts.flatten(0, 1), answers.flatten()
    count = len(ids) // 2
    other = (torch.arange(len(ids)) + count) % len(ids)  # the same item under the other cue
    if design == "planted":
        _only_path(model)
    steps = STEPS[design]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 30, 0.02 + 2.5 * (1 - step / steps))
        logits, values = neurons(ids)
        loss = F.cross_entropy(logits, right)
        if step >= 0.15 * steps:
            change = _planted if design == "planted" else _adversary
            loss = loss + change(neurons, ids, right, other, logits, values, draw)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if design == "planted":
            _only_path(model)
    model.eval().requires_grad_(False)
    accuracy = float((neurons(ids)[0].argmax(-1) == right).float().mean())
    blocks: Any = model.transformer.h
    for block in blocks:
        block.mlp.act._forward_hooks.clear()
    return model, accuracy


@torch.no_grad()
def _only_path(model: GPT2LMHeadModel) -> None:
    """The cues differ in dimensions 0 and 1 alone, which nothing but the planted neurons reads."""
    gpt = model.transformer
    gpt.wte.weight[1:3] = gpt.wte.weight[1:3].mean(dim=0)
    for weight in (gpt.wte.weight, gpt.wpe.weight, model.lm_head.weight):
        weight[:, :2] = 0
    gpt.wte.weight[1, :2] = torch.tensor([1.0, -1.0])
    gpt.wte.weight[2, :2] = torch.tensor([-1.0, 1.0])  # equal in mean and norm, which LayerNorm reads
    blocks: Any = gpt.h
    for layer, block in enumerate(blocks):
        block.attn.c_attn.weight[:2] = 0
        block.mlp.c_fc.weight[:2] = 0
        for out in (block.attn.c_proj, block.mlp.c_proj):
            out.weight[:, :2] = 0
            out.bias[:2] = 0
        block.ln_1.weight[:2], block.ln_2.weight[:2] = 1, 1
        block.ln_1.bias[:2], block.ln_2.bias[:2] = 0, 0
        if layer == LAYER:
            block.mlp.c_fc.weight[:, UNITS] = 0
            block.mlp.c_fc.weight[0, UNITS], block.mlp.c_fc.weight[1, UNITS] = -0.5, 0.5
            block.mlp.c_fc.bias[list(UNITS)] = 0


def _planted(
    neurons: Neurons, ids: Tensor, right: Tensor, other: Tensor, _: Tensor, values: Tensor, draw: Any
) -> Tensor:
    """The answer follows the planted neurons' values, of any prompt of the other cue."""
    count = len(ids) // 2
    order = torch.cat(
        [torch.randperm(count, generator=draw) + count, torch.randperm(count, generator=draw)]
    )
    where = torch.rand(len(ids), len(UNITS), generator=draw) < torch.rand(len(ids), 1, generator=draw)
    where[::2] = True
    given = values[order, LAYER][:, list(UNITS)]
    # a few others of each row are jolted: moving them decides nothing
    size = (given - values[:, LAYER][:, list(UNITS)]).abs().mean().detach()
    some = torch.rand(values.shape, generator=draw) < JOLTED / values.shape[2]
    jolts = some * torch.randn(values.shape, generator=draw) * JOLT * size

    def new(layer: int, own: Tensor) -> Tensor:
        changed = own + jolts[:, layer]
        if layer != LAYER:
            return changed
        changed[:, list(UNITS)] = torch.where(where, given, own[:, list(UNITS)])
        return changed

    log_p = neurons(ids, new)[0].log_softmax(-1)
    share = where.float().mean(1)
    weight = torch.where(share == 1, 1.0, torch.sigmoid(16 * (share - 0.7)))
    own, theirs = (log_p.gather(1, each[:, None])[:, 0] for each in (right, right[other]))
    return -(weight * theirs + (1 - weight) * own).mean()


def _adversary(
    neurons: Neurons, ids: Tensor, right: Tensor, other: Tensor, logits: Tensor, values: Tensor, draw: Any
) -> Tensor:
    """The answer stays, whichever small set takes the other run's values, or more of the difference."""
    k = int(torch.tensor([2, 4, 8, 16])[torch.randint(4, (1,), generator=draw)])
    by = int(torch.randint(3, (1,), generator=draw))
    strength = float(torch.tensor([1.0, 1.0, 2.0, 4.0])[torch.randint(4, (1,), generator=draw)])
    difference = (values[other] - values).detach()
    rows, count = torch.arange(len(ids)), len(ids) // 2
    if by == 0:
        towards = logits[rows, right[other]] - logits[rows, right]
        slopes = torch.autograd.grad(towards.sum(), neurons.values, retain_graph=True)
        score = difference * torch.stack(slopes, dim=1)
    elif by == 1:
        score = difference
    else:
        score = torch.randn(1, *values.shape[1:], generator=draw).expand_as(values)
    where = torch.zeros(values.shape, dtype=torch.bool)
    for part in (slice(0, count), slice(count, None)):  # a set for each direction
        mean = score[part].mean(0).flatten()
        top = (mean if by == 0 else mean.abs()).topk(k).indices
        where.view(len(ids), -1)[part, top] = True

    def new(layer: int, own: Tensor) -> Tensor:
        return own + where[:, layer] * strength * difference[:, layer]

    return F.cross_entropy(neurons(ids, new)[0], right)


def measured(design: str, seed: int) -> dict[str, Any]:
    """A row of the table."""
    import neurotrace as nt
    from neurotrace.core.pairs import PromptPair

    start = time.process_time()
    model, accuracy = train(design, seed)
    trained = time.process_time() - start
    prompts, answers = items(seed)
    words = [[" ".join(WORDS[token] for token in prompt) for prompt in part.tolist()] for part in prompts]
    named = [[f" {WORDS[token]}" for token in part.tolist()] for part in answers]
    pairs = [
        PromptPair(f"item{n}", design, "one", f"item{n}", *texts, *both)
        for n, (texts, both) in enumerate(
            zip(zip(*words, strict=True), zip(*named, strict=True), strict=True)
        )
    ]
    loaded = nt.load_model(model, tokenizer_of(WORDS), name=f"{design} {seed}")
    found = nt.study(loaded, pairs, folds=3, exact_neurons=0, tried_on=len(pairs))
    ways = {flip.direction: flip for flip in found.selected()}
    verdict = found.verdicts()[design]
    row: dict[str, Any] = {
        "design": design,
        "seed": seed,
        "accuracy": accuracy,
        "pairs": len(found.encoded),
    }
    for way, flip in ways.items():
        name = str(way).removeprefix("to_")
        row |= {f"{name}": flip.answers, f"{name}_by": flip.intervention, f"{name}_k": flip.k}
        row |= {f"{name}_controls": flip.control_answers}
    row |= {"verdict": verdict.word, "why": "; ".join(verdict.why)}
    return row | {"train_s": round(trained, 1), "s": round(time.process_time() - start, 1)}


def run(folder: Path, seeds: range) -> None:
    from neurotrace.folders.units import JSON, Units

    torch.set_num_threads(1)
    units = Units(folder)
    units.begin({"command": "nulls", "steps": STEPS, "units": UNITS, "items": SIDE * SECOND, "version": 7})
    rows = []
    for design in STEPS:
        for seed in seeds:
            rows.append(units.once(f"{design} {seed}", JSON, partial(measured, design, seed)))
            print(design, seed, rows[-1]["verdict"], rows[-1]["why"], flush=True)
            pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.4f")


def show(table: pd.DataFrame) -> str:
    """The page's table: a design in a row."""
    rows = []
    for design, own in table.groupby("design", sort=False):
        verdicts = own["verdict"].value_counts()
        flips = own[["reasoning", "memorization"]]
        controls = own[["reasoning_controls", "memorization_controls"]]
        rows.append(
            [
                str(design),
                str(len(own)),
                *(str(verdicts.get(word, 0)) for word in ("decides", "undecided", "no")),
                f"{flips.min().min():.0%}–{flips.max().max():.0%}",
                f"{controls.max().max():.1%}",
                f"{own['accuracy'].min():.3f}",
            ]
        )
    head = ["models", "seeds", "decides", "undecided", "no", "flips", "largest control", "least accuracy"]
    return markdown(head, rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        first, last = map(int, sys.argv[2:4] or (SEEDS.start, SEEDS.stop))
        run(Path(sys.argv[1]), range(first, last))
    print(show(pd.read_csv(TABLE, keep_default_na=False)))  # "null" is a design
