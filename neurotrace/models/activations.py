"""Collect neuron activations on both sides of every pair, at the final token position.

`collect` keeps every value, in memory or in a file; `moments` streams and keeps sums. The memory of
`moments`, and of `collect` into a file, does not grow with the number of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError, renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import engine_of
from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Activations:
    """Neuron activations at the final token position, in the order of `pairs`."""

    values: Float[Tensor, "side pair layer neuron"]  # side 0 memorization, 1 reasoning
    pairs: tuple[PromptPair, ...]

    def side(self, side: Side) -> Float[Tensor, "pair layer neuron"]:
        return self.values[SIDES.index(side)]

    def moments(self) -> Moments:
        return Moments(self.values.mean(dim=1), self.values.var(dim=1, unbiased=False), len(self.pairs))


@dataclass(frozen=True)
class Moments:
    """Mean and (population) variance of each neuron's activation on each side."""

    mean: Float[Tensor, "side layer neuron"]
    variance: Float[Tensor, "side layer neuron"]
    count: int  # pairs

    def mean_of(self, side: Side) -> Float[Tensor, "layer neuron"]:
        return self.mean[SIDES.index(side)]

    @property
    def contrast(self) -> Float[Tensor, "layer neuron"]:
        """NMD: mean over pairs of a(reasoning) - a(memorization) (Huang et al., EMNLP 2025)."""
        return self.mean[1] - self.mean[0]

    @property
    def pearson(self) -> Float[Tensor, "layer neuron"]:
        """Correlation of the activation with y = 1 on the reasoning side; NaN where it is constant.

        Both sides have the same number of prompts, so the total variance is the mean of the two
        variances plus (contrast / 2)^2, and the covariance with y is contrast / 4.
        """
        total = self.variance.mean(dim=0) + (self.contrast / 2) ** 2
        return torch.where(total > 0, self.contrast / 2 / total.sqrt(), torch.nan)

    @cached_property
    def rho(self) -> Float[Tensor, "layer neuron"]:
        """|pearson|, 0 where it is not defined."""
        return self.pearson.nan_to_num(nan=0.0).abs()


@renamed(budget_gb="memory_gb")
@takes_turns
def collect(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    batch_size: int = 32,
    memory_gb: float = 4.0,
    into: str | Path | None = None,
    progress: Progress = None,
) -> Activations:
    """Activations of every neuron on both sides of every kept pair.

    Args:
        memory_gb: upper bound on their memory in GiB, if they are not written to a file.
        into: a new file that they are streamed to (float32, no header). Memory then does not grow with
            the number of pairs: the values are mapped from the file and read on use.

    Raises:
        InputError: they would take more than `memory_gb`; or there is a file at `into` already.

    Example::

        activations = nt.collect(model, pairs)
        activations.values  # side, pair, layer, neuron
    """
    encoded = encode(model, pairs)
    info = inspect_model(model)
    shape = 2, len(encoded), info.n_layers, info.d_mlp
    if into is not None:
        values = _collect_into(Path(into), model, encoded, shape, batch_size, progress)
        return Activations(values, encoded.pairs)
    size = math.prod(shape) * 4 / 2**30
    if size > memory_gb:
        raise InputError(
            f"the activations of {len(encoded)} pairs take {size:.1f} GiB, the budget is "
            f"{memory_gb:g}: stream them to a file with into=, use nt.moments(model, pairs), raise "
            "memory_gb, or pass fewer pairs"
        )
    values = torch.empty(shape)
    for place, side in enumerate(SIDES):
        for rows, batch in stream(model, encoded, side, batch_size=batch_size, progress=progress):
            values[place, rows] = batch
    return Activations(values, encoded.pairs)


def _collect_into(
    path: Path,
    model: HookedModel,
    encoded: EncodedPairs,
    shape: tuple[int, ...],
    batch_size: int,
    progress: Progress,
) -> Float[Tensor, "side pair layer neuron"]:
    """Write each row at its place and map the file; remove the file on failure."""
    row_bytes = 4 * math.prod(shape[2:])
    try:
        file = path.open("xb")
    except OSError as error:
        raise InputError(f"into={str(path)!r}: expected a new file in a folder ({error})") from None
    try:
        with file:
            for place, side in enumerate(SIDES):
                found = stream(model, encoded, side, batch_size=batch_size, progress=progress)
                for rows, batch in found:
                    for row, values in zip(rows, batch.numpy(), strict=True):
                        file.seek((place * shape[1] + row) * row_bytes)
                        file.write(values.tobytes())
    except BaseException:
        path.unlink()
        raise
    return torch.from_file(str(path), shared=False, size=math.prod(shape)).view(shape)


