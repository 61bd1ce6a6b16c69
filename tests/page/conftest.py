"""A browser, a node at work, and a tab that must not complain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

import beamstream.monitor
from page.eyes import Eyes
from page.floor import Floor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
BUILT = Path(beamstream.monitor.__file__).with_name("web") / "index.html"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    missing = "" if CHROMIUM else "chromium is not there"
    if not BUILT.is_file():
        missing = "the page is not built: tools/build_page.py"
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker(pytest.mark.system)
        if missing and item.path.name != "test_build.py":
            item.add_marker(pytest.mark.skip(reason=missing))


# Not for longer: as long as it is open, its event loop is the one of this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def floor() -> Iterator[Floor]:
    """The demo's pipeline behind a detector of 10 frames a second."""
    with Floor(rate_hz=10.0) as floor:
        yield floor


@pytest.fixture
def eyes(browser: Browser, floor: Floor) -> Iterator[Eyes]:
    """A tab of its own, that nobody is logged in at."""
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        eyes = Eyes(context.new_page(), floor.url)
        yield eyes
        eyes.check()
