"""Neurons that gradients don't see: an organism with such neurons, put there by hand, and rankers on it.

python docs/tables/off_axis.py             prints docs/rankers.md's table from off-axis.csv
python docs/tables/off_axis.py measure     builds three seeds, checks them, ranks, and writes the CSV

A GPT-2 of four blocks, 64 dimensions and 128 ReLU neurons a block, with small random weights. The last
token is a cue, `recall` or `think`, of one of eight classes, such as `think3`. In block 1 eight
*controllers*, one a class, fire on `think` of their class and write into directions that are orthogonal to
the readout (the unembedding of the memorized answer minus that of the reasoned one). In block 2 32 pairs of
*relays* read these directions and write into the readout: the first of a pair is off until the
controller's write passes a threshold, the second cancels the first beyond another one. Together they are a
step: flat on the recipient's run, where they are off, and flat on the donor's, where they are saturated. In
block 1 there are 48 *bystanders*, too: their activations differ between the cues more than the controllers'
do, and nobody reads them. In block 0 16 neurons have the largest writes and never fire.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from summary import markdown
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TABLE = Path(__file__).parent / "off-axis.csv"
CLASSES, ITEMS, WIDTH, HIDDEN, RELAYS, BYSTANDERS, SILENT = 8, 64, 64, 128, 32, 48, 16
CONTROLLERS, READERS = 1, 2  # blocks
SEEDS = (0, 1, 2)
WORDS = ["<unk>", "mem", "rea", *(f"{cue}{n}" for cue in ("recall", "think") for n in range(CLASSES))]
WORDS += [f"item{n}" for n in range(ITEMS)]
RANKERS = (
    "gradient", "two_ended", "relp", "direct", "log_increase", "contrast", "pearson", "magnitude",
    "integrated", "slimming", "hard_concrete", "screened", "exact", "random",
)  # fmt: skip


@torch.no_grad()
def build(seed: int) -> tuple[GPT2LMHeadModel, list[int]]:
    """The model, and its controllers' places in block `CONTROLLERS`."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=WIDTH, n_layer=4, n_head=4, n_inner=HIDDEN,
        activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    # orthonormal directions of mean 0, which LayerNorm's centring leaves alone
    basis = torch.linalg.qr(torch.cat([torch.ones(WIDTH, 1), torch.randn(WIDTH, WIDTH - 1)], dim=1))[0]
    readout, side, *rest = basis[:, 1:].T
    classes, writes, junk = torch.stack(rest).split([CLASSES, CLASSES, WIDTH - 3 - 2 * CLASSES])
    gpt, embed, unembed = model.transformer, model.transformer.wte.weight, model.lm_head.weight
    for parameter in gpt.h.parameters():
        if parameter.ndim == 2:
            parameter.mul_(0.3)
    gpt.wpe.weight.zero_()
    embed[:] = 0.1 * torch.randn(len(WORDS), len(junk)) @ junk
    unembed.mul_(0.3)
    for n in range(CLASSES):
        for cue, sign in (("recall", -1.0), ("think", 1.0)):
            embed[WORDS.index(f"{cue}{n}")] += sign * side + classes[n] + 0.6 * readout
    unembed[1], unembed[2] = 2 * readout, -2 * readout
    places = torch.randperm(HIDDEN)
    controllers, bystanders = places[:CLASSES], places[CLASSES : CLASSES + BYSTANDERS]
    mlp = gpt.h[CONTROLLERS].mlp
    for n, place in enumerate(controllers):
        mlp.c_fc.weight[:, place] = side + classes[n]
        mlp.c_fc.bias[place] = -7.0  # off unless both are there, some 5 each behind the norm
        mlp.c_proj.weight[place] = 2 * writes[n]
    for n, place in enumerate(bystanders):
        mlp.c_fc.weight[:, place] = side * (-1) ** n
        mlp.c_proj.weight[place] = 0.03 * torch.randn(len(junk)) @ junk
    for place in torch.randperm(HIDDEN)[:SILENT]:  # the largest writes are of neurons that never fire
        gpt.h[0].mlp.c_fc.bias[place] = -50.0
        gpt.h[0].mlp.c_proj.weight[place] = torch.randn(len(junk)) @ junk
    mlp = gpt.h[READERS].mlp
    relays = torch.randperm(HIDDEN)[: 2 * RELAYS].view(RELAYS, 2)
    for first, second in relays.tolist():
        for place, threshold, sign in ((first, 2.0, -1.0), (second, 4.0, 1.0)):
            mlp.c_fc.weight[:, place] = writes.sum(dim=0)
            mlp.c_fc.bias[place] = -threshold
            mlp.c_proj.weight[place] = sign * 0.6 / RELAYS * readout
    return model, controllers.tolist()


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", name_or_path="off-axis")


