"""What a put means: checks, reservation, payload, file, record, answer. No sockets.

A door asks `Ingest.begin` with the header of a message; the answer is a `Put` that tells where the
payload is to be received, or `Wait` (try again when called), or an error. When the payload is
there it calls `Put.complete`, which answers through a callback when the message is visible at its
level. Ids and paths are reserved from `begin` on: a second send of either waits for the first to
end and is then a duplicate or a conflict, so nothing is written twice and nothing over another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import msgspec

from beamstream import limits
from beamstream.errors import BadInput, Error, ReadOnly, StreamFinished, TooLarge
from beamstream.model import (
    NO_META,
    Dataset,
    Level,
    Place,
    Root,
    check_label,
    check_metadata,
)
from beamstream.server.commits import Batch, Commits
from beamstream.server.made import Along
from beamstream.server.messages import (
    FILE,
    META_ONLY,
    RECORD,
    TO_CORE,
    Answer,
    Message,
    Producer,
    Reply,
    Result,
    check_message,
)
from beamstream.server.roots import Roots
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.server.writers import FileWriters, StreamedFile
from beamstream.store import catalog as ops
from beamstream.store.cache import Cache, Slot
from beamstream.store.files import OpenFolder, digest_of

# Plain integers: enumerations cost more than they tell where every message passes.
_CACHE_LEVEL, _DISK_LEVEL = int(Level.CACHE), int(Level.DISK)
_NOWHERE, _IN_CACHE, _IN_FILE = int(Place.NOWHERE), int(Place.CACHE), int(Place.FILE)

_NOT_MADE = Result(0, "", "", 0, -1)

_HASH_INLINE_NBYTES = limits.MIB
"""Hashing this much takes less time than handing it to a thread and back."""


class Wait:
    """The message cannot be taken now; `resume` will be called when it is worth trying again."""


WAIT = Wait()


class Put:
    """One message that is being received.

    `memory` is where the next part of its payload goes; None when no payload follows. When it is
    full, `filled` gives the next one (or None, and calls `more` later), and at the end `complete`
    is called; `abort` if the peer goes away.
    """

    __slots__ = (
        "_ingest",
        "along",
        "arrived_ns",
        "existing",
        "key",
        "memory",
        "message",
        "op",
        "path_key",
        "producer",
        "reply",
        "root",
        "seq",
        "slot",
        "streamed",
        "view",
    )

    def __init__(self, ingest: Ingest, producer: Producer, message: Message, view: View) -> None:
        self._ingest = ingest
        self.producer = producer
        self.message = message
        self.view = view
        self.slot: Slot | None = None
        self.memory: memoryview | None = None
        self.key: tuple[View, int, int] | None = None
        self.path_key: tuple[str, int, str] | None = None
        self.existing = False
        self.root = Root.CORE
        self.arrived_ns = 0
        self.reply: Reply | None = None
        self.seq = 0
        """Of the item, once it is recorded."""
        self.op: ops.Put | None = None
        self.along: Along | None = None
        """What is recorded with it, of a result."""
        self.streamed: StreamedFile | None = None

    def filled(self, more: Callable[[memoryview], None]) -> None:
        """The memory is full and more follows; `more` is called with the next memory."""
        assert self.streamed is not None
        self.streamed.filled(more)

    def complete(self, reply: Reply) -> None:
        """The payload is there; `reply` is called once, on the event loop."""
        self.arrived_ns = time.time_ns()
        self.reply = reply
        self._ingest.received(self)

    def abort(self) -> None:
        """The payload will not come: leave nothing behind."""
        if self.streamed is not None:
            self.streamed.abort()
        else:
            self._ingest.release(self)


class Ingest:
    """Takes messages for all doors.

    Parameters
    ----------
    durability : the level of messages that are stored as files.
    threads : where files are written.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        streams: Streams,
        commits: Commits,
        cache: Cache,
        roots: Roots,
        stats: Stats,
        threads: Executor,
        durability: Level,
        node: int,
        boot: int,
    ) -> None:
        self.loop = loop
        self._streams = streams
        self._commits = commits
        self._cache = cache
        self._roots = roots
        self._stats = stats
        self._threads = threads
        self._syncs = durability >= Level.DISK
        self._file_level = int(max(durability, Level.OS))
        self._meta_level = int(durability)
        self._node = node
        self._boot = boot
        self._writers = FileWriters(self, roots, threads, sync=self._syncs)
        self._reserved: dict[object, list[Callable[[], None]]] = {}
        self._for_room: deque[Callable[[], None]] = deque()
        self.under_way = 0

    # ------------------------------------------------------------------ beginning

    def begin(
        self, producer: Producer, message: Message, nbytes: int, resume: Callable[[], None]
    ) -> Put | Wait:
        """Take the header of a message whose payload of `nbytes` follows.

        Raises
        ------
        BadInput, Conflict, NoSpace : the message is refused; its payload is to be dropped.
        """
        check_message(producer, message, nbytes)
        view = self._streams.view(producer.beamtime, message.source, message.stream)
        if view.finished and message.id > view.last_id and message.mode & (RECORD | META_ONLY):
            raise StreamFinished(
                f"stream {view.name!r} ends with id {view.last_id}; {message.id} is not taken"
            )
        put = Put(self, producer, message, view)
        if message.id:
            put.key = (view, message.id, message.substream)
        stores = bool(message.mode & FILE)
        if stores:
            put.root = producer.folders.place(
                raw=producer.raw, to_core=bool(message.mode & TO_CORE)
            )
            put.path_key = (producer.beamtime, put.root, message.name)
        for key in (put.key, put.path_key):
            if key is not None and key in self._reserved:
                self._reserved[key].append(resume)
                return WAIT
        if stores:
            put.existing = bool(message.mode & RECORD) and self._exists(put)
        if nbytes and not self._allocate(put, nbytes):
            self._for_room.append(resume)
            return WAIT
        for key in (put.key, put.path_key):
            if key is not None:
                self._reserved[key] = []
        view.busy += 1
        self.under_way += 1
        return put

    def give_up(self, resume: Callable[[], None]) -> None:
        """Nobody waits with this `resume` any more."""
        if resume in self._for_room:
            self._for_room.remove(resume)
        for waiting in self._reserved.values():
            if resume in waiting:
                waiting.remove(resume)

    def _exists(self, put: Put) -> bool:
        """There is a message of this id: its payload is compared, not written."""
        if put.message.result is not None and self._made_before(put, put.message.result):
            return True
        if not put.message.id or put.message.id > put.view.max_id:
            return False
        item = self._streams.item_by_id(put.view, put.message.id)
        if isinstance(item, Dataset):
            return any(part.substream == put.message.substream for part in item.parts)
        return item is not None

    def _made_before(self, put: Put, result: Result) -> bool:
        """There is this result, under whatever id: its file stays, even if this one differs."""
        found = self._streams.catalog.file(put.producer.beamtime, put.message.name)
        if found is None:
            return False
        source, stream, record = found
        return (source, stream) == (put.message.source, put.message.stream) and result == Result(
            record.run,
            record.input_source,
            record.input_stream,
            record.input_seq,
            record.result_k,
            record.span,
        )

    def _allocate(self, put: Put, nbytes: int) -> bool:
        """Give the put memory for its payload; False when there is none just now."""
        stores = bool(put.message.mode & FILE)
        if stores and not put.existing:
            self._roots.check_space(put.producer.folders, put.root, nbytes)
        if nbytes > self._cache.payload_nbytes_max:
            if not stores:
                raise TooLarge(
                    f"a message of {nbytes} bytes is larger than what the cache takes "
                    f"({self._cache.payload_nbytes_max})",
                    hint="send it to be stored as a file, or start the node with a larger --cache",
                )
            size = min(StreamedFile.WINDOW_NBYTES, self._cache.payload_nbytes_max)
            window = self._cache.allocate(put.producer.beamtime, size)
            if window is None:
                return False
            put.slot = window
            put.streamed = self._writers.stream(put, self._cache.view(window), nbytes)
            put.memory = put.streamed.first()
            return True
        put.slot = self._cache.allocate(put.producer.beamtime, nbytes)
        if put.slot is None:
            return False
        put.memory = self._cache.view(put.slot)
        return True

    # ------------------------------------------------------------------ the payload is there

    def received(self, put: Put) -> None:
        mode = put.message.mode
        if (
            put.message.substream
            and self._syncs
            and (mode & META_ONLY or (mode & FILE and mode & RECORD))
        ):
            self._hide(put)
        if put.streamed is not None:
            put.streamed.finish()
        elif mode & FILE and not put.existing:
            self._writers.write(put)
        elif put.memory is None:
            self._record(put, b"")
        elif put.memory.nbytes <= _HASH_INLINE_NBYTES:
            self._record(put, digest_of(put.memory))
        else:
            self._threads.submit(self._hash, put, put.memory)

    def _hide(self, put: Put) -> None:
        """A part of a dataset is not seen before it is safe; one that was there before is."""
        if not (put.existing or self._exists(put)):
            put.view.hidden_parts.add((put.message.id, put.message.substream))

    def _hash(self, put: Put, memory: memoryview) -> None:
        self.hashed(put, digest_of(memory))

    def written(self, puts: Sequence[tuple[Put, bytes, OpenFolder]]) -> None:
        """In a thread: these files have their names; each with digest and folder."""
        if self._syncs:
            self._commits.submit_all_synced(
                [self._synced_batch(put, digest, folder) for put, digest, folder in puts]
            )
        else:
            self.loop.call_soon_threadsafe(self._record_all, [put[:2] for put in puts])

    def _synced_batch(self, put: Put, digest: bytes, folder: OpenFolder) -> Batch:
        return Batch(
            put.view.beamtime,
            self._ops(put, self._op(put, digest)) if put.message.mode & RECORD else (),
            lambda outcome: self._recorded(put, outcome),
            [folder],
        )

    def _record_all(self, puts: Sequence[tuple[Put, bytes]]) -> None:
        for put, digest in puts:
            if put.message.mode & RECORD:
                self._record(put, digest)
            else:
                self._end(put)

    def hashed(self, put: Put, digest: bytes) -> None:
        """In a thread: the payload need not be written, its digest is known."""
        self.loop.call_soon_threadsafe(self._record, put, digest)

    def failed(self, put: Put, error: Error) -> None:
        """In a thread: the file could not be written."""
        self.loop.call_soon_threadsafe(self._failed, put, error)

    def _failed(self, put: Put, error: Error) -> None:
        if put.along is not None:
            put.along.ended(error)
        self._refuse(put, error)

    # ------------------------------------------------------------------ the record

    def _ops(self, put: Put, op: ops.Put) -> Sequence[ops.Op]:
        return (op,) if put.along is None else (put.along.unit(op),)

    def _op(self, put: Put, digest: bytes) -> ops.Put:
        """The operation that records a put; it is kept with it."""
        message = put.message
        if message.mode & FILE:
            place, level = _IN_FILE, self._file_level
        elif message.mode & META_ONLY:
            place, level = _NOWHERE, self._meta_level
        else:
            place, level = _IN_CACHE if put.slot is not None else _NOWHERE, _CACHE_LEVEL
        made = message.result or _NOT_MADE
        put.op = op = ops.Put(
            source=message.source,
            stream=message.stream,
            id=message.id,
            name=message.name,
            size=message.size,
            digest=digest,
            meta=message.meta or NO_META,
            timestamp_ns=put.arrived_ns,
            arrived_ns=put.arrived_ns,
            mode=message.mode,
            level=level,
            place=place,
            root=put.root,
            substream=message.substream,
            expected=message.expected,
            node=self._node,
            boot=self._boot,
            info=message.info,
            producer=message.sender,
            sequence=message.sequence,
            run=made.run,
            input_source=made.source,
            input_stream=made.stream,
            input_seq=made.seq,
            result_k=made.k,
            span=made.span,
        )
        return op

    def _record(self, put: Put, digest: bytes) -> None:
        self._submit(put, self._op(put, digest))

    def _submit(self, put: Put, op: ops.Put) -> None:
        submit = self._commits.submit
        if op.level >= _DISK_LEVEL:
            submit = self._commits.submit_synced
        batch = self._ops(put, op)
        submit(put.view.beamtime, batch, lambda outcome: self._recorded(put, outcome))

    def _recorded(self, put: Put, outcome: Sequence[ops.Result] | Error) -> None:
        along = put.along
        if along is not None:
            if put.op is not None and along.narrowed(outcome, self._streams.catalog):
                self._submit(put, put.op)
                return
            outcome = along.ended(outcome)
        self._take(put, outcome)
        if along is not None and not isinstance(outcome, Error):
            along.show(_shown)

    def _take(self, put: Put, outcome: Sequence[ops.Result] | Error) -> None:
        if isinstance(outcome, Error):
            self._refuse(put, outcome)
            if isinstance(outcome, ReadOnly):
                self._streams.fail(put.view, outcome)
            return
        if not outcome:
            self._end(put)
            return
        match outcome[0]:
            case ops.Stored() as stored:
                self._show(put, stored)
            case ops.Duplicate() as duplicate:
                put.view.hidden_parts.discard((put.message.id, put.message.substream))
                self._restore(put, duplicate)
                put.view.hidden_parts.discard((put.message.id, put.message.substream))
                self._answer(put, Answer(duplicate.id, duplicate=True))
            case ops.Conflicted() | ops.Refused() as refused:
                self._refuse(put, refused.error)
            case other:
                raise AssertionError(f"a put has the result {other!r}")

    def _show(self, put: Put, stored: ops.Stored) -> None:
        message = put.message
        # Not the view of the beginning: the stream may have been deleted and begun anew since.
        view = self._streams.view(put.producer.beamtime, message.source, message.stream)
        op = put.op
        assert op is not None
        record = stored.record(op)
        put.seq = stored.seq
        slot = put.slot
        if slot is not None and put.streamed is None:
            self._cache.publish(
                slot, (view.beamtime, stored.stream.no, stored.seq, message.substream)
            )
        self._stats.arrived(put.producer.beamtime, message.source, put.producer.who, message.size)
        if record.place == Place.FILE:
            self._stats.wrote_file(record.size)
        self._streams.show(
            view,
            stored.stream,
            stored.seq,
            stored.id,
            record,
            lambda error: self._answer(put, Answer(stored.id, error=error)),
        )

    def _restore(self, put: Put, duplicate: ops.Duplicate) -> None:
        """The same message again: if its payload has left the cache, this one takes its place."""
        record, slot = duplicate.record, put.slot
        if record is None or slot is None or put.streamed is not None or put.op is None:
            return
        if record.digest != put.op.digest:
            # Another try at the same result has other bytes; those that were first stay.
            return
        key = (put.view.beamtime, duplicate.stream.no, record.seq, record.substream)
        if self._cache.find(key) is None:
            self._cache.publish(slot, key)

    # ------------------------------------------------------------------ the end

    def _end(self, put: Put) -> None:
        """A file without a record."""
        self._stats.wrote_file(put.message.size)
        self._stats.arrived(
            put.producer.beamtime, put.message.source, put.producer.who, put.message.size
        )
        self._answer(put, Answer(put.message.id))

    def _refuse(self, put: Put, error: Error) -> None:
        put.view.hidden_parts.discard((put.message.id, put.message.substream))
        self._answer(put, Answer(put.message.id, error=error))

    def _answer(self, put: Put, answer: Answer) -> None:
        self.release(put)
        if put.reply is not None:
            put.reply(answer)

    def release(self, put: Put) -> None:
        """Give up reservations and memory, and let those try who waited for them."""
        put.view.busy -= 1
        self.under_way -= 1
        resumes: list[Callable[[], None]] = []
        for key in (put.key, put.path_key):
            if key is not None:
                resumes += self._reserved.pop(key, ())
        slot, put.slot, put.memory = put.slot, None, None
        if slot is not None:
            if slot.key is None:
                self._cache.discard(slot)
            else:
                self._cache.unpin(slot)
        for resume in resumes:
            self.loop.call_soon(resume)
        if self._for_room:
            self.room()

    def close(self) -> None:
        self._writers.close()

    def room(self) -> None:
        """Something was unpinned: let those try who wait for room in the cache."""
        waiting, self._for_room = self._for_room, deque()
        for resume in waiting:
            self.loop.call_soon(resume)

    # ------------------------------------------------------------------ finish, metadata

    def finish(
        self,
        producer: Producer,
        source: str,
        stream: str,
        last_id: int,
        next_stream: str,
        reply: Reply,
    ) -> None:
        """Announce the end of a stream.

        Raises
        ------
        BadName : of the stream or the next one.
        """
        check_label("stream", stream)
        if next_stream:
            check_label("next stream", next_stream)
        if not 0 <= last_id < limits.ID_MAX:
            raise BadInput(f"a stream cannot end with id {last_id}")
        view = self._streams.view(producer.beamtime, source, stream)
        now_ns = time.time_ns()
        op = ops.Finish(source, stream, last_id, next_stream, now_ns)

        def done(outcome: Sequence[ops.Result] | Error) -> None:
            view.busy -= 1
            result = outcome if isinstance(outcome, Error) else outcome[0]
            match result:
                case ops.Done(stream=info) if info is not None:
                    self._streams.show_finish(view, info, now_ns)
                    reply(Answer(last_id + 1))
                case ops.Duplicate():
                    reply(Answer(last_id + 1, duplicate=True))
                case Error() as error:
                    reply(Answer(error=error))
                case ops.Conflicted() | ops.Refused() as refused:
                    reply(Answer(error=refused.error))
                case other:
                    raise AssertionError(f"a finish has the result {other!r}")

        view.busy += 1
        self.submit_safe(producer.beamtime, (op,), done)

    def document(self, producer: Producer, nbytes: int, resume: Callable[[], None]) -> Slot | Wait:
        """Memory for metadata that is about to be received; to be given back with `drop`.

        Raises
        ------
        TooLarge : more than the cache takes.
        """
        if nbytes > self._cache.payload_nbytes_max:
            raise TooLarge(f"metadata of {nbytes} bytes is larger than what the cache takes")
        return self.allocate(producer.beamtime, nbytes, resume)

    def allocate(self, beamtime: str, nbytes: int, resume: Callable[[], None]) -> Slot | Wait:
        """Memory that the cache takes; `resume` is called when it is worth trying again."""
        slot = self._cache.allocate(beamtime, nbytes)
        if slot is None:
            self._for_room.append(resume)
            return WAIT
        return slot

    def wait_for_room(self, resume: Callable[[], None]) -> None:
        """Have `resume` called once, when something was unpinned."""
        self._for_room.append(resume)

    def view_of(self, slot: Slot) -> memoryview:
        return self._cache.view(slot)

    def drop(self, slot: Slot) -> None:
        self._cache.discard(slot)
        self.room()

    def write_meta(self, producer: Producer, op: ops.Meta, reply: Reply) -> None:
        """Write metadata of a stream or of the source's beamtime.

        Raises
        ------
        BadName, BadMetadata, TooLarge : nothing was written.
        """
        if op.stream:
            check_label("stream", op.stream)
        check_metadata(op.document, limits.STREAM_META_NBYTES_MAX)
        op = msgspec.structs.replace(op, changed_ns=time.time_ns())

        def done(outcome: Sequence[ops.Result] | Error) -> None:
            result = outcome if isinstance(outcome, Error) else outcome[0]
            match result:
                case ops.Done():
                    if op.stream:
                        self._streams.header_changed(producer.beamtime, op.source, op.stream)
                    reply(Answer())
                case Error() as error:
                    reply(Answer(error=error))
                case ops.Refused() | ops.Conflicted() as refused:
                    reply(Answer(error=refused.error))
                case other:
                    raise AssertionError(f"metadata has the result {other!r}")

        self.submit_safe(producer.beamtime, (op,), done)

    def submit_safe(
        self,
        beamtime: str,
        batch: Sequence[ops.Op],
        done: Callable[[Sequence[ops.Result] | Error], None],
    ) -> None:
        """Apply at level `disk`, unless the node is set lower."""
        submit = self._commits.submit_synced if self._syncs else self._commits.submit
        submit(beamtime, batch, done)


def _shown(error: Error | None) -> None:
    """Whether the skips are seen is told to nobody; the message before them is."""
