"""What has stopped, is late, or is old, shows as that, and soon."""

from __future__ import annotations

import os
import re
import signal

from playwright.sync_api import Browser, expect

from page.eyes import VIEWS, Eyes, number, plain
from page.floor import Floor
from page.programs import Program

AMBER = re.compile("idle|gone")
SOON_MS = 2_000
STALE_MS = 3_000


def test_killed_producer_is_amber_within_two_seconds(floor: Floor, eyes: Eyes) -> None:
    with Program.sends(
        floor.node, "doomed", rate=50.0, instance="doomed-1", step="doomed_step"
    ) as sender:
        sender.until(sent=100)
        eyes.open("map")
        box = eyes.box("doomed_step")
        expect(box).to_have_attribute("data-state", "live")
        sender.kill()
        expect(box).to_have_attribute("data-state", AMBER, timeout=SOON_MS)
        amber = eyes.tab.evaluate(_colour_of, ["--warn"])
        assert box.locator("rect").evaluate("box => getComputedStyle(box).stroke") == amber
    edge = eyes.tab.locator('.map .edge[data-from="doomed_step"]')
    expect(edge).to_have_class(re.compile("still"))
    expect(edge.locator("text").first).to_contain_text("since")


_colour_of = """([name]) => {
  const probe = document.createElement('i');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}"""


def test_producer_that_pauses_is_idle(floor: Floor, eyes: Eyes) -> None:
    with Program.sends(floor.node, "pausing", rate=100.0, count=200, step="pauser") as sender:
        eyes.open("map")
        expect(eyes.box("pauser")).to_have_attribute("data-state", "live")
        sender.until(done=True)
        expect(eyes.box("pauser")).to_have_attribute("data-state", "idle")


def test_slow_group_shows(floor: Floor, eyes: Eyes) -> None:
    with (
        Program.sends(floor.node, "hurried", rate=50.0),
        Program.reads(floor.node, "hurried", "slow", every_s=0.25),
        Program.reads(floor.node, "hurried", "fast"),
    ):
        eyes.open("groups")
        slow, fast = (eyes.group("hurried", "s", name) for name in ("slow", "fast"))
        expect(slow.locator("[data-state=slow]")).to_be_visible()
        expect(slow).to_contain_text("losing")
        expect(fast.locator("[data-state=ok]")).to_be_visible()
        expect(eyes.tab.get_by_test_id("lamp")).to_have_class(re.compile("warn|bad"))
        expect(eyes.tab.get_by_test_id("lamp")).to_contain_text("groups keep up")


def test_frozen_node_makes_every_number_stale(browser: Browser, floor: Floor) -> None:
    tabs = []
    context = browser.new_context()
    for view in VIEWS:
        eyes = Eyes(context.new_page(), floor.url)
        eyes.open(view)
        tabs.append(eyes)
    os.kill(floor.node.pid, signal.SIGSTOP)
    try:
        # The tab that was opened first waits longest: three seconds hold for all of them.
        for at, eyes in enumerate(tabs):
            wait_ms = STALE_MS if not at else 500
            expect(eyes.tab.get_by_test_id("freshness")).to_contain_text("stale", timeout=wait_ms)
            old = eyes.tab.get_by_test_id("freshness").inner_text()
            assert number(plain(old).removeprefix("stale ")) >= 2.5
            expect(eyes.tab.get_by_test_id("stale")).to_be_visible()
            panels = eyes.tab.locator(".panel")
            assert panels.count() > 0
            labels = panels.evaluate_all(
                "all => all.map(p => getComputedStyle(p,'::after').content)"
            )
            assert all("stale" in label for label in labels), labels
    finally:
        os.kill(floor.node.pid, signal.SIGCONT)
    for eyes in tabs:
        expect(eyes.tab.get_by_test_id("freshness")).to_have_text("live")
        assert eyes.strangers == []
    context.close()


def test_gap_is_a_gap(floor: Floor, eyes: Eyes) -> None:
    writer = floor.hub.source("holed").stream("h").writer(finish=False)
    for id in (*range(1, 40), *range(61, 101)):
        writer.send(b"x", id=id).result(10)
    eyes.open("browse", source="holed", stream="h")
    panel = eyes.tab.get_by_label("Stream holed/h")
    expect(panel).to_contain_text("Missing: 40 … 60")
    heights = panel.locator(".strip rect").evaluate_all(
        "all => all.map(cell => Number(cell.getAttribute('height')))"
    )
    assert len(heights) == 100
    assert [at + 1 for at, height in enumerate(heights) if height == 0] == [*range(40, 61)]
    eyes.tab.goto(eyes.address("live", source="holed"))
    expect(eyes.tab.get_by_test_id("footer")).to_contain_text("100")
    writer.close()


def test_reader_that_has_left_is_gone(floor: Floor, eyes: Eyes) -> None:
    with floor.hub.source("left").stream("s").writer(finish=False) as writer:
        writer.send(b"x", id=1).result(10)
    with floor.hub.source("left").stream("s").group("leaver").subscribe() as member:
        assert member.take(10) is not None
        eyes.open("groups", group="leaver")
        expect(eyes.group("left", "s", "leaver").locator("[data-state=ok]")).to_be_visible()
    expect(eyes.group("left", "s", "leaver").locator("[data-state=gone]")).to_be_visible()
