"""Messages without names on their way: cache, segment, catalog, readers, receipts.

At level `cache` the record is committed on the event loop. At `os` and `disk` the thread of the
commits first appends the body to the log of the beamtime.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from beamstream import limits
from beamstream.errors import Error, ReadOnly
from beamstream.model import NO_META, Dataset, Level, Place
from beamstream.server.blocks import Block
from beamstream.server.commits import Prepared
from beamstream.server.made import Along
from beamstream.server.messages import DATA, FILE, META_ONLY, RECORD
from beamstream.server.put_checks import hashed, plain_metas, wants_hashing
from beamstream.server.put_jobs import Job, Writer
from beamstream.server.streams import View
from beamstream.store import catalog as ops
from beamstream.store.cache import Slot
from beamstream.wire.native import frames

if TYPE_CHECKING:
    from beamstream.server.puts import Puts

_CACHE_LEVEL, _DISK_LEVEL = int(Level.CACHE), int(Level.DISK)
_NOWHERE, _IN_CACHE, _IN_SEGMENT = int(Place.NOWHERE), int(Place.CACHE), int(Place.SEGMENT)
_HASH_INLINE_NBYTES: Final = limits.MIB
# As readers of ASAPO understand them: what is not in memory any more is asked for as a file.
_MODES: Final = {
    _NOWHERE: META_ONLY | RECORD,
    _IN_CACHE: DATA | RECORD,
    _IN_SEGMENT: DATA | FILE | RECORD,
}


_NOT_MADE: Final = frames.Made(0, "", "", ())


class RunJob(Job):
    """Messages without names, or one part of a dataset."""

    def __init__(
        self, puts: Puts, writer: Writer, frame: frames.Put, slot: Slot | None, nbytes: int
    ) -> None:
        super().__init__(writer, frame)
        self._puts = puts
        self._slot = slot
        if slot is not None:
            self.memory = puts.cache.view(slot)[:nbytes]
        self._view = puts.streams.view(
            writer.producer.beamtime, writer.producer.source, writer.stream
        )
        self._view.busy += 1
        puts.under_way += 1
        self._digests = frame.digests if nbytes else b""
        self._metas = plain_metas(frame.metas)
        self._arrived_ns = 0
        self._place = _NOWHERE
        self._where = (0, 0)
        self._showing = 0
        self._along: Along | None = None

    def complete(self) -> None:
        self._arrived_ns = time.time_ns()
        memory = self.memory
        if memory is not None and wants_hashing(self.frame):
            if memory.nbytes > _HASH_INLINE_NBYTES:
                self._puts.threads.submit(self._hash, memory)
                return
            self._digests = hashed(self.frame, memory)
        self._is_ready()

    def _hash(self, memory: memoryview) -> None:
        """In a thread."""
        digests = hashed(self.frame, memory)
        self._puts.loop.call_soon_threadsafe(self._is_hashed, digests)

    def _is_hashed(self, digests: bytes) -> None:
        self._digests = digests
        self._is_ready()

    def _is_ready(self) -> None:
        self.ready = True
        self.writer.advance()

    def abort(self) -> None:
        self.writer.jobs.remove(self)
        self._release()
        self.writer.advance()

    # ------------------------------------------------------------------ into the catalog

    def submit(self) -> None:
        puts, beamtime, level = self._puts, self.writer.producer.beamtime, self.writer.level
        try:
            self._along = self._gather(puts.streams)
        except Error as error:
            self._refuse(error)
            return
        if self.frame.substream and level >= _DISK_LEVEL:
            self._hide()
        if self.memory is None or level <= _CACHE_LEVEL:
            if self.memory is not None:
                self._place = _IN_CACHE
            self._record()
            return
        self._place = _IN_SEGMENT
        puts.commits.submit_prepared(
            Prepared(
                beamtime, self.memory, self._placed, self._recorded, syncs=level >= _DISK_LEVEL
            )
        )

    def _placed(self, segment: int, position: int) -> Sequence[ops.Op]:
        """In the thread of the commits: the body is written."""
        self._where = (segment, position)
        return self._ops()

    def _record(self) -> None:
        """Submit what needs no body to be written, or no more."""
        commits = self._puts.commits
        submit = commits.submit_synced if self.writer.level >= _DISK_LEVEL else commits.submit
        submit(self.writer.producer.beamtime, self._ops(), self._recorded)

    def _ops(self) -> Sequence[ops.Op]:
        op = self._op()
        return (op,) if self._along is None else (self._along.unit(op),)

    def _op(self) -> ops.Put | ops.PutMany:
        frame, writer, puts = self.frame, self.writer, self._puts
        segment, position = self._where
        if frame.substream:
            return ops.Put(
                source=writer.producer.source,
                stream=writer.stream,
                id=frame.ids[0] if frame.ids else frame.id,
                name="",
                size=frame.sizes[0],
                digest=self._digests,
                meta=self._metas[0] if self._metas else NO_META,
                timestamp_ns=self._arrived_ns,
                arrived_ns=self._arrived_ns,
                mode=_MODES[self._place],
                level=writer.level,
                place=self._place,
                substream=frame.substream,
                expected=frame.expected,
                node=puts.node,
                boot=puts.boot,
                segment=segment,
                position=position,
                info=frame.infos if isinstance(frame.infos, bytes) else frame.infos[0],
                producer=writer.sender,
                sequence=frame.sequence,
            )
        made = frame.made or _NOT_MADE
        return ops.PutMany(
            source=writer.producer.source,
            stream=writer.stream,
            id=frame.id,
            ids=frame.ids,
            sizes=frame.sizes,
            digests=self._digests,
            metas=self._metas,
            infos=frame.infos,
            names=None,
            timestamp_ns=self._arrived_ns,
            arrived_ns=self._arrived_ns,
            mode=_MODES[self._place],
            level=writer.level,
            place=self._place,
            segment=segment,
            position=position,
            node=puts.node,
            boot=puts.boot,
            producer=writer.sender,
            sequence=frame.sequence,
            run=made.run,
            input_source=made.source,
            input_stream=made.stream,
            input_seqs=made.seqs or None,
            result_ks=made.ks,
            spans=made.spans,
        )

    def _hide(self) -> None:
        """A part of a dataset is not seen before it is safe; one that was there before is."""
        part = self._part_key
        item = self._puts.streams.item_by_id(self._view, part[0])
        there = isinstance(item, Dataset) and any(
            known.substream == part[1] for known in item.parts
        )
        if not there:
            self._view.hidden_parts.add(part)

    @property
    def _part_key(self) -> tuple[int, int]:
        frame = self.frame
        return (frame.ids[0] if frame.ids else frame.id), frame.substream

    # ------------------------------------------------------------------ out of the catalog

    def _recorded(self, outcome: Sequence[ops.Result] | Error) -> None:
        along = self._along
        if along is not None:
            if along.narrowed(outcome, self._puts.streams.catalog):
                self._record()
                return
            outcome = along.ended(outcome)
        self._take(outcome)
        if along is not None and not isinstance(outcome, Error):
            along.show(_shown)

    def _take(self, outcome: Sequence[ops.Result] | Error) -> None:
        result = outcome if isinstance(outcome, Error) else outcome[0]
        match result:
            case ops.StoredMany() as stored:
                self._show(stored)
            case ops.Stored() as one:
                self._show_part(one)
            case ops.Duplicate() as duplicate:
                self._receipt(0, 1, duplicate.id, None, 0, duplicate=True)
                self._end()
            case ops.Conflicted() | ops.Refused() as refused:
                self._refuse(refused.error)
            case Error() as error:
                self._refuse(error)
                if isinstance(error, ReadOnly):
                    self._puts.streams.fail(self._view, error)
            case other:
                raise AssertionError(f"a put has the result {other!r}")

    def _refuse(self, error: Error) -> None:
        self.writer.refuse(self.frame, error)
        self._end()

    def _show(self, stored: ops.StoredMany) -> None:
        frame, writer, count = self.frame, self.writer, self.frame.count
        for lo, hi in stored.duplicates:
            self._receipt(lo, hi, stored.id, stored.ids, 0, duplicate=True)
        for index, error in stored.failures:
            writer.refuse(frame, error, index, index + 1)
        if not stored.count:
            self._end()
            return
        whole = self._block(stored)
        shown: list[tuple[int, Block]] = []
        seq = stored.seq
        for lo, hi in stored.new(count):
            shown.append((lo, whole.slice(lo, hi, seq)))
            seq += hi - lo
        if self._slot is not None:
            stream = (writer.producer.beamtime, stored.stream.no)
            self._puts.payloads.publish(stream, self._slot, frame.sizes, shown)
        view = self._begun(sum(frame.sizes), count)
        self._showing = len(shown)
        for lo, block in shown:
            self._puts.streams.show_block(
                view, stored.stream, block, self._then(lo, lo + block.count, stored, block.seq)
            )

    def _block(self, stored: ops.StoredMany) -> Block:
        frame, puts = self.frame, self._puts
        return Block(
            seq=stored.seq,
            ids=stored.ids if stored.ids is not None else range(stored.id, stored.id + frame.count),
            sizes=frame.sizes,
            digests=self._digests,
            metas=self._metas,
            infos=frame.infos,
            timestamp_ns=self._arrived_ns,
            arrived_ns=self._arrived_ns,
            mode=_MODES[self._place],
            level=self.writer.level,
            place=self._place,
            node=puts.node,
            boot=puts.boot,
            slot=self._slot,
            segment=self._where[0],
            position=self._where[1],
            run=frame.made.run if frame.made is not None else 0,
        )

    def _begun(self, nbytes: int, count: int) -> View:
        """The view as it is now: the stream may have been deleted and begun anew meanwhile."""
        producer, puts = self.writer.producer, self._puts
        puts.stats.arrived(producer.beamtime, producer.source, producer.who, nbytes, count)
        return puts.streams.view(producer.beamtime, producer.source, self.writer.stream)

    def _then(
        self, lo: int, hi: int, stored: ops.StoredMany, seq: int
    ) -> Callable[[Error | None], None]:
        def shown(error: Error | None) -> None:
            if error is not None:
                self.writer.refuse(self.frame, error, lo, hi)
            else:
                self._receipt(lo, hi, stored.id, stored.ids, seq)
            self._showing -= 1
            if not self._showing:
                self._end()

        return shown

    def _show_part(self, stored: ops.Stored) -> None:
        op = self._op()
        assert isinstance(op, ops.Put)
        record = stored.record(op)
        view = self._begun(op.size, 1)
        if self._slot is not None:
            key = (view.beamtime, stored.stream.no, stored.seq, op.substream)
            self._puts.cache.publish(self._slot, key)

        def shown(error: Error | None) -> None:
            if error is not None:
                self.writer.refuse(self.frame, error)
            else:
                self._receipt(0, 1, stored.id, None, stored.seq)
            self._end()

        self._puts.streams.show(view, stored.stream, stored.seq, stored.id, record, shown)

    def _receipt(
        self,
        lo: int,
        hi: int,
        id: int,
        ids: tuple[int, ...] | None,
        seq: int,
        *,
        duplicate: bool = False,
    ) -> None:
        """The messages `lo` … `hi` - 1 are stored; `id` is that of message 0."""
        writer = self.writer
        if ids is not None:
            ids = ids[lo:hi]
        writer.sink.receipt(
            frames.Receipt(
                writer.channel,
                self.frame.sequence + lo,
                hi - lo,
                writer.level,
                ids[0] if ids is not None else id + lo,
                seq,
                ids,
                duplicate,
            )
        )

    def _end(self) -> None:
        self._release()
        self.writer.ended(self)

    def _release(self) -> None:
        puts, slot = self._puts, self._slot
        if self.frame.substream:
            self._view.hidden_parts.discard(self._part_key)
        self._view.busy -= 1
        puts.under_way -= 1
        self._slot = self.memory = None
        if slot is not None:
            if slot.key is None:
                puts.cache.discard(slot)
            else:
                puts.cache.unpin(slot)
            puts.ingest.room()


def _shown(error: Error | None) -> None:
    """Whether the skips are seen is told to nobody; the messages before them are."""
