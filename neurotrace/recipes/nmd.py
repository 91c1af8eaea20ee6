"""The shift of Huang et al. (EMNLP 2025): units ranked by |rho|, moved by alpha * sign(rho) * |NMD|.

    NMD_i = mean over pairs of (a_i in reasoning - a_i in memorization), rho_i = Pearson(a_i, y)

with y = 1 on the reasoning side; towards memory the sign is reversed. The units are the hidden dimensions
behind the blocks (`nmd-dims`), as in the paper, and MLP neurons (`nmd`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neurotrace.core.sides import Direction
from neurotrace.models.activations import Moments
from neurotrace.recipes.base import Recipe, by_neurons
from neurotrace.recipes.vectors import Vector, by_vectors, refuses

_SOURCE = "Huang et al., EMNLP 2025, arXiv 2412.18497"
_SHARES = (0.05, 0.1)
_ALPHAS = (1, 2, 4, 8)
_ALPHA = "α is chosen on training pairs out of 1, 2, 4 and 8; "
_LAST = "Only the prompt's last token is changed."

NMD = Recipe(
    "nmd",
    "NMD shift, MLP neurons",
    _SOURCE,
    "Ranks by |ρ| or |NMD|, shifts the top by α·sign(ρ)·|NMD|.",
    (
        "MLP neurons take the place of hidden dimensions.",
        f"{_ALPHA}smaller sizes are tried beside 5 and 10 %.",
        _LAST,
    ),
    by_neurons(
        "nmd",
        ("shift", *(f"shift:{alpha}" for alpha in _ALPHAS[1:])),
        methods=("pearson", "contrast"),
        shares=_SHARES,
    ),
    share=max(_SHARES),
)


def _vectors(moments: Moments, to: Direction) -> Iterator[Vector]:
    rho, contrast = moments.rho, moments.contrast
    order = rho.flatten().argsort(descending=True)
    for share in (0.01, *_SHARES):
        k = max(1, round(share * rho.numel()))
        chosen = torch.zeros(rho.numel())
        chosen[order[:k]] = 1.0
        for alpha in _ALPHAS:
            # sign(rho)*|NMD| is NMD
            yield Vector(f"shift:{alpha}", -to.sign * alpha * contrast * chosen.view_as(rho), k, rho)


NMD_DIMS = Recipe(
    "nmd-dims",
    "NMD shift, hidden dimensions",
    _SOURCE,
    "Ranks the residual stream's dimensions behind every block by |ρ|, shifts the top by α·sign(ρ)·|NMD|.",
    (f"{_ALPHA}1 % of the dimensions is tried beside the paper's 5 and 10 %.", _LAST),
    by_vectors("nmd-dims", _vectors),
    share=max(_SHARES),
    refuses=refuses,
)
