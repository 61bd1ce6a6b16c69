"""The catalog in SQLite: one file for each beamtime. Why it is so: docs/design/020-catalog.md."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from beamstream.errors import Error
from beamstream.limits import ID_MAX
from beamstream.model import Dataset, Header, Item, Record, Run, StreamInfo, check_beamtime
from beamstream.store.catalog import sqlite_documents, sqlite_reads
from beamstream.store.catalog.interface import (
    Catalog,
    GroupState,
    Op,
    Ranges,
    Result,
)
from beamstream.store.catalog.sqlite_file import PASSIVE, RESTART, BeamtimeFile
from beamstream.store.catalog.sqlite_writer import Writer
from beamstream.store.query import Query

FILES_OPEN_MAX: Final = 16
"""Beamtimes open at once; each costs up to 12 descriptors and 6 MB."""


class SqliteCatalog(Catalog):
    """Records of beamtimes, each in a file ``<folder>/<beamtime>.db``.

    Only one process may have it open for writing; whoever makes it holds the folder's lock.

    Parameters
    ----------
    folder : must exist.
    files_open_max : beamtimes that are open at once; the one not used for longest is closed.
    """

    def __init__(self, folder: Path, *, files_open_max: int = FILES_OPEN_MAX) -> None:
        self._folder = folder
        self._files_open_max = files_open_max
        self._open: OrderedDict[str, Writer] = OrderedDict()
        self._failed: dict[str, Error] = {}
        self._lock = threading.Lock()
        self._opening = threading.Lock()

    # ----------------------------------------------------------------------------- writes

    def apply(self, beamtime: str, ops: Sequence[Op]) -> list[Result]:
        """Run the operations in one transaction: see `interface`.

        Raises
        ------
        ReadOnly : a sync of this beamtime has failed since the node was started.
        NoSpace : the disk is full; nothing of this call was recorded.
        """
        while True:
            writer = self._opened(beamtime)
            with writer.lock:
                if not writer.closed:
                    return writer.apply(ops)

    def purge(self, beamtime: str, limit: int) -> bool:
        """Remove up to `limit` rows of deleted streams; returns whether there may be more.

        Writes: to be called where `apply` is, a little at a time.
        """
        if self._known(beamtime) is None:
            return False
        while True:
            writer = self._opened(beamtime)
            with writer.lock:
                if not writer.closed:
                    return writer.purge(limit)

    def sync(self, beamtime: str) -> None:
        writer = self._known(beamtime)
        if writer is not None:
            writer.file.sync()

    def checkpoint(self, beamtime: str) -> bool:
        """Copy the log into the database, beside `apply` and reads; whether all is copied.

        Takes as long as the disk does: for a thread of its own. When it has copied all, the next
        write begins the log anew.
        """
        writer = self._known(beamtime)
        return writer is None or writer.file.checkpoint(PASSIVE)

    def restart_wal(self, beamtime: str) -> bool:
        """Copy the rest of the log and have the next write begin it anew; whether that worked.

        `apply` must wait meanwhile; soon after a `checkpoint` that is a few milliseconds. It does
        not work while somebody reads from the log.
        """
        writer = self._known(beamtime)
        return writer is None or writer.file.checkpoint(RESTART)

    def opened(self) -> list[str]:
        """Beamtimes whose files are open."""
        with self._lock:
            return list(self._open)

    def beamtimes(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.db"))

    def wal_nbytes(self, beamtime: str) -> int:
        """Size of the log: what the next node would read at its start."""
        with self._lock:
            writer = self._open.get(beamtime)
        return writer.file.wal_nbytes if writer else 0

    def close(self) -> None:
        """Bring everything to disk and close all files.

        Raises the first error, after all files are closed.
        """
        errors = []
        with self._opening:
            with self._lock:
                writers = list(self._open.items())
                self._open.clear()
            for beamtime, writer in writers:
                try:
                    self._close(beamtime, writer)
                except Error as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    # ------------------------------------------------------------------------------- files

    def path(self, beamtime: str) -> Path:
        return self._folder / f"{check_beamtime(beamtime)}.db"

    def _known(self, beamtime: str) -> Writer | None:
        """The file, if the beamtime has one: reading of an unknown beamtime creates nothing."""
        if beamtime not in self._open and not self.path(beamtime).exists():
            return None
        return self._opened(beamtime)

    def _opened(self, beamtime: str) -> Writer:
        with self._lock:
            writer = self._open.get(beamtime)
            if writer is not None:
                self._open.move_to_end(beamtime)
                return writer
        # Opening and closing wait for the disk: those whose file is open do not wait for them.
        with self._opening:
            with self._lock:
                writer = self._open.get(beamtime)
            if writer is not None:
                return writer
            writer = Writer(BeamtimeFile(self.path(beamtime)))
            writer.file.failed = self._failed.get(beamtime)
            with self._lock:
                self._open[beamtime] = writer
                too_many = len(self._open) - self._files_open_max
                idle = [self._open.popitem(last=False) for _ in range(too_many)]
            for name, other in idle:
                self._close(name, other)
            return writer

    def _close(self, beamtime: str, writer: Writer) -> None:
        with writer.lock:
            writer.closed = True
            try:
                writer.file.close()
            finally:
                if writer.file.failed is not None:
                    self._failed[beamtime] = writer.file.failed

    # ------------------------------------------------------------------------------- reads

    def _read(self, nothing: Any, ask: Callable[..., Any], beamtime: str, *args: Any) -> Any:
        writer = self._known(beamtime)
        if writer is None:
            return nothing
        with writer.file.reader() as db:
            return ask(db, *args)

    def stream(self, beamtime: str, source: str, stream: str) -> StreamInfo | None:
        found: StreamInfo | None = self._read(None, sqlite_reads.stream, beamtime, source, stream)
        return found

    def streams(self, beamtime: str, source: str) -> list[StreamInfo]:
        found: list[StreamInfo] = self._read([], sqlite_reads.streams, beamtime, source)
        return found

    def sources(self, beamtime: str) -> list[str]:
        found: list[str] = self._read([], sqlite_reads.sources, beamtime)
        return found

    def items_by_seq(self, beamtime: str, stream_no: int, lo: int, hi: int) -> list[Item]:
        found: list[Item] = self._read([], sqlite_reads.items_by_seq, beamtime, stream_no, lo, hi)
        return found

    def items_by_id(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[Item]:
        found: list[Item] = self._read(
            [], sqlite_reads.items_by_id, beamtime, stream_no, lo, hi, limit
        )
        return found

    def last_item(self, beamtime: str, stream_no: int, upto_seq: int) -> Item | None:
        found: Item | None = self._read(None, sqlite_reads.last_item, beamtime, stream_no, upto_seq)
        return found

    def last_dataset(
        self, beamtime: str, stream_no: int, min_parts: int, upto_seq: int
    ) -> Dataset | None:
        found: Dataset | None = self._read(
            None, sqlite_reads.last_dataset, beamtime, stream_no, min_parts, upto_seq
        )
        return found

    def count_complete(self, beamtime: str, stream_no: int, upto_seq: int) -> int:
        found: int = self._read(0, sqlite_reads.count_complete, beamtime, stream_no, upto_seq)
        return found

    def ids(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self._read(
            [], sqlite_reads.ids, beamtime, stream_no, lo, hi, limit
        )
        return found

    def seqs_above(self, beamtime: str, stream_no: int, id: int) -> Ranges:  # noqa: A002
        found: Ranges = self._read((), sqlite_reads.seqs_above, beamtime, stream_no, id)
        return found

    def seq_at(self, beamtime: str, stream_no: int, timestamp_ns: int, upto_seq: int) -> int:
        found: int = self._read(1, sqlite_reads.seq_at, beamtime, stream_no, timestamp_ns, upto_seq)
        return found

    def gaps(self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int) -> Ranges:
        lo, hi = max(lo, 1), min(hi, ID_MAX + 1)
        nothing = ((lo, hi),) if lo < hi and limit > 0 else ()
        found: Ranges = self._read(nothing, sqlite_reads.gaps, beamtime, stream_no, lo, hi, limit)
        return found

    def producer_position(self, beamtime: str, source: str, stream: str, producer: bytes) -> int:
        found: int = self._read(
            0, sqlite_reads.producer_position, beamtime, source, stream, producer
        )
        return found

    def segment_end(self, beamtime: str, segment: int) -> int:
        found: int = self._read(0, sqlite_reads.segment_end, beamtime, segment)
        return found

    def file(self, beamtime: str, name: str) -> tuple[str, str, Record] | None:
        found: tuple[str, str, Record] | None = self._read(None, sqlite_reads.file, beamtime, name)
        return found

    def meta(self, beamtime: str, source: str, stream: str) -> bytes | None:
        found: bytes | None = self._read(None, sqlite_documents.meta, beamtime, source, stream)
        return found

    def header(self, beamtime: str, source: str, stream: str, version: int) -> Header | None:
        found: Header | None = self._read(
            None, sqlite_documents.header, beamtime, source, stream, version
        )
        return found

    def run(self, beamtime: str, no: int) -> Run | None:
        found: Run | None = self._read(None, sqlite_documents.run, beamtime, no)
        return found

    def runs(self, beamtime: str, before: int, limit: int) -> list[Run]:
        found: list[Run] = self._read([], sqlite_documents.runs, beamtime, before, limit)
        return found

    def measure(
        self, beamtime: str, stream_no: int, lo: int, hi: int, upto_seq: int
    ) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = self._read(
            [], sqlite_reads.measure, beamtime, stream_no, lo, hi, upto_seq
        )
        return found

    def search(
        self,
        beamtime: str,
        stream_no: int,
        query: Query,
        *,
        upto_seq: int,
        offset: int = 0,
        limit: int,
        seconds_max: float,
    ) -> list[Record]:
        found: list[Record] = self._read(
            [],
            sqlite_reads.search,
            beamtime,
            stream_no,
            query,
            upto_seq,
            offset,
            limit,
            seconds_max,
        )
        return found

    def group(self, beamtime: str, group: str, source: str, stream: str) -> GroupState | None:
        found: GroupState | None = self._read(
            None, sqlite_reads.group, beamtime, group, source, stream
        )
        return found

    def groups(self, beamtime: str, source: str, stream: str) -> list[GroupState]:
        found: list[GroupState] = self._read([], sqlite_reads.groups, beamtime, source, stream)
        return found

    def groups_of(self, beamtime: str) -> list[tuple[str, str, str, int]]:
        found: list[tuple[str, str, str, int]] = self._read([], sqlite_reads.groups_of, beamtime)
        return found

    def last_acked_id(self, beamtime: str, group: str, source: str, stream: str) -> int:
        found: int = self._read(0, sqlite_reads.last_acked_id, beamtime, group, source, stream)
        return found
