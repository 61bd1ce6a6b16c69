"""The numbers on the page are what was sent and read, by ASAPO's official clients."""

from __future__ import annotations

import re

import pytest

from page.eyes import Eyes, number, plain
from page.floor import DETECTOR, Floor
from page.programs import Program

RATE_TOLERANCE = 0.05
DELAY_TOLERANCE = 0.10


def test_rate_of_a_source_is_what_is_sent(floor: Floor, eyes: Eyes) -> None:
    with Program.sends(floor.node, "rated", rate=40.0, nbytes=10_000) as sender:
        eyes.open("live", source="rated")
        told = sender.until(sent=320)
        sent_hz = told["sent"] / told["seconds"]
        assert number(eyes.text("rate")) == pytest.approx(sent_hz, rel=RATE_TOLERANCE)
        eyes.tab.goto(eyes.address("map"))
        edge = eyes.tab.locator('.map .edge[data-to="rated"]')
        hertz, nbytes = (plain(text) for text in edge.locator("text").all_text_contents())
        assert number(hertz) == pytest.approx(sent_hz, rel=RATE_TOLERANCE)
        assert number(nbytes) == pytest.approx(10_000 * sent_hz, rel=RATE_TOLERANCE)


def test_rate_of_the_pipeline(floor: Floor, eyes: Eyes) -> None:
    assert floor.feed is not None
    eyes.open("groups")
    for step, source in (("bin", DETECTOR), ("find_peaks", "binned"), ("hits", "found")):
        row = eyes.group(source, "scan1", f"crystals.{step}")
        row.wait_for()
        cells = [plain(text) for text in row.locator("td").all_inner_texts()]
        assert number(cells[8]) == pytest.approx(10.0, rel=RATE_TOLERANCE)


def test_lag_is_exact_when_the_reader_stands_still(floor: Floor, eyes: Eyes) -> None:
    with (
        Program.sends(floor.node, "lagging", rate=200.0, count=400, nbytes=100) as sender,
        Program.reads(floor.node, "lagging", "standing", count=150) as reader,
    ):
        sender.until(sent=400, done=True)
        reader.until(read=150, done=True)
        eyes.open("groups", group="standing")
        lag = eyes.group("lagging", "s", "standing").get_by_test_id("lag")
        eyes.until(lambda: plain(lag.inner_text()) == "250", "a lag of 250")
        # It stays so: nobody reads, nobody sends.
        eyes.tab.reload()
        eyes.heard()
        assert plain(lag.inner_text()) == "250"


def test_delays_are_what_the_reader_measures(floor: Floor, eyes: Eyes) -> None:
    with Program.sends(floor.node, "delayed", rate=10.0, nbytes=1000) as sender:
        sender.until(sent=10)
        # It begins a second late, is never faster than the sender, and keeps each message.
        with Program.reads(
            floor.node, "delayed", "late", every_s=0.1, keep_s=0.05, instance="late"
        ) as reader:
            eyes.open("groups", picked="demo\ndelayed\ns\nlate")
            reader.until(read=130)
            said = eyes.tab.get_by_text("Delay since arrival")
            found = re.findall(r"p50 ([\d.]+ m?s)", plain(said.inner_text()))
            measured = reader.newest()
            delivered, acked = (1000 * number(text) for text in found)
            assert delivered == pytest.approx(measured["delivered_ms"], rel=DELAY_TOLERANCE)
            assert acked == pytest.approx(measured["acked_ms"], rel=DELAY_TOLERANCE)
            assert acked >= delivered > 500


def test_age_grows_when_nothing_comes(floor: Floor, eyes: Eyes) -> None:
    with Program.sends(floor.node, "aging", rate=50.0, count=50) as sender:
        sender.until(sent=50, done=True)
        eyes.open("live", source="aging")
        eyes.until(lambda: number(eyes.text("age")) > 3, "an age of three seconds")
        assert eyes.text("frame") == "50"
        assert eyes.text("rate") == "0 Hz"
