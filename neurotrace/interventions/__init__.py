"""Interventions on neurons: made, controlled, applied, measured.

intervention  `Intervention` and its kinds: patch, set, zero, mean, shift, scale, steer
reference     statistics of training pairs: class means, gradients, norms
targets       the value that an intervention would give each neuron, for rankers
controls      interventions of the same size that should not flip answers
donors        the donor values of a patch
logits        the model's logits under interventions
effects       `measure`: pair by pair
damage        KL divergence on neutral text
benchmark     accuracy on multiple-choice items, before and after
continuing    log-likelihoods of continuations, and greedy ones: `generate`
whole         whole answers under interventions

May import: models and below.
To add a kind: a row of `KINDS` in kinds.py.
"""
