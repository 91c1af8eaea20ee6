"""Make an engine and check it on its model: resumed rows against full hooked passes.

The check changes, in the first, middle and last block: an inactive neuron, a random one set to zero,
the one that writes most, and one raised until it writes a third of the residual stream's norm (an
effect far above rounding). Then it changes sets across layers with scales and shifts, on two prompts at
once. Every logit of every row must agree within a thousandth of that row's own effect plus rounding.

Rounding is measured: how much the model's logits change when the output of every module is off by one
unit. A model with very large attention scores, or a few very large activations, rounds by more than the
size of its logits tells (Qwen2.5-0.5B: by twice as much).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurotrace.engine.edits import PATHS, Edit, Path, Run
from neurotrace.engine.engine import BATCH, Engine
from neurotrace.engine.experts import where_routed
from neurotrace.engine.modules import Delta, bf16_missing, linears
from neurotrace.engine.parts import find_parts, hooked, write_rows

# (share of the effect, units of rounding of the largest logit)
FULL_PRECISION = (1e-3, 64)  # float64 too: models compute their norms and softmax in float32
LOW_PRECISION = (0.1, 8)  # bf16 and fp16 models: one pass alone rounds by this much
_SHAKEN = 4  # times the measured rounding, in full precision, where that is more


class Disproved(Exception):
    """A resumed row differs from the full pass; the message says where and by how much."""


@dataclass(frozen=True)
class FullPasses:
    """Full hooked passes on the check prompts, computed once and compared with each method."""

    ids: Tensor
    positions: tuple[int, ...] | None
    singles: list[tuple[int, Tensor, Tensor]]  # layer, index [c], values [c]
    edits: list[Edit]
    clean: Tensor  # logits [prompt, vocabulary]
    single_logits: list[Tensor]  # [c, vocabulary], first prompt
    set_logits: Tensor  # [row, vocabulary], all prompts
    shaken: float  # how much a logit changes when every module is off by one unit of rounding


def engine(
    model: nn.Module,
    path: Path | Literal["auto"] = "auto",
    *,
    precision: Literal["exact", "fast"] = "exact",
    batch_size: int = BATCH,
    blocks: Iterable[nn.Module] | None = None,
    projection: str | None = None,
    unembedding: nn.Module | None = None,
) -> Engine:
    """Find the parts of `model`, check the methods from fastest to slowest, and return the first
    correct engine.

    Args:
        model: a transformers causal LM in eval mode. (Not one whose blocks a hook library has
            replaced: pass the twin made before.)
        path: the method to try first; slower ones follow if it fails the check.
        precision: "exact", or "fast": bf16 deltas (`modules.py`), about 1 % off the effect;
            `single` and `sets` then take `exact=True` for the rows to measure that by.
        batch_size: most tokens (rows times suffix positions) in one pass; halved when memory runs out.
        blocks, projection, unembedding: see `find_parts`.

    Raises:
        ValueError: a part is missing or ambiguous, dropout is on, or the model yields NaN.

    Warns:
        UserWarning: the method found is slower than the requested one ("auto": than `shared`), or
            "fast" is not available and the engine is exact.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() first")
    parts = find_parts(model, blocks, projection, unembedding)
    wanted = PATHS[0] if path == "auto" else path
    found = first_proved(Engine(parts, "naive", batch_size=batch_size, prove_early=prove_early), wanted)
    if found.path != wanted:
        warnings.warn(f"suffix engine: {found.path}, not {wanted}: {found.reason}", stacklevel=2)
    if precision == "fast":
        plain = linears(parts.blocks)
        why = bf16_missing(parts.device) or ("" if plain else "its weights are not float32")
        if why or found.path == "naive":
            why = why or "full passes have no delta form"
            warnings.warn(f"suffix engine: exact, not fast: {why}", stacklevel=2)
        else:
            found.delta = Delta(plain)
    # glibc gives freed memory back above a threshold that grows to the largest block once freed:
    # without this, every pass would page its activations in again (a tenth of the time)
    torch.empty(31 << 20, dtype=torch.uint8)
    return found