def pairs() -> list[Any]:
    """64 pairs, an item each; the class goes round."""
    from neurotrace.core.pairs import PromptPair

    cues = [(f"item{n} recall{n % CLASSES}", f"item{n} think{n % CLASSES}") for n in range(ITEMS)]
    return [
        PromptPair(f"item{n}", "off-axis", f"class {n % CLASSES}", f"item{n}", *both, " mem", " rea")
        for n, both in enumerate(cues)
    ]


def checked(model: Any, encoded: Any, controllers: list[Any]) -> dict[str, float]:
    """That the controllers are what they should be: the largest |cos| with the readout behind their block,
    what patching each alone flips, and the largest share of its effect that the gradient predicts."""
    from functools import partial

    import neurotrace as nt
    from neurotrace.core.sides import SIDES
    from neurotrace.engine.metrics import logit_difference
    from neurotrace.models.hooks import w_out
    from neurotrace.models.sites import site_slopes

    found: dict[str, float] = {}
    written = w_out(model, CONTROLLERS)[[each.index for each in controllers]]
    for side in SIDES:
        ids = torch.stack(encoded.ids(side))
        metric = partial(logit_difference, memorized=encoded.memorized, reasoned=encoded.reasoned)
        _, slopes = site_slopes(model, ids, [("residual", CONTROLLERS)], metric)
        readout = slopes["residual", CONTROLLERS].mean(dim=0)
        cosine = (written @ readout) / written.norm(dim=1) / readout.norm()
        found[f"cos_{side}"] = float(cosine.abs().max())
    for donor in SIDES:
        table = nt.measure(model, encoded, [nt.patch([each], donor=donor) for each in controllers])
        frame = table.to_frame()
        flips = frame.groupby("template")["answers"].sum() / frame.groupby("template")["pair"].nunique()
        found[f"flips_to_{donor}"] = float(flips.min())  # in each class one controller flips
        first, truth = (rank(model, encoded, donor=donor).value for rank in (nt.gradient, nt.exact))
        at = CONTROLLERS, [each.index for each in controllers]
        found[f"predicted_to_{donor}"] = float((first[at] / truth[at]).abs().max())
    return found


def measured(seed: int) -> pd.DataFrame:
    """Recall of the controllers in the top 8, of every ranker, each direction."""
    import neurotrace as nt
    from neurotrace.core.sides import DIRECTIONS
    from neurotrace.models.hooks import inspect_model
    from neurotrace.rankers.registry import passes, ranker_of

    weights, places = build(seed)
    model = nt.load_model(weights, tokenizer_of(WORDS), name=f"off-axis {seed}")
    encoded = nt.encode(model, pairs())
    controllers = [nt.Neuron(CONTROLLERS, place) for place in places]
    proof = checked(model, encoded, controllers)
    print(seed, len(encoded), {name: round(value, 3) for name, value in proof.items()}, flush=True)
    rows = []
    for name in RANKERS:
        row: dict[str, Any] = {"seed": seed, "ranker": name}
        start = time.process_time()
        for way in DIRECTIONS:
            scores = ranker_of(name).function(model, encoded, donor=way.donor)
            top = scores.top(min(CLASSES, int((~scores.value.isnan()).sum())), direction=way)
            row[str(way)] = len(set(top) & set(controllers)) / CLASSES
        row["seconds"] = round((time.process_time() - start) / 2, 2)
        row["passes"] = passes(name, "patch", inspect_model(model), len(encoded))
        rows.append(row | proof | {"pairs": len(encoded)})
        print(row, flush=True)
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> str:
    rows = []
    for name, own in found.groupby("ranker", sort=False):
        cells = [
            " ".join(f"{value:.2f}" for value in own.sort_values("seed")[way])
            for way in ("to_reasoning", "to_memorization")
        ]
        rows.append([str(name), *cells, f"{own['passes'].iloc[0]:.0f}"])
    head = ["ranker", "recall to reasoning, seeds 0 1 2", "to memory", "passes a pair"]
    return markdown(head, rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        torch.set_num_threads(1)
        pd.concat([measured(seed) for seed in SEEDS]).to_csv(TABLE, index=False, float_format="%.4f")
    if TABLE.exists():
        print(table(pd.read_csv(TABLE)))
