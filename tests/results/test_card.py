"""The claim card: what a run found, complete, small, without scripts, with all text escaped."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import replace

import pytest
from commands import neurotrace, refused
from planted import PLANTED

import neurotrace as nt
from neurotrace.core.display import percent
from neurotrace.core.errors import InputError
from neurotrace.plots.image import draw_page
from neurotrace.results.card import LIMIT, claim_card
from neurotrace.studies.verdict import SENTENCES

pytestmark = pytest.mark.bridge


@pytest.fixture(scope="module")
def run(model, encoded, tmp_path_factory):
    found = nt.study(
        model,
        encoded,
        ks=[1, 2],
        kinds=["patch", "set"],
        methods=["gradient"],
        exact_neurons=0,
        neutral=nt.neutral_texts(model)[:3],
    )
    folder = tmp_path_factory.mktemp("run")
    nt.save_run(found, folder, model=model, probes=["planted"], command="neurotrace run & more")
    return nt.load_run(folder)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("&nbsp;", " ")).split())


@pytest.mark.parametrize(
    ("rate", "ends", "word"),
    [(0.06, [0.055, 0.065], "no"), (0.04, [0.02, 0.06], "undecided"), (0.0, [0.0, 0.01], "decides")],
)
def test_report_and_card_say_why_a_family_is_not_decided(run, rate, ends, word):
    flips = [
        flip
        if not flip["selected"]
        else flip
        | {"answers": 1.0, "answers_ci": [0.95, 1.0], "fraction": 0.005, "damage_kl": 0.3}
        | {"controls": flip["controls"] | {"low_rho": rate, "random": 0.0, "norm": 0.0, "sign": 0.0}}
        | {"controls_ci": {name: [0.0, 0.01] for name in flip["controls_ci"]} | {"low_rho": ends}}
        for flip in run.summary["flips"]
    ]
    judged = replace(run, summary=run.summary | {"flips": flips})
    page, card = nt.write_report(judged), claim_card(judged, direction="to_reasoning")
    assert f'<section class="answer {word}" id="family-1">' in page
    for shown in (text_of(page.partition("<main")[2]), text_of(card)):
        assert SENTENCES[word] in shown
        why = "the control “least correlated neurons” flips"
        assert (why in shown) == (word != "decides")
        assert ("would settle it" in shown) == (word == "undecided")
        assert "low_rho" not in shown
        assert "other_donor" not in shown
        assert "large" in shown  # 0.3 nats are not passed over
        assert "perplexity rises by 35%" in shown
    assert "Strongest control: least correlated neurons" in text_of(page) or word == "decides"


@pytest.mark.parametrize("direction", ["to_reasoning", "to_memorization"])
def test_it_says_what_the_run_found(run, direction):
    page = claim_card(run, direction=direction)
    words = text_of(page)
    (flip,) = [each for each in run.selected() if each["direction"] == direction]
    low, high = map(percent, flip["answers_ci"])
    assert f"{percent(flip['answers'])} of held-out answers flip, 95 % [{low}, {high}]" in words
    to = "from memory to reasoning" if direction == "to_reasoning" else "from reasoning to memory"
    (change,) = run.interventions(direction=direction, fold="all")
    assert f"{len(change)} of 48 neurons changed ({flip['intervention']}): answers {to}" in words
    assert f"{PLANTED} 5/5" in words
    for name in ("random", "norm", "sign", "low_rho"):
        assert percent(flip["controls"][name]) in words
        assert f"worst draw {percent(flip['controls_worst'][name])}" in words
    assert f"{flip['damage_kl']:.3f} nats KL" in words
    for known in (
        run.manifest["model"]["weights_sha256"],
        run.manifest["kept_pairs_sha256"],
        "neurotrace run &amp; more",
        f"torch {run.manifest['versions']['torch']}",
    ):
        assert known in words
    example = next(e for e in run.summary["examples"] if e["direction"] == direction)
    assert example["prompt"] in words


def test_without_neutral_texts_it_says_so(model, encoded, tmp_path):
    study = nt.study(model, encoded, kinds=["patch"], folds=2, ks=[1], exact_neurons=0)
    nt.save_run(study, tmp_path / "run", model=model, probes=["planted"])
    page = claim_card(nt.load_run(tmp_path / "run"), family="planted", direction="to_reasoning")
    assert "neutral text not measured" in text_of(page)


def test_a_run_whose_effects_are_gone_is_refused(run):
    from neurotrace.results.report import write_report

    empty = replace(run, effects=nt.Effects(run.effects.table.slice(0, 0)))
    with pytest.raises(InputError, match="the run lacks what the report shows"):
        write_report(empty)


def test_it_is_one_small_file_without_scripts(run):
    page = claim_card(run, direction="to_reasoning")
    assert len(page.encode()) < 20_000
    assert not re.search(r"<script|javascript:|\bon\w+=|https?://|src=|href=|@import|url\(", page)
    assert "default-src 'none'" in page


def test_text_of_others_is_escaped_and_cut(run):
    bad = "<script>alert(1)</script>" + "x" * 500_000
    summary = run.summary | {
        "examples": [e | {"prompt": bad, "before": bad, "after": bad} for e in run.summary["examples"]],
        "benchmark": {
            "file": bad,
            "items": 1,
            "before": 1.0,
            "after": [{"family": "planted", "direction": "to_reasoning", "accuracy": 0.5}],
        },
    }
    manifest = run.manifest | {
        "command": bad,
        "probes": [bad],
        "versions": {bad: bad},
        "model": run.manifest["model"] | {"name": bad, "architecture": "<b>"},
    }
    page = claim_card(replace(run, summary=summary, manifest=manifest), direction="to_reasoning")
    assert "<script" not in page
    assert "<b></td>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert len(page.encode()) < 40_000 < LIMIT
    assert "100.0% before, 50.0% after on 1 items of" in text_of(page)
    long = run.manifest["model"] | {"weights_sha256": bad}
    with pytest.raises(InputError, match="expected 300,000"):
        claim_card(replace(run, manifest=run.manifest | {"model": long}), direction="to_reasoning")


@pytest.mark.browser
def test_the_image_is_the_whole_page(run):
    page = claim_card(run, direction="to_reasoning")
    image = draw_page(page, LIMIT)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(image) <= LIMIT
    width, height = struct.unpack(">II", image[16:24])
    assert width in (1240, 1550, 1860, 2480)
    assert 500 < height * 1240 / width < 900  # one screen, and all of it
    body = page.partition("<main>")[2].partition("</main>")[0]
    with pytest.raises(InputError, match="expected 300,000"):
        draw_page(page.replace(body, body * 3), LIMIT)


def test_without_the_extra_the_image_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "choreographer", None)
    with pytest.raises(InputError, match="pip install 'kaleido>=1'"):
        draw_page("<html></html>", LIMIT)
    out = tmp_path / "card.html"
    call = ("card", str(run.folder), "--direction", "to_reasoning", "--png", "--out")
    refused(neurotrace(*call, str(out)), "kaleido")
    assert list(tmp_path.iterdir()) == []
    refused(neurotrace(*call, str(tmp_path / "card.png")), "expected the page's name")


def test_without_a_browser_the_image_is_refused(monkeypatch):
    choreographer = pytest.importorskip("choreographer")
    from choreographer.browsers.chromium import ChromeNotFoundError

    def missing(*_, **__):
        raise ChromeNotFoundError

    monkeypatch.setattr(choreographer, "Browser", missing)
    with pytest.raises(InputError, match="BROWSER_PATH"):
        draw_page("<html></html>", LIMIT)


def test_a_finding_is_named_where_there_are_several(run, tmp_path):
    with pytest.raises(InputError, match="pick one by --family and --direction"):
        claim_card(run)
    with pytest.raises(InputError, match="family='other'"):
        claim_card(run, family="other")
    lacking = {name: value for name, value in run.manifest.items() if name != "created"}
    with pytest.raises(InputError, match=r"lacks what the card shows.*created"):
        claim_card(replace(run, manifest=lacking), direction="to_reasoning")
    out = tmp_path / "card.html"
    refused(neurotrace("card", str(run.folder), "--out", str(out)), "pick one")
    done = neurotrace("card", str(run.folder), "--direction", "to_reasoning", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_text() == claim_card(run, direction="to_reasoning")
