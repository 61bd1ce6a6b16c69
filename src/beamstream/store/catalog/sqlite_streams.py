"""The rows of streams, and what skips, finish flags and deletes do to them.

This process is the only writer of the file, so the row of each stream is kept in memory while the
file is open and written back once per transaction. Messages are collected and inserted together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from beamstream import limits
from beamstream.errors import BadInput, IdConflict, StreamFinished, TooMany
from beamstream.model import StreamInfo
from beamstream.store.catalog.interface import (
    END_OF_SEQS,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Persist,
    Refused,
    Result,
    Skip,
    Stored,
)
from beamstream.store.catalog.sqlite_producers import Producers
from beamstream.store.catalog.sqlite_refusals import finished, no_stream

STREAM_COLUMNS = (
    "no, source, name, last_seq, ready_seq, skipped, max_id, created_ns, last_ns, last_id, "
    "next_stream, datasets, in_order, persistent"
)
RECORD_COLUMNS = (
    "seq, id, substream, name, size, digest, meta, timestamp_ns, arrived_ns, mode, level, place, "
    "root, node, boot, run, segment, position, info, input_source, input_stream, input_seq, "
    "result_k, span"
)
# Rows of the first version of the tables have no input.
RECORD_VALUES = RECORD_COLUMNS.replace(
    "input_source, input_stream, input_seq, result_k",
    "coalesce(input_source, '') AS input_source, coalesce(input_stream, '') AS input_stream, "
    "coalesce(input_seq, 0) AS input_seq, coalesce(result_k, -1) AS result_k",
)
RECORD_COLUMN_COUNT = RECORD_COLUMNS.count(",") + 1
_INSERT = (
    f"INSERT INTO message (stream_no, {RECORD_COLUMNS}) "  # noqa: S608
    f"VALUES (?{', ?' * RECORD_COLUMN_COUNT})"
)
_FIND = (
    f"SELECT {STREAM_COLUMNS}, top_id, "  # noqa: S608
    "coalesce((SELECT input_seq FROM message INDEXED BY message_result WHERE stream_no = no "
    "AND result_k IS NOT NULL ORDER BY input_seq DESC LIMIT 1), 0), "
    "EXISTS (SELECT 1 FROM early_ack WHERE stream_no = no) "
    "FROM stream WHERE source = ? AND name = ? AND dead = 0"
)
_WRITE_BACK = (
    "UPDATE stream SET last_seq = ?, ready_seq = ?, skipped = ?, max_id = ?, created_ns = ?, "
    "last_ns = ?, last_id = ?, next_stream = ?, datasets = ?, in_order = ?, persistent = ?, "
    "top_id = ? WHERE no = ?"
)
_ROWS_MAX = 4096


def stream_info(row: tuple[Any, ...]) -> StreamInfo:
    """The `StreamInfo` of a row of `STREAM_COLUMNS`."""
    return StreamInfo(*row[:11], *map(bool, row[11:14]))


class Row:
    """One stream, and three things that only the writer needs.

    `top_id` is the largest id of a message (`max_id` counts skips too); `top_input` the largest
    seq of an input of which there are results; `early` says that some group has acknowledged an
    id that was not there yet.
    """

    __slots__ = ("early", "info", "top_id", "top_input")

    def __init__(
        self, info: StreamInfo, top_id: int = 0, top_input: int = 0, early: bool = False
    ) -> None:
        self.info = info
        self.top_id = top_id
        self.top_input = top_input
        self.early = early


class Streams:
    """The streams of one beamtime, as the transaction that is open sees them.

    Parameters
    ----------
    connection : the writing one, within a transaction whenever a method is called.
    arrived : told (stream number, first id, last id, seq of the first) of new items of streams for
        which somebody has early acknowledgements.
    """

    def __init__(
        self, connection: apsw.Connection, arrived: Callable[[Row, int, int, int], None]
    ) -> None:
        # Not a cursor: one that is kept would hold a read transaction open, after a `fetchone`,
        # and no log could begin anew.
        self._db = connection
        self.arrived = arrived
        self._rows: dict[tuple[str, str], Row] = {}
        self._touched: dict[int, Row] = {}
        self.producers = Producers(connection)
        self.messages: dict[tuple[int, int, int], tuple[object, ...]] = {}
        """Rows of `_INSERT` that are not in the table yet, by stream, id and substream."""
        self.results: set[tuple[int, int, int]] = set()
        """Stream, seq of the input and k of those of them that are results."""

    # ------------------------------------------------------------------ rows in memory

    def find(self, source: str, stream: str) -> Row | None:
        row = self._rows.get((source, stream))
        if row is None:
            found = self._db.execute(_FIND, (source, stream)).fetchone()
            if found is None:
                return None
            row = Row(stream_info(found[:14]), found[14], found[15], bool(found[16]))
            self._rows[source, stream] = row
        return row

    def make(self, source: str, stream: str) -> Row:
        """The row of the stream, which is created if need be."""
        row = self.find(source, stream)
        if row is None:
            no = self._db.execute(
                "INSERT INTO stream (source, name) VALUES (?, ?) RETURNING no", (source, stream)
            ).get
            row = self._rows[source, stream] = Row(StreamInfo(no, source, stream))
        return row

    def flush(self) -> None:
        """Insert the messages that were collected."""
        if self.messages:
            self._db.executemany(_INSERT, self.messages.values())
            self.messages.clear()
            self.results.clear()

    def write_back(self) -> None:
        """Write all that is still in memory only."""
        self.flush()
        if self._touched:
            self._db.executemany(
                _WRITE_BACK,
                [
                    (
                        i.last_seq, i.ready_seq, i.skipped, i.max_id, i.created_ns, i.last_ns,
                        i.last_id, i.next_stream, i.datasets, i.in_order, i.persistent,
                        row.top_id, i.no,
                    )
                    for row in self._touched.values()
                    for i in (row.info,)
                ],
            )  # fmt: skip
            self._touched.clear()
        self.producers.write_back()
        if len(self._rows) > _ROWS_MAX:
            self._rows.clear()

    def become(self, row: Row, info: StreamInfo) -> None:
        """Have the row say something new."""
        row.info = info
        self._touched[info.no] = row

    def forget(self) -> None:
        """Drop what is in memory: the transaction, or a part of it, is rolled back."""
        self._rows.clear()
        self._touched.clear()
        self.messages.clear()
        self.results.clear()
        self.producers.forget()

    # ----------------------------------------------------------------------- operations

    def skip(self, op: Skip) -> Result:
        lo, last = op.lo, op.hi - 1
        where = f"ids {lo} to {last} of stream {op.stream!r}"
        if not 1 <= lo <= last <= limits.ID_MAX:
            return Refused(BadInput(f"{where} are not a range of ids"))
        row = self.find(op.source, op.stream)
        if op.again and row is not None and self._all_skipped(row, lo, last):
            return Duplicate(row.info, last)
        if row is not None and 0 <= row.info.last_id < last:
            return Refused(finished(op.stream, last, row.info.last_id))
        if (row.info.last_seq if row else 0) + op.hi - lo >= END_OF_SEQS:
            return Refused(TooMany(f"{where} are more than a stream can number"))
        if row is None:
            row = self.make(op.source, op.stream)
        i = row.info
        if lo <= i.max_id:
            self.flush()
            there = self._db.execute(
                "SELECT 1 FROM message WHERE stream_no = ? AND id BETWEEN ? AND ? LIMIT 1",
                (i.no, lo, last),
            ).fetchone()
            if there or self.skipped(i.no, lo, last):
                return Conflicted(IdConflict(f"{where} cannot be skipped: some exist already"))
        seq = i.last_seq + 1
        last_seq = i.last_seq + op.hi - lo
        self._db.execute(
            "INSERT INTO skip (stream_no, lo, last, seq) VALUES (?, ?, ?, ?)", (i.no, lo, last, seq)
        )
        self.set(
            row,
            last_seq=last_seq,
            skipped=i.skipped + op.hi - lo,
            max_id=max(i.max_id, last),
            in_order=i.in_order and lo > i.max_id,
        )
        if row.early:
            self.arrived(row, lo, last, seq)
        return Stored(row.info, last_seq, last)

    def skipped(self, no: int, lo: int, last: int) -> bool:
        """Whether any id from `lo` to `last` is skipped."""
        found = self._db.execute(
            "SELECT last FROM skip WHERE stream_no = ? AND lo <= ? ORDER BY lo DESC LIMIT 1",
            (no, last),
        ).fetchone()
        return found is not None and found[0] >= lo

    def _all_skipped(self, row: Row, lo: int, last: int) -> bool:
        """Whether every id from `lo` to `last` is skipped."""
        if not row.info.skipped:
            return False
        # No two ranges of skips overlap.
        rows: Any = self._db.execute(
            "SELECT max(lo, ?2), min(last, ?3) FROM skip WHERE stream_no = ?1 AND lo <= ?3 "
            "AND lo >= coalesce((SELECT max(lo) FROM skip WHERE stream_no = ?1 AND lo <= ?2), ?2)",
            (row.info.no, lo, last),
        )
        count: int = sum(max(0, b - a + 1) for a, b in rows)
        return count == last - lo + 1

    def finish(self, op: Finish) -> Result:
        if not 0 <= op.last_id <= limits.ID_MAX:
            return Refused(BadInput(f"stream {op.stream!r} cannot end with id {op.last_id}"))
        row = self.make(op.source, op.stream)
        i = row.info
        if i.last_id >= 0:
            if (i.last_id, i.next_stream) == (op.last_id, op.next_stream):
                return Duplicate(i, op.last_id)
            return Conflicted(
                StreamFinished(
                    f"stream {op.stream!r} was finished before with last id {i.last_id} and next "
                    f"stream {i.next_stream!r}"
                )
            )
        if i.max_id > op.last_id:
            return Conflicted(
                IdConflict(
                    f"stream {op.stream!r} cannot end with id {op.last_id}: it has id {i.max_id}"
                )
            )
        self.set(
            row,
            last_id=op.last_id,
            next_stream=op.next_stream,
            created_ns=i.created_ns if i.count else op.timestamp_ns,
            last_ns=op.timestamp_ns,
        )
        return Done(row.info)

    def persist(self, op: Persist) -> Result:
        row = self.find(op.source, op.stream)
        if row is None:
            return Refused(no_stream(op.source, op.stream))
        self.set(row, persistent=True)
        return Done(row.info)

    def delete(self, op: DeleteStream) -> Result:
        row = self.find(op.source, op.stream)
        if row is None:
            return Refused(no_stream(op.source, op.stream))
        self.write_back()
        self._db.execute("UPDATE stream SET dead = no WHERE no = ?", (row.info.no,))
        self._rows.pop((op.source, op.stream), None)
        if op.with_meta:
            for table in ("meta", "meta_version"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE source = ? AND stream = ?",  # noqa: S608
                    (op.source, op.stream),
                )
        return Done(row.info)

    def set(self, row: Row, **changes: object) -> None:
        i = row.info
        values = {name: getattr(i, name) for name in i.__struct_fields__}
        self.become(row, StreamInfo(**(values | changes)))
