"""Draws the README's pictures: see CONTRIBUTING.md.

python docs/pictures.py --run runs/patch --circuit runs/conflicts --report runs/demo --capitals runs/gt
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

# pictures that show nothing new: (run, width) -> (what, scheme)
LEFT_OUT = {
    ("capitals", 1280): (("report", "light"), ("explorer", "light"), ("card", "dark")),
    ("capitals", 390): (("report", "dark"), ("explorer", "dark"), ("card", "light")),
    ("demo", 1280): (("explorer", "dark"), ("card", "light")),
    ("demo", 390): (("explorer", "light"), ("card", "dark")),
}


def flips(run: Path) -> None:
    """docs/flips.png: the flip curves of a run."""
    import pyarrow.parquet as pq

    import neurotrace as nt

    effects = nt.Effects(pq.read_table(run / "effects.parquet"))
    figure = nt.plot_flips(effects)
    figure.write_image("docs/flips.png", width=900, scale=1.5)


def margins(circuit: Path) -> None:
    """docs/margins.png: the scores of `neurotrace circuit`."""
    import pandas as pd

    import neurotrace as nt

    figure = nt.plot_margins(
        pd.read_parquet(circuit / "scores.parquet"),
    )
    figure.write_image("docs/margins.png", width=900, scale=1.5)


PIXELS = """async (text) => {
  const picture = new Image();
  picture.src = "data:image/png;base64," + text;
  await picture.decode();
  const [wide, high] = [picture.naturalWidth, picture.naturalHeight];
  const context = new OffscreenCanvas(wide, high).getContext("2d");
  context.drawImage(picture, 0, 0);
  const data = context.getImageData(0, 0, wide, high).data, parts = [];
  for (let i = 0; i < data.length; i += 32768)
    parts.push(String.fromCharCode(...data.subarray(i, i + 32768)));
  return [wide, high, btoa(parts.join(""))];
}"""


def shrink(paths: Iterable[Path]) -> None:
    """Write PNGs again with at most 256 colours: a third of the size."""
    import numpy as np
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        for path in paths:
            wide, high, raw = page.evaluate(PIXELS, base64.b64encode(path.read_bytes()).decode())
            rgb = np.frombuffer(base64.b64decode(raw), np.uint8).reshape(-1, 4)[:, :3].astype(np.int32)
            rgb = (rgb & 0xF8) | (rgb >> 5)
            code, place, count = np.unique(rgb @ [65536, 256, 1], return_inverse=True, return_counts=True)
            own = np.stack([code >> 16, code >> 8 & 255, code & 255], axis=1)
            kept = own[np.argsort(-count, kind="stable")[:256]]
            nearest = ((own[:, None] - kept[None]) ** 2).sum(axis=2).argmin(axis=1).astype(np.uint8)
            rows = np.pad(
                nearest[place].reshape(high, wide), ((0, 0), (1, 0))
            )  # a row begins with its filter
            chunks = [
                (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 3, 0, 0, 0)),
                (b"PLTE", kept.astype(np.uint8).tobytes()),
                (b"IDAT", zlib.compress(rows.tobytes(), 9)),
                (b"IEND", b""),
            ]
            path.write_bytes(
                b"\x89PNG\r\n\x1a\n"
                + b"".join(
                    struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
                    for name, data in chunks
                )
            )
        browser.close()


def screenshots(run: Path, name: str) -> None:
    """docs/looks/NAME-*.png: report, explorer and card in Chromium, offline, at 1,280 and 390 pixels."""
    from playwright.sync_api import sync_playwright

    import neurotrace as nt
    from neurotrace.results.card import claim_card

    found = nt.load_run(run)
    command = re.sub(r"(?<=\s)/\S*/", "", found.manifest["command"])  # paths of the machine that ran it
    found = replace(found, manifest=found.manifest | {"command": command})
    family = found.selected()[-1]["family"]
    pages = {
        "report": nt.write_report(found),
        "card": claim_card(found, family=family, direction="to_reasoning"),
    }
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    out = Path("docs/looks")
    out.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, height, scheme in (
            (1280, 800, "light"),
            (1280, 800, "dark"),
            (390, 844, "light"),
            (390, 844, "dark"),
        ):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            for what in ("report", "explorer", "card"):
                if (what, scheme) in LEFT_OUT.get((name, width), ()):
                    continue
                page = context.new_page()
                path = Path(place) / f"{what}.html"
                path.write_text(pages["card" if what == "card" else "report"], "utf-8")
                page.goto(path.as_uri())
                if what != "card":
                    page.wait_for_selector(".nt-card[data-neuron] svg")
                if what == "explorer":
                    page.evaluate("document.querySelector('.nt-explorer').scrollIntoView()")
                    page.wait_for_timeout(500)
                page.screenshot(path=out / f"{name}-{what}-{width}-{scheme}.png")
                page.close()
            context.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of `neurotrace run`, for flips.png")
    parser.add_argument("--circuit", type=Path, help="folder of `neurotrace circuit`")
    parser.add_argument("--report", type=Path, help="folder of `make demo`, for docs/looks/demo-*.png")
    parser.add_argument("--capitals", type=Path, help="folder of a run on SmolLM2, for capitals-*.png")
    given = parser.parse_args()
    for draw, folder in ((flips, given.run), (margins, given.circuit)):
        if folder is not None:
            draw(folder)
            shrink([Path(f"docs/{draw.__name__}.png")])
    for name, folder in (("demo", given.report), ("capitals", given.capitals)):
        if folder is not None:
            screenshots(folder, name)
            shrink(Path("docs/looks").glob(f"{name}-*.png"))
