"""The cost of a sweep, from the model's configuration alone: no weights are read.

The model is built on torch's meta device, which holds shapes and no numbers. A changed row passes
through the blocks above its neuron's, at the final token position only (or at every recomputed
position):

    operations = Σ rows × positions × blocks above × (2 × weights of a block + 4 × length × width)

with the width of attention (heads × their size), and a clean run of each prompt. Linear in pairs;
quadratic in layers (twice the neurons, each under twice the blocks); cubic in the model's width; the
prompt's length counts in attention alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neurotrace import organism
from neurotrace.core.errors import InputError, first_line
from neurotrace.core.files import read_json
from neurotrace.models.checks import refuse_absurd

SHARE = 0.8  # share of a large matrix multiplication's rate, measured by tests/benchmarks/sweep.py
CALL = 2.5e-4  # minimum seconds of a pass per block, for any number of rows
ROW_BYTES = 9.0  # bytes of Parquet per cell: mostly two floats that do not compress
BASE = 0.55 * 2**30  # bytes of Python with torch, transformers and TransformerLens loaded
KEPT = 4.0 * 2**30  # bytes of clean runs that a study keeps at most: `engine/kept.py`
COPIES = 2.0 * 2**30  # bytes of the weights in bf16 at most: `engine/tops.py`
LOGITS = 4.0 * 2**26  # bytes of logits under interventions: `interventions/whole.py`
_MOST_LAYERS = 1000
_MOST_TIMED, _FEW = 2e11, 64  # operations of the multiplication that is timed; its rows at least


@dataclass(frozen=True)
class Shape:
    """The sizes that cost depends on."""

    name: str
    layers: int
    d_mlp: int
    d_model: int
    attention: int  # heads × size of a head
    heads: int
    block: int  # weights that one block multiplies with
    parameters: int
    vocabulary: int = 0
    key_values: int = 0  # numbers that attention keeps of a token in one block

    @property
    def neurons(self) -> int:
        return self.layers * self.d_mlp


@dataclass(frozen=True)
class Cost:
    """Operations (a multiplication and an addition are two), seconds, bytes."""

    cells: int
    operations: float
    seconds: float
    memory: float
    output: float


def shape_of(config: Any, name: str) -> Shape:
    """Build the model without weights and find its parts.

    Raises:
        InputError: an architecture without one dense MLP a block, or one that can't be built.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from neurotrace.engine.parts import find_parts

    try:
        text = config.get_text_config()
        if not 1 <= int(text.num_hidden_layers) <= _MOST_LAYERS:
            raise ValueError(f"{text.num_hidden_layers} layers, expected 1 to {_MOST_LAYERS}")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        parts = find_parts(model)
        heads = int(text.num_attention_heads)
        size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    except Exception as error:  # a wrong configuration can raise anything
        raise InputError(f"{name}: can't estimate the cost of this model ({first_line(error)})") from None
    kinds = (torch.nn.Linear, Conv1D)
    blocks = [
        sum(m.weight.numel() for m in block.modules() if isinstance(m, kinds)) for block in parts.blocks
    ]
    return Shape(
        name,
        len(blocks),
        parts.widths[0],
        int(text.hidden_size),
        heads * size,
        heads,
        sum(blocks) // len(blocks),
        sum(p.numel() for p in model.parameters()),
        int(text.vocab_size),
        2 * key_heads * size,
    )


def config_from_file(path: str | Path) -> Any:
    """The configuration in a ``config.json``, a folder's, a ``.gguf`` file's or a built-in model's.

    Code beside it is not run.

    Raises:
        InputError: no such file, not JSON or GGUF, or a model type that transformers doesn't know.
    """
    from transformers import AutoConfig

    path = os.fspath(path)
    if path.endswith(".gguf") and os.path.isfile(path):
        from neurotrace.models.loading import config_of_gguf

        return config_of_gguf(Path(path))
    path = str(organism.folder(path)) if path in organism.NAMES else path
    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    settings = read_json(path)
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise InputError(f"{path}: no model_type in it; expected a model's config.json")
    refuse_absurd(settings, path)
    try:
        return AutoConfig.for_model(**settings)
    except Exception as error:
        raise InputError(f"{path}: not a model's config.json ({first_line(error)})") from None


def copies_while_loading(source: str) -> int:
    """Copies of the weights in memory at once: those of a GGUF file are also put into a plain model."""
    return 2 if source.endswith(".gguf") else 1


