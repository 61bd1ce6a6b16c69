"""A node with a page, and the demo's pipeline on it: what the page is looked at with."""

from __future__ import annotations

import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from numpy.typing import NDArray

from beamstream.cli.demo_feed import Feed, simulated
from beamstream.cli.demo_pipeline import PIPELINE
from beamstream.client.native.hub import Hub, connect
from beamstream.client.native.places import Access
from beamstream.testing.detector import SimulatedDetector
from beamstream.testing.node import NodeProcess
from beamstream.worker.pipelines.plan import load_plan
from beamstream.worker.pipelines.running import PipelineRun

BEAMTIME: Final = "demo"
DETECTOR: Final = "detector"
STREAM: Final = "scan1"
START_S: Final = 60.0
_LOOK_S: Final = 0.1


class Floor:
    """A node with its monitor; with `rate_hz` a detector and the workers of the demo's pipeline."""

    def __init__(
        self, *, rate_hz: float = 0.0, shape: tuple[int, int] = (256, 256), cache: str = "512MiB"
    ) -> None:
        self.node = NodeProcess(monitor=True, cache=cache, durability="cache")
        self._rate_hz = rate_hz
        self._shape = shape
        self._folder = Path(tempfile.mkdtemp(prefix="beamstream-page-"))
        self._stop = threading.Event()
        self._run: PipelineRun | None = None
        self._thread: threading.Thread | None = None
        self.feed: Feed | None = None

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{self.node.endpoint}/ui/"

    def connect(self) -> Hub:
        told = self.node.connect
        return connect(str(told["url"]), beamtime=BEAMTIME, token=str(told["token"]))

    def __enter__(self) -> Self:
        self.node.__enter__()
        try:
            self.hub = self.connect()
            self._wait(self._page_is_there)
            if self._rate_hz:
                self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.feed is not None:
                self.feed.stop.set()
                self.feed.finish()
            self._stop.set()
            if self._thread is not None:
                self._thread.join()
            if self._run is not None:
                self._run.close()
            if hasattr(self, "hub"):
                self.hub.close(1.0)
        finally:
            self.node.__exit__(kind, error, traceback)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> None:
        access = Access(str(self.node.connect["url"]), BEAMTIME, str(self.node.connect["token"]))
        run = PipelineRun(load_plan(PIPELINE), self.connect, access, self._folder).start()
        self._run = run
        self._thread = threading.Thread(target=run.run, args=(self._stop,), daemon=True)
        self._thread.start()
        self._wait(lambda: run.snapshot().all_running)
        stream = self.hub.source(DETECTOR).stream(STREAM)
        stream.set_meta(SimulatedDetector(self._shape).header())
        writer = stream.writer(finish=False)

        def send(id: int, frame: NDArray[Any], meta: dict[str, Any]) -> Callable[[], object]:
            return writer.send(frame, meta, id=id).result

        self.feed = Feed(send, simulated(self._shape), self._rate_hz, end=lambda _: writer.close())
        self.feed.start()

    def _page_is_there(self) -> bool:
        request = f"http://{self.node.endpoint}/api/v1/overview"
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _wait(self, done: Callable[[], bool]) -> None:
        for _ in range(int(START_S / _LOOK_S)):
            if done():
                return
            self._stop.wait(_LOOK_S)
        raise AssertionError(f"not there within {START_S:g} s:\n{self.node.log_tail()}")
