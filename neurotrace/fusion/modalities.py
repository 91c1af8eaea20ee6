"""Real modalities of one thing: an image, its spoken name, a written description.

Images are scikit-learn's digits, or Fashion-MNIST from the Debian package `dataset-fashion-mnist`. Names
are spoken by eSpeak NG (`pip install espeakng-loader`), in noise; the test voices are not heard in
training. Descriptions have typos, and a share of them says nothing of the class. `make modalities`
installs what is missing.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from neurotrace.core.errors import InputError
from neurotrace.fusion.speech import TEST_VOICES, TRAIN_VOICES, spectrogram, spoken
from neurotrace.fusion.things import CLOTHES, DIGITS, VAGUE, Words

Array = np.ndarray


@dataclass(frozen=True)
class Modalities:
    """Views of the same rows; `sound` is [row, band, frame], `text` counts of letter groups."""

    views: dict[str, Float[Array, "row ..."]]
    y: Int[Array, " row"]
    names: tuple[str, ...]
    texts: tuple[str, ...]


def modalities(
    things: str = "digits",
    *,
    train: int = 800,
    test: int = 600,
    snr: float = 0.0,
    vague: float = 0.35,
    typos: float = 0.15,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[Modalities, Modalities]:
    """(train, test): rows of `things`, "digits" or "clothes", in image, sound, text and noise.

    Args:
        snr: of the spoken names, in dB; each row's noise is its own.
        vague: share of descriptions that say nothing; `typos`: share of letters that are changed.
        folder: with Fashion-MNIST's `train-images-idx3-ubyte.gz` and the rest; for clothes.

    Raises:
        InputError: other things, no eSpeak NG, or a folder without Fashion-MNIST.
    """
    if things not in ("digits", "clothes"):
        raise InputError(f"things={things!r}: expected 'digits' or 'clothes'")
    words = DIGITS if things == "digits" else CLOTHES
    image, label = _digits() if things == "digits" else fashion(folder)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(label))
    parts = []
    for rows, voices in ((order[:train], TRAIN_VOICES), (order[train : train + test], TEST_VOICES)):
        y = label[rows]
        texts = tuple(_describe(rng, words, place, vague, typos) for place in y)
        spoken = np.stack([_heard(rng, words, place, voices, snr) for place in y])
        views = {
            "image": image[rows],
            "sound": spoken,
            "text": _counts(texts),
            "noise": rng.normal(size=(len(y), 16)).astype(np.float32),
        }
        parts.append(Modalities(views, y, tuple(words), texts))
    return parts[0], parts[1]


def fashion(folder: Path | None) -> tuple[Float[Array, "image 14 14"], Int[Array, " image"]]:
    """The first 10,000 of Fashion-MNIST, halved in size."""
    at = Path(".venv/modalities/usr/share/datasets/fashion-mnist") if folder is None else Path(folder)
    files = [at / f"train-{name}.gz" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise InputError(f"{missing[0]} is missing: expected Fashion-MNIST; run `make modalities`")
    with gzip.open(files[0]) as file:
        pixels = np.frombuffer(file.read(16 + 10_000 * 784), np.uint8, offset=16)
    with gzip.open(files[1]) as file:
        label = np.frombuffer(file.read(8 + 10_000), np.uint8, offset=8)
    small = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255
    return small.astype(np.float32), label.astype(int)


def _digits() -> tuple[Float[Array, "image 8 8"], Int[Array, " image"]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target


def _describe(rng: np.random.Generator, words: Words, place: int, vague: float, typos: float) -> str:
    said = list(words.values())[place]
    text = str(rng.choice(VAGUE if rng.random() < vague else said))
    letters = list(text)
    for at in range(len(letters)):
        if letters[at].isalpha() and rng.random() < typos:
            letters[at] = "" if rng.random() < 0.3 else chr(97 + rng.integers(26))
    return "".join(letters)


def _counts(texts: Sequence[str]) -> Float[Array, "row 256"]:
    from sklearn.feature_extraction.text import HashingVectorizer

    made = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 3), n_features=256, alternate_sign=False, norm=None
    )
    return np.sqrt(made.transform(texts).toarray()).astype(np.float32)


def _heard(
    rng: np.random.Generator, words: Words, place: int, voices: Sequence[str], snr: float
) -> Float[Array, "band frame"]:
    wave = spoken(list(words)[place], str(rng.choice(voices)))
    noise = np.convolve(rng.normal(size=len(wave) + 7), np.ones(8) / 8, "valid")
    noise *= np.sqrt((wave**2).mean() / (noise**2).mean()) * 10 ** (-snr / 20)
    return spectrogram(wave + noise)