def check_ids(engine: Engine) -> Tensor:
    """Int["2 pos"]: 12 tokens, or 4 more than a short sliding window, so that it matters."""
    config: Any = engine.parts.model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    window = getattr(config, "sliding_window", None)
    length = window + 4 if isinstance(window, int) and 8 < window <= 60 else 12
    generator = torch.Generator().manual_seed(0)
    vocabulary = engine.parts.unembedding.weight.shape[0]
    ids = torch.randint(min(100, vocabulary // 2), vocabulary, (2, length), generator=generator)
    return ids.to(engine.parts.device)


def reference(naive: Engine, positions: tuple[int, ...] | None) -> FullPasses:
    """The full passes to compare with.

    Raises:
        ValueError: the model's own passes are not finite; names the first such block.
    """
    ids = check_ids(naive)
    run = naive.clean(ids, positions)
    one = naive.clean(ids[:1], positions)
    generator = torch.Generator().manual_seed(1)
    depth = len(naive.parts.blocks)
    singles = []
    for layer in sorted({0, depth // 2, depth - 1}):
        index, values = _telling_neurons(naive, one, layer, generator)
        singles.append((layer, index, values))
    layers = torch.cat([torch.full_like(index, layer) for layer, index, _ in singles]).cpu()
    indices = torch.cat([index for _, index, _ in singles]).cpu()
    values = torch.cat([new for _, _, new in singles]).cpu()
    edits = []
    for row in range(2 * len(ids)):
        scale = (torch.arange(len(layers)) + row) % 2 * 0.5
        edits.append(Edit(layers, indices, scale, values * (1 + row) / 3))
    return FullPasses(
        ids,
        positions,
        singles,
        edits,
        naive.logits(run.hidden),
        [naive.logits(naive.single(one, *single)) for single in singles],
        naive.logits(naive.sets(run, edits)),
        _shaken(naive, run),
    )


def _shaken(naive: Engine, run: Run, times: int = 2) -> float:
    """The largest change of a logit when each module's output is off by up to one unit of float32."""
    generator = torch.Generator().manual_seed(2)
    unit = torch.finfo(torch.float32).eps

    def shake(_: nn.Module, __: tuple, y: Any) -> Any:
        if not (isinstance(y, Tensor) and y.is_floating_point()):
            return y
        off = unit * (2 * torch.rand(y.shape, generator=generator) - 1)
        return y * (1 + off.to(y.device, y.dtype))

    leaves = [module for module in naive.parts.model.modules() if not any(module.children())]
    clean, most = naive.logits(run.hidden), 0.0
    for _ in range(times):
        with hooked([(module, "output", shake) for module in leaves]):
            again = naive.clean(run.ids, run.positions).hidden
        most = max(most, float((naive.logits(again) - clean).float().abs().max()))
    return most


def _telling_neurons(
    engine: Engine, run: Run, layer: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    a = run.inputs[layer][0, -1].float()
    weight = write_rows(engine.parts.projections[layer]).float()
    norms = weight.norm(dim=1)
    every = torch.arange(len(a), device=a.device)
    routed = where_routed(engine.parts.projections[layer], run, layer, every)
    live = every >= 0 if routed is None else routed[0, -1] > 0
    if routed is not None:
        norms = norms * routed[0, -1].float()
    strength = a.abs() * norms
    if not torch.isfinite(strength).all():
        raise ValueError(f"block {layer} holds NaN or inf activations or weights")
    loud = int(strength.argmax())
    picked = [i for i in torch.randperm(len(a), generator=generator).tolist() if i != loud and live[i]]
    index = torch.tensor([*picked[:3], loud], device=a.device)
    values = a[index].clone()
    values[1] = 0.0
    scale = _stream_norm(run, layer) / 3
    values[2] += scale / norms[index[2]].clamp_min(1e-6)
    values[3] = 0.0
    return index, values


def _stream_norm(run: Run, layer: int) -> float:
    """Norm of the residual stream behind block `layer` (naive: the final one), prompt 0."""
    behind = _first(run.outputs[layer]) if run.outputs else run.hidden[:, None]
    return float(behind[0, -1].float().norm())


def prove(engine: Engine, truth: FullPasses) -> float:
    """The largest error of any logit, in nats.

    Raises:
        Disproved: an error above tolerance, or a number that is not finite.
    """
    run = engine.clean(truth.ids, truth.positions)
    one = engine.clean(truth.ids[:1], truth.positions)
    kept = [_first(y).clone() for y in one.outputs]
    worst = 0.0
    for (layer, index, values), expected in zip(truth.singles, truth.single_logits, strict=True):
        got = engine.logits(engine.single(one, layer, index, values))
        worst = max(
            worst, _compare(got, expected, truth.clean[:1], truth.shaken, f"block {layer}, one neuron")
        )
    got = engine.logits(engine.sets(run, truth.edits))
    clean = truth.clean.repeat_interleave(len(got) // len(truth.clean), dim=0)
    worst = max(worst, _compare(got, truth.set_logits, clean, truth.shaken, "sets on two prompts"))
    if not all(torch.equal(a, _first(b)) for a, b in zip(kept, one.outputs, strict=True)):
        raise Disproved("a pass changed the clean run's tensors in place")
    return worst


def _first(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _compare(got: Tensor, expected: Tensor, clean: Tensor, shaken: float, where: str) -> float:
    eps = max(torch.finfo(got.dtype).eps, torch.finfo(torch.float32).eps)
    share, units = FULL_PRECISION if eps < 1e-6 else LOW_PRECISION
    largest = float(expected.abs().max())
    rounding = units * eps * largest
    if eps < 1e-6:
        rounding = max(rounding, min(_SHAKEN * shaken, share * largest))
    error = (got - expected).float().abs().amax(dim=-1)
    effect = (expected - clean).float().abs().amax(dim=-1)
    if not (torch.isfinite(error).all() and torch.isfinite(effect).all()):
        raise Disproved(f"{where}: NaN or inf")
    if not (error <= share * effect + rounding).all():
        row = int((error - share * effect).argmax())
        raise Disproved(
            f"{where}: {float(error[row]):.2g} logits off where the effect is {float(effect[row]):.2g}"
        )
    return float(error.max())


def first_proved(
    naive: Engine, wanted: Path, widen: bool = True, positions: tuple[int, ...] | None = None
) -> Engine:
    """The fastest engine from `wanted` on that agrees with `naive`; `naive` itself if none does."""
    naive.plain_tail, naive.early = plain_tail(naive), "naive"
    truth = reference(naive, positions)
    reasons = []
    for path in PATHS[PATHS.index(wanted) : -1]:
        for wide, light in ((True, True), (True, False), (False, True), (False, False)):
            if wide and not widen:
                continue
            trial = type(naive)(
                naive.parts,
                path,
                batch_size=naive.batch_size,
                widen=wide,
                light=light,
                prove_early=naive.prove_early,
            )
            if light and not trial.fused:
                continue
            trial.plain_tail, trial.early = naive.plain_tail, path
            try:
                trial.error = prove(trial, truth)
            except Exception as error:  # any error of the model's code rules this method out
                way = path + ("" if wide else ", not widened") + (", fused" if light else "")
                said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                reasons.append(f"{way}: {said}")
                continue
            trial.early, trial.reason = None, "; ".join(reasons)
            return trial
    naive.reason = "; ".join(reasons)
    return naive


def prove_early(engine: Engine) -> Path:
    """The method for edits before the last position: checked with a prefix and without one."""
    path = engine.path
    length = check_ids(engine).shape[1]
    for positions in ((length - 4, length - 2), tuple(range(length))):
        if path == "naive":
            break
        naive = type(engine)(engine.parts, "naive", batch_size=engine.batch_size)
        found = first_proved(naive, path, engine.widen, positions)
        if found.path != path:
            said = f"suffix engine: {found.path} for earlier positions: {found.reason}"
            warnings.warn(said, stacklevel=4)
        path = found.path
    return path


@torch.no_grad()
def plain_tail(engine: Engine) -> bool:
    """Whether the model's logits are its unembedding's output and nothing else."""
    seen: list[Tensor] = []
    keep = [(engine.parts.unembedding, "output", lambda _, __, y: seen.append(y.clone()))]
    with hooked(keep):
        logits = engine.parts.model(check_ids(engine), use_cache=False).logits
    return len(seen) == 1 and seen[0].shape == logits.shape and torch.equal(seen[0], logits)
