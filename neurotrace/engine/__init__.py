"""The suffix engine (prefix caching): resume a forward pass where a change begins.

metrics    logits to numbers; is a token on top, without the whole vocabulary
experts    the neurons of a sparse mixture: one flat axis a layer
parts      a model's blocks, down projections and unembedding, found by shape
attention  one prefix shared by many rows
edits      changes of neurons, and the clean run
modules    lighter forms of a model's modules for passes of many rows
engine     `Engine`: changed rows over a clean run
proof      `engine`: makes one and checks it against full passes
kept       clean runs kept for a study, common stems of prompts run once
slopes     dL/da of every neuron over a clean prefix
relp       RelP's rules of differentiation

May import: nothing of ours, only transformers and torch. It raises ValueError; the rest raises InputError.
To add a model family: add its config to tests/support/families.py; the suite says what fails.
"""
