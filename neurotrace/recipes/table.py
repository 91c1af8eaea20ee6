"""Every recipe by its name."""

from __future__ import annotations

from neurotrace.core.errors import InputError, one_of
from neurotrace.recipes.base import Recipe
from neurotrace.recipes.contrastive import CNA
from neurotrace.recipes.h_neurons import H_NEURONS
from neurotrace.recipes.ircan import IRCAN
from neurotrace.recipes.knowledge import KNOWLEDGE
from neurotrace.recipes.lirefs import LIREFS
from neurotrace.recipes.nmd import NMD, NMD_DIMS
from neurotrace.recipes.ours import OURS

RECIPES: dict[str, Recipe] = {
    each.name: each for each in (OURS, NMD, NMD_DIMS, KNOWLEDGE, CNA, H_NEURONS, LIREFS, IRCAN)
}


def recipe_of(name: str) -> Recipe:
    """The recipe of this name; `InputError` for an unknown one."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: {one_of(name, RECIPES)}")
    return RECIPES[name]
