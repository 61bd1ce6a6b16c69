"""A tab of a real browser, and what has to hold whatever it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

VIEWS: Final = ("live", "map", "groups", "browse", "replay", "health")
WAIT_MS: Final = 20_000
expect.set_options(timeout=WAIT_MS)
_DRIVER: Final = "GL Driver Message"
_NO_PICTURE: Final = re.compile(r"Failed to load resource.* (400|404|410) ")


class Eyes:
    """The page in a tab.

    Parameters
    ----------
    url : of the page, with its last slash.
    """

    def __init__(self, tab: Page, url: str) -> None:
        self.tab = tab
        self.url = url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self._host = urlsplit(url).netloc
        tab.set_default_timeout(WAIT_MS)
        tab.on("console", self._said)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning") or _DRIVER in message.text:
            return
        # A message that is no picture has no thumbnail; the browser notes that by itself.
        if "/frame?" in message.location.get("url", "") and _NO_PICTURE.search(message.text):
            return
        self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self._host:
            self.strangers.append(request.url)

    def check(self) -> None:
        """No error, no violation of the policy, nothing asked of others."""
        assert not self.complaints, self.complaints
        assert not self.strangers, self.strangers

    # ------------------------------------------------------------------ going about

    def open(self, view: str, **query: str | int) -> None:
        """Open a view by its address, in a page that is loaded anew."""
        self.tab.goto("about:blank")
        self.tab.goto(self.address(view, **query))
        self.heard()

    def address(self, view: str, **query: str | int) -> str:
        told = f"?{urlencode(query)}" if query else ""
        return f"{self.url}#/{view}{told}"

    def heard(self) -> None:
        """Wait for the first numbers."""
        self.tab.get_by_test_id("freshness").get_by_text("live", exact=True).wait_for()
        self.tab.get_by_test_id("role").wait_for()

    def log_in(self, token: str) -> None:
        self.tab.get_by_role("button", name="log in").click()
        self.tab.get_by_label("Token").fill(token)
        self.tab.get_by_role("button", name="Log in", exact=True).last.click()
        self.tab.get_by_test_id("role").get_by_text("operator").wait_for()

    # ------------------------------------------------------------------ what is there

    def text(self, test_id: str) -> str:
        return plain(self.tab.get_by_test_id(test_id).first.inner_text())

    def group(self, source: str, stream: str, group: str) -> Locator:
        """The row of a group."""
        key = "\n".join(("demo", source, stream, group))
        return self.tab.locator("[data-testid=table-groups] tr").and_(
            self.tab.locator(f"tr[data-key={_quoted(key)}]")
        )

    def box(self, name: str) -> Locator:
        """A box of the map."""
        return self.tab.locator(f".map .node[data-name={_quoted(name)}]")

    def until(self, found: Callable[[], Any], what: str, timeout_ms: int = WAIT_MS) -> Any:
        """Look after each change of the page until something is found."""
        value = found()
        spent = 0.0
        while not value:
            assert spent < timeout_ms, f"{what} within {timeout_ms} ms:\n{self.all_text()}"
            before = self.tab.evaluate("performance.now()")
            self.tab.evaluate(_CHANGED)
            spent += self.tab.evaluate("performance.now()") - before
            value = found()
        return value

    def all_text(self) -> str:
        return plain(self.tab.locator("body").inner_text())


_CHANGED: Final = """() => new Promise(done => {
  const seen = new MutationObserver(() => { seen.disconnect(); done(); });
  seen.observe(document.body, {subtree: true, childList: true, characterData: true});
})"""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\a ")
    return f'"{escaped}"'


def plain(text: str) -> str:
    """With ordinary spaces."""
    return re.sub("[\u00a0\u2009\u202f]", " ", text)


_FACTORS: Final = {
    "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "Hz": 1.0, "kHz": 1e3, "ms": 1e-3, "s": 1.0,
    "B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9,
}  # fmt: skip


def number(text: str) -> float:
    """What a number with its unit says, in hertz, seconds or bytes per second.

    >>> number("1.50 kHz"), number("2.5 ms"), number("1 min 3 s"), number("1 204")
    (1500.0, 0.0025, 63.0, 1204.0)
    """
    found = re.fullmatch(r"([\d ]+) min (\d+) s", text)
    if found:
        return 60 * number(found[1]) + int(found[2])
    found = re.fullmatch(r"([\d ]*[\d.]+) ?([A-Za-z/]*)", text.strip())
    assert found, f"{text!r} is no number with a unit"
    return float(found[1].replace(" ", "")) * _FACTORS[found[2]]
