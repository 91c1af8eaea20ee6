"""Questions about an image, from easy-VQA 1.0 (Victor Zhou, MIT): one modality leaks the other's answer.

A question alone tells whether its answer is a colour, a shape, or yes or no. The wheel from PyPI carries
images and questions; `make modalities` downloads and unpacks it, and nothing of it is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_json, read_text
from neurotrace.fusion.modalities import Modalities

Array = np.ndarray
FOLDER = Path(".venv/modalities/easy-vqa")
SIDE = 8


def easy_vqa(
    folder: Path = FOLDER, *, train: int = 3000, test: int = 1000, seed: int = 0
) -> tuple[Modalities, Modalities]:
    """(train, test): one question an image, in three views.

    `image` is the shape cut out, [row, 8, 8, 3]; `question` has counts of words and pairs of words; `both`
    is the two in one, for an expert on how they go together. The test images are the package's own.

    Raises:
        InputError: no such folder, no Pillow, or fewer images than asked for.

    Example::

        train, test = easy_vqa(train=500, test=200)
    """
    data = Path(folder) / "easy_vqa" / "data"
    if not data.is_dir():
        raise InputError(f"{data} is missing: expected easy-VQA 1.0; run `make modalities`")
    rng = np.random.default_rng(seed)
    names = tuple(sorted(read_text(data / "answers.txt").split()))
    drawn = [_rows(data / part, part, count, rng) for part, count in (("train", train), ("test", test))]
    parts = []
    for images, asked, answers in drawn:
        question = _words(asked)
        both = np.hstack([images.reshape(len(images), -1), question])
        y = np.array([names.index(answer) for answer in answers])
        parts.append(Modalities({"image": images, "question": question, "both": both}, y, names, asked))
    return parts[0], parts[1]


def _rows(
    held: Path, part: str, count: int, rng: np.random.Generator
) -> tuple[Float[Array, "row 8 8 3"], tuple[str, ...], list[str]]:
    """(images, questions, answers) of some images."""
    of_image: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in read_json(held / "questions.json"):
        of_image.setdefault(image, []).append((question, answer))
    if count > len(of_image):
        raise InputError(f"{part}={count}: expected at most {len(of_image)}, the number of images")
    images, questions, answers = [], [], []
    for image in rng.permutation(sorted(of_image))[:count].tolist():
        question, answer = of_image[image][rng.integers(len(of_image[image]))]
        images.append(_cut(held / "images" / f"{image}.png"))
        questions.append(question)
        answers.append(answer)
    return np.stack(images), tuple(questions), answers


def _cut(png: Path) -> Float[Array, "8 8 3"]:
    """What differs from the background, 0 to 1, resized."""
    try:
        from PIL import Image, ImageChops
    except ImportError:
        raise InputError("images of easy-VQA need Pillow: run `pip install pillow`") from None
    with Image.open(png) as opened:
        image = opened.convert("RGB")
    colours: Any = image.getcolors(image.width * image.height)
    ground = max(colours)[1]  # the colour of most pixels
    box = ImageChops.difference(image, Image.new("RGB", image.size, ground)).getbbox()
    return np.asarray(image.crop(box).resize((SIDE, SIDE)), dtype=np.float32) / 255


def _words(questions: tuple[str, ...]) -> Float[Array, "row 256"]:
    from sklearn.feature_extraction.text import HashingVectorizer

    made = HashingVectorizer(ngram_range=(1, 2), n_features=256, alternate_sign=False, norm=None)
    return made.transform(questions).toarray().astype(np.float32)
