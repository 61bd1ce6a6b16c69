"""What puts do to the rows of streams, messages and datasets."""

from __future__ import annotations

import apsw

from beamstream import limits
from beamstream.errors import TooLarge
from beamstream.model import Record, StreamInfo
from beamstream.store.catalog.interface import (
    Conflicted,
    Duplicate,
    Put,
    Refused,
    Result,
    Stored,
)
from beamstream.store.catalog.sqlite_producers import NO_ID
from beamstream.store.catalog.sqlite_refusals import (
    bad_id,
    bad_result,
    bad_sequence,
    bad_size,
    conflict,
    difference,
    finished,
    what,
)
from beamstream.store.catalog.sqlite_results import Results, possible
from beamstream.store.catalog.sqlite_streams import RECORD_VALUES, Row, Streams

_BY_ID = (
    f"SELECT {RECORD_VALUES} FROM message "  # noqa: S608
    "WHERE stream_no = ? AND id = ? AND substream = ?"
)


class Puts:
    """Messages into the streams of one beamtime, as the transaction that is open sees them."""

    def __init__(self, connection: apsw.Connection, streams: Streams, results: Results) -> None:
        self._db = connection
        self._streams = streams
        self._producers = streams.producers
        self._results = results

    # --------------------------------------------------------------------- one message

    def put(self, op: Put) -> Result:
        if op.producer and not countable(op.producer, op.sequence, 1):
            return Refused(bad_sequence(op))
        made = self._made_before(op) if op.input_seq or op.result_k >= 0 else None
        single = not (op.substream or op.expected)
        if op.producer:
            return self._put_counted(op, made, single)
        return made or (self._put_single(op) if single else self._put_part(op))

    def _made_before(self, op: Put) -> Result | None:
        """The answer to a result that is there, or one that cannot be."""
        if not possible(op.input_seq, op.result_k):
            return Refused(bad_result(op))
        row = self._streams.find(op.source, op.stream) if op.result_k >= 0 else None
        found = self._results.find(row, op) if row else None
        return Duplicate(row.info, found.id, found) if row and found else None

    def _put_counted(self, op: Put, result: Result | None, single: bool) -> Result:
        """As `put`, for a producer that counts; `result` is the answer if there is one already."""
        automatic = single and op.id == 0
        if result is None:
            row = self._streams.find(op.source, op.stream) if automatic else None
            if row is not None:
                known = self._producers.runs(row.info.no, op.producer).id_of(op.sequence)
                if known is not None:
                    return self._sent_before(row, op, known)
            result = self._put_single(op) if single else self._put_part(op)
        if isinstance(result, Stored | Duplicate):
            ident = result.id if automatic else NO_ID
            self._producers.store(
                result.stream.no, op.producer, op.sequence, op.sequence + 1, ident, op.timestamp_ns
            )
        return result

    def _sent_before(self, row: Row, op: Put, ident: int) -> Result:
        """The answer to a message of an automatic id that its producer has sent before."""
        found = self._found(row.info.no, ident, 0) if ident else None
        if found is None:
            return Conflicted(
                conflict(op, ident, f"(sequence {op.sequence}) was stored before; its id is lost")
            )
        if (found.size, found.digest) != (op.size, op.digest):
            return Conflicted(
                conflict(op, ident, f"(sequence {op.sequence}) was sent before with other content")
            )
        return Duplicate(row.info, ident, found)

    def _put_single(self, op: Put) -> Result:
        row = self._streams.find(op.source, op.stream)
        if op.id == 0:
            ident = row.info.max_id + 1 if row else 1
        else:
            ident = op.id
        if not 1 <= ident <= limits.ID_MAX:
            return Refused(bad_id(op, ident))
        if not 0 <= op.size <= limits.ID_MAX:
            return Refused(bad_size(op, ident))
        if row is None:
            row = self._streams.make(op.source, op.stream)
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
        stream = self.grow(row, op.timestamp_ns, ident, seq, info.ready_seq, False)
        self._add(row, op, ident, seq)
        if row.early:
            self._streams.arrived(row, ident, ident, seq)
        return Stored(stream, seq, ident)

    def _found(self, no: int, ident: int, substream: int) -> Record | None:
        if (no, ident, substream) in self._streams.messages:
            self._streams.flush()
        found = self._db.execute(_BY_ID, (no, ident, substream)).fetchone()
        return None if found is None else Record(*found)

    def _existing(self, row: Row, op: Put, ident: int) -> Result | None:
        """The answer if there is a message or skip of this id and substream already."""
        info = row.info
        record = self._found(info.no, ident, op.substream)
        if record is not None:
            differing = difference(record, op)
            if differing:
                return Conflicted(conflict(op, ident, f"is there with another {differing}"))
            return Duplicate(info, ident, record)
        if info.skipped and self._streams.skipped(info.no, ident, ident):
            return Conflicted(conflict(op, ident, "was announced as never coming"))
        return None

    def grow(
        self,
        row: Row,
        timestamp_ns: int,
        ident: int,
        seq: int,
        ready_seq: int,
        datasets: bool,
        first: int = 0,
    ) -> StreamInfo:
        """One item more, of the largest id or not; or several, of ids that ascend from `first`.

        `ident` and `seq` are then those of the last.
        """
        i = row.info
        last_ns = i.last_ns
        if ident > row.top_id:
            row.top_id = ident
            if i.last_id < 0:
                last_ns = timestamp_ns
        newest = ident > i.max_id
        info = StreamInfo(
            i.no, i.source, i.name, seq, ready_seq, i.skipped, ident if newest else i.max_id,
            i.created_ns if i.count or i.last_id >= 0 else timestamp_ns, last_ns, i.last_id,
            i.next_stream, datasets, i.in_order and (first or ident) > i.max_id, i.persistent,
        )  # fmt: skip
        self._streams.become(row, info)
        return info

    def _add(self, row: Row, op: Put, ident: int, seq: int) -> None:
        key = (row.info.no, ident, op.substream)
        self._streams.messages[key] = (
                row.info.no, seq, ident, op.substream, op.name, op.size, op.digest, op.meta,
                op.timestamp_ns, op.arrived_ns, op.mode, op.level, op.place, op.root, op.node,
                op.boot, op.run, op.segment, op.position, op.info, op.input_source,
                op.input_stream, op.input_seq, op.result_k if op.result_k >= 0 else None, op.span,
        )  # fmt: skip
        if op.result_k >= 0:
            row.top_input = max(row.top_input, op.input_seq)
            self._streams.results.add((row.info.no, op.input_seq, op.result_k))

    # ------------------------------------------------------------------ parts of datasets

    def _put_part(self, op: Put) -> Result:
        ident = op.id
        refused = _bad_part(op)
        if refused is not None:
            return refused
        row = self._streams.make(op.source, op.stream)
        info = row.info
        if info.count and not info.datasets:
            return Conflicted(conflict(op, ident, "the stream holds single messages"))
        if ident <= info.max_id:
            found = self._existing(row, op, ident)
            if isinstance(found, Conflicted):
                return found
            dataset = self._db.execute(
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
        self._db.execute(
            "INSERT INTO dataset (stream_no, seq, id, expected, present, ready_seq) "
            "VALUES (?, ?, ?, ?, 1, ?)",
            (info.no, seq, ident, op.expected, ready_seq),
        )
        stream = self.grow(row, op.timestamp_ns, ident, seq, ready_seq or info.ready_seq, True)
        self._add(row, op, ident, seq)
        if row.early:
            self._streams.arrived(row, ident, ident, seq)
        return Stored(stream, seq, ident, ready_seq)

    def _put_further_part(
        self, row: Row, op: Put, seq: int, expected: int, present: int, ready_seq: int
    ) -> Result:
        present += 1
        if present == expected:
            ready_seq = row.info.ready_seq + 1
            self._streams.set(row, ready_seq=ready_seq)
        self._db.execute(
            "UPDATE dataset SET present = ?, ready_seq = ? WHERE stream_no = ? AND seq = ?",
            (present, ready_seq, row.info.no, seq),
        )
        self._add(row, op, op.id, seq)
        return Stored(row.info, seq, op.id, ready_seq)


def countable(producer: bytes, sequence: int, count: int) -> bool:
    return len(producer) == 16 and 1 <= sequence <= limits.ID_MAX - count


def _bad_part(op: Put) -> Result | None:
    """Why a part of a dataset cannot be, whatever is stored."""
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
    return None
