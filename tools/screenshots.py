"""Pictures of all views of a live demo, for docs/images/page.

python tools/screenshots.py [--out FOLDER] [--seconds N]

Needs what the tests of the page need (chromium, the built page, ASAPO's clients), and Pillow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from page.conftest import CHROMIUM, FLAGS  # noqa: E402
from page.eyes import Eyes  # noqa: E402
from page.floor import BEAMTIME, DETECTOR, STREAM, Floor  # noqa: E402
from page.programs import Program  # noqa: E402

SIZES: Final = {"1280": (1280, 800), "1920": (1920, 1080), "phone": (390, 844)}
SCHEMES: Final = ("light", "dark")
NBYTES_MAX: Final = 100_000
QUALITIES: Final = (80, 65, 50, 35)
SLOW: Final = f"{BEAMTIME}\ncamera\nrun1\nslow_analysis"


@contextmanager
def scene(seconds: float) -> Iterator[Floor]:
    """A beamtime with something of everything: good, late, gone, incomplete."""
    with Floor(rate_hz=10.0, shape=(1024, 1024), cache="2GiB") as floor, ExitStack() as programs:

        def start(program: Program) -> Program:
            return programs.enter_context(program)

        node = floor.node
        camera = {"stream": "run1", "nbytes": 20_000}
        sender = start(Program.sends(node, "camera", rate=20.0, instance="cam-1", **camera))
        doomed = start(Program.sends(node, "monitor", rate=5.0, step="diode", instance="diode-2"))
        start(Program.reads(node, "camera", "preview", stream="run1", instance="viewer-1"))
        start(
            Program.reads(
                node, "camera", "slow_analysis", stream="run1", every_s=0.08, instance="ana-1"
            )
        )
        _incomplete(floor)
        sender.until(sent=20 * seconds * 0.7)
        doomed.kill()
        sender.until(sent=20 * seconds)
        yield floor


def _incomplete(floor: Floor) -> None:
    """A finished scan with a gap, of which a part was replayed."""
    y, x = np.mgrid[0:256, 0:256]
    with floor.hub.source("tomo").stream("scan7").writer(level="disk") as writer:
        for id in (*range(1, 220), *range(260, 401)):
            phase = id / 40
            spot = 900 * np.exp(
                -((x - 128 - 60 * np.sin(phase)) ** 2 + (y - 128 - 60 * np.cos(phase)) ** 2) / 900
            )
            writer.send(spot.astype(np.uint16), {"angle": id * 0.45, "run": 7}, id=id)


def operate(eyes: Eyes, floor: Floor) -> None:
    """Log in, comment a stream, and replay a part of it."""
    eyes.open("browse", source="tomo", stream="scan7")
    eyes.log_in(floor.node.token(BEAMTIME))
    eyes.tab.get_by_label("Comment").fill("shutter closed at 90°, good from 260 on")
    eyes.tab.get_by_label("Tags").fill("keep")
    eyes.tab.get_by_role("button", name="Save").click()
    eyes.tab.get_by_text("Saved.").wait_for()
    for rate, lo in (("max", 1), ("10", 101)):
        eyes.tab.goto(eyes.address("replay", source="tomo", stream="scan7", lo=lo, rate=rate))
        eyes.tab.get_by_role("button", name="Preview").click()
        eyes.tab.get_by_role("button", name="Start").click()
        eyes.tab.get_by_text("Started.").wait_for()


def addresses(floor: Floor) -> dict[str, tuple[str, dict[str, Any]]]:
    newest = floor.hub.source("hits").stream(STREAM)[-1].id
    return {
        "live": ("live", {"source": DETECTOR}),
        "map": ("map", {}),
        "groups": ("groups", {"picked": SLOW}),
        "browse": ("browse", {}),
        "frame": ("browse", {"source": "hits", "stream": STREAM, "id": newest}),
        "replay": ("replay", {"source": "tomo", "stream": "scan7", "lo": 101, "hi": 201}),
        "health": ("health", {}),
    }


def shoot(tab: Page, path: Path) -> None:
    """As good as it is small enough."""
    picture = Image.open(BytesIO(tab.screenshot(animations="disabled"))).convert("RGB")
    for quality in QUALITIES:
        data = BytesIO()
        picture.save(data, format="WEBP", quality=quality, method=6)
        if data.tell() <= NBYTES_MAX:
            break
    path.write_bytes(data.getvalue())


def take(browser: Browser, floor: Floor, out: Path) -> None:
    state = None
    for scheme in SCHEMES:
        for name, (width, height) in SIZES.items():
            with browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                storage_state=state,
            ) as context:
                eyes = Eyes(context.new_page(), floor.url)
                if state is None:
                    operate(eyes, floor)
                    state = context.storage_state()
                for view, (where, query) in addresses(floor).items():
                    eyes.open(where, **query)
                    if view == "replay":
                        eyes.tab.get_by_role("button", name="Preview").click()
                        eyes.tab.get_by_test_id("plan").wait_for()
                    if view == "live":
                        eyes.until(lambda e=eyes: e.text("shown") != "0 Hz", "pictures")
                    eyes.tab.wait_for_load_state("networkidle")
                    shoot(eyes.tab, out / f"{view}-{scheme}-{name}.webp")


def main() -> int:
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "page")
    parser.add_argument("--seconds", type=float, default=90.0, help="what the charts show")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with scene(asked.seconds) as floor, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        take(browser, floor, asked.out)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
