"""Risks of a predictor in several environments, and the penalties that make it invariant to them.

R_e = mean loss in environment e, weighted by P(e | row).
IRMv1 (Arjovsky et al. 2019):    Σ_e ‖∂/∂w R_e(w·logit) at w = 1‖²
V-REx (Krueger et al. 2021):     Var_e(R_e)
GroupDRO (Sagawa et al. 2020):   Σ_e q_e R_e with q_e ∝ q_e exp(η R_e)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Penalty = Literal["irm", "vrex", "groupdro", "none"]
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)


def risks(
    logit: Float[Tensor, " row"], y: Float[Tensor, " row"], share: Float[Tensor, "row env"]
) -> Float[Tensor, " env"]:
    """R_e; `share` sums to one over the rows of each environment."""
    return F.binary_cross_entropy_with_logits(logit, y, reduction="none") @ share


def irm(
    logit: Float[Tensor, " row"], y: Float[Tensor, " row"], share: Float[Tensor, "row env"]
) -> Float[Tensor, ""]:
    """IRMv1's penalty in closed form: d loss(w·logit, y) / dw at w = 1 is (σ(logit) - y)·logit."""
    slope = ((torch.sigmoid(logit) - y) * logit) @ share
    return (slope**2).mean()


def vrex(risk: Float[Tensor, " env"]) -> Float[Tensor, ""]:
    """Variance of the risks over environments."""
    return risk.var(unbiased=False)


def dro_weights(
    weights: Float[Tensor, " env"], risk: Float[Tensor, " env"], step: float
) -> Float[Tensor, " env"]:
    """GroupDRO's weights after one exponentiated-gradient step."""
    grown = weights * torch.exp(step * risk.detach())
    return grown / grown.sum()


def shares(member: Float[Tensor, "row env"]) -> Float[Tensor, "row env"]:
    """P(e | row) as weights that sum to one within each environment."""
    return member / member.sum(dim=0, keepdim=True).clamp(min=1e-12)
