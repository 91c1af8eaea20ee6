"""The report, the explorer and a notebook, in a real browser with the network off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import neurotrace as nt
from neurotrace.results.explorer import Explorer, pack

pytestmark = pytest.mark.browser
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium: apt install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of the main job with trust and detectors, through the command line."""
    out = tmp_path_factory.mktemp("run") / "run"
    of = "--model organism --probes arithmetic inference"
    for words in (
        f"run {of} --max-pairs 80 --intervention patch --intervention zero --out RUN",
        f"circuit {of} --out RUN/trust",
        f"detect {of} --max-prompts 40 --folds 2 --depths 1 --no-margin --out RUN",
        "report RUN",
    ):
        command = [word.replace("RUN", str(out)) for word in words.split()]
        subprocess.run([sys.executable, "-m", "neurotrace.cli", *command], check=True, capture_output=True)
    return out


@pytest.fixture
def opened(browser):
    """Opens a file with the network off; any message on the console fails the test."""
    pages, said = [], []

    def open_page(path: Path, viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, offline=True, **options)
        page = context.new_page()
        page.set_default_timeout(120_000)  # ms; on a busy machine a page of megabytes takes long
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or said.append(r.url))
        page.goto(path.as_uri())
        pages.append(context)
        return page

    yield open_page
    for context in pages:
        context.close()
    assert said == []


