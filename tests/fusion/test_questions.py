"""easy-VQA as modalities, from a folder made here of four images."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from neurotrace.core.errors import InputError
from neurotrace.fusion.questions import easy_vqa

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A square of one colour on a pale ground, in each image at another place; two questions each."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra `modalities`")
    path = tmp_path_factory.mktemp("vqa")
    data = path / "easy_vqa" / "data"
    for part in ("train", "test"):
        (data / part / "images").mkdir(parents=True)
        asked = []
        for number in range(4):
            name = ("red", "blue")[number % 2]
            drawn = image.new("RGB", (64, 64), (240, 240, 250))
            drawn.paste(COLOURS[name], (4 * number, 9, 4 * number + 20, 29))
            drawn.save(data / part / "images" / f"{number}.png")
            asked.append(["what color is the shape?", name, number])
            asked.append(["is there a red shape?", "yes" if name == "red" else "no", number])
        (data / part / "questions.json").write_text(json.dumps(asked))
    (data / "answers.txt").write_text("red\nyes\nblue\nno\n")
    return path


def test_one_question_an_image_in_three_views(folder):
    train, test = easy_vqa(folder, train=4, test=3)
    assert train.names == ("blue", "no", "red", "yes")
    assert {name: view.shape for name, view in train.views.items()} == {
        "image": (4, 8, 8, 3),
        "question": (4, 256),
        "both": (4, 448),
    }
    assert len(test.y) == 3
    for part in (train, test):
        red = part.views["image"].mean(axis=(1, 2))[:, 0] > 0.9  # the square is cut out of its ground
        for row, text in enumerate(part.texts):
            yes = "red" if text.startswith("what") else "yes"
            assert part.names[part.y[row]] == (yes if red[row] else {"red": "blue", "yes": "no"}[yes])
        np.testing.assert_array_equal(part.views["both"][:, 192:], part.views["question"])
    again, _ = easy_vqa(folder, train=4, test=3)
    np.testing.assert_array_equal(train.views["both"], again.views["both"])


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"expected easy-VQA 1\.0; run `make modalities`"):
        easy_vqa(tmp_path / "none")
    with pytest.raises(InputError, match="train=5: expected at most 4, the number of images"):
        easy_vqa(folder, train=5, test=1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="run `pip install pillow`"):
        easy_vqa(folder, train=4, test=3)
