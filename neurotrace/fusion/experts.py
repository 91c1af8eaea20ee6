"""An expert a view: an encoder to a Gaussian over a latent that all views share, and its training.

    expert     q_m(z | x_m) ∝ N(z; 0, I) · N(z; μ_m(x_m), I / Λ_m(x_m))^w_m
    product    q(z | x)     ∝ N(z; 0, I) · Π_m N(z; μ_m, I / Λ_m)^w_m
    outcome    p(y | z)     = softmax(W z + b)

A view that knows nothing of an input has Λ_m = 0 there. Training maximises, by Pyro's stochastic
variational inference, Σ_s E_q(z|x,s) log p(y | z) - β KL(q(z | x, s) ‖ N(0, I)) over subsets s of the
views: each view alone, a random subset, all. So each expert learns even where another one already
predicts the outcome, and missing views cost nothing. With decoders, log p(x_m | z) is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neurotrace.core.errors import InputError

Array = np.ndarray
RATE, DECAY, BATCH = 3e-3, 1e-3, 256
LATENT, COMPRESSION = 16, 0.02  # by default: dimensions, β


@dataclass(frozen=True)
class Evidence:
    """What the experts say of each row, in logits.

    Attributes:
        logits: W Λ_m μ_m, each view's part of the fused logits before the product's denominator.
        precision: Λ_m; 0 where a view is missing.
        intercept: b.
    """

    logits: Float[Array, "row view class"]
    precision: Float[Array, "row view"]
    intercept: Float[Array, "row class"]


class Experts(nn.Module):
    """Encoders, one classifier on the latent, and a decoder a view if `decode`."""

    def __init__(
        self, widths: Sequence[int], classes: int, *, latent: int, hidden: int, decode: bool
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([network(wide, hidden, latent + 1) for wide in widths])
        self.head = nn.Linear(latent, classes)
        self.decoders = nn.ModuleList([network(latent, hidden, wide) for wide in widths if decode])

    def encode(
        self, views: Sequence[Float[Tensor, "row feature"]], there: Bool[Tensor, "row view"]
    ) -> tuple[Float[Tensor, "row view latent"], Float[Tensor, "row view"]]:
        """(μ, Λ) of each view; Λ is 0 where a view is missing."""
        found = torch.stack([net(x) for net, x in zip(self.encoders, views, strict=True)], dim=1)
        return found[..., 1:], nn.functional.softplus(found[..., 0]) * there

    @torch.no_grad()
    def evidence(self, views: Sequence[Tensor], there: Tensor) -> Evidence:
        """Of each row; classes are centred, because a constant added to all logits says nothing."""
        mean, precision = self.encode(views, there)
        logits = (mean * precision[..., None]) @ self.head.weight.T
        intercept = self.head.bias.expand(len(logits), -1)
        return Evidence(
            (logits - logits.mean(dim=-1, keepdim=True)).double().numpy(),
            precision.double().numpy(),
            (intercept - intercept.mean(dim=-1, keepdim=True)).double().numpy(),
        )

    @torch.no_grad()
    def latent(self, views: Sequence[Tensor], there: Tensor) -> Float[Tensor, "row latent"]:
        """Mean of q(z | x) with all weights 1."""
        mean, precision = self.encode(views, there)
        return _product(mean, precision, torch.ones(1, precision.shape[1]))[0][0]


def train(
    experts: Experts,
    views: Sequence[Float[Tensor, "row feature"]],
    there: Bool[Tensor, "row view"],
    y: Int[Tensor, " row"],
    *,
    steps: int,
    seed: int,
    compression: float = COMPRESSION,
    decoding: float = 0.0,
    parts: bool = True,
) -> list[float]:
    """Train in place; the loss of each step.

    Args:
        compression: β.
        decoding: the decoders' share.
        parts: subsets of the views, too; False: all views at once only.
    """
    pyro = require_pyro()
    from pyro import distributions as law
    from pyro.infer import TraceMeanField_ELBO
    from pyro.poutine import scale

    rows, count = there.shape
    alone = torch.eye(count)
    importance = torch.ones(count + 2 if parts else 1, 1)

    def model(part: Tensor, use: Tensor, mean: Tensor, precision: Tensor) -> None:
        with pyro.plate("subset", len(use), dim=-2), pyro.plate("row", len(part), dim=-1):
            with scale(scale=compression * importance):
                z = pyro.sample("z", law.Normal(torch.zeros(mean.shape[-1]), 1.0).to_event(1))
            with scale(scale=importance):
                pyro.sample("y", law.Categorical(logits=experts.head(z)), obs=y[part])
            for place, net in enumerate(experts.decoders):
                share = decoding / views[place].shape[1] * importance * there[part, place]
                with scale(scale=share.clamp(min=1e-9)):
                    x = law.Normal(net(z), 1.0).to_event(1)
                    pyro.sample(f"x{place}", x, obs=views[place][part])

    def guide(part: Tensor, use: Tensor, mean: Tensor, precision: Tensor) -> None:
        centre, spread = _product(mean, precision, use)
        rows_of = pyro.plate("row", len(part), dim=-1)
        with pyro.plate("subset", len(use), dim=-2), rows_of, scale(scale=compression * importance):
            pyro.sample("z", law.Normal(centre, spread[..., None]).to_event(1))

    bound = TraceMeanField_ELBO()
    optimiser = torch.optim.AdamW(experts.parameters(), lr=RATE, weight_decay=DECAY)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for _ in range(steps):
            part = torch.randperm(rows)[:BATCH]
            use = torch.ones(1, count)
            if parts:
                use = torch.cat([alone, (torch.rand(1, count) < 0.5).float(), use])
            mean, precision = experts.encode([x[part] for x in views], there[part])
            loss = bound.differentiable_loss(model, guide, part, use, mean, precision) / len(part)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            slower.step()
            losses.append(float(loss.detach()))
    return losses


def trained(
    widths: Sequence[int],
    classes: int,
    views: Sequence[Float[Tensor, "row feature"]],
    there: Bool[Array, "row view"],
    y: Int[Array, " row"],
    *,
    hidden: int,
    seed: int,
    latent: int = LATENT,
    decoding: float = 0.0,
    **how: Any,
) -> Experts:
    """New experts, trained; `how` has further arguments of `train`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        experts = Experts(widths, classes, latent=latent, hidden=hidden, decode=decoding > 0)
    present, places = torch.from_numpy(there), torch.from_numpy(y)
    train(experts, views, present, places, seed=seed, decoding=decoding, **how)
    return experts


def require_pyro() -> Any:
    """The library, or one line that says how to install it."""
    try:
        import pyro
    except ImportError:
        raise InputError(
            "deep fusion needs Pyro, which is not installed: pip install 'neurotrace-lens[fusion]'"
        ) from None
    return pyro


def _product(
    mean: Float[Tensor, "row view latent"],
    precision: Float[Tensor, "row view"],
    use: Float[Tensor, "subset view"],
) -> tuple[Float[Tensor, "subset row latent"], Float[Tensor, "subset row"]]:
    """(mean, sd) of the product of the prior and the experts in each subset."""
    total = 1 + use @ precision.T
    centre = torch.einsum("sv,rvl->srl", use, mean * precision[..., None])
    return centre / total[..., None], total.rsqrt()


def network(wide: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, out))
