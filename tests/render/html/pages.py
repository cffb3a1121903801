"""Reports opened in a real browser, each watched for what it must never do."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

try:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, expect, sync_playwright
except ImportError:
    pytest.skip("pages want playwright: pip install -c constraints.txt -e '.[gate]'", allow_module_level=True)

__all__ = ["VIEWPORT", "Browser", "Page", "Scheme", "Tab", "bare", "cell", "chromium", "expect", "hovered", "rows"]

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

Scheme = Literal["light", "dark"]

VIEWPORT: ViewportSize = {"width": 1280, "height": 900}

_DATA = b'<script type="application/json" id="data">'
"""The line before the library."""

_LINE = 1000
"""The number that it gets, by blank lines."""

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


class Tab:
    """One tab in which every page is opened, at the same address and with the library on the same line.

    To compile plotly takes three seconds. Chromium does so once for a text, an address and a line, while the tab lives.
    """

    def __init__(self, context: BrowserContext, place: Path) -> None:
        self._place = place
        self._shown: tuple[Path, Scheme] | None = None
        self._told: list[str] = []
        self._page = context.new_page()
        self._page.set_default_timeout(_PATIENCE)
        self._page.on("console", lambda message: self._told.append(f"console: {message.text}"))
        self._page.on("pageerror", lambda error: self._told.append(f"error: {error}"))
        self._page.on("dialog", lambda dialog: self._told.append(f"dialog: {dialog.message}"))
        self._page.on("popup", lambda popup: self._told.append(f"popup: {popup.url}"))
        self._page.on("request", lambda request: self._told.append(request.url))

    def show(self, file: Path, scheme: Scheme = "light") -> Page:
        """A page, opened unless the tab has it already: who uses it leaves it as it was."""
        if (file, scheme) != self._shown:
            self.leave()
            before, data, after = file.read_bytes().partition(_DATA)
            lines = before.count(b"\n")
            assert data
            assert lines < _LINE
            self._place.write_bytes(before + b"\n" * (_LINE - lines) + data + after)
            self._page.emulate_media(color_scheme=scheme)
            self._page.goto(self._place.as_uri())
            self._shown = file, scheme
        return self._page

    def told(self) -> list[str]:
        """What the page has said on the console, asked for and opened, but for itself and pictures that it holds."""
        self._page.wait_for_timeout(100)
        first, *told = self._told
        assert first == self._place.as_uri()
        return [one for one in told if not one.startswith("data:image/png;")]

    def leave(self, *, expected: bool = False) -> None:
        """Forget the page: it has said nothing on the console, asked for nothing and opened no dialog.

        Args:
            expected: whether it was made to say something.
        """
        if self._shown is not None:
            assert bool(told := self.told()) == expected, (self._shown, told)
        self._shown = None
        self._told.clear()


@contextmanager
def bare(browser: Browser, file: Path, place: Path) -> Generator[Page]:
    """The page where no script may run."""
    with browser.new_context(viewport=VIEWPORT, java_script_enabled=False) as context:
        tab = Tab(context, place)
        yield tab.show(file)
        tab.leave()


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
