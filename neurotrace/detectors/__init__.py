"""Detectors: from an array of features to P(the model answers from memory).

`linear`, `invariant` and `fused` hold the three, with scikit-learn's interface. `judging` evaluates
one, `transfer` tests it on other tasks, `proofs` checks each idea on data where it must work. They know
no model.

May import: core.
To add one: a file with a subclass of `base.Detector`, a row in `table.DETECTORS`; tests/detectors holds
its contract.
"""

from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.judging import Judgement, judge
from neurotrace.detectors.linear import LinearDetector
from neurotrace.detectors.saving import about_detector, load_detector, save_detector

__all__ = [
    "FusedDetector",
    "InvariantDetector",
    "Judgement",
    "LinearDetector",
    "about_detector",
    "judge",
    "load_detector",
    "save_detector",
]
