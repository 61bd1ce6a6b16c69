"""Many messages into one stream at once: without a step of Python's for each, where that can be."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice, repeat

import apsw
import msgspec

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import NO_META, Place
from beamstream.store.catalog.interface import (
    Conflicted,
    Duplicate,
    Put,
    PutMany,
    Refused,
    Result,
    Stored,
    StoredMany,
)
from beamstream.store.catalog.sqlite_producers import NO_ID
from beamstream.store.catalog.sqlite_puts import Puts, countable
from beamstream.store.catalog.sqlite_refusals import bad_batch, conflict
from beamstream.store.catalog.sqlite_results import Results, top_input
from beamstream.store.catalog.sqlite_streams import Row, Streams
from beamstream.store.ranges import RangeSet

# What a batch does not have is left to its default: each value that is bound costs 30 ns.
_INSERT_MANY = (
    "INSERT INTO message (stream_no, seq, id, substream, name, size, digest, meta, timestamp_ns, "
    "arrived_ns, mode, level, place, root, node, boot, run, segment, position, info) "
    "VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_RESULTS = _INSERT_MANY.replace(
    "info)", "info, input_source, input_stream, input_seq, result_k, span)"
).replace("?)", "?, ?, ?, ?, ?, ?)")
# One look into an index for each id, wherever they lie.
_ANY_ID = (
    "SELECT 1 FROM json_each(?2) CROSS JOIN message INDEXED BY message_id "
    "WHERE stream_no = ?1 AND message.id = value LIMIT 1"
)
_ANY_SKIPPED = (
    "SELECT 1 FROM json_each(?2) WHERE value <= (SELECT last FROM skip "
    "WHERE stream_no = ?1 AND lo <= value ORDER BY lo DESC LIMIT 1) LIMIT 1"
)


class Batches:
    """Batches of messages into the streams of one beamtime.

    Parameters
    ----------
    puts : of the same connection, for messages that have to be looked at one by one.
    """

    def __init__(
        self, connection: apsw.Connection, streams: Streams, puts: Puts, results: Results
    ) -> None:
        self._db = connection
        self._streams = streams
        self._producers = streams.producers
        self._puts = puts
        self._results = results

    def put_many(self, op: PutMany) -> Result:
        why = _unfit(op)
        if why:
            return Refused(bad_batch(op, why))
        row = self._streams.find(op.source, op.stream)
        if row is not None and row.info.datasets:
            return Conflicted(
                conflict(op, op.ids[0] if op.ids else op.id, "the stream holds datasets")
            )
        if not self._new(op, row):
            return self._one_by_one(op)
        return self._append(op, row or self._streams.make(op.source, op.stream))

    def _new(self, op: PutMany, row: Row | None) -> bool:
        """Whether all of it is new and ascends: then it is inserted as it is."""
        top = row.info.max_id if row else 0
        ids = op.ids
        first, last = (ids[0], ids[-1]) if ids else _ends(op, top)
        if not 1 <= first <= last <= limits.ID_MAX:
            return False
        if ids and not all(map(operator.lt, ids, islice(ids, 1, None))):
            return False
        if min(op.sizes) < 0 or max(op.sizes) > limits.ID_MAX:
            return False
        if op.input_seqs and self._results.any_known(row, op):
            return False
        if row is None:
            return True
        if 0 <= row.info.last_id < last:
            return False
        if op.producer and self._producers.runs(row.info.no, op.producer).overlaps(
            op.sequence, op.sequence + len(op.sizes)
        ):
            return False
        return first > top or not self._any_there(row, ids or range(first, last + 1))

    def _any_there(self, row: Row, ids: Iterable[int]) -> bool:
        self._streams.flush()
        asked = (row.info.no, msgspec.json.encode(list(ids)).decode())
        if self._db.execute(_ANY_ID, asked).fetchone():
            return True
        return row.info.skipped > 0 and self._db.execute(_ANY_SKIPPED, asked).fetchone() is not None

    def _append(self, op: PutMany, row: Row) -> StoredMany:
        count = len(op.sizes)
        first, last = (op.ids[0], op.ids[-1]) if op.ids else _ends(op, row.info.max_id)
        ids = op.ids if op.ids and last - first >= count else None
        seq = row.info.last_seq + 1
        self._streams.flush()
        columns = _columns(op, row.info.no, seq, ids, first)
        if op.input_seqs:
            columns += _input_columns(op, op.input_seqs)
            row.top_input = max(row.top_input, top_input(op.input_seqs, op.result_ks))
        insert = _INSERT_RESULTS if op.input_seqs else _INSERT_MANY
        # Made without a step of Python's for each.
        self._db.executemany(insert, zip(*columns, strict=False))
        last_seq = seq + count - 1
        info = self._puts.grow(
            row, op.timestamp_ns, last, last_seq, row.info.ready_seq, False, first
        )
        if row.early:
            for lo, hi in RangeSet((i, i + 1) for i in ids) if ids else ((first, last + 1),):
                self._streams.arrived(row, lo, hi - 1, seq)
                seq += hi - lo
        if op.producer:
            self._producers.store(
                info.no,
                op.producer,
                op.sequence,
                op.sequence + count,
                NO_ID if op.id or op.ids else first,
                op.timestamp_ns,
            )
        return StoredMany(info, last_seq - count + 1, count, first, ids)

    def _one_by_one(self, op: PutMany) -> Result:
        results = [self._puts.put(one) for one in singles(op)]
        failures: list[tuple[int, Error]] = []
        duplicates = RangeSet()
        ids: list[int] = []
        seq = 0
        for index, result in enumerate(results):
            if isinstance(result, Stored | Duplicate):
                ids.append(result.id)
                if isinstance(result, Duplicate):
                    duplicates.add(index, index + 1)
                elif not seq:
                    seq = result.seq
            elif isinstance(result, Conflicted | Refused):
                ids.append(op.ids[index] if op.ids else op.id and op.id + index)
                failures.append((index, result.error))
        count = len(results) - len(duplicates) - len(failures)
        row = self._streams.find(op.source, op.stream)
        if row is None:
            return Refused(failures[0][1])
        counted = all(ident == ids[0] + index for index, ident in enumerate(ids))
        return StoredMany(
            row.info, seq, count, ids[0], None if counted else tuple(ids), duplicates.to_tuple(),
            tuple(failures),
        )  # fmt: skip


def _ends(op: PutMany, top: int) -> tuple[int, int]:
    """First and last id of a batch whose ids count on."""
    first = op.id or top + 1
    return first, first + len(op.sizes) - 1


def _columns(
    op: PutMany, no: int, seq: int, ids: tuple[int, ...] | None, first: int
) -> list[Iterable[object]]:
    """Columns of `_INSERT_MANY`."""
    count = len(op.sizes)
    each = repeat
    return [
        each(no),
        range(seq, seq + count),
        ids or range(first, first + count),
        op.names or each(""),
        op.sizes,
        _digests(op),
        op.metas or each(NO_META),
        each(op.timestamp_ns),
        each(op.arrived_ns),
        each(op.mode),
        each(op.level),
        each(op.place),
        each(op.root),
        each(op.node),
        each(op.boot),
        each(op.run),
        each(op.segment),
        _positions(op),
        each(op.infos) if isinstance(op.infos, bytes) else op.infos,
    ]


def _input_columns(op: PutMany, seqs: tuple[int, ...]) -> list[Iterable[object]]:
    """The further columns of `_INSERT_RESULTS`."""
    ks: Iterable[int | None] = op.result_ks or repeat(0)
    if op.result_ks and min(op.result_ks) < 0:
        ks = [k if k >= 0 else None for k in op.result_ks]
    return [repeat(op.input_source), repeat(op.input_stream), seqs, ks, op.spans or repeat(b"")]


def _digests(op: PutMany) -> Iterable[bytes]:
    return struct.unpack("16s" * len(op.sizes), op.digests) if op.digests else repeat(b"")


def _positions(op: PutMany) -> Iterable[int]:
    if op.place == Place.SEGMENT:
        return accumulate(op.sizes, initial=op.position)
    return repeat(op.position)


def singles(op: PutMany) -> Iterator[Put]:
    """The messages of a batch one by one."""
    for index, (size, digest, meta, name, info, position, input_seq, k, span) in enumerate(
        zip(
            op.sizes,
            _digests(op),
            op.metas or repeat(NO_META),
            op.names or repeat(""),
            repeat(op.infos) if isinstance(op.infos, bytes) else op.infos,
            _positions(op),
            op.input_seqs or repeat(0),
            op.result_ks or repeat(0 if op.input_seqs else -1),
            op.spans or repeat(b""),
            strict=False,
        )
    ):
        yield Put(
            op.source, op.stream, op.ids[index] if op.ids else op.id and op.id + index, name, size,
            digest, meta, op.timestamp_ns, op.arrived_ns, op.mode, op.level, op.place, op.root,
            node=op.node, boot=op.boot, run=op.run, segment=op.segment, position=position,
            info=info, producer=op.producer, sequence=op.sequence and op.sequence + index,
            input_source=op.input_source, input_stream=op.input_stream, input_seq=input_seq,
            result_k=k, span=span,
        )  # fmt: skip


def _unfit(op: PutMany) -> str:
    """Why the batch as a whole cannot be; empty if it can."""
    count = len(op.sizes)
    if not 1 <= count <= limits.NATIVE_BATCH_MAX:
        return f"has {count} messages, 1 to {limits.NATIVE_BATCH_MAX} are possible"
    lists = (
        op.ids, op.metas, op.names, None if isinstance(op.infos, bytes) else op.infos,
        op.input_seqs, op.result_ks, op.spans,
    )  # fmt: skip
    if any(values is not None and len(values) != count for values in lists) or (
        op.digests and len(op.digests) != 16 * count
    ):
        return "has columns of different lengths"
    if op.id < 0 or (op.ids and (op.id or min(op.ids) < 1)):
        return f"cannot have the first id {op.id} and ids from {min(op.ids or (0,))}"
    if op.input_seqs is None:
        if op.result_ks or op.spans:
            return "has results of no inputs"
    elif min(op.input_seqs) < 1 or max(*op.input_seqs, *(op.result_ks or (0,))) > limits.ID_MAX:
        return f"has results of inputs from {min(op.input_seqs)} on, which cannot be"
    if op.producer and not countable(op.producer, op.sequence, count):
        return f"is counted from {op.sequence} on, which cannot be"
    return ""
