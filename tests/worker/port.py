"""A node for one engine, in memory: refuses what it is told to, and remembers the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from beamstream.client.native.events import StreamEnd
from beamstream.client.native.messages import Batch
from beamstream.errors import Error
from beamstream.testing.steps import as_batch
from beamstream.worker.calling import Code, Input
from beamstream.worker.engine import Engine
from beamstream.worker.policy import OnError
from beamstream.worker.runs import RunBook
from beamstream.worker.steps import Step
from beamstream.worker.works import Publication

Refuse = Callable[[Publication], Error | None]


class Answer:
    def __init__(self, error: Error | None, ready: bool) -> None:
        self.error = error
        self.ready = ready

    def done(self) -> bool:
        return self.ready

    def exception(self, timeout: float | None = None) -> Error | None:
        self.ready = True
        return self.error


class FakePort:
    """What an engine has done, in order (`log`), and what became of each input."""

    def __init__(self) -> None:
        self.refuse: Refuse = lambda made: None
        self.slow = False
        """Answers are not there before they are waited for."""
        self.published: list[Publication] = []
        self.failed: list[dict[str, Any]] = []
        self.settled: list[int] = []
        """Seqs of inputs, by the order in which they were settled."""
        self.dead: list[int] = []
        self.given_back: list[tuple[int, float, bool]] = []
        self.finished: list[tuple[str, int | None, str]] = []
        self.closed: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.at_end = False
        self.tried = 0

    def publish(self, made: Publication) -> Answer:
        self.tried += 1
        error = self.refuse(made)
        if error is None:
            self.published.append(made)
            self.settled += [one.seq for one in made.settles]
        return Answer(error, not self.slow)

    def acknowledge(self, inputs: Sequence[Input]) -> None:
        self.settled += [one.seq for one in inputs]

    def give_back(self, message: Input, delay_s: float, *, counted: bool) -> None:
        self.given_back.append((message.seq, delay_s, counted))

    def fail(
        self, message: Input, inputs: Sequence[Input], run: int, meta: dict[str, Any]
    ) -> Answer:
        self.failed.append(meta)
        self.dead += [one.seq for one in inputs]
        return Answer(None, True)

    def finish(self, stream: str, last_id: int | None, next_stream: str) -> None:
        self.finished.append((stream, last_id, next_stream))

    def close(self, stream: str) -> None:
        self.closed.append(stream)

    def run(self, document: Mapping[str, Any]) -> int:
        found = dict(document)
        if found not in self.runs:
            self.runs.append(found)
        return self.runs.index(found) + 1

    def read_to_its_end(self, source: str, stream: str, id: int) -> bool:
        return self.at_end

    # ------------------------------------------------------------------ results

    @property
    def values(self) -> list[tuple[int | None, Any]]:
        """Ids and payloads, in the order in which they were published."""
        found: list[tuple[int | None, Any]] = []
        for made in self.published:
            ids = made.ids if made.ids is not None else [None] * len(made.values)
            found += zip(ids, made.values, strict=True)
        return found

    @property
    def skips(self) -> list[tuple[int, int]]:
        return [one for made in self.published for one in made.skips]


class Clock:
    """Time that passes by being waited for."""

    def __init__(self, ending_after: int = 10**9) -> None:
        self.now = 0.0
        self.pauses: deque[float] = deque()
        self._left = ending_after

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        self._left -= 1
        return self._left < 0


def engine_of(
    step: Step, port: FakePort, *, on_error: OnError | None = None, clock: Clock | None = None,
    ending: Callable[[], bool] = lambda: False, **parameters: Any,
) -> Engine:  # fmt: skip
    """An engine for a step, at that port."""
    clock = clock or Clock()
    book = RunBook(
        lambda values, version, header: {"values": dict(values), "v": version, "h": header},
        port.run,
    )
    return Engine(
        step, Code(step, parameters), port, book, step_id="p.step", worker="w1",
        on_error=on_error or OnError(), clock=clock, time_ns=lambda: 1_000, pause=clock.pause,
        writes=step.writes, ending=ending,
    )  # fmt: skip


def batch_of(values: Sequence[bytes], first: int = 1, ids: Sequence[int] | None = None) -> Batch:
    """Messages with ids (and seqs) from `first` on."""
    return as_batch(
        list(values), ids=ids or list(range(first, first + len(values))), seq=first, source="det"
    )


def end_of(last_id: int, next_stream: str = "") -> StreamEnd:
    return StreamEnd("det", "stream", "finished", next_stream, last_id)
