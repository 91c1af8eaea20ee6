"""A GPT-2 forward pass for training, over packed sequences of several lengths.

The parameters are those of a Hugging Face `GPT2LMHeadModel`; the pass is written out because (1) all
linear maps run once over all tokens, whatever their sequence length, (2) the last layer is computed at
the answer positions only, and (3) the planted neurons can be read, dropped out and overwritten.
`tests/organism/test_organism.py` compares it with the Hugging Face pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2LMHeadModel


@dataclass(frozen=True)
class Plant:
    """The planted neurons: units of one layer's MLP."""

    layer: int
    units: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Sequences of one length, read at the last `reads` positions."""

    tokens: Tensor  # int64 [n, t]
    reads: int


def _attend(qkv: Tensor, n: int, t: int, heads: int, reads: int) -> Tensor:
    """Causal attention of one group: [n*t, 3*d] -> [n*reads, d] (the last `reads` positions).

    Written out: on short sequences two batched products are twice as fast as the fused kernel.
    """
    split = qkv.view(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, n * heads, t, -1)
    q, k, v = split.unbind(0)
    if reads < t:
        q = q[:, t - reads :]
    mask = torch.full((reads, t), -torch.inf, dtype=q.dtype).triu(1 + t - reads)
    # Autocast would compute the softmax in fp32, at twice the time.
    with torch.autocast("cpu", enabled=False):
        pattern = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(-1)
        out = torch.bmm(pattern, v)
    return out.view(n, heads, reads, -1).transpose(1, 2).reshape(n * reads, -1)


def _linear(conv: Any, x: Tensor) -> Tensor:
    return torch.addmm(conv.bias, x, conv.weight)


def forward(
    model: GPT2LMHeadModel,
    groups: list[Group],
    *,
    plant: Plant | None = None,
    write: Tensor | None = None,
    where: Tensor | None = None,
    keep: Tensor | None = None,
    stop_at_plant: bool = False,
) -> Tensor:
    """Logits at the read positions, [rows, vocab]; rows run over groups, sequences, positions.

    `write` [rows, planted]: values that replace the planted activations at the read positions,
    where `where` (bool, same shape) is True; everywhere if it is None.
    `keep` [rows, planted]: factors that multiply them then (dropout: 0 or 1/(1-p)).
    `stop_at_plant`: return the planted activations at the read positions instead, [rows, planted].
    """
    gpt: Any = model.transformer  # torch types submodules as Tensor | Module
    sizes = [(*g.tokens.shape, g.reads) for g in groups]
    x = torch.cat([(gpt.wte(g.tokens) + gpt.wpe.weight[: g.tokens.shape[1]]).flatten(0, 1) for g in groups])
    read_rows, start = [], 0
    for n, t, reads in sizes:
        rows = start + torch.arange(n)[:, None] * t + torch.arange(t - reads, t)
        read_rows.append(rows.flatten())
        start += n * t
    rows_read = torch.cat(read_rows)
    for layer, block in enumerate(gpt.h):
        planted_here = plant is not None and layer == plant.layer
        narrow = layer == len(gpt.h) - 1 or (planted_here and stop_at_plant)
        qkv = _linear(block.attn.c_attn, block.ln_1(x))
        parts = qkv.split([n * t for n, t, _ in sizes])
        heads = model.config.n_head
        mixed = torch.cat(
            [
                _attend(part, n, t, heads, reads if narrow else t)
                for part, (n, t, reads) in zip(parts, sizes, strict=True)
            ]
        )
        x = (x[rows_read] if narrow else x) + _linear(block.attn.c_proj, mixed)
        post = F.relu(_linear(block.mlp.c_fc, block.ln_2(x)))
        out = _linear(block.mlp.c_proj, post)
        if planted_here:
            assert plant is not None
            units = torch.tensor(plant.units)
            at = post if narrow else post[rows_read]
            values = at[:, units]
            if stop_at_plant:
                return values
            new = values if write is None else write.to(values.dtype)
            new = new if where is None else torch.where(where, new, values)
            new = new if keep is None else new * keep.to(new.dtype)
            change = ((new - values) @ block.mlp.c_proj.weight[units].to(new.dtype)).to(out.dtype)
            out = out + change if narrow else out.index_add(0, rows_read, change)
        x = x + out
    return F.linear(gpt.ln_f(x), model.lm_head.weight)
