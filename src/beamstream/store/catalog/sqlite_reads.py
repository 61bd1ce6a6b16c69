"""The questions that can be asked of a beamtime, each in one statement or one read transaction."""

# ruff: noqa: S608 - only names of columns of ours are pasted into statements
from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from beamstream.errors import TimedOut
from beamstream.limits import ID_MAX
from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.store.catalog.interface import GroupState, Ranges, State
from beamstream.store.catalog.sqlite_streams import (
    RECORD_COLUMN_COUNT,
    RECORD_COLUMNS,
    RECORD_VALUES,
    STREAM_COLUMNS,
    stream_info,
)
from beamstream.store.query import Query, register_functions, to_sql
from beamstream.store.ranges import RangeSet

# ?1 is the stream's number in all of them; a deleted stream has no rows for anybody.
_ALIVE = "(SELECT dead FROM stream WHERE no = ?1) = 0"
_FULL = (
    f"SELECT {RECORD_VALUES}, "
    "CASE WHEN substream THEN (SELECT d.expected FROM dataset d WHERE d.stream_no = m.stream_no "
    "AND d.seq = m.seq) END, "
    "CASE WHEN substream THEN (SELECT d.ready_seq FROM dataset d WHERE d.stream_no = m.stream_no "
    "AND d.seq = m.seq) END "
    f"FROM message m WHERE stream_no = ?1 AND {_ALIVE} AND "
)
_BY_SEQ = _FULL + "seq >= ?2 AND seq < ?3 ORDER BY seq, substream"
_BY_ID = _FULL + "id >= ?2 AND id <= ?3 ORDER BY id, substream"
_LAST = _FULL + (
    "seq = (SELECT seq FROM message INDEXED BY message_id WHERE stream_no = ?1 AND seq <= ?2 "
    "ORDER BY id DESC LIMIT 1) ORDER BY substream"
)
_LAST_DATASET = _FULL + (
    "seq = (SELECT seq FROM dataset INDEXED BY dataset_id WHERE stream_no = ?1 AND seq <= ?2 "
    "AND present >= ?3 ORDER BY id DESC LIMIT 1) ORDER BY substream"
)
_LAST_COMPLETE = _FULL + (
    "seq = (SELECT seq FROM dataset INDEXED BY dataset_ready WHERE stream_no = ?1 AND seq <= ?2 "
    "AND ready_seq > 0 ORDER BY id DESC LIMIT 1) ORDER BY substream"
)
_IDS = (
    "SELECT id, seq FROM message WHERE stream_no = ?1 AND id >= ?2 AND id <= ?3 AND substream = 0 "
    f"AND {_ALIVE} UNION ALL "
    f"SELECT id, seq FROM dataset WHERE stream_no = ?1 AND id >= ?2 AND id <= ?3 AND {_ALIVE} "
    "ORDER BY 1 LIMIT ?4"
)
# Runs of seqs without a hole have the same difference to their row number.
_RUNS_ABOVE = (
    "SELECT min(seq), max(seq) + 1 FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS run "
    "FROM (SELECT seq FROM message INDEXED BY message_id WHERE stream_no = ?1 AND id > ?2 "
    "AND substream = 0 UNION ALL SELECT seq FROM dataset INDEXED BY dataset_id "
    "WHERE stream_no = ?1 AND id > ?2)) GROUP BY run"
)
_SKIPS_ABOVE = (
    "SELECT seq + max(?2 + 1 - lo, 0), seq + last - lo + 1 FROM skip "
    "WHERE stream_no = ?1 AND last > ?2"
)
# What is there as spans of ids, and where the next span leaves room to the one before.
_GAPS = (
    "SELECT before + 1, lo FROM (SELECT lo, lag(last, 1, ?2 - 1) OVER (ORDER BY lo) AS before FROM "
    "(SELECT id AS lo, id AS last FROM message WHERE stream_no = ?1 AND id >= ?2 AND id <= ?3 "
    "AND substream = 0 UNION ALL "
    "SELECT id, id FROM dataset WHERE stream_no = ?1 AND id >= ?2 AND id <= ?3 UNION ALL "
    "SELECT lo, last FROM skip WHERE stream_no = ?1 AND last >= ?2 AND lo <= ?3 UNION ALL "
    "SELECT ?4, ?4 WHERE ?4 IS NOT NULL ORDER BY 1)) WHERE lo > before + 1 LIMIT ?5"
)
# Sizes in two halves: metadata-only messages may say any, and SQLite's sum ends at 2^63.
_MEASURE = (
    "SELECT place, count(*), sum(size >> 32), sum(size & 0xffffffff) FROM message "
    f"WHERE stream_no = ?1 AND id >= ?2 AND id <= ?3 AND seq <= ?4 AND {_ALIVE} "
    "GROUP BY place ORDER BY place"
)
_TIME_OF = (
    "SELECT seq, timestamp_ns FROM message WHERE stream_no = ? AND seq >= ? AND seq <= ? "
    "ORDER BY seq LIMIT 1"
)
_STEPS_BETWEEN_LOOKS = 1000


