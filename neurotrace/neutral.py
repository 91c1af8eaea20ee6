"""What else an intervention breaks: the next token after text that has nothing to do with the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurotrace import metrics
from neurotrace.effects import logits_under
from neurotrace.errors import InputError
from neurotrace.hooks import tokenizer_of
from neurotrace.interventions import Intervention
from neurotrace.pairs import probes_folder
from neurotrace.tokens import by_length


def neutral_texts(model: Any) -> list[str]:
    """The neutral texts that ship with the probes, those of the language that the model speaks.

    That is the file with the smallest share of unknown tokens: English, or the organisms' language.
    """
    tokenizer = tokenizer_of(model)
    unknown = getattr(tokenizer, "unk_token_id", None)

    def share(texts: list[str]) -> float:
        ids = [token for text in texts for token in tokenizer(text).input_ids]
        return sum(token == unknown for token in ids) / max(1, len(ids))

    files = sorted((probes_folder() / "neutral").glob("*.txt"))
    found = [[t for t in file.read_text("utf-8").split("\n") if t.strip()] for file in files]
    if not found:
        raise InputError(
            f"no neutral texts in {probes_folder() / 'neutral'}: reinstall the package"
        )
    return min(found, key=share)


def damage(
    model: Any,
    texts: Sequence[str],
    intervention: Intervention,
    *,
    donor_mean: Float[Tensor, "layer neuron"] | None = None,
    batch_size: int = 32,
) -> Float[Tensor, text]:
    """KL(before || after), in nats, of the next token after each neutral text.

    Args:
        texts: prompts that have nothing to do with the pairs.
        donor_mean: the value that a patch writes here, where there is no donor run: the donor
            class's mean over training pairs.
    """
    if intervention.needs_donor and donor_mean is None:
        raise InputError("a patch has no donor on neutral text: pass donor_mean, its class's mean")
    tokenizer = tokenizer_of(model)
    prompts = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    found = torch.zeros(len(prompts))
    for rows, ids in by_length(prompts, batch_size):
        given = None
        if donor_mean is not None and intervention.needs_donor:
            layers = [neuron.layer for neuron in intervention.neurons]
            units = [neuron.index for neuron in intervention.neurons]
            given = donor_mean[layers, units].expand(len(rows), -1)
        clean, (changed,) = logits_under(model, ids, [intervention], [given])
        found[rows] = metrics.kl(clean, changed)
    return found
