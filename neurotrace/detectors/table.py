"""The detectors that are compared, by the name that tables and figures give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neurotrace.detectors.base import Detector
from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.invariant import InvariantDetector
from neurotrace.detectors.linear import LinearDetector

# a detector for each view of the model's insides; of the one best layer; of each view that needs no look
# inside; of all neurons and of the best view; of several views together; of the causal margin
Learns = Literal["each view", "best layer", "baselines", "neurons", "views", "margin"]
Environments = Literal["", "generated", "known"]


@dataclass(frozen=True)
class Entry:
    """How a detector is made and what it learns from.

    Args:
        cls, options: its class and the parameters that make it this detector.
        learns: what it is fitted on.
        environments: of an invariant one: generated from the rows or the known ones.
        restandardised: its features are standardised again within each task.
        choosable: `nt.detect` may fit it on all prompts and save it.
    """

    cls: type[Detector]
    options: Mapping[str, Any] = field(default_factory=dict)
    learns: Learns = "each view"
    environments: Environments = ""
    restandardised: bool = False
    choosable: bool = False

    def make(self, **more: Any) -> Any:
        """An unfitted one; `more`: further parameters of its class, such as `seed`."""
        return self.cls(**self.options, **more)


DETECTORS: dict[str, Entry] = {
    "causal margin": Entry(LinearDetector, learns="margin", choosable=True),
    "linear": Entry(LinearDetector, choosable=True),
    "layer classifier": Entry(LinearDetector, learns="best layer"),
    "baseline": Entry(LinearDetector, learns="baselines"),
    "linear, re-standardised": Entry(LinearDetector, {"floor": 0}, learns="neurons", restandardised=True),
    "linear, no floor": Entry(LinearDetector, {"floor": 0}, learns="neurons"),
    "invariant generated": Entry(
        InvariantDetector, {"penalty": "vrex"}, learns="neurons", environments="generated"
    ),
    **{
        f"invariant {penalty}": Entry(
            InvariantDetector, {"penalty": penalty}, learns="neurons", environments="known"
        )
        for penalty in ("irm", "vrex", "groupdro")
    },
    **{
        f"fused {kind}": Entry(FusedDetector, {"kind": kind}, learns="views", choosable=True)
        for kind in ("product", "mixture")
    },
}


def named(learns: Learns) -> dict[str, Entry]:
    """The detectors that learn from `learns`."""
    return {name: entry for name, entry in DETECTORS.items() if entry.learns == learns}


# by the name that saved files give them
CLASSES: dict[str, type[Detector]] = {entry.cls.__name__: entry.cls for entry in DETECTORS.values()}
