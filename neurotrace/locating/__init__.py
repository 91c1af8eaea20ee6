"""By which units, and at which tokens, is an answer decided? Patching of sites other than single neurons.

May import: everything up to `rankers`.

    patching    reads, differentiates and patches some tokens of prompts, what stands before them kept
    pursuit     sets of units that act together, chosen in rounds on training pairs
    units       what is patched at once: outputs, heads, neurons, a direction, and controls of that size
    locate      `nt.locate`: each unit's flips on held-out pairs
    deciding    of each kind of unit the fewest that flip an answer both ways
    studied     a row beside it for what a study chose
    families    the same of each family, other tokens asked where the last does not decide

To add a kind of unit: a function in `units` that returns `Unit`s, and its name in `deciding` and
in `_SETS` of `locate`.
"""
