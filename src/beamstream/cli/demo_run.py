"""The demo of ASAPO's protocol: a node, a detector that feeds it, and two groups of readers."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import xxhash
from numpy.typing import NDArray

from beamstream import limits
from beamstream.cli.demo_feed import Feed, Frame
from beamstream.cli.demo_figures import Figures
from beamstream.cli.demo_reader import DIGEST_KEY, SENT_KEY
from beamstream.client.asapo import Producer
from beamstream.errors import Error, TimedOut
from beamstream.testing.node import NodeProcess
from beamstream.wire.asapo.structs import CACHE_ONLY_INGEST_MODE, DEFAULT_INGEST_MODE

BEAMTIME: Final = "demo"
SOURCE: Final = "detector"
STREAM: Final = "scan1"
GROUPS: Final = ("preview", "reduction")
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 20.0


class Group:
    """A consumer group: a process that reads, and a thread that listens to what it tells."""

    def __init__(self, name: str, task: dict[str, str]) -> None:
        self.figures = Figures(name, time.monotonic())
        self.error = ""
        self.ended = False
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.cli.demo_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**task, "group": name}) + "\n")
        self._process.stdin.flush()
        self._thread = threading.Thread(target=self._listen, name=f"group-{name}", daemon=True)
        self._thread.start()

    def wait_ready(self) -> None:
        try:
            self.error = self._told.get(timeout=_START_SECONDS)
        except queue.Empty:
            self.error = "it does not start"
        if self.error:
            raise TimedOut(f"group {self.figures.name!r} of the demo cannot read: {self.error}")
        self.figures = Figures(self.figures.name, time.monotonic())

    def wait_end(self, timeout_s: float) -> None:
        """Wait until it has read the stream to its end, then let it go."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.error = self.error or "it did not reach the end of the stream"
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "ready" in told:
                self._told.put("")
            elif "error" in told:
                self.error = told["error"]
                self._told.put(self.error)
            else:
                self._count(told)
        self.ended = True
        self._told.put("its process has ended")

    def _count(self, told: dict[str, Any]) -> None:
        figures = self.figures
        figures.lag = told["lag"]
        figures.lost += told["lost"]
        figures.damaged += told["damaged"]
        figures.add(
            time.monotonic(), told["frames"], told["nbytes"], told["last_id"], told["delays_ms"]
        )


class Demo:
    """A node in a temporary folder with a feed and its readers; nothing is left at the end.

    Parameters
    ----------
    store : frames go to files too, not to memory only.
    frame_nbytes : of the largest frame, for the size of the cache.
    page : with the page, in a process of its own.
    """

    def __init__(
        self,
        frames: Iterator[Frame],
        *,
        rate_hz: float,
        store: bool,
        frame_nbytes: int,
        page: bool = False,
    ) -> None:
        # A payload can be as large as one of the cache's arenas.
        cache_nbytes = max(256 * limits.MIB, 2 * limits.CACHE_ARENAS * frame_nbytes)
        self.node = NodeProcess(cache=f"{-(-cache_nbytes // limits.MIB)}MiB", monitor=page)
        self._page = page
        self._frames = frames
        self._rate_hz = rate_hz
        self._mode = DEFAULT_INGEST_MODE if store else CACHE_ONLY_INGEST_MODE
        self._producer: Producer | None = None
        self.groups: list[Group] = []
        self.begin_s = 0.0
        self._finishing = False

    @property
    def page(self) -> str:
        """Where the page is; empty if there is none."""
        return f"{self.node.connect['url']}/ui/" if self._page else ""

    @property
    def access(self) -> str:
        """For other programs: none, what is in memory only is gone before they have asked."""
        return ""

    def __enter__(self) -> Self:
        self.node.__enter__()
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        token = self.node.token(BEAMTIME, "read,write")
        endpoint = self.node.endpoint
        task = {
            "endpoint": endpoint,
            "beamtime": BEAMTIME,
            "source": SOURCE,
            "stream": STREAM,
            "token": token,
        }
        for name in GROUPS:
            self.groups.append(Group(name, task))
        self._producer = Producer(endpoint, beamtime=BEAMTIME, source=SOURCE, token=token)
        for group in self.groups:
            group.wait_ready()
        self.feed = Feed(self._send, self._frames, self._rate_hz, end=self._end)
        self.begin_s = time.monotonic()
        self.feed.start()

    def _send(self, number: int, frame: NDArray[Any], meta: dict[str, Any]) -> Callable[[], object]:
        assert self._producer is not None
        digest = xxhash.xxh3_64_hexdigest(frame.data)
        stamped = {**meta, DIGEST_KEY: digest, SENT_KEY: time.time_ns()}
        name = f"processed/{STREAM}/frame_{number:07d}.raw"
        return self._producer.send(
            number, name, frame, stream=STREAM, meta=stamped, mode=self._mode
        ).result

    def _end(self, last_id: int) -> None:
        assert self._producer is not None
        self._producer.send_stream_finished(STREAM, last_id)
        self._producer.flush(_END_SECONDS)

    def check(self) -> None:
        """Raise what stopped the feed or a group, if something did."""
        if self.feed.error is not None:
            raise self.feed.error
        for group in self.groups:
            if not group.error and group.ended and not self._finishing:
                group.error = "its process has ended"
            if group.error:
                raise Error(f"group {group.figures.name!r} of the demo stopped: {group.error}")

    def finish(self) -> float:
        """Finish the stream, let the groups read it to its end; returns when sending ended."""
        self._finishing = True
        self.feed.stop.set()
        end_s = time.monotonic()
        self.feed.finish()
        for group in self.groups:
            group.wait_end(_END_SECONDS)
        self.check()
        return end_s

    def lag(self, group: Group) -> int:
        """How many frames a group is behind the detector."""
        return group.figures.lag

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if hasattr(self, "feed"):
                self.feed.stop.set()
            for group in self.groups:
                group.close()
            if self._producer is not None:
                try:
                    self._producer.close(1.0 if kind else _END_SECONDS)
                except TimedOut:
                    pass
        finally:
            self.node.__exit__(kind, error, traceback)
