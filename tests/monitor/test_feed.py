"""What a tab gets through its WebSocket, from a real node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

import beamstream as bs
from beamstream.monitor import feed, previews
from beamstream.monitor.feed import Tab
from beamstream.monitor.roles import Visitor
from beamstream.testing.node import NodeProcess
from monitor.running import ELSEWHERE, MonitorProcess, until


def tell(tab: ClientConnection, **what: Any) -> None:
    tab.send(json.dumps(what))


def watch(tab: ClientConnection, stream: bs.Stream, px: int = 100) -> None:
    wish = {"beamtime": "demo", "source": stream.source, "stream": stream.name, "max_px": px}
    tell(tab, watch={"overview": {"beamtime": "demo"}, "preview": wish | {"hz": 5}})


def snapshot(
    tab: ClientConnection, wanted: Callable[[Any], bool] = lambda _: True, seconds: float = 20.0
) -> Any:
    end = time.monotonic() + seconds
    while True:
        found = tab.recv(timeout=max(end - time.monotonic(), 0.0))
        if isinstance(found, str):
            told = json.loads(found)
            if told["type"] == "snapshot" and wanted(told):
                return told


def picture(tab: ClientConnection, seconds: float = 20.0) -> bytes:
    end = time.monotonic() + seconds
    while True:
        found = tab.recv(timeout=max(end - time.monotonic(), 0.0))
        if isinstance(found, bytes):
            return found


def id_of(data: bytes) -> int:
    return int(previews.HEAD.unpack_from(data)[-1])


def source(told: Any, name: str) -> Any:
    return next((row for row in told["data"]["sources"] if row["source"] == name), None)


def lag_of(told: Any, group: str) -> int | None:
    return next((row["lag"] for row in told["data"]["groups"] if row["group"] == group), None)


def test_numbers_are_those_that_were_sent(monitor: MonitorProcess, hub: bs.Hub) -> None:
    stream = hub.source("counted").stream("s")
    with monitor.feed() as tab, stream.writer(finish=False) as writer:
        tell(tab, watch={"overview": {"beamtime": "demo"}})
        first = snapshot(tab)
        assert {"type", "t", "seq", "node", "stale_s", "data"} == set(first)
        assert first["node"] == "here"
        writer.send_many([b"x" * 100] * 50)
        writer.flush()
        told = snapshot(tab, lambda told: (source(told, "counted") or {}).get("count") == 50)
        row = source(told, "counted")
        assert (row["nbytes"], row["last_stream"], row["last_id"]) == (5000, "s", 50)
        assert row["lost"] == 0
        assert told["stale_s"] < 2.5
        assert told["seq"] > first["seq"]


def test_a_lag_is_exact_when_nothing_moves(monitor: MonitorProcess, hub: bs.Hub) -> None:
    stream = hub.source("lagging").stream("s")
    with stream.writer(finish=False) as writer:
        writer.send_many([b"x"] * 40)
    with monitor.feed() as tab:
        with stream.group("slow", ack="manual").subscribe() as member:
            for _ in range(7):
                item = member.take(timeout=10)
                assert isinstance(item, bs.Message)
                item.ack()
        told = snapshot(
            tab,
            lambda told: any(
                g["lag"] == 33 for g in told["data"]["groups"] if g["group"] == "slow"
            ),
        )
    edge = next(one for one in told["data"]["edges"] if one["group"] == "slow")
    assert edge["source"] == "lagging"


def test_the_newest_picture_comes(monitor: MonitorProcess, images: bs.Stream) -> None:
    with monitor.feed() as tab:
        watch(tab, images)
        data = picture(tab)
    assert id_of(data) == 30
    _, _, binning, height, width, full_height, full_width, _ = previews.HEAD.unpack_from(data)
    assert (binning, height, width, full_height, full_width) == (4, 75, 100, 300, 400)
    pixels = np.frombuffer(data, "<u2", offset=32).reshape(height, width)
    assert pixels[30 // 4, 60 // 4] == 60_000
    assert np.count_nonzero(pixels) == 1


def test_pictures_follow_and_are_shared(monitor: MonitorProcess, hub: bs.Hub) -> None:
    stream = hub.source("moving").stream("s")
    with stream.writer(finish=False) as writer, monitor.feed() as one, monitor.feed() as two:
        writer.send(np.full((10, 10), 1, np.uint16))
        for tab in (one, two):
            watch(tab, stream)
        assert id_of(picture(one)) == id_of(picture(two)) == 1
        assert monitor.get("health")["previews"] == 1
        seen = []
        for value in range(2, 5):
            writer.send(np.full((10, 10), value, np.uint16))
            writer.flush()
            data = picture(one)
            seen.append(id_of(data))
            assert np.frombuffer(data, "<u2", offset=32)[0] == id_of(data)
        assert seen == [2, 3, 4]


def test_a_hidden_tab_gets_nothing(monitor: MonitorProcess, images: bs.Stream) -> None:
    with monitor.feed() as tab, monitor.feed() as other:
        watch(tab, images)
        snapshot(tab)
        tell(tab, pause=True)
        # Two beats of another tab: what was under way has come by then.
        for _ in range(2):
            snapshot(other)
        while True:
            try:
                tab.recv(timeout=0)
            except TimeoutError:
                break
        for _ in range(3):
            snapshot(other)
        with pytest.raises(TimeoutError):
            tab.recv(timeout=0)
        tell(tab, pause=False)
        assert snapshot(tab)


def test_what_cannot_be_drawn_is_told(monitor: MonitorProcess, hub: bs.Hub) -> None:
    stream = hub.source("words").stream("s")
    with stream.writer() as writer:
        writer.send(b"no image")
    with monitor.feed() as tab:
        watch(tab, stream)
        while True:
            told = json.loads(tab.recv(timeout=20))
            if told["type"] == "error":
                break
    assert told["code"] == "E100"


@pytest.mark.parametrize("said", ["nothing", "[]", '{"watch": 7}', '{"watch": {"preview": {}}}'])
def test_what_is_not_understood_is_told(monitor: MonitorProcess, said: str) -> None:
    with monitor.feed() as tab:
        tab.send(said)
        while True:
            told = json.loads(tab.recv(timeout=20))
            if told["type"] == "error":
                break
        assert told["code"] == "E100"
        assert snapshot(tab), "and goes on"


def read_all(tab: ClientConnection) -> None:
    while True:
        tab.recv(timeout=20)


def closed(tab: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as over:
        read_all(tab)
    told = over.value.rcvd
    assert told is not None
    return told.code


def test_who_says_too_much_is_sent_away(monitor: MonitorProcess) -> None:
    with monitor.feed() as tab:
        for _ in range(100):
            tell(tab, pause=False)
        assert closed(tab) == 1008
    with monitor.feed() as tab:
        tab.send("x" * 10_000)
        assert closed(tab) in (1008, 1009)


def test_pages_of_others_are_refused(monitor: MonitorProcess) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        monitor.feed(origin="http://evil.example"),  # type: ignore[arg-type]
    ):
        pass
    assert refused.value.response.status_code == 403
    with monitor.feed(origin="http://localhost:8400") as tab:  # type: ignore[arg-type]
        assert snapshot(tab)


def test_from_elsewhere_a_token_is_needed(monitor: MonitorProcess, node: NodeProcess) -> None:
    with monitor.feed(ELSEWHERE) as tab:
        assert json.loads(tab.recv(timeout=20))["code"] == "E201"
        assert closed(tab) == 1008
    other = {"Authorization": f"Bearer {node.token('other', 'read')}"}
    with monitor.feed(ELSEWHERE | other) as tab:
        assert snapshot(tab)["data"]["sources"] == []
        tell(tab, watch={"overview": {"beamtime": "demo"}})
        while True:
            told = json.loads(tab.recv(timeout=20))
            if told["type"] == "error":
                break
        assert told["code"] == "E202"


def test_many_tabs_are_enough(monitor: MonitorProcess, images: bs.Stream) -> None:
    """As many as there may be, and one more; then they can come again."""
    with contextlib.ExitStack() as tabs:
        for _ in range(feed.FEEDS_MAX):
            tabs.enter_context(monitor.feed(close_timeout=0.1))
        until(lambda: monitor.get("health")["feeds"], lambda count: count == feed.FEEDS_MAX)
        with monitor.feed() as more:
            assert json.loads(more.recv(timeout=20))["code"] == "E602"
    until(lambda: monitor.get("health")["feeds"], lambda count: count == 0)
    with monitor.feed() as tab:
        assert snapshot(tab)


# ------------------------------------------------------------------------------ one tab


class Stuck:
    """A WebSocket that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.taken: list[str | bytes] = []
        self.free = asyncio.Event()
        self.began = asyncio.Event()

    async def send_text(self, data: str) -> None:
        self.began.set()
        await self.free.wait()
        self.taken.append(data)

    async def send_bytes(self, data: bytes) -> None:
        await self.send_text(data)  # type: ignore[arg-type]


def test_what_a_tab_does_not_take_is_not_queued() -> None:
    async def run() -> None:
        wire = Stuck()
        tab = Tab(None, wire, Visitor(), None)  # type: ignore[arg-type]
        tab._hz = 5.0
        sending = asyncio.create_task(tab.send())
        tab.offer_text("0")
        await wire.began.wait()
        for number in range(1, 100):
            tab.offer_text(str(number))
        assert tab.skipped == 98
        wire.free.set()
        while len(wire.taken) < 2:
            await asyncio.sleep(0)
        assert wire.taken == ["0", "99"]
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(run())