@takes_turns
def moments(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Moments:
    """Mean and variance of every neuron on both sides, streamed (Chan's parallel update).

    Example::

        nt.moments(model, pairs).mean_of("reasoning")  # layer, neuron
    """
    encoded = encode(model, pairs)
    info = inspect_model(model)
    mean = torch.zeros(2, info.n_layers, info.d_mlp, dtype=torch.float64)
    spread = torch.zeros_like(mean)
    for place, side in enumerate(SIDES):
        seen = 0
        for rows, batch in stream(model, encoded, side, batch_size=batch_size, progress=progress):
            values = batch.double()
            new = len(rows)
            delta = values.mean(dim=0) - mean[place]
            spread[place] += ((values - values.mean(dim=0)) ** 2).sum(dim=0)
            spread[place] += delta**2 * (seen * new / (seen + new))
            mean[place] += delta * (new / (seen + new))
            seen += new
    return Moments(mean.float(), (spread / len(encoded)).float(), len(encoded))


def stream(
    model: HookedModel,
    encoded: EncodedPairs,
    side: Side,
    *,
    batch_size: int = 32,
    progress: Progress = None,
) -> Iterator[tuple[list[int], Float[Tensor, "batch layer neuron"]]]:
    """(places of the pairs, their activations at the final token position), batch by batch."""
    info = inspect_model(model)
    batches = list(by_length(encoded.ids(side), batch_size))
    label = f"reading neurons ({side} prompts)"
    for rows, ids in over(progress, batches, label):
        yield rows, read_activations(model, ids, info.n_layers, info.d_mlp)


def read_activations(
    model: HookedModel, ids: Tensor, n_layers: int, d_mlp: int
) -> Float[Tensor, "batch layer neuron"]:
    """Activations of every neuron at the last position of a batch of equal-length prompts.

    By the suffix engine where it serves the model, else by hooks.
    """
    engine = engine_of(model)
    try:
        found = None if engine is None else engine.clean(ids).activations.float().cpu()
    except ValueError:  # not finite; by hooks the layer can be named
        found = None
    if found is None:
        found = torch.empty(len(ids), n_layers, d_mlp)

        def keep(layer: int, post: Tensor) -> None:
            found[:, layer] = post[:, -1].detach().float().cpu()

        with torch.no_grad():
            forward(model, ids, edit=keep, layers=range(n_layers))
    bad = ~torch.isfinite(found).all(dim=-1).all(dim=0)
    if bad.any():
        raise InputError(f"activations in layer {int(bad.nonzero()[0])} are not finite: try dtype=float32")
    return found


def clean_activations(
    model: HookedModel,
    prompts: Sequence[Int[Tensor, " pos"]],
    positions: str | tuple[int, ...] = "read",
) -> Float[Tensor, "prompt layer neuron"] | Float[Tensor, "prompt pos layer neuron"]:
    """Activations of unchanged runs.

    Args:
        positions: ``"read"``, the last one; ``"all"``, for prompts of one length; or places counted from
            the end.
    """
    info = inspect_model(model)
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows, ids in by_length(prompts, len(prompts)):
        if positions == "read":
            values = read_activations(model, ids, info.n_layers, info.d_mlp)
        else:
            at = list(range(ids.shape[1])) if isinstance(positions, str) else list(positions)
            values = torch.empty(len(ids), len(at), info.n_layers, info.d_mlp)

            def keep(layer: int, post: Tensor, into: Tensor = values, at: list[int] = at) -> None:
                into[:, :, layer] = post[:, at].float().cpu()

            with torch.no_grad():
                forward(model, ids, edit=keep, layers=range(info.n_layers))
        for row, value in zip(rows, values, strict=True):
            found[row] = value
    return torch.stack(found)
