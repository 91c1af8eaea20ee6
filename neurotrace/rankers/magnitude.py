"""Weight magnitude: ||W_out row||. A baseline that uses the model and not the pairs.

A ranking that is no better has only found large neurons.
The norm is of the weights alone. How a norm behind the MLP scales the row depends on the run and is not
included.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurotrace.core.errors import renamed
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Side
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.written import write_norms


@renamed(intervention="kind")
@takes_turns
def magnitude(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    *,
    donor: Side = "reasoning",
    kind: Kind = "patch",
    progress: Progress = None,
) -> Scores:
    """||W_out row||; `pairs`, `donor` and `kind` change nothing.

    Example::

        nt.magnitude(model).top(8, direction="to_reasoning")
    """
    return Scores(
        "magnitude",
        write_norms(model),
        "norm of the W_out row",
        signed=False,
        provenance={
            "model": inspect_model(model).name,
            "donor": donor,
            "intervention": kind,
            **inspect_model(model).naming,
        },
    )
