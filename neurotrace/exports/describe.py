"""An intervention as plain JSON, for whoever reads it by other means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neurotrace.core.neurons import NEURON_DEFINITION
from neurotrace.core.writing import save_file
from neurotrace.interventions.intervention import Intervention


def description(intervention: Intervention) -> dict[str, Any]:
    """Everything that the intervention says, numbers of single precision without rounding."""
    rows = intervention.to_frame().to_dict("records")
    return {
        "format": "neurotrace.intervention-json/1",
        "map": "a' = keep * a + gain * donor + offset",
        "neuron": NEURON_DEFINITION,
        "kind": intervention.kind,
        "direction": str(intervention.direction),
        "recipient": intervention.recipient,
        "donor": intervention.donor,
        "neurons": [{"name": f"L{row['layer']}.N{row['neuron']}"} | row for row in rows],
        "provenance": dict(intervention.provenance),
    }


def write_description(intervention: Intervention, path: Path) -> None:
    """The description as a file; InputError where it can't be written."""
    save_file(path, (json.dumps(description(intervention), indent=1) + "\n"))
