"""Published recipes for finding and changing neurons, each beside this package's own; a file a recipe.

base         what a recipe is; rankers lent to the study's machinery
vectors      recipes that add a vector to the residual stream: choice, controls, held-out flips
paths        gradients averaged on a path of activations
table        every recipe by its name
folder       the folder of `neurotrace replicate`: table, verdicts, page
replicate    all of them on the same held-out groups, with the same controls, damage and verdict

ours, nmd, knowledge, contrastive, h_neurons, lirefs, ircan: a recipe each, with its source and what
deviates from it.

To add one: a file that makes a `Recipe`, and a row in table.py. May import: studies and below.
"""
