"""What a native put means: one slot, one operation of the catalog, one receipt for many messages.

A door opens a `Writer` for each channel and asks `Puts.begin` with the header of each put; the
answer is a `Job` that tells where the body is to be received, or `Wait`. Jobs of a writer reach the
catalog in the order in which they were begun, so that automatic ids follow the order of sending.
Named messages are files: they go the way of all files (`ingest`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from beamstream.errors import BadInput, TooLarge
from beamstream.model import Level, check_label
from beamstream.server import ingest as single
from beamstream.server.commits import Commits
from beamstream.server.ingest import Ingest, Wait
from beamstream.server.messages import DATA, FILE, META_ONLY, RECORD, Message, Producer, Result
from beamstream.server.payloads import Payloads, table_nbytes
from beamstream.server.put_checks import check_put
from beamstream.server.put_jobs import Job, NamedJob, Sink, Writer
from beamstream.server.put_runs import RunJob
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams
from beamstream.store.cache import Cache, Slot
from beamstream.wire.native import frames


class Puts:
    """Takes the puts of all native connections.

    Parameters
    ----------
    durability : the level of writers that ask for none.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        streams: Streams,
        commits: Commits,
        cache: Cache,
        payloads: Payloads,
        ingest: Ingest,
        stats: Stats,
        threads: Executor,
        durability: Level,
        node: int,
        boot: int,
    ) -> None:
        self.loop = loop
        self.streams = streams
        self.commits = commits
        self.cache = cache
        self.payloads = payloads
        self.ingest = ingest
        self.stats = stats
        self.threads = threads
        self.node = node
        self.boot = boot
        self.durability = int(durability)
        self._file_level = int(max(durability, Level.OS))
        self.under_way = 0

    def open(self, frame: frames.OpenWriter, producer: Producer, sink: Sink) -> Writer:
        """A writer for a channel.

        Raises
        ------
        BadName, BadInput : its names, its level or its number are not possible.
        """
        check_label("source", frame.source)
        check_label("stream", frame.stream)
        if len(frame.producer) != 16:
            raise BadInput(f"the number of a producer has 16 bytes, not {len(frame.producer)}")
        level = frame.level if frame.level != frames.DEFAULT_LEVEL else self.durability
        if level not in Level.__members__.values():
            raise BadInput(f"level {frame.level} is not known", hint="0 cache, 1 os, 2 disk")
        return Writer(frame.channel, producer, frame.stream, frame.producer, level, sink)

    def begin(
        self,
        writer: Writer,
        frame: frames.Put,
        body_nbytes: int,
        resume: Callable[[], None],
        granted: Slot | None = None,
    ) -> Job | Wait:
        """Take the header of a put whose body of `body_nbytes` follows.

        With `granted` there is no body: the client has filled that slot. It was checked by
        `check_put`, as other puts are here.

        Raises
        ------
        BadInput, Conflict, NoSpace : the put is refused; its body is to be dropped.
        """
        job: Job
        if granted is not None:
            job = RunJob(self, writer, frame, granted, granted.nbytes)
            writer.jobs.append(job)
            return job
        check_put(frame, body_nbytes)
        if frame.name:
            named = self._begin_named(writer, frame, body_nbytes, resume)
            if isinstance(named, Wait):
                return named
            job = NamedJob(writer, frame, named, self.streams)
        else:
            slot = self._slot(writer, frame, body_nbytes, resume)
            if isinstance(slot, Wait):
                return slot
            job = RunJob(self, writer, frame, slot, body_nbytes)
        writer.jobs.append(job)
        return job

    def _begin_named(
        self, writer: Writer, frame: frames.Put, nbytes: int, resume: Callable[[], None]
    ) -> single.Put | Wait:
        if nbytes and writer.level > self._file_level:
            raise BadInput(
                "this node does not sync files",
                hint="ask for level os, or start the node with --durability disk",
            )
        message = Message(
            source=writer.producer.source,
            stream=writer.stream,
            id=frame.ids[0] if frame.ids else frame.id,
            name=frame.name,
            size=nbytes,
            mode=DATA | FILE | RECORD if nbytes else META_ONLY | RECORD,
            meta=frame.metas[0] if frame.metas else b"",
            substream=frame.substream,
            expected=frame.expected,
            info=frame.infos if isinstance(frame.infos, bytes) else frame.infos[0],
            sender=writer.sender,
            sequence=frame.sequence,
            result=_result(frame.made),
        )
        return self.ingest.begin(writer.producer, message, nbytes, resume)

    def _slot(
        self, writer: Writer, frame: frames.Put, nbytes: int, resume: Callable[[], None]
    ) -> Slot | Wait | None:
        if not nbytes:
            return None
        total = nbytes + table_nbytes(frame.sizes)
        if total > self.cache.payload_nbytes_max:
            raise TooLarge(
                f"a put of {nbytes} bytes is larger than what the cache takes "
                f"({self.cache.payload_nbytes_max})",
                hint="fewer messages in one put"
                if frame.count > 1
                else "give the message a name: it is stored as a file then",
            )
        return self.ingest.allocate(writer.producer.beamtime, total, resume)


def _result(made: frames.Made | None) -> Result | None:
    """What the one message of a put was made of."""
    if made is None:
        return None
    return Result(
        made.run,
        made.source,
        made.stream,
        made.seqs[0],
        made.ks[0] if made.ks else 0,
        made.spans[0] if made.spans else b"",
    )
