"""Views of a prompt: the model's state at the final token position as features for a detector.

    neurons            every MLP neuron
    neurons@12         those of block 12; residual@12, attention@12: the stream behind it, the output of
                       its attention
    margin             drop of the answer with memory, and with reasoning, neurons off (needs a circuit)
    confidence         log-probability of the answer and entropy of the next token
    length             tokens in the prompt
    occurs             whether the model's answer stands in the prompt, as a token
    again              the answer's log-probability behind the last sentence alone, and its largest drop
                       with another sentence left out (`rivals.py`)

The last four use no model internals. A detector must be better than these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from neurotrace.answers.answered import Answered
from neurotrace.answers.circuit import Circuit
from neurotrace.answers.margin import causal_margin
from neurotrace.answers.rivals import asked_again
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.engine.turns import takes_turns
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import SITES, Site, inspect_model
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import read_sites

Array = np.ndarray


@takes_turns
def view_names(model: HookedModel, *, depths: int = 8) -> list[str]:
    """All neurons, and each site at `depths` blocks spread evenly (all of them where there are fewer).

    Example::

        nt.view_names(model, depths=2)
    """
    count = inspect_model(model).n_layers
    places = np.linspace(0, count - 1, min(depths, count)).round().astype(int)
    return ["neurons", *(f"{site}@{layer}" for site in SITES for layer in places)]


@takes_turns
def read_views(
    model: HookedModel,
    answered: Answered,
    names: Sequence[str],
    *,
    circuit: Circuit | None = None,
    batch_size: int = 32,
    progress: Progress = None,
) -> dict[str, Float[Array, "prompt feature"]]:
    """The named views of every prompt, in one hooked pass (and a margin, if requested).

    Raises:
        InputError: a name that is no view; "margin" without a circuit; values that are not finite.

    Example::

        answered = nt.answer(model, prompts)
        views = nt.read_views(model, answered, nt.view_names(model, depths=2))
    """
    points = {name: _points(model, name) for name in names}
    wanted = list(dict.fromkeys(point for own in points.values() for point in own))
    parts: dict[tuple[Site, int], list[Array]] = {point: [] for point in wanted}
    order: list[int] = []
    batches = list(by_length(answered.ids, batch_size)) if wanted else []
    for rows, ids in over(progress, batches, "reading views"):
        order += rows
        for point, values in read_sites(model, ids, wanted).items():
            parts[point].append(values.numpy())
    back = np.argsort(order)
    read = {point: np.concatenate(found)[back] for point, found in parts.items() if found}
    views = {}
    for name in names:
        if name == "margin":
            if circuit is None:
                raise InputError("the view 'margin' needs a circuit: nt.find_circuit(model, pairs)")
            margins = causal_margin(model, answered, circuit, progress=progress)
            views[name] = torch.stack([margins.memory_fall, margins.reasoning_fall], 1).numpy()
        elif name == "again":
            views[name] = asked_again(model, answered, progress=progress)
        elif points[name]:
            views[name] = np.concatenate([read[point] for point in points[name]], axis=1)
        else:
            views[name] = _outside(answered, name)
        if not np.isfinite(views[name]).all():
            raise InputError(f"the view {name!r} is not finite on these prompts: try dtype=float32")
    return views


def _outside(answered: Answered, name: str) -> Float[Array, "prompt feature"]:
    if name == "length":
        return np.array([[len(ids)] for ids in answered.ids], dtype=float)
    if name == "confidence":
        return torch.stack([answered.log_probability, answered.entropy], 1).double().numpy()
    return np.array(
        [[float(int(top) in ids.tolist())] for ids, top in zip(answered.ids, answered.top, strict=True)]
    )


def _points(model: HookedModel, name: str) -> list[tuple[Site, int]]:
    if name in ("margin", "confidence", "length", "occurs", "again"):
        return []
    count = inspect_model(model).n_layers
    if name == "neurons":
        return [("neurons", layer) for layer in range(count)]
    site, at, layer = name.partition("@")
    if site not in SITES or not at or not layer.isdigit() or int(layer) >= count:
        raise InputError(
            f"{name!r} is no view of this model: expected neurons, "
            f"{', '.join(f'{s}@LAYER' for s in SITES)} with a layer below {count}, margin, confidence, "
            "length, occurs or again"
        )
    return [(site, int(layer))]
