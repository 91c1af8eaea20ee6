"""Draws the README's pictures: see CONTRIBUTING.md.

python docs/pictures.py --run runs/patch --circuit runs/conflicts --report runs/demo
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def flips(run: Path) -> None:
    """docs/flips.png: the flip curves of a run."""
    import pyarrow.parquet as pq

    import neurotrace as nt

    effects = nt.Effects(pq.read_table(run / "effects.parquet"))
    figure = nt.plot_flips(effects, title="Held-out answers flipped by a donor patch of k neurons")
    figure.write_image("docs/flips.png", width=900, scale=1.5)


def margins(circuit: Path) -> None:
    """docs/margins.png: the scores of `neurotrace circuit`."""
    import pandas as pd

    import neurotrace as nt

    figure = nt.plot_margins(
        pd.read_parquet(circuit / "scores.parquet"),
        title="SmolLM2-135M on held-out prompts: drop of its answer's log p (×: abstains)",
    )
    figure.write_image("docs/margins.png", width=900, scale=1.5)


def screenshots(run: Path) -> None:
    """docs/report-desktop.png and docs/report-phone.png: a run's report in Chromium, offline."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, height in (("desktop", 1100, 800), ("phone", 390, 844)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto((run / "report.html").resolve().as_uri())
            page.wait_for_selector(".nt-card[data-neuron] svg")
            page.screenshot(path=f"docs/report-{name}.png")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of `neurotrace run`, for flips.png")
    parser.add_argument("--circuit", type=Path, help="folder of `neurotrace circuit`")
    parser.add_argument("--report", type=Path, help="folder of `make demo`, for the screenshots")
    given = parser.parse_args()
    for draw, folder in ((flips, given.run), (margins, given.circuit), (screenshots, given.report)):
        if folder is not None:
            draw(folder)
