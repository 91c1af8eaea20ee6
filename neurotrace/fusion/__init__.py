"""Deep fusion: several views of one input, a network each, weighted by Bayesian inference.

`deep` holds the classifier. `reading` checks and scales views, `experts` holds the networks and trains
them with Pyro, `selector` infers how far each view is to be believed, by `sampling`. `planted` makes rows
whose views' informativeness is known; `modalities` makes real ones, of `speech` and `things`; `questions`
reads images with questions; `rivals` are the ways of weighing views that it is compared with.

May import: core, detectors.
"""

from neurotrace.fusion.deep import DeepFusion

__all__ = ["DeepFusion"]
