"""Each view does what it is for."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from beamstream.client.native.hub import connect
from beamstream.errors import Denied
from page.eyes import Eyes, number, plain
from page.floor import BEAMTIME, DETECTOR, STREAM, Floor
from page.programs import Program

PIXELS = """canvas => {
  const gl = canvas.getContext('webgl2');
  const [w, h] = [canvas.width, canvas.height];
  const data = new Uint8Array(4 * w * h);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const kinds = new Set();
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3]) kinds.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
  return kinds.size;
}"""


def test_live_draws_the_detector(eyes: Eyes) -> None:
    eyes.open("live", source=DETECTOR)
    picture = eyes.tab.get_by_test_id("picture")
    eyes.until(lambda: picture.evaluate(PIXELS) > 20, "a picture of many colours")
    before = int(eyes.text("frame").replace(" ", ""))
    eyes.until(lambda: int(eyes.text("frame").replace(" ", "")) > before, "a newer frame")
    assert eyes.tab.locator(".rings circle").count() >= 3
    # The pixel in the middle of the picture, as the node has it.
    eyes.tab.get_by_test_id("pause").click()
    box = picture.bounding_box()
    assert box is not None
    eyes.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 20)
    expect(eyes.tab.get_by_test_id("reading")).to_contain_text(re.compile(r"x \d+, y \d+"))


def test_value_under_the_cursor_is_the_one_that_was_sent(floor: Floor, eyes: Eyes) -> None:
    frame = np.arange(40_000, dtype=np.uint32).reshape(200, 200)
    with floor.hub.source("ruled").stream("r").writer(finish=False) as writer:
        writer.send(frame, id=1).result(10)
        eyes.open("live", source="ruled", stream="r")
        picture = eyes.tab.get_by_test_id("picture")
        eyes.until(lambda: picture.evaluate(PIXELS) > 20, "a picture")
        box = picture.bounding_box()
        assert box is not None
        for dx, dy in ((0.0, 0.0), (-50.0, 30.0), (80.0, -60.0)):
            eyes.tab.mouse.move(box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy)
            found = re.search(r"x (\d+), y (\d+): (\d+)", eyes.text("reading"))
            assert found, eyes.text("reading")
            x, y, value = map(int, found.groups())
            assert value == frame[y, x]


def test_zoom_of_a_paused_frame_is_fetched_in_full(floor: Floor, eyes: Eyes) -> None:
    frame = np.zeros((1200, 1200), np.uint16)
    frame[600, 603], frame[601, 603] = 900, 7
    with floor.hub.source("large").stream("r").writer(finish=False) as writer:
        writer.send(frame, id=1).result(10)
        eyes.open("live", source="large", stream="r", levels="fixed", low=0, high=900)
        stage = eyes.tab.get_by_role("application")
        eyes.tab.get_by_test_id("frame").get_by_text("1", exact=True).wait_for()
        eyes.until(lambda: eyes.tab.get_by_test_id("picture").evaluate(PIXELS) > 1, "the spot")
        eyes.tab.get_by_test_id("pause").click()
        stage.focus()
        box = eyes.tab.get_by_test_id("picture").bounding_box()
        assert box is not None
        with eyes.tab.expect_response(lambda answer: "/frame?" in answer.url) as answer:
            for _ in range(8):
                eyes.tab.keyboard.press("+")
        assert answer.value.ok
        eyes.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        # Without blocks: each pixel is the detector's own.
        eyes.until(lambda: "largest of" not in eyes.text("reading"), "full resolution")


def test_film_pauses_and_steps(eyes: Eyes) -> None:
    eyes.open("live", source=DETECTOR)
    eyes.tab.get_by_test_id("picture").wait_for()
    eyes.until(
        lambda: not eyes.tab.get_by_role("button", name="one back").is_disabled(), "two frames"
    )
    eyes.tab.get_by_test_id("pause").click()
    shown = eyes.text("frame")
    eyes.tab.get_by_role("button", name="one back").click()
    earlier = eyes.text("frame")
    assert int(earlier.replace(" ", "")) < int(shown.replace(" ", ""))
    # Whoever gets the link sees the same frame.
    eyes.tab.reload()
    eyes.heard()
    eyes.until(lambda: eyes.text("frame") == earlier, "the same frame")
    eyes.tab.get_by_test_id("pause").click()
    eyes.until(lambda: eyes.text("frame") != earlier, "newer frames")


def test_one_dimensional_data_is_a_curve(floor: Floor, eyes: Eyes) -> None:
    with floor.hub.source("spectrum").stream("r").writer(finish=False) as writer:
        writer.send(np.sin(np.linspace(0, 9, 500)) + 2, id=1).result(10)
        eyes.open("live", source="spectrum", stream="r")
        expect(eyes.tab.get_by_text("Message 1", exact=False).first).to_be_visible()
        assert eyes.tab.get_by_test_id("picture").count() == 0


def test_map_shows_the_pipeline_and_asapos_clients(floor: Floor, eyes: Eyes) -> None:
    with (
        Program.sends(floor.node, "mapped", rate=20.0, step="mapped_camera", instance="cam-7"),
        Program.reads(floor.node, "mapped", "mapped_group", instance="viewer-3"),
    ):
        eyes.open("map")
        for name in (DETECTOR, "crystals.bin", "binned", "crystals.find_peaks", "found"):
            expect(eyes.box(name)).to_have_attribute("data-state", "live")
        expect(eyes.box("mapped_camera")).to_contain_text("cam-7")
        expect(eyes.box("mapped_group")).to_contain_text("viewer-3")
        at = {name: eyes.box(name).bounding_box() for name in ("mapped_camera", "mapped")}
        assert at["mapped_camera"]
        assert at["mapped"]
        assert at["mapped_camera"]["x"] < at["mapped"]["x"]
        eyes.box("crystals.find_peaks").click()
        about = eyes.tab.get_by_label("About crystals.find_peaks")
        expect(about).to_contain_text("2 of 2")
        expect(about).to_contain_text("gets from")


def test_groups_seek_with_preview(floor: Floor, eyes: Eyes) -> None:
    with (
        Program.sends(floor.node, "sought", rate=200.0, count=100) as sender,
        Program.reads(floor.node, "sought", "seeker", count=40) as reader,
    ):
        sender.until(sent=100, done=True)
        reader.until(read=40, done=True)
        eyes.open("groups", picked=f"{BEAMTIME}\nsought\ns\nseeker")
        expect(eyes.tab.get_by_text("Operators can seek here.")).to_be_visible()
        eyes.log_in(floor.node.token(BEAMTIME))
        seek = eyes.tab.get_by_role("group", name="Seek")
        seek.get_by_label("Go to").select_option("end")
        seek.get_by_role("button", name="Preview").click()
        expect(seek).to_contain_text("60 messages would be skipped, 0 read again")
        lag = eyes.group("sought", "s", "seeker").get_by_test_id("lag")
        assert plain(lag.inner_text()) == "60"
        seek.get_by_role("button", name="Seek", exact=True).click()
        expect(lag).to_have_text("0")


def test_browse_finds_shows_and_notes(floor: Floor, eyes: Eyes) -> None:
    with floor.hub.source("library").stream("shelf").writer(finish=False) as writer:
        for id in range(1, 31):
            writer.send(np.full((8, 8), id, np.uint16), {"run": 7, "angle": id / 10}, id=id)
    eyes.open("browse")
    eyes.log_in(floor.node.token(BEAMTIME))
    eyes.tab.get_by_role("link", name="library/shelf").click()
    expect(eyes.tab.get_by_label("Stream library/shelf")).to_contain_text("30 messages")
    search = eyes.tab.get_by_role("searchbox")
    search.fill("meta.run = 7 AND meta.angle > 2.85")
    search.press("Enter")
    found = eyes.tab.get_by_label("Found")
    expect(found.get_by_role("status")).to_contain_text("2 in all")
    found.get_by_role("button", name="library/shelf[29]").click()
    message = eyes.tab.get_by_label("Message 29")
    expect(message).to_contain_text("uint16 8 × 8")
    expect(message).to_contain_text('"angle": 2.9')
    expect(message.locator("canvas")).to_be_visible()
    eyes.tab.get_by_label("Comment").fill("<b>the good one</b>")
    eyes.tab.get_by_label("Tags").fill("keep, paper")
    eyes.tab.get_by_role("button", name="Save").click()
    expect(eyes.tab.get_by_text("Saved.")).to_be_visible()
    eyes.tab.goto(eyes.address("browse", source="library"))
    row = eyes.tab.locator("[data-testid=table-streams] tr", has_text="library/shelf")
    expect(row).to_contain_text("<b>the good one</b>")
    expect(row).to_contain_text("keep, paper")


def test_browse_tells_what_a_message_was_made_of(floor: Floor, eyes: Eyes) -> None:
    row = floor.hub.source("found").stream(STREAM).info()
    assert row is not None
    eyes.open("browse", source="found", stream=STREAM, id=row.max_id)
    message = eyes.tab.get_by_label(f"Message {row.max_id}")
    tree = message.locator(".tree")
    for name in ("crystals.find_peaks", "crystals.bin"):
        expect(tree).to_contain_text(name)
    tree.get_by_role("link", name=f"{DETECTOR}/{STREAM}").first.click()
    expect(eyes.tab.locator("section.message h2")).to_contain_text(f"{DETECTOR}/{STREAM}[")


def test_replay_runs_to_its_end(floor: Floor, eyes: Eyes) -> None:
    with floor.hub.source("taped").stream("t1").writer(finish=False) as writer:
        for id in range(1, 121):
            writer.send(np.full((16, 16), id, np.uint16), {"n": id}, id=id)
    eyes.open("replay", source="taped", stream="t1", lo=21, hi=101, rate="40")
    expect(eyes.tab.get_by_role("button", name="Preview")).to_be_disabled()
    eyes.log_in(floor.node.token(BEAMTIME))
    eyes.tab.get_by_role("button", name="Preview").click()
    plan = eyes.tab.get_by_test_id("plan")
    expect(plan).to_contain_text("80 messages")
    plan.get_by_role("button", name="Start").click()
    job = eyes.tab.locator("[data-testid=table-replays] tbody tr").first
    expect(job.locator("[data-state=running]")).to_be_visible()
    expect(job.locator("[data-state=done]")).to_be_visible()
    assert "80 of 80" in plain(job.inner_text())
    target = plain(job.locator("td").nth(1).inner_text())
    source, _, stream = target.removeprefix("stream ").partition("/")
    replayed = floor.hub.source(source).stream(stream)
    assert [message.meta["n"] for message in replayed[1:]] == list(range(21, 101))


def test_replay_is_cancelled(floor: Floor, eyes: Eyes) -> None:
    with floor.hub.source("long").stream("t1").writer(finish=False) as writer:
        for id in range(1, 121):
            writer.send(b"x", id=id)
    eyes.open("replay", source="long", stream="t1", rate="1")
    eyes.log_in(floor.node.token(BEAMTIME))
    eyes.tab.get_by_role("button", name="Preview").click()
    eyes.tab.get_by_test_id("plan").get_by_role("button", name="Start").click()
    job = eyes.tab.locator("[data-testid=table-replays] tbody tr").first
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator("[data-state=cancelled]")).to_be_visible()


def test_health_tells_use_limits_and_errors(floor: Floor, eyes: Eyes) -> None:
    eyes.open("health")
    facts = eyes.tab.locator("dl.facts")
    expect(facts).to_contain_text("Beamstream")
    limits = eyes.tab.get_by_test_id("table-limits")
    expect(limits).to_contain_text("connections native")
    rss = eyes.tab.locator("dt", has_text="Memory").locator("+ dd")
    shown = plain(rss.inner_text())
    value = number(shown.replace("B", "B/s"))
    assert 0.5 < value / floor.node.rss_nbytes() < 2
    with pytest.raises(Denied) as refused:
        connect(str(floor.node.connect["url"]), beamtime=BEAMTIME, token="of nobody")
    errors = eyes.tab.get_by_test_id("table-errors").locator("tbody tr")
    expect(errors.filter(has_text=refused.value.code).first).to_be_visible()
    metrics = eyes.tab.context.request.get(f"{eyes.url}../metrics")
    assert metrics.ok
    assert "beamstream_" in metrics.text()
