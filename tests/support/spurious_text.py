"""Reviews in which two spurious tokens together outvote what is said: `spurious.ground` as text.

The adjectives and the verb agree with the outcome in 90 % of the reviews everywhere (label noise). The
sign-off and the device that a review was sent from agree with it at rates that differ between four
environments of the training rows; in the four tests each agrees on 90 % or on 10 %. Features are the
counts of words.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from spurious import INVARIANT, OURS, PUBLISHED, STRONG, WEAK, parts_removed

THINGS = ("film", "book", "hotel", "meal", "phone", "concert", "course", "garden", "museum", "play")
ADJECTIVES = (
    ("dull", "poor", "clumsy", "tiring", "cheap", "grim"),
    ("lively", "fine", "graceful", "charming", "rich", "warm"),
)
VERBS = (("regret", "dislike", "avoid", "resent"), ("enjoy", "recommend", "admire", "praise"))
DEVICES = ("desktop", "mobile")  # the stronger spurious token
ENDINGS = ("regards", "cheers")  # the weaker one
# the network's; all methods have it
NETWORK: dict[str, Any] = {"rate": 5e-4, "warmup": 300, "steps": 500}
GENERATED: dict[str, Any] = NETWORK | {
    "strength": 1000.0,
    "first_strength": 1.0,
    "count": 4,
    "rounds": 3,
    "divide_steps": 200,
    "preserve": 200.0,
    "preserve_first": 50.0,
    "restarts": 5,
    "head_rate": 0.01,
    "temperature": 0.1,
}
METHODS: dict[str, dict[str, Any]] = {
    "erm": NETWORK | {"penalty": "none"},
    "erm, trained to the end": {"penalty": "none"},
    "known": NETWORK | {"strength": 1000.0},
    "known, trained to the end": {"strength": 1000.0, "steps": 750},
    **parts_removed(GENERATED),
    "generated, settings of the other ground": OURS,
    "generated, published settings": PUBLISHED,
    "eiil": NETWORK | {"strength": 1000.0},
    "jtt": NETWORK | {"penalty": "none"},
}


def reviews(seed: int, rows: int = 400) -> tuple[tuple[Any, Any, Any], list[tuple[Any, Any]]]:
    """((X, y, environment), four tests), as `spurious.ground`."""
    rng = np.random.default_rng(seed)
    parts = [written(rng, rows, (INVARIANT, a, b)) for a, b in product(STRONG, WEAK)]
    tests = [written(rng, 4 * rows, (INVARIANT, a, b)) for a, b in product((0.1, 0.9), repeat=2)]
    count = CountVectorizer().fit([text for texts, _ in parts for text in texts])
    y = np.concatenate([own for _, own in parts])
    X = np.concatenate([count.transform(texts).toarray().astype(float) for texts, _ in parts])
    shown = [(count.transform(texts).toarray().astype(float), own) for texts, own in tests]
    return (X, y, np.repeat(np.arange(4), rows)), shown


def written(
    rng: np.random.Generator, rows: int, agree: tuple[float, float, float]
) -> tuple[list[str], Any]:
    """(reviews, outcomes); what is said, the device and the ending agree with the outcome so often."""
    y = rng.integers(0, 2, rows)
    said, device, ending = (y ^ (rng.random(rows) >= share) for share in agree)
    texts = []
    for row in range(rows):
        first, second, third = rng.choice(ADJECTIVES[said[row]], 3)
        verb = rng.choice(VERBS[said[row]])
        texts.append(
            f"The {rng.choice(THINGS)} was {first} and {second}, in parts {third}: I {verb} it. "
            f"{ENDINGS[ending[row]]}, sent from {DEVICES[device[row]]}"
        )
    return texts, y
