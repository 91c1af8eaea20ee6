"""Baselines of the causal margin: signals that use no intervention.

The `PLAIN` ones need no training: the model's confidence, the position of its answer in the prompt. The
others are trained: on the prompt's words, on all neurons at the final token position, on the residual
stream there at some depths, and on the *writes*: the contribution of each layer's attention and MLP to
the answer, write · d log p(answer) / d residual behind the last block, two numbers a layer.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float

from neurotrace.answers.answered import Answered
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.detectors.linear import LinearDetector
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import Site, inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import answer_slope, read_sites

Array = np.ndarray
PLAIN = (
    "log-probability",
    "entropy",
    "answer occurs in the prompt",
    "where it occurs last",
    "length of the prompt",
)


def plain_signals(model: HookedModel, asked: Answered) -> dict[str, Float[Array, " prompt"]]:
    """Signals without training; their sign is arbitrary."""
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


def inside_features(
    model: HookedModel, asked: Answered, *, depths: int = 4, progress: Progress = None
) -> dict[str, Float[Array, "prompt feature"]]:
    """The writes, and the residual stream behind `depths` blocks spread evenly, the last among them.

    One pass a prompt. Empty for a model that lacks the hooks, or whose unembedding reads another width.
    """
    count = inspect_model(model).n_layers
    places = sorted({count * (part + 1) // depths - 1 for part in range(depths)} - {-1})
    sites: tuple[Site, ...] = ("attention", "mlp")
    writes = [(site, layer) for layer in range(count) for site in sites]
    found = {"what each layer writes": np.zeros((len(asked), len(writes)), dtype=np.float32)}
    found |= {
        f"residual stream, block {layer}": np.zeros(
            (len(asked), inspect_model(model).d_model), dtype=np.float32
        )
        for layer in places
    }
    batches = list(by_length(asked.ids, 32))
    for rows, ids in over(progress, batches, "reading baselines"):
        points = [*writes, *(("residual", layer) for layer in places)]
        try:
            read = read_sites(model, ids, points)  # type: ignore[arg-type]
            slope = answer_slope(model, read["residual", count - 1], asked.top[rows])
        except InputError:
            return {}
        own = [(read[point] * slope).sum(dim=-1) for point in writes]
        found["what each layer writes"][rows] = torch.stack(own, dim=1).numpy()
        for layer in places:
            found[f"residual stream, block {layer}"][rows] = read["residual", layer].numpy()
    return found


def by_words(
    texts: Array, train: Bool[Array, " prompt"], y: Bool[Array, " prompt"]
) -> Float[Array, " prompt"]:
    """Log-odds of memory by a logistic regression on the prompt's words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(binary=True, token_pattern=r"\w+|[^\w\s]").fit(texts[train])
    X = counter.transform(texts)
    return LogisticRegression(max_iter=1000).fit(X[train], y[train]).decision_function(X)


def by_features(
    values: Float[Array, "prompt feature"], train: Bool[Array, " prompt"], y: Bool[Array, " prompt"]
) -> Float[Array, " prompt"]:
    """Log-odds of memory by a logistic regression on standardised features."""
    return LinearDetector(C=10.0).fit(values[train], y[train]).decision_function(values)
