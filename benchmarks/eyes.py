"""What looking costs: rate and delay with twenty tabs open, beside without, in one run.

``python -m benchmarks.eyes`` starts a node with its monitor, a producer and a reader, and opens
tabs as browsers do: a WebSocket each that watches the overview, and some of them the images of the
stream. Stretches with and without tabs take turns, so that what the machine does otherwise hits
both. Then the same with the node's counters: how long one look at them takes, and how often it is
asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from websockets.asyncio.client import connect

import beamstream as bs
from beamstream.testing.node import NodeProcess
from beamstream.wire.native.sampling import GetStats

_TABS = 20
_WITH_IMAGE = 5
_SHAPE = (1024, 1024)
_BEAMTIME = "bench"


class Load:
    """A producer of frames and a reader, in this process; frames and delays of a stretch."""

    def __init__(self, hub: bs.Hub, period_s: float) -> None:
        self._writer = hub.source("camera").stream("s").writer(level="cache", finish=False)
        self._group = hub.source("camera").stream("s").group("reader", ack="none")
        self._period_s = period_s
        self._stop = threading.Event()
        self._frames = 0
        self._read = 0
        self._delays_ms: list[float] = []
        self._moved = threading.Condition()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._take)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        began, first = time.monotonic(), 0
        while not self._stop.is_set():
            if self._period_s:
                due = began + (self._frames - first) * self._period_s
                time.sleep(max(due - time.monotonic(), 0.0))
            else:
                with self._moved:
                    self._moved.wait_for(lambda: self._frames - self._read < 16, 1.0)
            at = time.time_ns()
            with self._writer.frame(_SHAPE, np.uint16) as frame:
                frame.ravel()[:4] = np.array([at], np.int64).view(np.uint16)
            self._frames += 1

    def _take(self) -> None:
        with self._group.subscribe() as member:
            while not self._stop.is_set():
                message = member.poll() or member.take(5.0)
                if not isinstance(message, bs.Message):
                    return
                at = np.frombuffer(message.data[:8], np.int64)[0]
                with self._moved:
                    self._read += 1
                    self._delays_ms.append((time.time_ns() - int(at)) / 1e6)
                    self._moved.notify()

    def stretch(self, seconds: float) -> tuple[float, float]:
        """Frames per second and p99 of the delay, ms, of the next seconds."""
        with self._moved:
            count, self._delays_ms = self._read, []
        began = time.monotonic()
        time.sleep(seconds)
        with self._moved:
            rate = (self._read - count) / (time.monotonic() - began)
            delays = sorted(self._delays_ms)
        return rate, delays[int(0.99 * (len(delays) - 1))]

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._writer.close(finish=False)


@contextmanager
def tabs(url: str) -> Iterator[list[int]]:
    """Twenty tabs; the list grows by the length of what each of them gets."""
    got: list[int] = []
    over = threading.Event()

    async def tab(image: bool) -> None:
        async with connect(url, max_size=None) as feed:
            watch: dict[str, object] = {"overview": {"beamtime": _BEAMTIME}}
            if image:
                watch["preview"] = {
                    "beamtime": _BEAMTIME, "source": "camera", "stream": "s", "max_px": 512,
                    "hz": 5,
                }  # fmt: skip
            await feed.send(json.dumps({"watch": watch}))
            while not over.is_set():
                try:
                    got.append(len(await asyncio.wait_for(feed.recv(), 0.2)))
                except TimeoutError:
                    continue

    async def all_of_them() -> None:
        await asyncio.gather(*(tab(number < _WITH_IMAGE) for number in range(_TABS)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), daemon=True)
    thread.start()
    try:
        yield got
    finally:
        over.set()
        thread.join(10)


def compare(node: NodeProcess, hub: bs.Hub, period_s: float, seconds: float, turns: int) -> None:
    """Print rate and p99 with tabs as shares of those without."""
    http = str(node.connect["url"]).replace("http", "ws", 1)
    load = Load(hub, period_s)
    load.stretch(2.0)
    rates, delays, told = [], [], 0
    for _ in range(turns):
        before = load.stretch(seconds)
        with tabs(f"{http}/ui/feed") as got:
            load.stretch(1.0)
            during = load.stretch(seconds)
            told += len(got)
        load.stretch(0.5)
        after = load.stretch(seconds)
        rates.append(2 * during[0] / (before[0] + after[0]))
        delays.append(2 * during[1] / (before[1] + after[1]))
    load.close()
    print(
        json.dumps(
            {
                "load": "as fast as it goes" if not period_s else f"{1 / period_s:g}/s",
                "rate_with_tabs": round(statistics.median(rates), 3),
                "p99_with_tabs": round(statistics.median(delays), 3),
                "turns": [round(rate, 3) for rate in rates],
                "frames_to_tabs": told,
            }
        ),
        flush=True,
    )


def look(hub: bs.Hub, count: int) -> None:
    """Print what one look at all counters costs the node."""
    began = time.monotonic()
    for _ in range(count):
        hub._call(GetStats(beamtime=_BEAMTIME))
    print(json.dumps({"look_ms": round((time.monotonic() - began) / count * 1000, 3)}), flush=True)


def _cost_us(module: str, batch: int, messages: int) -> float:
    """Processor time of a node, µs, for a message that is taken, handed out and acknowledged."""
    with (
        NodeProcess(cache="256MiB", module=module) as node,
        bs.connect(str(node.connect["url"]), token=node.token(_BEAMTIME)) as hub,
    ):
        stream = hub.source("camera").stream("s")
        cpu_s = 0.0
        with (
            stream.writer(level="cache", finish=False) as writer,
            stream.group("reader").subscribe() as member,
        ):
            taken = member.batches()
            for turn in range(messages // batch + 1):
                if turn == 1:
                    cpu_s = node.cpu_s()
                writer.send_many([b"x" * 1000] * batch)
                read = 0
                while read < batch:
                    read += len(next(taken))
            member.sync(30)
        return (node.cpu_s() - cpu_s) / messages * 1e6


def counting(batch: int, messages: int, turns: int) -> None:
    """Print what counting costs the node, beside one that does not count, in turns."""
    pairs = [
        (
            _cost_us("beamstream.cli.main", batch, messages),
            _cost_us("benchmarks.uncounted", batch, messages),
        )
        for _ in range(turns)
    ]
    print(
        json.dumps(
            {
                "batch": batch,
                "counting_us": round(statistics.median(one for one, _ in pairs), 2),
                "not_counting_us": round(statistics.median(other for _, other in pairs), 2),
                "ratio": round(statistics.median(one / other for one, other in pairs), 3),
            }
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with NodeProcess(cache="1GiB", monitor=True) as node:
        token = node.token(_BEAMTIME)
        with bs.connect(str(node.connect["url"]), token=token) as hub:
            for period_s in (0.0, 0.01):
                compare(node, hub, period_s, arguments.seconds, arguments.turns)
            look(hub, 200)
    for batch, messages in ((200, 400_000), (1, 5_000)):
        counting(batch, messages, arguments.turns)


if __name__ == "__main__":
    main()
