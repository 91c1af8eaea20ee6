"""Linear reasoning features (LiReFs): one direction of the residual stream behind a block.

    v = mean(h | reasoning) - mean(h | memory),  h <- h + alpha * v / ||v||

towards memory with the opposite sign.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neurotrace.core.sides import Direction
from neurotrace.models.activations import Moments
from neurotrace.recipes.base import Recipe
from neurotrace.recipes.vectors import Vector, by_vectors, refuses

_ALPHAS = (1, 2, 4)  # in units of ||v||


def _vectors(moments: Moments, to: Direction) -> Iterator[Vector]:
    for layer, v in enumerate(moments.contrast):
        for alpha in _ALPHAS:
            values = torch.zeros_like(moments.contrast)
            values[layer] = -to.sign * alpha * v
            yield Vector(f"L{layer} α={alpha}", values, 1)


LIREFS = Recipe(
    "lirefs",
    "Linear direction (LiReFs)",
    "Hong et al., ACL Findings 2025, arXiv 2503.23084",
    "Adds α times the difference of the classes' mean residual streams behind one block.",
    (
        "Block and α (1, 2 or 4 times the distance of the means) are chosen on training pairs.",
        "Only the prompt's last token is changed.",
    ),
    by_vectors("lirefs", _vectors),
    refuses=refuses,
)
