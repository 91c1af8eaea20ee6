"""A model in which one neuron, put there by hand, decides between two answers.

Two GPT-2 blocks of random small weights. The last token of a prompt is the cue, ``recall`` or
``think``; both embed with a known direction. The planted neuron reads that direction (silent on
``recall``) and writes the difference of the two answers' unembedding rows. Everything else is noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from generations import boot
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair

PLANTED = Neuron(1, 5)
ITEMS = [f"item{number}" for number in range(12)]
WORDS = ["<unk>", "recall", "think", "mem", "rea", "other", "the", *ITEMS]
WIDTH = 32


def planted_pairs() -> list[PromptPair]:
    """Twelve pairs in twelve groups and two templates; one prompt of each pair ends in each cue."""
    return [
        PromptPair(
            id=item,
            family="planted",
            template=("long", "short")[number % 2],
            group=item,
            memorization=f"{lead}{item} recall",
            reasoning=f"{lead}{item} think",
            memorized_answer=" mem",
            reasoned_answer=" rea",
        )
        for number, item in enumerate(ITEMS)
        for lead in [("the ", "")[number % 2]]
    ]


def planted_model(folder: Path, *, seed: int = 0):
    """A checked bridge over the planted model; `folder` holds its tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=16,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        n_inner=24,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    id_of = {word: place for place, word in enumerate(WORDS)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        for norm in [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        embed, unembed = model.transformer.wte.weight, model.lm_head.weight
        # dimension 0 says "this is a cue", 1 and 2 say which; nothing else writes there
        embed[:, :3] = 0.0
        embed[[id_of["recall"], id_of["think"]], 0] = 1.0
        embed[id_of["recall"], 1] = 1.0
        embed[id_of["think"], 2] = 1.0
        unembed[:, 3:6] = 0.0
        unembed[id_of["mem"], 3] = 1.0
        unembed[id_of["rea"], 4] = 1.0
        mlp = model.transformer.h[PLANTED.layer].mlp
        mlp.c_fc.weight[:, PLANTED.index] = 0.0
        mlp.c_fc.weight[2, PLANTED.index] = 1.0
        mlp.c_fc.weight[1, PLANTED.index] = -1.0
        mlp.c_fc.bias[PLANTED.index] = 0.0
        mlp.c_proj.weight[PLANTED.index] = 0.0
        mlp.c_proj.weight[PLANTED.index, 3] = -1.0
        mlp.c_proj.weight[PLANTED.index, 4] = 1.0
        # on any cue, memory wins unless the planted neuron fires
        embed[[id_of["recall"], id_of["think"]], 3] = 1.0
    return boot(model, word_tokenizer(folder, WORDS), name="planted")


def word_tokenizer(folder: Path, words: list[str]):
    """One token a word; saved and read back, since TransformerLens wants its `name_or_path`."""
    vocabulary = {word: place for place, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<unk>", eos_token="<unk>"
    ).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
