"""What puts, skips, finish flags and deletes do to the rows of streams and messages.

This process is the only writer of the file, so the row of each stream is kept in memory while the
file is open and written back once per transaction. Messages are collected and inserted together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from beamstream import limits
from beamstream.errors import (
    BadInput,
    IdConflict,
    StreamFinished,
    TooLarge,
    TooMany,
)
from beamstream.model import Record, StreamInfo
from beamstream.store.catalog.interface import (
    END_OF_SEQS,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Persist,
    Put,
    Refused,
    Result,
    Skip,
    Stored,
)
from beamstream.store.catalog.sqlite_refusals import (
    bad_id,
    bad_size,
    conflict,
    difference,
    finished,
    no_stream,
    what,
)

STREAM_COLUMNS = (
    "no, source, name, last_seq, ready_seq, skipped, max_id, created_ns, last_ns, last_id, "
    "next_stream, datasets, in_order, persistent"
)
RECORD_COLUMNS = (
    "seq, id, substream, name, size, digest, meta, timestamp_ns, arrived_ns, mode, level, place, "
    "root, node, boot, run"
)
_INSERT = (
    f"INSERT INTO message (stream_no, {RECORD_COLUMNS}) "  # noqa: S608
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FIND = (
    f"SELECT {STREAM_COLUMNS}, top_id, "  # noqa: S608
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
    """One stream, and two things that only the writer needs.

    `top_id` is the largest id of a message (`max_id` counts skips too); `early` says that some
    group has acknowledged an id that was not there yet.
    """

    __slots__ = ("early", "info", "top_id")

    def __init__(self, info: StreamInfo, top_id: int = 0, early: bool = False) -> None:
        self.info = info
        self.top_id = top_id
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
        self._cursor = connection.cursor()
        self._arrived = arrived
        self._rows: dict[tuple[str, str], Row] = {}
        self._touched: dict[int, Row] = {}
        self._messages: list[tuple[object, ...]] = []

    # ------------------------------------------------------------------ rows in memory

    def find(self, source: str, stream: str) -> Row | None:
        row = self._rows.get((source, stream))
        if row is None:
            found = self._cursor.execute(_FIND, (source, stream)).fetchone()
            if found is None:
                return None
            row = Row(stream_info(found[:14]), found[14], bool(found[15]))
            self._rows[source, stream] = row
        return row

    def make(self, source: str, stream: str) -> Row:
        """The row of the stream, which is created if need be."""
        row = self.find(source, stream)
        if row is None:
            no = self._cursor.execute(
                "INSERT INTO stream (source, name) VALUES (?, ?) RETURNING no", (source, stream)
            ).get
            row = self._rows[source, stream] = Row(StreamInfo(no, source, stream))
        return row

    def flush(self) -> None:
        """Insert the messages that were collected."""
        if self._messages:
            self._cursor.executemany(_INSERT, self._messages)
            self._messages.clear()

    def write_back(self) -> None:
        """Write all that is still in memory only."""
        self.flush()
        if self._touched:
            self._cursor.executemany(
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
        if len(self._rows) > _ROWS_MAX:
            self._rows.clear()

    def forget(self) -> None:
        """Drop what is in memory: the transaction, or a part of it, is rolled back."""
        self._rows.clear()
        self._touched.clear()
        self._messages.clear()

    # ----------------------------------------------------------------------- operations

    def put(self, op: Put) -> Result:
        row = self.find(op.source, op.stream)
        if op.substream or op.expected:
            return self._put_part(op, row)
        if op.id == 0:
            ident = row.info.max_id + 1 if row else 1
        else:
            ident = op.id
        if not 1 <= ident <= limits.ID_MAX:
            return Refused(bad_id(op, ident))
        if not 0 <= op.size <= limits.ID_MAX:
            return Refused(bad_size(op, ident))
        if row is None:
            row = self.make(op.source, op.stream)
        info = row.info
        if info.datasets:
            return Conflicted(conflict(op, ident, "the stream holds datasets"))
        if ident <= info.max_id:
            found = self._existing(row, op, ident)
            if found is not None:
                return found
        if 0 <= info.last_id < ident:
            return Refused(finished(op.stream, ident, info.last_id))
        seq = info.last_seq + 1
        stream = self._grow(row, op, ident, seq, info.ready_seq, False)
        self._add(row, op, ident, seq)
        if row.early:
            self._arrived(row, ident, ident, seq)
        return Stored(stream, seq, ident)

    def _existing(self, row: Row, op: Put, ident: int) -> Result | None:
        """The answer if there is a message or skip of this id and substream already."""
        info = row.info
        self.flush()
        found = self._cursor.execute(
            f"SELECT {RECORD_COLUMNS} FROM message "  # noqa: S608
            "WHERE stream_no = ? AND id = ? AND substream = ?",
            (info.no, ident, op.substream),
        ).fetchone()
        if found is not None:
            record = Record(*found)
            differing = difference(record, op)
            if differing:
                return Conflicted(conflict(op, ident, f"is there with another {differing}"))
            return Duplicate(info, ident, record)
        if info.skipped and self._skipped(info.no, ident, ident):
            return Conflicted(conflict(op, ident, "was announced as never coming"))
        return None

    def _put_part(self, op: Put, row: Row | None) -> Result:
        ident = op.id
        if not 1 <= ident <= limits.ID_MAX:
            return Refused(bad_id(op, ident))
        if not 0 <= op.size <= limits.ID_MAX:
            return Refused(bad_size(op, ident))
        if op.expected > limits.DATASET_SIZE_MAX:
            return Refused(
                TooLarge(
                    f"a dataset of {op.expected} parts is announced for {what(op, ident)}, "
                    f"{limits.DATASET_SIZE_MAX} are allowed"
                )
            )
        if not 1 <= op.substream <= op.expected:
            return Conflicted(
                conflict(op, ident, f"has substream {op.substream} of {op.expected} only")
            )
        if row is None:
            row = self.make(op.source, op.stream)
        info = row.info
        if info.count and not info.datasets:
            return Conflicted(conflict(op, ident, "the stream holds single messages"))
        if ident <= info.max_id:
            found = self._existing(row, op, ident)
            if isinstance(found, Conflicted):
                return found
            dataset = self._cursor.execute(
                "SELECT seq, expected, present, ready_seq FROM dataset "
                "WHERE stream_no = ? AND id = ?",
                (info.no, ident),
            ).fetchone()
            if dataset is not None and dataset[1] != op.expected:
                return Conflicted(
                    conflict(op, ident, f"is a dataset of {dataset[1]} parts, not {op.expected}")
                )
            if found is not None:
                return found
            if dataset is not None:
                return self._put_further_part(row, op, *dataset)
        if 0 <= info.last_id < ident:
            return Refused(finished(op.stream, ident, info.last_id))
        seq = info.last_seq + 1
        ready_seq = info.ready_seq + 1 if op.expected == 1 else 0
        self._cursor.execute(
            "INSERT INTO dataset (stream_no, seq, id, expected, present, ready_seq) "
            "VALUES (?, ?, ?, ?, 1, ?)",
            (info.no, seq, ident, op.expected, ready_seq),
        )
        stream = self._grow(row, op, ident, seq, ready_seq or info.ready_seq, True)
        self._add(row, op, ident, seq)
        if row.early:
            self._arrived(row, ident, ident, seq)
        return Stored(stream, seq, ident, ready_seq)

    def _put_further_part(
        self, row: Row, op: Put, seq: int, expected: int, present: int, ready_seq: int
    ) -> Result:
        present += 1
        if present == expected:
            info = row.info
            ready_seq = info.ready_seq + 1
            self._set(row, ready_seq=ready_seq)
        self._cursor.execute(
            "UPDATE dataset SET present = ?, ready_seq = ? WHERE stream_no = ? AND seq = ?",
            (present, ready_seq, row.info.no, seq),
        )
        self._add(row, op, op.id, seq)
        return Stored(row.info, seq, op.id, ready_seq)

    def _grow(
        self, row: Row, op: Put, ident: int, seq: int, ready_seq: int, datasets: bool
    ) -> StreamInfo:
        """One item more, of the largest id or not."""
        i = row.info
        last_ns = i.last_ns
        if ident > row.top_id:
            row.top_id = ident
            if i.last_id < 0:
                last_ns = op.timestamp_ns
        newest = ident > i.max_id
        info = row.info = StreamInfo(
            i.no, i.source, i.name, seq, ready_seq, i.skipped, ident if newest else i.max_id,
            i.created_ns if i.count or i.last_id >= 0 else op.timestamp_ns, last_ns, i.last_id,
            i.next_stream, datasets, i.in_order and newest, i.persistent,
        )  # fmt: skip
        self._touched[i.no] = row
        return info

    def _add(self, row: Row, op: Put, ident: int, seq: int) -> None:
        self._messages.append(
            (
                row.info.no, seq, ident, op.substream, op.name, op.size, op.digest, op.meta,
                op.timestamp_ns, op.arrived_ns, op.mode, op.level, op.place, op.root, op.node,
                op.boot, op.run,
            )
        )  # fmt: skip

    def skip(self, op: Skip) -> Result:
        lo, last = op.lo, op.hi - 1
        where = f"ids {lo} to {last} of stream {op.stream!r}"
        if not 1 <= lo <= last <= limits.ID_MAX:
            return Refused(BadInput(f"{where} are not a range of ids"))
        row = self.find(op.source, op.stream)
        if row is not None and 0 <= row.info.last_id < last:
            return Refused(finished(op.stream, last, row.info.last_id))
        if (row.info.last_seq if row else 0) + op.hi - lo >= END_OF_SEQS:
            return Refused(TooMany(f"{where} are more than a stream can number"))
        if row is None:
            row = self.make(op.source, op.stream)
        i = row.info
        if lo <= i.max_id:
            self.flush()
            there = self._cursor.execute(
                "SELECT 1 FROM message WHERE stream_no = ? AND id BETWEEN ? AND ? LIMIT 1",
                (i.no, lo, last),
            ).fetchone()
            if there or self._skipped(i.no, lo, last):
                return Conflicted(IdConflict(f"{where} cannot be skipped: some exist already"))
        seq = i.last_seq + 1
        last_seq = i.last_seq + op.hi - lo
        self._cursor.execute(
            "INSERT INTO skip (stream_no, lo, last, seq) VALUES (?, ?, ?, ?)", (i.no, lo, last, seq)
        )
        self._set(
            row,
            last_seq=last_seq,
            skipped=i.skipped + op.hi - lo,
            max_id=max(i.max_id, last),
            in_order=i.in_order and lo > i.max_id,
        )
        if row.early:
            self._arrived(row, lo, last, seq)
        return Stored(row.info, last_seq, last)

    def _skipped(self, no: int, lo: int, last: int) -> bool:
        """Whether any id from `lo` to `last` is skipped."""
        found = self._cursor.execute(
            "SELECT last FROM skip WHERE stream_no = ? AND lo <= ? ORDER BY lo DESC LIMIT 1",
            (no, last),
        ).fetchone()
        return found is not None and found[0] >= lo

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
        self._set(
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
        self._set(row, persistent=True)
        return Done(row.info)

    def delete(self, op: DeleteStream) -> Result:
        row = self.find(op.source, op.stream)
        if row is None:
            return Refused(no_stream(op.source, op.stream))
        self.write_back()
        self._cursor.execute("UPDATE stream SET dead = no WHERE no = ?", (row.info.no,))
        self._rows.pop((op.source, op.stream), None)
        if op.with_meta:
            self._cursor.execute(
                "DELETE FROM meta WHERE source = ? AND stream = ?", (op.source, op.stream)
            )
        return Done(row.info)

    def _set(self, row: Row, **changes: object) -> None:
        i = row.info
        values = {name: getattr(i, name) for name in i.__struct_fields__}
        row.info = StreamInfo(**(values | changes))
        self._touched[i.no] = row
