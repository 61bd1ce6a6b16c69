"""The demo at work: a node, a detector that feeds it, and a pipeline of real worker processes."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from numpy.typing import NDArray

from beamstream import limits
from beamstream.cli.demo_chain import GIVEN_UP, Chain, Seen
from beamstream.cli.demo_feed import Feed, Frame
from beamstream.client.native.hub import Hub, connect
from beamstream.client.native.lending import AHEAD_NBYTES
from beamstream.client.native.messages import Message
from beamstream.client.native.places import Access
from beamstream.client.native.subscription import Subscription
from beamstream.errors import Error, NotFound, TimedOut
from beamstream.testing.node import NodeProcess
from beamstream.worker.pipelines.plan import Plan, load_plan
from beamstream.worker.pipelines.running import PipelineRun, Snapshot

PIPELINE: Final = Path(__file__).parent / "packaged" / "crystals.yaml"
BEAMTIME: Final = "demo"
SOURCE: Final = "detector"
STREAM: Final = "scan1"
CACHE_NBYTES: Final = 2 * limits.GIB
"""Of the node's cache, if the machine has eight times as much: it holds what is on its way."""

_LOOK_SECONDS: Final = 0.1
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 60.0


class PipelineDemo:
    """A node in a temporary folder with a feed and a pipeline; nothing is left at the end.

    Parameters
    ----------
    store : frames and results go to the log of the node too, not to memory only.
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
        cache_nbytes = max(_cache_nbytes(), 2 * limits.CACHE_ARENAS * frame_nbytes)
        self.plan: Plan = load_plan(PIPELINE)
        self.node = NodeProcess(
            cache=f"{-(-cache_nbytes // limits.MIB)}MiB",
            durability="os" if store else "cache",
            monitor=page,
        )
        # The detector is lent an arena at least. What it has put there stays until the memory comes
        # round, of which it asks for a part ahead; the rest is halved, to be sure.
        room = cache_nbytes // limits.CACHE_ARENAS - max(AHEAD_NBYTES, 2 * frame_nbytes)
        self._ahead_max = max(1, room // (2 * frame_nbytes))
        self._frames = frames
        self._page = page
        self._rate_hz = rate_hz
        self._folder: Path | None = None
        self._left = 0
        self._hub: Hub | None = None
        self._run: PipelineRun | None = None
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.begin_s = 0.0

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        self.node.__enter__()
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="beamstream-"))
        access = Access(str(self.node.connect["url"]), BEAMTIME, str(self.node.connect["token"]))
        self._hub = self._connect()
        self._run = PipelineRun(self.plan, self._connect, access, self._folder / "logs").start()
        self._thread("pipeline", lambda: self._run_pipeline(self.running))
        self._wait_started()
        steps = [(step.name, step.writes or "") for step in self.plan.steps]
        kept_from = self.plan.step("hits").parameters["min_peaks"]
        self.chain = Chain(SOURCE, steps, time.monotonic(), kept_from=kept_from)
        self._thread("watch", self._watch)
        writer = self._hub.source(SOURCE).stream(STREAM).writer(finish=False)

        def send(id: int, frame: NDArray[Any], meta: dict[str, Any]) -> Callable[[], object]:
            return writer.send(frame, meta, id=id).result

        def end(last_id: int) -> None:
            writer.close()
            self.hub.source(SOURCE).stream(STREAM).finish(last_id)

        self.feed = Feed(send, self._frames, self._rate_hz, end=end, room=self._has_room)
        self.begin_s = time.monotonic()
        self.feed.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if hasattr(self, "feed"):
                self.feed.stop.set()
            self._stop.set()
            for thread in self._threads:
                thread.join()
            if self._run is not None:
                self._run.close()
            if self._hub is not None:
                self._hub.close(1.0)
        finally:
            self.node.__exit__(kind, error, traceback)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ looking

    @property
    def hub(self) -> Hub:
        assert self._hub is not None
        return self._hub

    @property
    def running(self) -> PipelineRun:
        assert self._run is not None
        return self._run

    def snapshot(self) -> Snapshot:
        return self.running.snapshot()

    @property
    def access(self) -> str:
        """A line for the shell, so that other programs find the node."""
        names = (("BEAMSTREAM_URL", "url"), ("BEAMSTREAM_TOKEN", "token"))
        told = (f"{name}={shlex.quote(str(self.node.connect[key]))}" for name, key in names)
        return f"export {' '.join(told)}"

    @property
    def page(self) -> str:
        """Where the page is; empty if there is none."""
        return f"{self.node.connect['url']}/ui/" if self._page else ""

    def check(self) -> None:
        """Raise what stopped the feed, the pipeline or a step, if something did."""
        if self.feed.error is not None:
            raise self.feed.error
        self._check_threads()
        for row in self.snapshot().steps:
            if row.state in ("failed", "stopped"):
                raise Error(f"step {row.name!r} of the demo has {row.state}: {row.note}")

    def _check_threads(self) -> None:
        if self._errors:
            raise self._errors[0]

    # ------------------------------------------------------------------ the end

    def finish(self) -> float:
        """Finish the stream, and wait until all steps have; returns when sending ended."""
        end_s = time.monotonic()
        self.feed.finish()
        self.check()
        last = self.plan.steps[-1].writes
        assert last is not None
        hits = self.hub.source(last).stream(STREAM)

        def finished() -> bool:
            row = hits.info()
            return row is not None and row.last_id >= 0 and self._all_seen()

        self._wait(finished, _END_SECONDS, "did not reach the end of the stream")
        self._stop.set()
        return end_s

    def _all_seen(self) -> bool:
        """Whether all that is in the streams has been counted; takes what steps have skipped."""
        for link, step in zip(self.chain.steps, self.plan.steps, strict=True):
            row = self.hub.source(link.source).stream(STREAM).info()
            group = self.hub.source(step.reads_now.source).stream(STREAM).group(step.step_id)
            state = group.info()
            if row is None or state is None or len(link.ids) + link.twice < row.count:
                return False
            link.skipped, link.dead = row.skipped, state.dead
        return len(self.chain.detector.ids) >= self.feed.figures.frames

    # ------------------------------------------------------------------ inside

    def _connect(self) -> Hub:
        connection = self.node.connect
        return connect(str(connection["url"]), beamtime=BEAMTIME, token=str(connection["token"]))

    def _has_room(self) -> bool:
        """Whether what is on its way stays in the cache."""
        # Frames in the hands of a worker that died are given to another one after a while, and
        # have to be there then: what counts is the oldest one that is not done.
        ahead = self.feed.figures.frames - self.chain.through.first_missing
        return max(ahead, self._left) < self._ahead_max

    def _wait_started(self) -> None:
        self._wait(lambda: self.snapshot().all_running, _START_SECONDS, "do not start")

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        until_s = time.monotonic() + timeout_s
        while not done():
            self._check_threads()
            if time.monotonic() > until_s:
                raise TimedOut(
                    f"the steps of the demo {what} within {timeout_s:g} s: {self._explain()}"
                )
            self._stop.wait(_LOOK_SECONDS)

    def _explain(self) -> str:
        """How far each step is, and what it said last."""
        told = []
        for step in self.snapshot().steps:
            source = self.plan.step(step.name).writes or ""
            row = self.hub.source(source).stream(STREAM).info()
            end = "is not there"
            if row is not None:
                end = f"has id {row.max_id}" + (" and its end" if row.last_id >= 0 else "")
            told.append(
                f"{step.name} is {step.state}, {source}/{STREAM} {end} {step.note}".rstrip()
            )
        return "; ".join(told)

    def _thread(self, name: str, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run_pipeline(self, run: PipelineRun) -> None:
        run.run(self._stop)

    def _watch(self) -> None:
        """Follow all streams without their payloads, the last one first, as results come later."""
        results = [link.source for link in (self.chain.detector, *self.chain.steps)]
        sources = [(source, source) for source in reversed(results)]
        sources += [(GIVEN_UP, step.failures) for step in self.plan.steps]
        members = [
            (what, self.hub.source(source).group(payloads=False, ack="none").subscribe())
            for what, source in sources
        ]
        try:
            while True:
                ended = self._stop.wait(_LOOK_SECONDS)
                for source, member in members:
                    seen = list(_poll(member, given_up=source == GIVEN_UP))
                    if seen:
                        self.chain.saw(source, time.monotonic(), seen)
                self._left = self._left_for_last()
                if ended:
                    return
        finally:
            for _, member in members:
                member.close()

    def _left_for_last(self) -> int:
        """From the oldest frame that the last step is not done with to the newest one."""
        step = self.plan.steps[-1]
        stream = self.hub.source(step.reads_now.source).stream(STREAM)
        try:
            row = stream.group(step.step_id).info()
        except NotFound:
            return 0
        return len(self.chain.steps[-2].ids) + 1 - row.position if row is not None else 0


def _poll(member: Subscription, *, given_up: bool) -> Iterator[Seen]:
    """What has come, without waiting; of failures the ids of what was given up."""
    while True:
        message = member.poll()
        if not isinstance(message, Message):
            return
        meta = message.meta
        id = meta["id"] if given_up else message.id
        yield Seen(id, message.timestamp_ns, message.size, meta.get("peaks", -1))


def _cache_nbytes() -> int:
    """What the cache may have."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(CACHE_NBYTES, max(256 * limits.MIB, int(line.split()[1]) * 1024 // 8))
    return 256 * limits.MIB