def cost(
    shape: Shape,
    lengths: Sequence[int],
    *,
    gflops: float,
    in_layer: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    runs: int = 1,
    number_bytes: int = 4,
    batch: int = 1536,
    copies: float = 1.0,
    base: float = BASE,
) -> Cost:
    """The cost of sweeping one prompt a pair of these lengths.

    Args:
        gflops: rate of a large matrix multiplication; the estimate uses `SHARE` of it.
        in_layer: neurons swept in each layer; None: all of them.
        tokens: recomputed positions of a row, for each pair; None: the last one only.
        runs: clean runs a pair: 2 for a patch, which also runs the donor.
        copies: number of copies of the weights in memory while the model is loaded.
        base: bytes of the process without a model.
    """
    swept = [shape.d_mlp] * shape.layers if in_layer is None else list(in_layer)
    operations = passes = 0.0
    for length, own in zip(lengths, tokens or [1] * len(lengths), strict=True):
        each = 2.0 * shape.block + 4.0 * length * shape.attention
        above = sum(n * (shape.layers - 1 - layer) for layer, n in enumerate(swept))
        operations += own * above * each + runs * length * shape.layers * each
        rows = max(1, batch // own)
        passes += sum(-(-n // rows) * (shape.layers - 1 - layer) for layer, n in enumerate(swept))
        passes += runs * shape.layers
    cells = len(lengths) * sum(swept)
    longest = max(lengths)
    row = 4.0 * (4 * shape.d_mlp + 12 * shape.d_model + 2 * shape.heads * longest)
    memory = base + copies * shape.parameters * number_bytes + row * batch
    seconds = operations / (gflops * 1e9 * SHARE) + passes * CALL
    return Cost(cells, operations, seconds, memory, cells * ROW_BYTES)


def needs(
    shape: Shape, pairs: int, length: int, *, number_bytes: int, copies: float = 1.0, base: float = 0.0
) -> dict[str, float]:
    """Peak bytes of jobs other than a sweep: the model's weights and what a job adds, or the loading.

    Batches are the defaults: 32 prompts without gradients, 16 with gradients at every token. A run keeps
    activations and slopes of every pair on both sides, in float32, all clean runs (`engine/kept.py`), and
    the weights in bf16 as well, if they are not too large (`engine/tops.py`).

    Args:
        copies: number of copies of the weights in memory while the model is loaded.
        base: bytes of the process without a model.
    """
    weights = float(shape.parameters * number_bytes)
    one = float(4 * shape.neurons)  # a number for each neuron

    def batch(prompts: int, kept: int) -> float:
        tokens = prompts * length
        passing = 6 * shape.d_mlp + 12 * shape.d_model + 2 * shape.heads * length
        return tokens * number_bytes * (passing + 2 * shape.vocabulary) + kept * prompts * one

    def differentiated(prompts: int) -> float:
        cached = prompts * length * shape.layers * 4 * shape.d_model * number_bytes
        return batch(prompts, 6) + cached

    of_token = shape.layers * shape.key_values
    clean = length * of_token + shape.neurons + shape.layers * shape.d_model  # numbers of one clean run
    runs = min(2 * pairs * clean * number_bytes, KEPT)
    halved = 2.0 * shape.parameters  # bytes of the weights in bf16, for a screen
    runs += halved if number_bytes == 4 and halved <= COPIES else 0.0
    beside = {
        "collect to a file": batch(32, 1),
        "moments": batch(32, 4) + 8 * one,
        "gradient": differentiated(16) + 2 * one,
        "run": differentiated(16) + 4 * pairs * one + runs + LOGITS,
        "rank": differentiated(16) + 4 * pairs * one + LOGITS,
        "circuit": differentiated(16) + 6 * pairs * one,
    }
    return {job: base + max(copies * weights, weights + own) for job, own in beside.items()}


def measured_gflops(shape: Shape, *, device: Any, dtype: Any, threads: int, batch: int) -> float:
    """Measured rate of this model's largest multiplication here: the best within half a second."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    rows = min(batch, max(_FEW, int(_MOST_TIMED / (2 * shape.d_model * shape.d_mlp))))
    x = torch.ones(rows, shape.d_model, device=device, dtype=dtype)
    w = torch.ones(shape.d_model, shape.d_mlp, device=device, dtype=dtype)

    def once() -> float:
        start = time.perf_counter()
        x @ w
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    spent = [once()]
    while sum(spent) < 0.5 and len(spent) < 200:
        spent.append(once())
    return 2.0 * x.numel() * shape.d_mlp / min(spent) / 1e9


def growth(
    shape: Shape,
    pairs: int,
    length: int,
    *,
    everywhere: bool,
    gflops: float,
    number_bytes: int,
    batch: int,
    copies: float = 1.0,
    base: float = BASE,
) -> list[tuple[str, Cost]]:
    """The cost, and the cost when one size is doubled.

    Args:
        everywhere: at all positions, not at the final token position only.
        copies, base: see `cost`.
    """

    def of(shape: Shape, pairs: int = pairs, length: int = length) -> Cost:
        lengths = [length] * pairs
        return cost(
            shape,
            lengths,
            gflops=gflops,
            tokens=lengths if everywhere else None,
            number_bytes=number_bytes,
            batch=batch,
            copies=copies,
            base=base,
        )

    deeper = replace(
        shape, layers=2 * shape.layers, parameters=shape.parameters + shape.layers * shape.block
    )
    wider = replace(
        shape,
        d_mlp=2 * shape.d_mlp,
        d_model=2 * shape.d_model,
        attention=2 * shape.attention,
        heads=2 * shape.heads,
        key_values=2 * shape.key_values,
        block=4 * shape.block,
        parameters=4 * shape.layers * shape.block + 2 * (shape.parameters - shape.layers * shape.block),
    )
    return [
        ("this model", of(shape)),
        ("twice the layers", of(deeper)),
        ("twice the width", of(wider)),
        ("twice the pairs", of(shape, pairs=2 * pairs)),
        ("twice the length", of(shape, length=2 * length)),
    ]
