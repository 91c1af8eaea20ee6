"""What could tell memory from reasoning without any intervention: the margin is judged beside these.

`PLAIN` ones need no training: how sure the model is, where its answer stands in the prompt. Two learn:
from the prompt's words, and from all neurons at the read position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from neurotrace.answers import Answered
from neurotrace.detectors.linear import LinearDetector
from neurotrace.hooks import tokenizer_of

Array = np.ndarray
PLAIN = (
    "log-probability", "entropy", "answer occurs in the prompt", "where it occurs last",
    "length of the prompt",
)  # fmt: skip


def plain_signals(model: Any, asked: Answered) -> dict[str, Float[Array, prompt]]:
    """Signals that nothing was fitted for; their sign is arbitrary."""
    tokenizer = tokenizer_of(model)
    answers = [tokenizer.decode([token]).strip() for token in asked.top.tolist()]
    texts = [prompt.prompt for prompt in asked.prompts]
    last = np.array([text.rfind(own) for text, own in zip(texts, answers, strict=True)])
    found = (
        asked.log_probability.double().numpy(),
        asked.entropy.double().numpy(),
        (last >= 0).astype(float),
        last / np.array([len(text) for text in texts]),
        np.array([len(ids) for ids in asked.ids], dtype=float),
    )
    return dict(zip(PLAIN, found, strict=True))


def by_words(
    texts: Array, train: Bool[Array, prompt], y: Bool[Array, prompt]
) -> Float[Array, prompt]:
    """Log-odds of memory by a logistic regression on the prompt's words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(binary=True, token_pattern=r"\w+|[^\w\s]").fit(texts[train])
    X = counter.transform(texts)
    return LogisticRegression(max_iter=1000).fit(X[train], y[train]).decision_function(X)


def by_neurons(
    values: Float[Array, "prompt neuron"], train: Bool[Array, prompt], y: Bool[Array, prompt]
) -> Float[Array, prompt]:
    """Log-odds of memory by a logistic regression on every neuron at the read position."""
    return LinearDetector(C=10.0).fit(values[train], y[train]).decision_function(values)
