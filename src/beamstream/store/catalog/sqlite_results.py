"""Which results a stream has already: those of (run, input source, stream, seq, k)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import apsw
import msgspec

from beamstream.limits import ID_MAX
from beamstream.model import Record
from beamstream.store.catalog.interface import Put, PutMany
from beamstream.store.catalog.sqlite_streams import RECORD_VALUES, Row, Streams

_OF = "stream_no = ?1 AND run = ?2 AND input_source = ?3 AND input_stream = ?4"
_ONE = (
    f"SELECT {RECORD_VALUES} FROM message INDEXED BY message_result "  # noqa: S608
    f"WHERE {_OF} AND input_seq = ?5 AND result_k = ?6"
)
# One look into the index for each input, wherever the inputs lie. The second statement reads the
# rows, too, and is for streams that have results of several runs or of several inputs' streams.
_ANY = (
    "SELECT input_seq, result_k FROM json_each(?2) CROSS JOIN message INDEXED BY message_result "
    "WHERE stream_no = ?1 AND input_seq = value AND result_k IS NOT NULL"
)
_MANY = (
    "SELECT input_seq, result_k FROM json_each(?5) CROSS JOIN message INDEXED BY message_result "  # noqa: S608
    f"WHERE {_OF} AND input_seq = value AND result_k IS NOT NULL"
)


class Results:
    """Results in the streams of one beamtime, as the transaction that is open sees them."""

    def __init__(self, connection: apsw.Connection, streams: Streams) -> None:
        self._db = connection
        self._streams = streams

    def find(self, row: Row, op: Put) -> Record | None:
        """The record of this result, if the stream has it."""
        if op.input_seq > row.top_input:
            return None
        no, seq, k = row.info.no, op.input_seq, op.result_k
        if (no, seq, k) in self._streams.results:
            self._streams.flush()
        found = self._db.execute(
            _ONE, (no, op.run, op.input_source, op.input_stream, seq, k)
        ).fetchone()
        return None if found is None else Record(*found)

    def any_known(self, row: Row | None, op: PutMany) -> bool:
        """Whether the stream has any of these results, or one of them is there twice."""
        assert op.input_seqs is not None
        told = list(zip(op.input_seqs, op.result_ks or repeat(0), strict=False))
        if op.result_ks and min(op.result_ks) < 0:
            told = [pair for pair in told if pair[1] >= 0]
        wanted = set(told)
        if len(wanted) < len(told):
            return True
        if row is None or not wanted or min(wanted)[0] > row.top_input:
            return False
        self._streams.flush()
        inputs = msgspec.json.encode(sorted({seq for seq, _ in wanted})).decode()
        if wanted.isdisjoint(self._db.execute(_ANY, (row.info.no, inputs))):
            return False
        key = (row.info.no, op.run, op.input_source, op.input_stream, inputs)
        return not wanted.isdisjoint(self._db.execute(_MANY, key))


def possible(input_seq: int, k: int) -> bool:
    """Whether there can be such a result, or for `k` below 0 a message of such an input."""
    return (1 if k >= 0 else 0) <= input_seq <= ID_MAX and k <= ID_MAX


def top_input(seqs: Iterable[int], ks: Iterable[int] | None) -> int:
    """The largest seq of an input that has results; 0 if none has."""
    if ks is None:
        return max(seqs)
    return max((seq for seq, k in zip(seqs, ks, strict=False) if k >= 0), default=0)
