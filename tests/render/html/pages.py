"""Reports opened in a real browser, each watched for what it must never do."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


_PATIENCE = 60_000
"""Milliseconds: a page of 5 MB takes long on a machine that does much else."""

expect.set_options(timeout=_PATIENCE)


@contextmanager
def chromium() -> Generator[Browser]:
    """The system's browser; skips where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("pages want Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, scheme: Literal["light", "dark"] = "light", **options: Any) -> Generator[Page]:
    """The page; at the end it has said nothing on the console, asked for nothing and opened no dialog."""
    told: list[str] = []
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}, **options) as context:
        page = context.new_page()
        page.set_default_timeout(_PATIENCE)
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("dialog", lambda dialog: told.append(f"dialog: {dialog.message}"))
        page.on("popup", lambda popup: told.append(f"popup: {popup.url}"))
        page.on("request", lambda request: told.append(request.url))
        page.goto(file.as_uri())
        yield page
        page.wait_for_timeout(100)
        assert [one for one in told if not one.startswith("data:image/png;")] == [file.as_uri()]


def cell(page: Page, place: tuple[int, int], sizes: tuple[int, int], number: int = 0) -> tuple[float, float]:
    """The middle of a cell of a map, on the screen."""
    plot = page.locator(f"#map-{number} .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    return x + width * (place[1] + 0.5) / sizes[1], y + height * (place[0] + 0.5) / sizes[0]


def hovered(page: Page, place: tuple[int, int], sizes: tuple[int, int], number: int = 0) -> list[str]:
    """The lines of the label that pointing at a cell shows."""
    page.mouse.move(0, 0)
    page.mouse.move(*cell(page, place, sizes, number))
    label = page.locator(f"#map-{number} .hovertext")
    label.wait_for(state="attached")
    return label.locator("text.nums tspan.line").all_text_contents()


def rows(page: Page) -> list[list[str]]:
    """The cells of the table of every head, as they are shown."""
    found: list[Locator] = page.locator("#every tbody tr").all()
    return [row.locator("th, td").all_text_contents() for row in found]
