"""Writers of the native lane, and their puts on the way to the catalog, in order.

Jobs of a writer reach the catalog in the order in which they were begun, so that automatic ids
follow the order of sending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from beamstream.errors import Error
from beamstream.server import ingest as single
from beamstream.server.made import Along, Settling
from beamstream.server.messages import Answer, Producer
from beamstream.server.streams import Streams
from beamstream.wire.native import frames


class Sink(Protocol):
    """Where the answers of a writer go."""

    def receipt(self, frame: frames.Receipt) -> None: ...

    def refused(self, frame: frames.Failed) -> None: ...

    def settle(self, settles: tuple[frames.Settle, ...]) -> Settling:
        """Leases of the same client are settled with a put; `StaleLease` if one has ended."""
        ...


class Writer:
    """One channel that puts into one stream."""

    __slots__ = (
        "_advancing",
        "_busy",
        "channel",
        "jobs",
        "level",
        "producer",
        "sender",
        "sink",
        "stream",
    )

    def __init__(
        self, channel: int, producer: Producer, stream: str, sender: bytes, level: int, sink: Sink
    ) -> None:
        self.channel = channel
        self.producer = producer
        self.stream = stream
        self.sender = sender
        self.level = level
        self.sink = sink
        self.jobs: deque[Job] = deque()
        self._busy = False
        self._advancing = False

    def advance(self) -> None:
        """Hand on what is ready, in order."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.jobs and self.jobs[0].ready and not self._busy:
                job = self.jobs.popleft()
                self._busy = job.holds_up
                job.submit()
        finally:
            self._advancing = False

    def ended(self, job: Job) -> None:
        """A put is answered."""
        if job.holds_up:
            self._busy = False
        self.advance()

    def refuse(self, frame: frames.Put, error: Error, lo: int = 0, hi: int = 0) -> None:
        """Answer the messages `lo` … `hi` - 1 of a put (without them: all) with an error."""
        self.sink.refused(
            frames.Failed(
                self.channel,
                frame.sequence + lo,
                (hi or frame.count) - lo,
                error.code,
                error.message,
                error.hint,
            )
        )


class Job:
    """One put that is being received, or waits for those before it.

    `memory` is where the next part of its body goes; None when there is none.
    """

    holds_up = False
    """Those behind it wait until it is answered."""

    def __init__(self, writer: Writer, frame: frames.Put) -> None:
        self.writer = writer
        self.frame = frame
        self.memory: memoryview | None = None
        self.ready = False

    def filled(self, more: Callable[[memoryview], None]) -> None:
        """The memory is full and more follows."""
        raise NotImplementedError

    def complete(self) -> None:
        """The body is there."""
        raise NotImplementedError

    def abort(self) -> None:
        """The body will not come."""
        raise NotImplementedError

    def submit(self) -> None:
        """It is this one's turn."""
        raise NotImplementedError

    def _gather(self, streams: Streams) -> Along | None:
        """What is recorded with this put, which is about to be; None: nothing.

        Raises
        ------
        StaleLease : nothing has changed.
        """
        made, producer = self.frame.made, self.writer.producer
        if made is None:
            return None
        settling = self.writer.sink.settle(made.settles) if made.settles else None
        stream = (producer.beamtime, producer.source, self.writer.stream)
        return Along(streams, stream, made.skips, settling)


class NamedJob(Job):
    """A message with a name: a file."""

    def __init__(
        self, writer: Writer, frame: frames.Put, put: single.Put, streams: Streams
    ) -> None:
        super().__init__(writer, frame)
        self._put = put
        self._streams = streams
        self.memory = put.memory
        # The file is written before its id is given.
        self.holds_up = not (frame.id or frame.ids)

    def filled(self, more: Callable[[memoryview], None]) -> None:
        self._put.filled(more)

    def complete(self) -> None:
        self.ready = True
        self.writer.advance()

    def abort(self) -> None:
        self.writer.jobs.remove(self)
        self._put.abort()
        self.writer.advance()

    def submit(self) -> None:
        try:
            self._put.along = self._gather(self._streams)
        except Error as error:
            self._put.abort()
            self.writer.refuse(self.frame, error)
            self.writer.ended(self)
            return
        self._put.complete(self._answered)

    def _answered(self, answer: Answer) -> None:
        put, writer, frame = self._put, self.writer, self.frame
        if answer.error is not None:
            writer.refuse(frame, answer.error)
        else:
            level = put.op.level if put.op is not None else writer.level
            seq = 0 if answer.duplicate else put.seq
            writer.sink.receipt(
                frames.Receipt(
                    writer.channel,
                    frame.sequence,
                    1,
                    level,
                    answer.id,
                    seq,
                    duplicate=answer.duplicate,
                )
            )
        writer.ended(self)
