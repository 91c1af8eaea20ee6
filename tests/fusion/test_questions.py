"""easy-VQA as modalities, from a wheel made here of four images."""

from __future__ import annotations

import io
import json
import sys
import zipfile

import numpy as np
import pytest

from neurotrace.core.errors import InputError
from neurotrace.fusion.questions import easy_vqa

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A square of one colour on a pale ground, in each image at another place; two questions each."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra `modalities`")
    path = tmp_path_factory.mktemp("vqa") / "easy_vqa.whl"
    with zipfile.ZipFile(path, "w") as held:
        held.writestr("easy_vqa/data/answers.txt", "red\nyes\nblue\nno\n")
        for part in ("train", "test"):
            asked = []
            for number in range(4):
                name = ("red", "blue")[number % 2]
                drawn = image.new("RGB", (64, 64), (240, 240, 250))
                drawn.paste(COLOURS[name], (4 * number, 9, 4 * number + 20, 29))
                png = io.BytesIO()
                drawn.save(png, "png")
                held.writestr(f"easy_vqa/data/{part}/images/{number}.png", png.getvalue())
                asked.append(["what color is the shape?", name, number])
                asked.append(["is there a red shape?", "yes" if name == "red" else "no", number])
            held.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(asked))
    return path


def test_one_question_an_image_in_three_views(wheel):
    train, test = easy_vqa(wheel, train=4, test=3)
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
    again, _ = easy_vqa(wheel, train=4, test=3)
    np.testing.assert_array_equal(train.views["both"], again.views["both"])


def test_what_is_missing_is_named(wheel, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"expected easy-VQA 1\.0; run `make modalities`"):
        easy_vqa(tmp_path / "none.whl")
    with pytest.raises(InputError, match="train=5: expected at most 4, the number of images"):
        easy_vqa(wheel, train=5, test=1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="run `pip install pillow`"):
        easy_vqa(wheel, train=4, test=3)
