"""Side effects of an intervention: the next token after text unrelated to the pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.records import probes_folder
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.kinds import values_at
from neurotrace.interventions.logits import Donors, Positions, logits_under
from neurotrace.interventions.whole import Named, Reader
from neurotrace.models.encoding import EncodedPairs, by_length
from neurotrace.models.hooks import Site
from neurotrace.models.origins import context_length, keep_runs, tokenizer_of
from neurotrace.models.protocol import HookedModel


@takes_turns
def neutral_texts(model: HookedModel) -> list[str]:
    """The packaged neutral texts in the language of the model.

    The file with the smallest share of unknown tokens is used: English, or the organisms' language.

    Example::

        kl = nt.damage(model, nt.neutral_texts(model), [nt.zero(scores.top(8))])
    """
    tokenizer = tokenizer_of(model)
    unknown = getattr(tokenizer, "unk_token_id", None)

    def share(texts: list[str]) -> float:
        ids = [token for text in texts for token in tokenizer(text).input_ids]
        return sum(token == unknown for token in ids) / max(1, len(ids))

    files = sorted((probes_folder() / "neutral").glob("*.txt"))
    found = [[t for t in file.read_text("utf-8").split("\n") if t.strip()] for file in files]
    if not found:
        raise InputError(f"no neutral texts in {probes_folder() / 'neutral'}: reinstall the package")
    return min(found, key=share)


def neutral_ids(model: HookedModel, texts: Sequence[str]) -> list[Int[Tensor, " token"]]:
    """The texts' tokens.

    Raises:
        InputError: a text without tokens, or with more of them than the model takes.
    """
    tokenizer, limit = tokenizer_of(model), context_length(model)
    # a tokenizer that prepends BOS gives an empty text a token, too
    found = [torch.tensor(tokenizer(text).input_ids if text else [], dtype=torch.long) for text in texts]
    for number, ids in enumerate(found, 1):
        if not 0 < len(ids) <= (limit or len(ids)):
            wanted = f"1 to {limit}" if limit else "at least 1"
            raise InputError(f"neutral text {number} has {len(ids)} tokens: expected {wanted}")
    return found


@takes_turns
def damage(
    model: HookedModel,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    *,
    donor_means: Sequence[Float[Tensor, "layer neuron"]] | None = None,
    site: Site = "neurons",
    batch_size: int = 32,
) -> Float[Tensor, "intervention text"]:
    """KL(before || after), in nats, of the next token after each neutral text.

    Args:
        texts: prompts unrelated to the pairs.
        donor_means: for each intervention the values that a patch writes here, since there is no donor
            run: the donor class's means over its training pairs.
        site: as in `measure`.

    Example::

        kl = nt.damage(model, nt.neutral_texts(model), [nt.zero(scores.top(8))])
    """
    if donor_means is None and any(each.needs_donor for each in interventions):
        raise InputError("a patch has no donor on neutral text: pass donor_means, its class's mean")
    prompts = neutral_ids(model, texts)
    keep_runs(model, prompts)
    found = torch.zeros(len(interventions), len(prompts))
    for rows, ids in by_length(prompts, batch_size):
        given = standing_in(interventions, donor_means, len(rows))
        clean, changed = logits_under(model, ids, interventions, given, site=site)
        for place, logits in enumerate(changed):
            found[place, rows] = metrics.kl(clean, logits)
    return found


def standing_in(
    interventions: Sequence[Intervention],
    donor_means: Sequence[Float[Tensor, "layer neuron"]] | None,
    prompts: int,
) -> list[Float[Tensor, "prompt neuron"] | None]:
    """Donor values for prompts without a donor run: the donor class's means, where an intervention
    needs them."""
    return [
        values_at(donor_means[place], each.neurons).expand(prompts, -1)
        if donor_means is not None and each.needs_donor
        else None
        for place, each in enumerate(interventions)
    ]


def still_answered(
    model: HookedModel,
    others: EncodedPairs,
    applied: Sequence[Intervention],
    donor_means: Sequence[Tensor],
    *,
    positions: Positions = "read",
) -> float | None:
    """Share of other families' prompts, on the side flipped *to*, that are answered as before.

    They have no donor run: as on neutral text, the donor class's mean is used.
    """
    if not len(others):
        return None
    donor = applied[0].donor
    named: Named = "reasoned" if donor == "reasoning" else "memorized"
    reader, hits = Reader(model, others), 0
    for rows, ids in by_length(others.ids(donor), 64):
        given = standing_in(applied, donor_means, len(rows))
        hits += int(reader.writes(rows, ids, applied, _always(given), named, positions=positions).sum())
    return hits / (len(others) * len(applied))


def _always(given: Sequence[Tensor | None]) -> Donors:
    """The same values at every place of every prompt."""
    return lambda rows, tokens: [None if each is None else each[list(rows)] for each in given]