def unfolded(page) -> None:
    """Everything open, every figure drawn."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate("document.querySelectorAll('.figure').forEach((each) => each.scrollIntoView())")
    for figure in page.query_selector_all(".figure"):
        figure.scroll_into_view_if_needed()
        page.wait_for_function("(f) => f.dataset.drawn", arg=figure)
    page.evaluate("scrollTo(0, 0)")


def test_the_report_opens_and_draws(run, opened):
    page = opened(run / "report.html")
    assert (run / "report.html").stat().st_size < 8e6
    page.wait_for_selector(".nt-card[data-neuron]")
    # the demo has 4,900: it lacks detectors
    assert page.evaluate("document.documentElement.scrollHeight") < 5200
    unfolded(page)
    assert len(page.query_selector_all(".figure svg.main-svg")) >= 26
    heading = page.text_content("main h2")
    assert "a small set of neurons decides" in heading


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(run, opened, viewport, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(run / "report.html", viewport, color_scheme=scheme)
    page.wait_for_selector(".nt-card[data-neuron] svg")
    if (viewport, scheme) in ((DESKTOP, "light"), (PHONE, "dark")):  # both widths, both schemes
        unfolded(page)
    found = Axe().run(page).response["violations"]
    assert not found, [(v["id"], v["nodes"][0]["html"][:200]) for v in found]


def test_a_phone_scrolls_only_downwards(run, opened):
    page = opened(run / "report.html", PHONE)
    page.wait_for_selector(".nt-card[data-neuron] svg")
    unfolded(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(WIDER) == []  # nor anything in it


WIDER = """() => [...document.querySelectorAll('main *')]
  .filter((e) => e.scrollWidth > e.clientWidth + 1
    && !['visible', 'hidden', 'clip'].includes(getComputedStyle(e).overflowX))
  .map((e) => (e.className || e.tagName) + ': ' + e.textContent.slice(0, 60))"""


def test_trust_and_detectors_are_drawn_and_fit(run, opened):
    """Nothing of a figure lies outside it, or over another of its words."""
    page = opened(run / "report.html", PHONE)
    unfolded(page)
    for name in (
        "arithmetic, memory → reasoning",
        "arithmetic, to memory: single pairs",
        "AUROC of the signals, unseen items",
        "Reliability of the probabilities",
        "Risk against coverage",
        "Transfer between tasks, linear on neurons",
    ):
        figure = page.locator(f'.figure[data-name="{name}"]')
        figure.scroll_into_view_if_needed()
        page.wait_for_function("(f) => f.dataset.drawn", arg=figure.element_handle())
        assert figure.evaluate(OVERLAPS) == [], name
    assert "causal margin" in page.inner_text("#trust ~ details table")


OVERLAPS = """(figure) => {
  const inside = figure.querySelector('div').getBoundingClientRect(), wrong = [];
  const words = [...figure.querySelectorAll('.xtick text, .ytick text, .annotation-text, .legendtext, '
    + '.gtitle, .xtitle, .ytitle, .x2title, .x3title')].map((text) => ({
      said: text.textContent, at: text.getBoundingClientRect(),
      turned: /rotate\\((?!0)/.test(text.getAttribute('transform') ?? '')}));
  if (words.length < 6) wrong.push('hardly a word found');
  for (const { said, at } of words)
    if (at.left < inside.left - 1 || at.right > inside.right + 1
      || at.top < inside.top - 1 || at.bottom > inside.bottom + 1) wrong.push(`outside: ${said}`);
  const level = words.filter((each) => !each.turned);  // a turned word's box is larger than the word
  level.forEach(({ said, at }, place) => level.slice(place + 1).forEach((other) => {
    const wide = Math.min(at.right, other.at.right) - Math.max(at.left, other.at.left);
    const high = Math.min(at.bottom, other.at.bottom) - Math.max(at.top, other.at.top);
    if (wide > 1 && high > 1) wrong.push(`${said} over ${other.said}`);
  }));
  return wrong;
}"""


def test_it_prints(run, opened, tmp_path):
    page = opened(run / "report.html", color_scheme="dark")
    page.wait_for_selector(".nt-card[data-neuron]")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000


def test_hover_click_keyboard_and_search_choose_a_neuron(run, opened):
    page = opened(run / "report.html")
    page.wait_for_selector(".nt-card[data-neuron] svg")
    card = page.locator(".nt-card")
    first = card.get_attribute("data-neuron")
    assert first.startswith("L2.N")  # the switch was planted in layer 2
    box = page.locator(".nt-map canvas").bounding_box()
    page.locator(".nt-map canvas").hover(position={"x": box["width"] / 2, "y": 4})
    assert page.locator(".nt-tip").inner_text().startswith("L0.N")
    page.locator(".nt-map canvas").click(position={"x": box["width"] / 2, "y": 4})
    page.wait_for_function("document.querySelector('.nt-card').dataset.neuron.startsWith('L0.')")
    place = int(card.get_attribute("data-neuron").split("N")[1])
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f'.nt-card[data-neuron="L0.N{place + 1}"]')
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(f'.nt-card[data-neuron="L1.N{place + 1}"]')
    page.fill(".nt-bar input", "L2.N250")
    page.keyboard.press("Enter")
    page.wait_for_selector('.nt-card[data-neuron="L2.N250"]')
    text = card.inner_text()
    for wanted in ("rank", "Exact effect on L", "recall", "think", "Neighbours by cosine", "of 12"):
        assert wanted in text
    page.locator(".nt-card summary").last.click()
    last = "[...document.querySelectorAll('.nt-card details tbody')].at(-1).rows[0].cells[0].textContent"
    page.get_by_role("button", name="effect", exact=True).click()
    largest = page.evaluate(last)
    page.get_by_role("button", name="effect", exact=True).click()
    assert largest.startswith("+")
    assert page.evaluate(last).startswith("−")
    assert page.locator('.nt-card th[aria-sort="ascending"]').inner_text() == "effect"


def test_the_explorer_zooms_filters_compares_and_has_an_address(run, opened):
    page = opened(run / "report.html")
    page.wait_for_selector(".nt-card[data-neuron] svg")
    card, mark = page.locator(".nt-card"), page.locator(".nt-mark")
    assert [text for text in page.locator(".nt-layers span").all_inner_texts()][:2] == ["layer 0", "1"]
    # a card's link leads to the neuron, and the address is the neuron's
    named = page.locator("a.neuron").nth(1)
    named.click()
    page.wait_for_selector(f'.nt-card[data-neuron="{named.get_attribute("href")[1:]}"]')
    page.locator(".nt-bar input").fill("1.100")
    page.keyboard.press("Enter")
    page.wait_for_selector('.nt-card[data-neuron="L1.N100"]')
    assert page.evaluate("location.hash") == "#L1.N100"
    # the chosen neuron's own colour stays under a frame
    page.locator(".nt-bar input").fill("L2.N12")
    page.keyboard.press("Enter")
    pixel = "document.querySelector('.nt-map canvas').getContext('2d').getImageData(12, 2, 1, 1).data"
    before = page.evaluate(f"[...{pixel}]")
    assert mark.is_visible()
    page.locator(".nt-map canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"[...{pixel}]") == before
    page.keyboard.press("+")
    assert page.locator(".nt-ends").inner_text().split() == ["neuron", "0", "95"]
    page.get_by_role("button", name="whole map").click()
    assert page.locator(".nt-ends").inner_text().split() == ["neuron", "0", "383"]
    page.locator(".nt-bar").get_by_label("Layer").select_option("1")
    assert all(each.startswith("L1.") for each in page.locator(".nt-list button").all_inner_texts())
    page.locator(".nt-bar").get_by_label("Sign").select_option("memory")
    values = page.locator(".nt-list li").all_inner_texts()
    assert values
    assert all("+" in each for each in values)
    page.get_by_role("button", name="keep for comparison").click()
    page.locator(".nt-bar input").fill("L2.N250")
    page.keyboard.press("Enter")
    page.wait_for_selector('.nt-card[data-neuron="L2.N250"]')
    assert "beside L2.N13" in card.inner_text()
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.taken = text; }")
    card.get_by_role("button", name="copy as CSV").first.click()
    taken = page.evaluate("window.taken").splitlines()
    assert taken[0].startswith("family,direction,intervention,effect,low,high")
    assert taken[1].startswith("arithmetic,to reasoning,patch,-")


def made_up(layers: int, width: int, rankings: int) -> Explorer:
    generator = torch.Generator().manual_seed(0)
    blocks = [pack(torch.randn(layers, width, generator=generator) ** 3) for _ in range(rankings + 4)]
    return Explorer(
        {
            "format": "neurotrace.explorer/1",
            "model": "made up",
            "layers": layers,
            "width": width,
            "scores": [
                {"label": f"ranking {n}", "direction": "to_reasoning", "unit": "nats", "signed": True}
                | block
                for n, block in enumerate(blocks[4:])
            ],
            "moments": [{"name": "mean", "block": block} for block in blocks[:4]],
            "details": None,
        }
    )


TIMED = """async () => {
  const canvas = document.querySelector('.nt-map canvas'), box = canvas.getBoundingClientRect();
  const took = [], tip = document.querySelector('.nt-tip'), card = document.querySelector('.nt-card');
  for (let i = 1; i < 10; i++) {
    const x = box.left + box.width * i / 10, y = box.top + box.height * i / 11;
    const at = {clientX: x, clientY: y, bubbles: true}, start = performance.now();
    canvas.dispatchEvent(new PointerEvent('pointermove', at));
    const hovered = performance.now() - start, wanted = tip.textContent.split(/[ \\n]/)[0];
    canvas.dispatchEvent(new MouseEvent('click', at));
    while (card.dataset.neuron !== wanted && performance.now() - start < 20000)
      await new Promise((r) => setTimeout(r));
    if (card.dataset.neuron !== wanted) throw `the card shows ${card.dataset.neuron}, wanted ${wanted}`;
    took.push([hovered, performance.now() - start]);
  }
  return took;
}"""


@pytest.mark.parametrize(("layers", "width", "limit"), [(28, 8960, 50), (32, 16384, 1000)])
def test_large_maps_answer_at_once(opened, tmp_path, layers, width, limit, record_property):
    """Measured inside the page, from the event to the card; the median of nine neurons."""
    made_up(layers, width, 6).save(tmp_path / "big.html")
    page = opened(tmp_path / "big.html")
    page.wait_for_selector(".nt-card[data-neuron]", timeout=120_000)
    painted = float(page.get_attribute(".nt-explorer", "data-painted"))
    took = page.evaluate(TIMED)
    hover, card = np.median(np.array(took), axis=0)
    record_property("hover_ms", hover)
    record_property("card_ms", card)
    record_property("painted_ms", painted)
    print(f"{layers * width:,} neurons: map {painted:.0f} ms, hover {hover:.0f} ms, card {card:.0f} ms")
    slack = 1 if os.environ.get("NEUROTRACE_TIMES") else 4  # a loaded machine proves little about the page
    assert max(hover, card) < limit * slack
    assert painted < 1000 * slack


def test_scripts_in_prompts_are_text(opened, model, encoded, tmp_path):
    from dataclasses import replace

    evil = "<script>document.title='caught'</script><img src=x onerror=\"document.title='caught'\">"
    pairs = tuple(
        replace(pair, memorization=evil + pair.memorization, reasoned_answer=evil) for pair in encoded.pairs
    )
    scores = nt.gradient(model, encoded)
    explorer = nt.explore(model, replace(encoded, pairs=pairs), scores, neurons=4, pairs_each=2)
    (tmp_path / "evil.html").write_text(explorer.page())
    page = opened(tmp_path / "evil.html")
    page.wait_for_selector(".nt-card[data-neuron] code")
    page.wait_for_timeout(200)
    assert page.title() == "Neurons of planted"
    assert evil in page.text_content(".nt-card")


def test_a_notebook_draws_its_first_figure(browser, tmp_path):
    """JupyterLab, from the clone's environment: run all cells, see the explorer and a figure."""
    import json
    import urllib.request

    cells = [
        "import neurotrace as nt\nmodel = nt.load_model('organism')",
        "pairs = nt.load_pairs('arithmetic')[:24]",
        "scores = nt.gradient(model, pairs, donor='reasoning')\nscores",
        "nt.plot_scores(scores)",
        "nt.explore(model, pairs, scores, neurons=20, pairs_each=2)",
    ]
    book = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {
                "id": f"c{n}",
                "cell_type": "code",
                "source": text,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
            }
            for n, text in enumerate(cells)
        ],
    }
    (tmp_path / "look.ipynb").write_text(json.dumps(book))
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--port=8931",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={tmp_path}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen("http://127.0.0.1:8931/api").read()
                break
            except OSError:
                time.sleep(0.5)
        page = browser.new_page(viewport=DESKTOP)
        page.goto("http://127.0.0.1:8931/lab/tree/look.ipynb", timeout=180_000)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=180_000)
        page.wait_for_timeout(3000)
        page.get_by_text("Run", exact=True).first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".jp-OutputArea .neurotrace table", state="attached", timeout=300_000)
        page.wait_for_selector(".js-plotly-plot .main-svg", state="attached", timeout=300_000)
        page.wait_for_selector('iframe[title="neuron explorer"]', state="attached", timeout=300_000)
        inside = page.frame_locator('iframe[title="neuron explorer"]')
        inside.locator(".nt-card[data-neuron]").wait_for(state="attached", timeout=120_000)
    finally:
        server.terminate()
        server.wait()
