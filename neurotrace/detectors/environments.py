"""Unlabelled environments, generated from the data (EDNIL, NeurIPS 2022, arXiv 2308.08778).

Heads f_e, one an environment, compete for the rows: P(e | i) = softmax_e(-loss(f_e(x_i), y_i) / τ).
They minimise  L_ED + β L_LI + γ L_IP  with

    L_ED = -mean_i log P(e*_i | i), e*_i the likeliest head      every row has an environment of its own
    L_LI = mean_e KL(P(Y | e) ‖ uniform)                         no environment is a label in disguise
    L_IP = mean_e (R_e - mean R)²                                what the invariant model already uses
                                                                 works equally well in all of them

so that an invariant predictor must not rely on what differs between the environments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.detectors.risks import shares


class EnvironmentHeads:
    """Linear heads that divide rows among environments; each call of `divide` trains them further."""

    def __init__(
        self,
        features: int,
        count: int,
        *,
        temperature: float,
        balance: float,
        rate: float,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(features, count, generator=generator, dtype=torch.float64)
        self.weight = (self.weight / features**0.5).requires_grad_()
        self.bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        self.temperature, self.balance = temperature, balance
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=rate)

    def divide(
        self,
        Z: Float[Tensor, "row feature"],
        y: Float[Tensor, " row"],
        loss: Float[Tensor, " row"],
        *,
        steps: int,
        preserve: float,
    ) -> Int[Tensor, " row"]:
        """The environment of each row, after `steps` of training; `loss`: the invariant model's."""
        for _ in range(steps):
            self.optimiser.zero_grad()
            self.objective(Z, y, loss, preserve).backward()
            self.optimiser.step()
        with torch.no_grad():
            return self._log_member(Z, y).argmax(dim=1)

    def objective(self, Z: Tensor, y: Tensor, loss: Tensor, preserve: float) -> Float[Tensor, ""]:
        """L_ED + β L_LI + γ L_IP, with γ = `preserve`."""
        log_member = self._log_member(Z, y)
        member = log_member.exp()
        diverse = -log_member.max(dim=1).values.mean()
        share = shares(member)
        positive = (y @ share).clamp(1e-6, 1 - 1e-6)
        label = torch.stack([1 - positive, positive])
        uniform = (label * (2 * label).log()).sum(dim=0).mean()
        risk = loss @ share
        alike = ((risk - risk.mean()) ** 2).mean()
        return diverse + self.balance * uniform + preserve * alike

    def _log_member(self, Z: Tensor, y: Tensor) -> Float[Tensor, "row env"]:
        logit = Z @ self.weight + self.bias
        loss = F.binary_cross_entropy_with_logits(logit, y[:, None].expand_as(logit), reduction="none")
        return torch.log_softmax(-loss / self.temperature, dim=1)
