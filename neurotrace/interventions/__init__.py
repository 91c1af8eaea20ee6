"""One affine map of neurons: made, controlled, done, measured.

intervention  `Intervention` and its kinds: patch, set, zero, mean, shift, scale, steer
reference     what training pairs tell an intervention: means, slopes, norms
targets       where an intervention would take each neuron, for rankers
controls      interventions of the same size that should not flip anything
donors        where a patch takes its values
logits        the model's logits under interventions
effects       `measure`: pair by pair
damage        KL divergence on neutral text
generation    `generate`: write on under an intervention

May import: models and below.
To add a kind: a row of `KINDS` in intervention.py.
"""
