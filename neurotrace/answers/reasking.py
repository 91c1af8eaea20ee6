"""The outside view: the model is asked again, with less of the prompt. The rivals of the causal margin.

An answer from memory needs no context. These signals compare log p(own answer) on the prompt with that on a
shorter one, where *own* is the top-1 token behind the whole prompt:

    log p without context    log p(own | the last sentence alone)
    same answer without      whether the last sentence alone has the same top-1 token
    gap to no context        log p(own | prompt) - log p(own | the last sentence alone)
    largest drop             the largest of log p(own | prompt) - log p(own | prompt without sentence i),
                             over all sentences but the last; knows nothing of which one is the claim

They need neither gradients nor neurons: the first three one short pass a prompt, the last one a pass a
sentence. A prompt of one sentence has nothing to leave out: it is its own last sentence. Sentences end
at a full stop, a question or an exclamation mark, with a quotation mark or not, before a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.answers.answered import Answered, prompt_ids
from neurotrace.core.process import Progress, over
from neurotrace.engine import metrics
from neurotrace.models.encoding import by_length
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import last_logits

Array = np.ndarray
ASKED_AGAIN = ("log p without context", "same answer without", "gap to no context", "largest drop")
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")


def sentences(text: str) -> list[str]:
    """The sentences of a prompt, each with the space behind it; the last one ends with the text."""
    ends = [match.end() for match in _END.finditer(text)]
    ends = [end for end in ends if text[end:].strip()]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def asked_again(
    model: HookedModel, asked: Answered, *, progress: Progress = None
) -> dict[str, Float[Array, " prompt"]]:
    """Each signal of `ASKED_AGAIN` for every prompt."""
    split = [sentences(prompt.prompt) for prompt in asked.prompts]
    own = asked.log_probability.double().numpy()
    alone, same = _log_p(model, [each[-1] for each in split], asked.top, progress)
    rows = [row for row, each in enumerate(split) for _ in each[:-1]]
    shorter = [
        "".join(each[:left_out] + each[left_out + 1 :])
        for each in split
        for left_out in range(len(each) - 1)
    ]
    without, _ = _log_p(model, shorter, asked.top[rows], progress)
    drop = np.full(len(asked), -np.inf)
    np.maximum.at(drop, rows, own[rows] - without)
    found = (alone, same, own - alone, np.where(np.isinf(drop), 0.0, drop))
    return dict(zip(ASKED_AGAIN, found, strict=True))


def _log_p(
    model: HookedModel, texts: Sequence[str], token: Int[Tensor, " text"], progress: Progress
) -> tuple[Float[Array, " text"], Float[Array, " text"]]:
    """log p(token | text), and whether it is the top-1 token."""
    found, top = np.zeros(len(texts)), np.zeros(len(texts))
    if not len(texts):
        return found, top
    ids = prompt_ids(model, [text.lstrip() for text in texts])
    batches = list(by_length(ids, 32))
    for rows, batch in over(progress, batches, "asking again with less context"):
        logits = last_logits(model, batch).float().cpu()
        found[rows] = metrics.log_probability(logits, token[rows]).double().numpy()
        top[rows] = metrics.answers(logits, token[rows]).double().numpy()
    return found, top