@contextmanager
def _same_moment(db: apsw.Connection) -> Iterator[None]:
    """All that is read in the block is from one state of the database."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def stream(db: apsw.Connection, source: str, name: str) -> StreamInfo | None:
    row = db.execute(
        f"SELECT {STREAM_COLUMNS} FROM stream WHERE source = ? AND name = ? AND dead = 0",
        (source, name),
    ).fetchone()
    return None if row is None else stream_info(row)


def streams(db: apsw.Connection, source: str) -> list[StreamInfo]:
    rows = db.execute(
        f"SELECT {STREAM_COLUMNS} FROM stream "
        "WHERE source = ? AND dead = 0 AND (last_seq > skipped OR last_id >= 0) "
        "ORDER BY created_ns, no",
        (source,),
    )
    return [stream_info(row) for row in rows]


def sources(db: apsw.Connection) -> list[str]:
    rows = db.execute(
        "SELECT DISTINCT source FROM stream "
        "WHERE dead = 0 AND (last_seq > skipped OR last_id >= 0) ORDER BY source"
    )
    return [row[0] for row in rows]


def items_by_seq(db: apsw.Connection, no: int, lo: int, hi: int) -> list[Item]:
    return _items(db.execute(_BY_SEQ, (no, max(lo, 0), min(hi, ID_MAX))))


def items_by_id(db: apsw.Connection, no: int, lo: int, hi: int, limit: int) -> list[Item]:
    # The rows are read one by one and only as far as they are wanted.
    return _items(db.execute(_BY_ID, (no, *_ids_between(lo, hi))), limit)


def last_item(db: apsw.Connection, no: int, upto_seq: int) -> Item | None:
    found = _items(db.execute(_LAST, (no, min(upto_seq, ID_MAX))))
    return found[0] if found else None


def last_dataset(db: apsw.Connection, no: int, min_parts: int, upto_seq: int) -> Dataset | None:
    upto_seq = min(upto_seq, ID_MAX)
    if min_parts > 0:
        found = _items(db.execute(_LAST_DATASET, (no, upto_seq, min(min_parts, ID_MAX))))
    else:
        found = _items(db.execute(_LAST_COMPLETE, (no, upto_seq)))
    return found[0] if found and isinstance(found[0], Dataset) else None


def count_complete(db: apsw.Connection, no: int, upto_seq: int) -> int:
    # Those beyond are few, however long the stream is.
    found: int | None = db.execute(
        "SELECT ready_seq - (SELECT count(*) FROM dataset WHERE stream_no = ?1 AND seq > ?2 "
        "AND ready_seq > 0) FROM stream WHERE no = ?1 AND dead = 0",
        (no, min(upto_seq, ID_MAX)),
    ).get
    return found or 0


def ids(db: apsw.Connection, no: int, lo: int, hi: int, limit: int) -> list[tuple[int, int]]:
    return list(db.execute(_IDS, (no, *_ids_between(lo, hi), max(0, min(limit, ID_MAX)))))


def seqs_above(db: apsw.Connection, no: int, ident: int) -> Ranges:
    if ident >= ID_MAX:
        return ()
    with _same_moment(db):
        info = db.execute(
            "SELECT last_seq, in_order FROM stream WHERE no = ? AND dead = 0", (no,)
        ).fetchone()
        if info is None:
            return ()
        skips = RangeSet(db.execute(_SKIPS_ABOVE, (no, ident)))
        if not info[1]:
            return skips.union(db.execute(_RUNS_ABOVE, (no, ident))).to_tuple()
        first = db.execute(
            "SELECT seq FROM message WHERE stream_no = ? AND id > ? ORDER BY id LIMIT 1",
            (no, ident),
        ).fetchone()
    starts = [lo for lo, _ in skips][:1] + ([first[0]] if first else [])
    return ((min(starts), info[0] + 1),) if starts else ()


def seq_at(db: apsw.Connection, no: int, timestamp_ns: int, upto_seq: int) -> int:
    with _same_moment(db):
        last: int | None = db.execute(
            "SELECT last_seq FROM stream WHERE no = ? AND NOT dead", (no,)
        ).get
        lo, end = 1, min(upto_seq, last or 0) + 1
        while lo < end:
            middle = (lo + end) // 2
            found = db.execute(_TIME_OF, (no, middle, end - 1)).fetchone()
            if found is None or found[1] >= timestamp_ns:
                end = middle
            else:
                lo = found[0] + 1
        # The bisection ends at a skip if there is one before the message.
        found = db.execute(_TIME_OF, (no, lo, min(upto_seq, last or 0))).fetchone()
    return found[0] if found else max(min(upto_seq, last or 0), 0) + 1


def gaps(db: apsw.Connection, no: int, lo: int, hi: int, limit: int) -> Ranges:
    lo, last = _ids_between(max(lo, 1), hi)
    found: list[tuple[int, int]] = []
    with _same_moment(db):
        row = db.execute(
            "SELECT last_seq, max_id FROM stream WHERE no = ? AND dead = 0", (no,)
        ).fetchone()
        last_seq, max_id = row or (0, 0)
        # As many as the largest id: none is missing up to there.
        if last_seq < max_id and lo <= last:
            end = last + 1 if last < max_id else None
            found += db.execute(_GAPS, (no, lo, min(last, max_id), end, max(0, min(limit, ID_MAX))))
    lo = max(lo, max_id + 1)
    if lo <= last:
        found.append((lo, last + 1))
    return tuple(found[: max(0, limit)])


def producer_position(db: apsw.Connection, source: str, stream_name: str, producer: bytes) -> int:
    found: int | None = db.execute(
        "SELECT max(hi) - 1 FROM producer_run JOIN stream ON no = stream_no "
        "WHERE source = ? AND name = ? AND dead = 0 AND producer = ?",
        (source, stream_name, producer),
    ).get
    return found or 0


def segment_end(db: apsw.Connection, segment: int) -> int:
    found: int | None = db.execute(
        "SELECT max(position + size) FROM message WHERE place = 3 AND segment = ?", (segment,)
    ).get
    return found or 0


def file(db: apsw.Connection, name: str) -> tuple[str, str, Record] | None:
    row = db.execute(
        f"SELECT s.source, s.name, {RECORD_VALUES.replace(' name,', ' m.name,')} "
        "FROM message m JOIN stream s ON s.no = m.stream_no "
        "WHERE m.name = ? AND m.place = 2 AND s.dead = 0 ORDER BY m.stream_no, m.seq LIMIT 1",
        (name,),
    ).fetchone()
    return None if row is None else (row[0], row[1], Record(*row[2:]))


def measure(
    db: apsw.Connection, no: int, lo: int, hi: int, upto_seq: int
) -> list[tuple[int, int, int]]:
    rows = db.execute(_MEASURE, (no, *_ids_between(lo, hi), min(upto_seq, ID_MAX)))
    return [(place, count, (high << 32) + low) for place, count, high, low in rows]


def search(
    db: apsw.Connection,
    no: int,
    query: Query,
    upto_seq: int,
    offset: int,
    limit: int,
    seconds_max: float,
) -> list[Record]:
    """Raises `TimedOut` when the search takes longer than `seconds_max`."""
    where, parameters, order_by = to_sql(query)
    register_functions(db)
    columns = RECORD_COLUMNS.replace("meta", "CAST(meta AS BLOB)")
    sql = (
        f'SELECT {columns} FROM (SELECT id AS "_id", timestamp_ns AS "timestamp", '
        "substream AS dataset_substream, mode AS ingest_mode, seq AS time_id, "
        f"{RECORD_VALUES.replace('meta', 'CAST(meta AS TEXT) AS meta')} FROM message "
        f"WHERE stream_no = ? AND seq <= ? AND (SELECT dead FROM stream WHERE no = ?) = 0) "
        f"WHERE {where or '1'} ORDER BY {order_by or '_id, dataset_substream'} LIMIT ? OFFSET ?"
    )
    values = (no, min(upto_seq, ID_MAX), no, *parameters, max(0, limit), max(0, offset))
    deadline = time.monotonic() + seconds_max
    db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    try:
        return [Record(*row) for row in db.execute(sql, values)]
    except apsw.InterruptError:
        raise TimedOut(
            f"the search took longer than {seconds_max:g} s",
            hint="narrow it by ids or timestamps",
        ) from None
    finally:
        db.set_progress_handler(None)


def group(db: apsw.Connection, name: str, source: str, stream_name: str) -> GroupState | None:
    with _same_moment(db):
        found = list(_group_rows(db, source, stream_name, name))
        return _group_state(db, *found[0]) if found else None


def groups(db: apsw.Connection, source: str, stream_name: str) -> list[GroupState]:
    with _same_moment(db):
        return [_group_state(db, *row) for row in _group_rows(db, source, stream_name, None)]


def groups_of(db: apsw.Connection) -> list[tuple[str, str, str, int]]:
    return list(
        db.execute(
            "SELECT g.name, source, s.name, last_used_ns FROM group_stream "
            "JOIN reader_group g ON g.no = group_no JOIN stream s ON s.no = stream_no "
            "WHERE dead = 0 ORDER BY 1, 2, 3"
        )
    )


def _group_rows(
    db: apsw.Connection, source: str, stream_name: str, name: str | None
) -> list[tuple[int, int, str, int, int]]:
    rows: list[Any] = db.execute(
        "SELECT s.no, g.no, g.name, id_position, last_used_ns FROM stream s "
        "JOIN group_stream ON stream_no = s.no JOIN reader_group g ON g.no = group_no "
        "WHERE source = ?1 AND s.name = ?2 AND dead = 0 AND (?3 IS NULL OR g.name = ?3) "
        "ORDER BY g.name",
        (source, stream_name, name),
    ).fetchall()
    return rows


def _group_state(
    db: apsw.Connection, no: int, group_no: int, name: str, id_position: int, last_used_ns: int
) -> GroupState:
    of = "WHERE stream_no = ? AND group_no = ?"
    ranges: dict[int, list[tuple[int, int]]] = {state: [] for state in State}
    for lo, hi, state in db.execute(
        f"SELECT lo, hi, state FROM group_range {of} ORDER BY lo",
        (no, group_no),
    ):
        ranges[state].append((lo, hi))
    counts = db.execute(
        f"SELECT seq, count FROM delivery_count {of} ORDER BY seq",
        (no, group_no),
    )
    early = db.execute(
        f"SELECT id FROM early_ack {of} ORDER BY id",
        (no, group_no),
    )
    return GroupState(
        name,
        id_position,
        tuple(ranges[State.DONE]),
        tuple(ranges[State.ACKED]),
        tuple(ranges[State.DEAD]),
        tuple(counts),
        tuple(row[0] for row in early),
        last_used_ns,
    )


def last_acked_id(db: apsw.Connection, name: str, source: str, stream_name: str) -> int:
    with _same_moment(db):
        found = _group_rows(db, source, stream_name, name)
        if not found:
            return 0
        no, group_no = found[0][:2]
        early = db.execute(
            "SELECT max(id) FROM early_ack WHERE stream_no = ? AND group_no = ?", (no, group_no)
        ).get
        acked = RangeSet(
            db.execute(
                "SELECT lo, hi FROM group_range WHERE stream_no = ? AND group_no = ? "
                "AND state = ? ORDER BY lo",
                (no, group_no, State.ACKED),
            )
        )
        return max(early or 0, _largest_id(db, no, acked))


def _largest_id(db: apsw.Connection, no: int, seqs: RangeSet) -> int:
    largest = 0
    if seqs:
        # From the largest id down: one step in a stream that is read in order.
        for ident, seq in db.execute(
            "SELECT id, seq FROM message INDEXED BY message_id WHERE stream_no = ? "
            "ORDER BY id DESC, substream DESC",
            (no,),
        ):
            if seq in seqs:
                largest = ident
                break
        for lo, last, seq in db.execute(
            "SELECT lo, last, seq FROM skip WHERE stream_no = ? AND last > ?", (no, largest)
        ):
            for _, end in seqs.within(seq, seq + last - lo + 1):
                largest = max(largest, lo + end - 1 - seq)
    return largest


def _ids_between(lo: int, hi: int) -> tuple[int, int]:
    """Bounds of a half-open range as SQLite's integers can hold them, both inclusive."""
    return min(max(lo, 0), ID_MAX), max(min(hi, ID_MAX + 1), 0) - 1


def _items(rows: Iterable[tuple[Any, ...]], limit: int = ID_MAX) -> list[Item]:
    """Records, and the parts of each dataset together."""
    items: list[Item] = []
    parts: list[Record] = []
    dataset: tuple[int, int, int, int] | None = None
    if limit <= 0:
        return items
    for row in rows:
        record = Record(*row[:RECORD_COLUMN_COUNT])
        if dataset and dataset[0] != record.seq:
            items.append(Dataset(*dataset, tuple(parts)))
            dataset, parts = None, []
        if len(items) == limit:
            return items
        if record.substream:
            dataset = (record.seq, record.id, *row[RECORD_COLUMN_COUNT:])
            parts.append(record)
        else:
            items.append(record)
    if dataset and len(items) < limit:
        items.append(Dataset(*dataset, tuple(parts)))
    return items
