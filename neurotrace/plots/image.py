"""A page as an image, drawn by a Chrome or Chromium; the page itself is written elsewhere."""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from neurotrace.core.errors import InputError

_WIDTH = 1240  # CSS pixels: the card in two columns
_SCALES = (2.0, 1.5, 1.25, 1.0)  # image pixels of each, the first that keeps the limit


def draw_page(page: str, limit: int) -> bytes:
    """A PNG of the whole page, as sharp as `limit` bytes allow. A page with a policy fetches nothing.

    Raises:
        InputError: the package kaleido or a browser is missing; an image that would be larger.
    """
    try:
        import choreographer
        from choreographer.browsers.chromium import ChromeNotFoundError
    except ImportError:
        raise InputError(
            "drawing a page needs the package kaleido: pip install 'kaleido>=1' "
            "(in a clone: pip install -e '.[images]'); the page needs nothing"
        ) from None

    async def draw() -> bytes:
        async with choreographer.Browser(headless=True) as browser:
            tab = await browser.create_tab("about:blank")
            for scale in _SCALES:
                image = await _screenshot(tab, page, scale)
                if len(image) <= limit:
                    return image
        raise InputError(f"the image would have {len(image):,} bytes, expected {limit:,}")

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has an event loop already
            return thread.submit(asyncio.run, draw()).result()
    except ChromeNotFoundError:
        raise InputError(
            "drawing a page needs a Chrome or Chromium and none was found: install one (Debian: apt "
            "install chromium) or name it in BROWSER_PATH; the page needs nothing"
        ) from None


async def _screenshot(tab: Any, page: str, scale: float) -> bytes:
    async def send(command: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await tab.send_command(command, parameters)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        found: dict[str, Any] = answer["result"]
        return found

    await send("Page.enable")
    await send(
        "Emulation.setDeviceMetricsOverride",
        width=_WIDTH,
        height=600,
        deviceScaleFactor=scale,
        mobile=False,
    )
    await send("Emulation.setScrollbarsHidden", hidden=True)
    await send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    frame = (await send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
    await send("Page.setDocumentContent", frameId=frame, html=page)
    whole = (await send("Page.getLayoutMetrics"))["cssContentSize"]
    shot = await send(
        "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={**whole, "scale": 1}
    )
    return base64.b64decode(shot["data"])
