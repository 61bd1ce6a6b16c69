"""Where payloads are: in a slot of the cache, in a file, in a segment, or gone.

Messages that came together share one slot. It is found by any of their seqs; where their sizes
differ, a table of offsets lies behind the payloads in the slot itself, so that what has to be
remembered of a slot does not grow with its messages.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from struct import Struct
from typing import Final, NamedTuple, Protocol

from beamstream.errors import DataLost, Error
from beamstream.model import Dataset, Item, Place, Record
from beamstream.server.beamtimes import Beamtimes
from beamstream.server.blocks import Block
from beamstream.server.roots import Roots
from beamstream.server.segment_logs import SegmentLogs
from beamstream.server.streams import Streams, View
from beamstream.store.beneath import open_beneath
from beamstream.store.cache import Cache, Key, Slot
from beamstream.store.files import StoredFile, damaged, digest_of, storage_error

_PAIR: Final = Struct("=QQ")
_ENTRY_NBYTES: Final = 8
_DEAD_MIN: Final = 32
_SHARED_DEPTH_MAX: Final = 32
"""Copies of copies whose payload is looked for in memory; on disk it is found at once."""
_SEGMENT, _FILE, _NOWHERE = int(Place.SEGMENT), int(Place.FILE), int(Place.NOWHERE)


class Spot(NamedTuple):
    """A stretch of a slot; good while the slot is alive, held by pinning it."""

    slot: Slot
    offset: int
    nbytes: int


class Stored(Protocol):
    """A payload on disk, open for reading."""

    nbytes: int

    def read_into(self, memory: memoryview) -> None: ...

    def read_piece(self, memory: memoryview, offset: int) -> None: ...

    def verify(self, digest: bytes, nbytes: int) -> None: ...

    def close(self) -> None: ...


def table_nbytes(sizes: tuple[int, ...]) -> int:
    """What a slot needs behind the payloads of these sizes."""
    return 0 if sizes.count(sizes[0]) == len(sizes) else _ENTRY_NBYTES * (len(sizes) + 1)


class _Run:
    """Messages of one stream whose seqs follow each other, in one slot."""

    __slots__ = ("count", "index", "runs", "seq", "size", "slot", "table")

    def __init__(
        self, runs: _Runs, seq: int, count: int, index: int, slot: Slot, size: int, table: int
    ) -> None:
        self.runs = runs
        self.seq = seq
        self.count = count
        self.index = index
        self.slot: Slot | None = slot
        self.size = size
        self.table = table


class _Runs:
    """The runs of one stream, by seq; those without a slot are dropped now and then."""

    __slots__ = ("dead", "key", "runs", "seqs")

    def __init__(self, key: tuple[str, int]) -> None:
        self.key = key
        self.seqs: list[int] = []
        self.runs: list[_Run] = []
        self.dead = 0

    def add(self, run: _Run) -> None:
        at = bisect_right(self.seqs, run.seq)
        self.seqs.insert(at, run.seq)
        self.runs.insert(at, run)

    def died(self) -> bool:
        """Whether nothing is left."""
        self.dead += 1
        if self.dead == len(self.runs):
            return True
        if self.dead > _DEAD_MIN and 2 * self.dead > len(self.runs):
            self.runs = [run for run in self.runs if run.slot is not None]
            self.seqs = [run.seq for run in self.runs]
            self.dead = 0
        return False

    def holding(self, seq: int) -> _Run | None:
        at = bisect_right(self.seqs, seq) - 1
        while at >= 0:
            run = self.runs[at]
            if run.slot is not None:
                return run if seq < run.seq + run.count else None
            # One that was sent again after its slot had gone has the same seqs.
            at -= 1
        return None


class Payloads:
    """Finds and reads payloads of stored messages."""

    def __init__(
        self,
        *,
        cache: Cache,
        streams: Streams,
        roots: Roots,
        beamtimes: Beamtimes,
        logs: SegmentLogs,
    ) -> None:
        self._cache = cache
        self._streams = streams
        self._roots = roots
        self._beamtimes = beamtimes
        self._logs = logs
        self._runs: dict[tuple[str, int], _Runs] = {}
        cache.on_unlink = self._unlinked

    # ------------------------------------------------------------------ in memory

    def publish(
        self,
        stream: tuple[str, int],
        slot: Slot,
        sizes: tuple[int, ...],
        shown: Sequence[tuple[int, Block]],
    ) -> None:
        """Let readers find messages that share a slot.

        Parameters
        ----------
        stream : beamtime and number of the stream.
        slot : has the payloads of `sizes` from its beginning on, and room for their table.
        shown : blocks of new messages, with the index of the first one among all of the slot.
        """
        if len(sizes) == 1:
            self._cache.publish(slot, (*stream, shown[0][1].seq, 0))
            return
        table = sum(sizes)
        size = sizes[0] if slot.nbytes == table else -1
        if size < 0:
            text = Struct(f"={len(sizes) + 1}Q").pack(*accumulate(sizes, initial=0))
            self._cache.view(slot)[table:] = text
        runs = self._runs.get(stream)
        if runs is None:
            runs = self._runs[stream] = _Runs(stream)
        made = tuple(
            [_Run(runs, block.seq, block.count, lo, slot, size, table) for lo, block in shown]
        )
        for run in made:
            runs.add(run)
        self._cache.publish(slot, made)

    def _unlinked(self, key: Key, slot: Slot) -> None:
        if isinstance(key, tuple) and isinstance(key[0], _Run):
            for run in key:
                run.slot = None
                if run.runs.died():
                    self._runs.pop(run.runs.key, None)

    def spots(self, view: View, block: Block, lo: int, hi: int) -> list[Spot] | None:
        """Where the payloads `lo` … `hi` - 1 (indices) of a block are; None if one is not there."""
        slot = block.slot
        if slot is not None and slot.arena is not None:
            offsets = block.offsets
            return [Spot(slot, block.slot_offset + offsets[lo], offsets[hi] - offsets[lo])]
        found: list[Spot] = []
        runs = self._runs.get((view.beamtime, view.no))
        while lo < hi:
            seq = block.seq + lo
            run = runs.holding(seq) if runs is not None else None
            if run is not None:
                end = min(run.seq + run.count, block.seq + hi)
                found.append(self._stretch(run, seq, end))
                lo += end - seq
                continue
            record = block.record(lo)
            if record.size and record.place != _NOWHERE:
                spot = self.find(view, record)
                if spot is None:
                    return None
                found.append(spot)
            lo += 1
        return found

    def find(self, view: View, record: Record) -> Spot | None:
        """Where the payload of a record is in memory."""
        if record.shares:
            original = self._original(view, record)
            if original is None:
                return None
            view, record = original
        seq = record.seq
        slot = self._cache.find((view.beamtime, view.no, seq, record.substream))
        if slot is not None:
            return Spot(slot, 0, slot.nbytes)
        runs = self._runs.get((view.beamtime, view.no))
        run = runs.holding(seq) if runs is not None else None
        return self._stretch(run, seq, seq + 1) if run is not None else None

    def _stretch(self, run: _Run, seq: int, end: int) -> Spot:
        slot = run.slot
        assert slot is not None
        lo, hi = run.index + seq - run.seq, run.index + end - run.seq
        if run.size >= 0:
            return Spot(slot, lo * run.size, (hi - lo) * run.size)
        arena = slot.arena
        assert arena is not None
        at = slot.offset + run.table
        if hi == lo + 1:
            start, stop = _PAIR.unpack_from(arena.memory, at + _ENTRY_NBYTES * lo)
        else:
            start = _PAIR.unpack_from(arena.memory, at + _ENTRY_NBYTES * lo)[0]
            stop = _PAIR.unpack_from(arena.memory, at + _ENTRY_NBYTES * (hi - 1))[1]
        return Spot(slot, start, stop - start)

    def _original(self, view: View, record: Record) -> tuple[View, Record] | None:
        """The message whose payload this one shares; None if that is gone."""
        for _ in range(_SHARED_DEPTH_MAX):
            if not record.shares:
                return view, record
            view = self._streams.view(view.beamtime, record.input_source, record.input_stream)
            found: Item | None = self._streams.item(view, record.input_seq)
            if isinstance(found, Dataset):
                found = next((p for p in found.parts if p.substream == record.substream), None)
            if found is None or (found.size, found.digest) != (record.size, record.digest):
                # The stream was deleted, and may have been made anew.
                return None
            record = found
        return None

    def view(self, spot: Spot) -> memoryview:
        """The bytes of a spot; valid while its slot is pinned."""
        return self._cache.view(spot.slot)[spot.offset : spot.offset + spot.nbytes]

    def buf_id(self, view: View, record: Record) -> int:
        """The address of a payload for readers of ASAPO, 0 when it is not in memory."""
        spot = self.find(view, record)
        if spot is None or not spot.nbytes:
            return 0
        if spot.nbytes == spot.slot.nbytes:
            return spot.slot.buf_id
        return self._cache.part(spot.slot, spot.offset, spot.nbytes)

    # ------------------------------------------------------------------ on disk (in a thread)

    def open(self, view: View, record: Record) -> Stored:
        """The payload of a record on disk.

        Raises
        ------
        DataLost : it was kept in memory only, or is gone.
        """
        return self._open(view, record, record.size)

    def _open(self, view: View, record: Record, nbytes: int) -> Stored:
        """From the payload of a record on, `nbytes` of a segment."""
        if record.place == _SEGMENT:
            log = self._logs.existing(view.beamtime)
            return log.slice(record.segment, record.position, nbytes)
        if record.place == _FILE:
            folders = self._beamtimes.folders(view.beamtime)
            return StoredFile(self._roots.existing(folders, record.root), record.name)
        raise DataLost(
            f"message {record.id} of stream {view.name!r} was kept in memory only and has left it",
            hint="send at level os or disk what is read later, or give the node a larger --cache",
        )

    def read(self, view: View, record: Record) -> bytes:
        """One payload, verified.

        Raises
        ------
        DataLost, Corrupt : see the message.
        """
        memory = bytearray(record.size)
        lost = self.read_into(view, [record], memoryview(memory))
        if lost:
            raise lost[0][1]
        return bytes(memory)

    def read_into(
        self, view: View, records: Sequence[Record], memory: memoryview
    ) -> list[tuple[int, Error]]:
        """Fill `memory` with these payloads, back to back, each verified.

        Returns the indices of those that are gone or damaged, with the reason; their part of the
        memory has anything.
        """
        lost: list[tuple[int, Error]] = []
        at = 0
        for first, stretch in _stretches(records):
            nbytes = sum(record.size for record in stretch)
            piece = memory[at : at + nbytes]
            at += nbytes
            try:
                self._read_stretch(view, stretch, piece)
            except Error as error:
                if len(stretch) == 1:
                    lost.append((first, error))
                else:
                    lost += self._one_by_one(view, first, stretch, piece)
        return lost

    def _read_stretch(self, view: View, records: Sequence[Record], memory: memoryview) -> None:
        if not memory.nbytes:
            return
        first = records[0]
        stored = self._open(view, first, memory.nbytes)
        try:
            if first.place == _FILE and stored.nbytes != first.size:
                raise damaged(f"file {first.name!r} of beamtime {view.beamtime}")
            stored.read_into(memory)
        finally:
            stored.close()
        at = 0
        for record in records:
            if record.size and digest_of(memory[at : at + record.size]) != record.digest:
                raise damaged(_what(view, record))
            at += record.size

    def _one_by_one(
        self, view: View, first: int, records: Sequence[Record], memory: memoryview
    ) -> list[tuple[int, Error]]:
        lost: list[tuple[int, Error]] = []
        at = 0
        for index, record in enumerate(records, first):
            try:
                self._read_stretch(view, [record], memory[at : at + record.size])
            except Error as error:
                lost.append((index, error))
            at += record.size
        return lost

    def check(self, view: View, record: Record) -> None:
        """Read a payload on disk and compare it with its digest; raises as `read`."""
        if not record.size or record.place == _NOWHERE:
            return
        stored = self.open(view, record)
        try:
            stored.verify(record.digest, record.size)
        finally:
            stored.close()

    def remove_file(self, view: View, record: Record) -> bool:
        """Remove the file of a record; False if there is none any more.

        Raises
        ------
        StorageError : it cannot be removed.
        """
        root = self._roots.existing(self._beamtimes.folders(view.beamtime), record.root)
        below, _, base = record.name.rpartition("/")
        try:
            fd = open_beneath(root.fd, below or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.unlink(base, dir_fd=fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, f"file {record.name!r}") from error
        return True


def _what(view: View, record: Record) -> str:
    if record.place == _FILE:
        return f"file {record.name!r} of beamtime {view.beamtime}"
    return (
        f"message {record.id} of stream {view.name!r} (segment {record.segment} at "
        f"{record.position}, beamtime {view.beamtime})"
    )


def _stretches(records: Sequence[Record]) -> Iterator[tuple[int, list[Record]]]:
    """Index of the first, and records that lie back to back in one segment."""
    start = 0
    end = (-1, -1)
    for index, record in enumerate(records):
        here = (record.segment, record.position) if record.place == _SEGMENT else (-2, index)
        if index and here != end:
            yield start, list(records[start:index])
            start = index
        end = (record.segment, record.position + record.size)
    if records:
        yield start, list(records[start:])
