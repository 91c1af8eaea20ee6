"""Detectors: from an array of features to P(the model answers from memory).

`linear.py`, `invariant.py` and `fused.py` hold the three, with scikit-learn's contract; `judging.py`
says how good one is, `proofs.py` shows each idea where it must work. They know nothing of models.
"""

from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.judging import Judgement, judge
from neurotrace.detectors.linear import LinearDetector
from neurotrace.detectors.saving import about_detector, load_detector, save_detector

__all__ = [
    "FusedDetector", "InvariantDetector", "Judgement", "LinearDetector", "about_detector", "judge",
    "load_detector", "save_detector",
]  # fmt: skip
