"""This package's own study: gradient and two-ended gradient, every kind of intervention."""

from neurotrace.recipes.base import Recipe, by_neurons
from neurotrace.studies.selection import DEFAULT_KINDS, DEFAULT_METHODS

OURS = Recipe(
    "ours",
    "this package",
    "nt.study",
    "Ranks by the gradient of the logit difference, and by its mean over both runs of the pair; patches, "
    "sets, ablates, shifts, scales or steers.",
    (),
    by_neurons("ours", DEFAULT_KINDS, methods=DEFAULT_METHODS),
)
