"""What claims, marks, acknowledgements and seeks do to the rows of groups.

An operation reads the rows that its ranges touch, does its arithmetic on `RangeSet`, and writes
back those rows only. Of a group only its number is kept in memory, and when it was used last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apsw

from beamstream import limits
from beamstream.errors import AlreadyAcknowledged, BadInput, NotFound, StaleLease, TooMany
from beamstream.store.catalog.interface import (
    Ack,
    Acked,
    AlreadyAcked,
    Claim,
    Claimed,
    DeleteGroup,
    Done,
    Expire,
    Mark,
    Nack,
    Ranges,
    Refused,
    Release,
    Renew,
    Result,
    Seek,
    State,
)
from beamstream.store.catalog.sqlite_refusals import no_stream
from beamstream.store.catalog.sqlite_schema import STREAM_TABLES
from beamstream.store.catalog.sqlite_streams import Row, Streams
from beamstream.store.ranges import RangeSet

# A range that begins before the window may reach into it: the last such row is looked up too.
_WINDOW = (
    "FROM {table} WHERE stream_no = ?1 AND group_no = ?2 AND lo <= ?4 AND lo >= coalesce("
    "(SELECT max(lo) FROM {table} WHERE stream_no = ?1 AND group_no = ?2 AND lo <= ?3), ?3)"
)
_STATES = "SELECT lo, hi, state " + _WINDOW.format(table="group_range") + " ORDER BY lo"
_CLAIMS = "SELECT lo, hi, owner, until_ns " + _WINDOW.format(table="group_claim")
_SEQ_OF = (
    "SELECT seq FROM message WHERE stream_no = ?1 AND id = ?2 UNION ALL "
    "SELECT seq + ?2 - lo FROM (SELECT lo, last, seq FROM skip WHERE stream_no = ?1 AND lo <= ?2 "
    "ORDER BY lo DESC LIMIT 1) WHERE last >= ?2 LIMIT 1"
)
_OPEN_MAX = 4096
_LOADED_STATES = (State.DONE, State.ACKED, State.DEAD)


class Groups:
    """The groups of one beamtime, as the transaction that is open sees them."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection
        self._streams = Streams(connection, self.arrived)
        self._open: dict[str, tuple[int, int]] = {}
        """Number and last use of groups."""
        self._used: dict[int, int] = {}
        """Last uses, by number, that are not in the table yet."""
        self._members: dict[tuple[int, int], bool] = {}
        """Streams and groups that belong together, and whether they may have delivery counts."""

    @property
    def streams(self) -> Streams:
        return self._streams

    def write_back(self) -> None:
        """Write all that is still in memory only."""
        if self._used:
            self._db.executemany(
                "UPDATE reader_group SET last_used_ns = ? WHERE no = ?",
                [(used_ns, no) for no, used_ns in self._used.items()],
            )
            self._used.clear()
        if len(self._open) > _OPEN_MAX or len(self._members) > _OPEN_MAX:
            self.forget()

    def forget(self) -> None:
        """Drop what is in memory: the transaction, or a part of it, is rolled back."""
        self._open.clear()
        self._used.clear()
        self._members.clear()

    # -------------------------------------------------------------------------- claims

    def claim(self, op: Claim) -> Result:
        row = self._streams.make(op.source, op.stream)
        no, group = row.info.no, self._opened(op.group, row, op.now_ns)
        taken = RangeSet((lo, hi) for lo, hi, _ in self._states(no, group, op.lo, op.hi))
        claims = list(self._db.execute(_CLAIMS, (no, group, op.lo, op.hi)))
        for lo, hi, owner, until_ns in claims:
            if owner != op.owner and until_ns > op.now_ns:
                taken.add(lo, hi)
        granted = _first(taken.gaps(max(op.lo, 1), op.hi), op.count)
        if granted:
            self._replace_claims(no, group, claims, granted, (op.owner, op.until_ns))
        return Claimed(row.info, granted)

    def _replace_claims(
        self,
        no: int,
        group: int,
        claims: list[tuple[int, int, str, int]],
        granted: Ranges,
        to: tuple[str, int],
    ) -> None:
        """Write the claims anew: what is granted taken out of the old ones, and added."""
        kept: dict[tuple[str, int], RangeSet] = {}
        for lo, hi, owner, until_ns in claims:
            kept.setdefault((owner, until_ns), RangeSet()).add(lo, hi)
        kept = {key: ranges - granted for key, ranges in kept.items()}
        kept[to] = kept.get(to, RangeSet()) | granted
        self._db.executemany(
            "DELETE FROM group_claim WHERE stream_no = ? AND group_no = ? AND lo = ?",
            [(no, group, claim[0]) for claim in claims],
        )
        self._db.executemany(
            "INSERT INTO group_claim (stream_no, group_no, lo, hi, owner, until_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (no, group, lo, hi, owner, until_ns)
                for (owner, until_ns), ranges in kept.items()
                for lo, hi in ranges
            ],
        )

    def renew(self, op: Renew) -> Result:
        self._db.execute(
            "UPDATE group_claim SET until_ns = ?2 WHERE owner = ?1 AND until_ns < ?2",
            (op.owner, op.until_ns),
        )
        return Done()

    def release(self, op: Release) -> Result:
        self._db.execute("DELETE FROM group_claim WHERE owner = ?", (op.owner,))
        return Done()

    # ----------------------------------------------------------------- states of messages

    def mark(self, op: Mark) -> Result:
        row = self._streams.find(op.source, op.stream)
        if row is None:
            return Refused(no_stream(op.source, op.stream))
        no = row.info.no
        group = self._find(op.group)
        if op.owner and not self._holds(op, no, group):
            return Refused(
                StaleLease(
                    f"{op.owner!r} does not hold what it marks in stream {op.stream!r} for group "
                    f"{op.group!r}",
                    hint="its claim has expired or was given back; claim again",
                )
            )
        group = self._opened(op.group, row, op.now_ns)
        if op.id_position >= 0:
            self._set_position(no, group, op.id_position)
        if op.counts:
            self._db.executemany(
                "INSERT INTO delivery_count (stream_no, group_no, seq, count) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET count = excluded.count",
                [(no, group, s, count) for s, count in op.counts if 0 < s <= row.info.last_seq],
            )
            self._members[no, group] = True
        stronger = {
            State.DONE: (State.ACKED, State.DEAD),
            State.DEAD: (State.ACKED,),
            State.ACKED: (),
        }[op.state]
        self._change(no, group, _existing(op.ranges, row), op.state, stronger)
        return Done(row.info)

    def _holds(self, op: Mark, no: int, group: int) -> bool:
        for lo, hi in op.ranges:
            held = RangeSet(
                (a, b)
                for a, b, owner, until_ns in self._db.execute(_CLAIMS, (no, group, lo, hi))
                if owner == op.owner and until_ns > op.now_ns
            )
            if not held.covers(lo, hi):
                return False
        return True

    def ack(self, op: Ack) -> Result:
        if any(not 1 <= ident <= limits.ID_MAX for ident in op.early_ids):
            return Refused(
                BadInput(
                    f"group {op.group!r} acknowledges ids of stream {op.stream!r} that cannot be",
                    hint=f"ids are 1 … {limits.ID_MAX}",
                )
            )
        row = self._streams.make(op.source, op.stream)
        no = row.info.no
        group = self._opened(op.group, row, op.now_ns)
        wanted = _existing(op.ranges, row)
        early: set[int] = set()
        if op.early_ids:
            self._streams.flush()
            for ident in op.early_ids:
                found = self._db.execute(_SEQ_OF, (no, ident)).fetchone()
                if found is None:
                    early.add(ident)
                else:
                    wanted.add(found[0], found[0] + 1)
        known = {ident for ident in early if self._is_early(no, group, ident)}
        if op.strict and (known or self._any_acked(no, group, wanted)):
            return AlreadyAcked(
                AlreadyAcknowledged(
                    f"group {op.group!r} has acknowledged that of stream {op.stream!r} before"
                )
            )
        new_early = early - known
        if new_early and self._early_count(no, group) + len(new_early) > limits.EARLY_ACKS_MAX:
            return Refused(
                TooMany(
                    f"group {op.group!r} has acknowledged {limits.EARLY_ACKS_MAX} messages of "
                    f"stream {op.stream!r} that do not exist"
                )
            )
        if new_early:
            self._db.executemany(
                "INSERT INTO early_ack (stream_no, group_no, id) VALUES (?, ?, ?)",
                [(no, group, ident) for ident in new_early],
            )
            row.early = True
        return Acked(self._change(no, group, wanted, State.ACKED, ()) + len(new_early))

    def nack(self, op: Nack) -> Result:
        row = self._streams.make(op.source, op.stream)
        group = self._opened(op.group, row, op.now_ns)
        self._change(row.info.no, group, op.ranges, None, ())
        return Done(row.info)

    def seek(self, op: Seek) -> Result:
        row = self._streams.make(op.source, op.stream)
        no = row.info.no
        group = self._opened(op.group, row, op.now_ns)
        self._set_position(no, group, op.id_position)
        self._change(no, group, _existing(op.done, row), State.DONE, (State.ACKED, State.DEAD))
        self._change(no, group, op.opened, None, ())
        for lo, hi in op.opened:
            self._drop_counts(no, group, lo, hi)
        self._db.execute(
            "DELETE FROM early_ack WHERE stream_no = ? AND group_no = ? AND id > ?",
            (no, group, op.id_position),
        )
        return Done(row.info)

    def arrived(self, row: Row, lo: int, last: int, seq: int) -> None:
        """The ids `lo` to `last` have come, from `seq` on: early acknowledgements become real."""
        no = row.info.no
        found = list(
            self._db.execute(
                "SELECT group_no, id FROM early_ack WHERE stream_no = ? AND id BETWEEN ? AND ?",
                (no, lo, last),
            )
        )
        for group, ident in found:
            at = seq + ident - lo
            self._change(no, group, ((at, at + 1),), State.ACKED, ())
        self._db.execute(
            "DELETE FROM early_ack WHERE stream_no = ? AND id BETWEEN ? AND ?", (no, lo, last)
        )

    def expire(self, op: Expire) -> Result:
        self.write_back()
        old: list[Any] = self._db.execute(
            "SELECT no FROM reader_group WHERE last_used_ns < ?1 AND NOT EXISTS ("
            "SELECT 1 FROM group_stream s JOIN group_claim c USING (stream_no, group_no) "
            "WHERE s.group_no = no AND c.until_ns > ?1)",
            (op.before_ns,),
        ).fetchall()
        for (group,) in old:
            streams: list[Any] = self._db.execute(
                "SELECT stream_no FROM group_stream WHERE group_no = ?", (group,)
            ).fetchall()
            self._forget(group, [no for (no,) in streams])
        return Done()

    def delete(self, op: DeleteGroup) -> Result:
        group = self._find(op.group)
        found: list[Any] = self._db.execute(
            "SELECT no FROM group_stream JOIN stream ON no = stream_no WHERE group_no = ?1 "
            "AND dead = 0 AND (?2 || ?3 = '' OR (source = ?2 AND name = ?3))",
            (group, op.source, op.stream),
        ).fetchall()
        numbers = [no for (no,) in found]
        if not numbers:
            where = f" in stream {op.stream!r} of source {op.source!r}" if op.stream else ""
            return Refused(NotFound(f"there is no group {op.group!r}{where}"))
        self._forget(group, numbers)
        return Done()

    def _forget(self, group: int, numbers: list[int]) -> None:
        """Forget the group in these streams, and altogether when it is in no other."""
        self.write_back()
        self.forget()
        for table, order in STREAM_TABLES:
            if order.startswith("group_no"):
                self._db.executemany(
                    f"DELETE FROM {table} WHERE stream_no = ? AND group_no = ?",  # noqa: S608
                    [(no, group) for no in numbers],
                )
        self._db.execute(
            "DELETE FROM reader_group WHERE no = ?1 AND NOT EXISTS ("
            "SELECT 1 FROM group_stream s JOIN stream t ON t.no = s.stream_no "
            "WHERE group_no = ?1 AND dead = 0)",
            (group,),
        )

    # ------------------------------------------------------------------------- rows

    def _find(self, group: str) -> int:
        """The number of the group; 0 if there is none."""
        found = self._db.execute("SELECT no FROM reader_group WHERE name = ?", (group,)).fetchone()
        return found[0] if found else 0

    def _opened(self, name: str, row: Row, now_ns: int) -> int:
        """The number of the group, which is created in this stream if need be, and is used now."""
        found: Any = self._open.get(name)
        if found is None:
            found = self._db.execute(
                "SELECT no, last_used_ns FROM reader_group WHERE name = ?", (name,)
            ).fetchone()
        if found is None:
            found = self._db.execute(
                "INSERT INTO reader_group (name, last_used_ns) VALUES (?, ?) RETURNING no, ?2",
                (name, now_ns),
            ).fetchone()
        group, used_ns = found
        if used_ns < now_ns:
            self._used[group] = now_ns
        self._open[name] = (group, max(used_ns, now_ns))
        key = (row.info.no, group)
        if key not in self._members:
            self._db.execute(
                "INSERT INTO group_stream (stream_no, group_no, id_position) VALUES (?, ?, 0) "
                "ON CONFLICT DO NOTHING",
                key,
            )
            counted = self._db.execute(
                "SELECT 1 FROM delivery_count WHERE stream_no = ? AND group_no = ? LIMIT 1", key
            ).fetchone()
            self._members[key] = counted is not None
        return int(group)

    def _set_position(self, no: int, group: int, ident: int) -> None:
        self._db.execute(
            "UPDATE group_stream SET id_position = ? WHERE stream_no = ? AND group_no = ?",
            (ident, no, group),
        )

    def _states(self, no: int, group: int, lo: int, hi: int) -> list[tuple[int, int, int]]:
        """Rows of all states that overlap or touch [lo, hi)."""
        rows = self._db.execute(_STATES, (no, group, lo - 1, hi))
        return [row for row in rows if row[1] >= lo]

    def _any_acked(self, no: int, group: int, ranges: Iterable[tuple[int, int]]) -> bool:
        return any(
            state == State.ACKED and a < hi and b > lo
            for lo, hi in ranges
            for a, b, state in self._states(no, group, lo, hi)
        )

    def _change(
        self,
        no: int,
        group: int,
        ranges: Iterable[tuple[int, int]],
        state: State | None,
        stronger: tuple[State, ...],
    ) -> int:
        """Bring ranges into a state (None: open), save what is in a stronger one.

        Returns how many were not in that state before.
        """
        changed = 0
        for lo, hi in ranges:
            if hi <= lo:
                continue
            there = self._states(no, group, lo, hi)
            if state is not None and all(row[2] == state for row in there):
                # What it overlaps or touches becomes one with it.
                before = sum(max(0, min(b, hi) - max(a, lo)) for a, b, _ in there)
                changed += hi - lo - before
                start = min(lo, there[0][0]) if there else lo
                end = max(hi, there[-1][1]) if there else hi
                new = {(start, end, int(state))}
            else:
                new, count = _changed(there, lo, hi, state, stronger)
                changed += count
            self._write_states(no, group, set(there), new)
            if state is State.ACKED and self._members.get((no, group), True):
                self._drop_counts(no, group, lo, hi)
        return changed

    def _write_states(
        self, no: int, group: int, old: set[tuple[int, int, int]], new: set[tuple[int, int, int]]
    ) -> None:
        # A row that changes its end keeps its key.
        gone = {row[0] for row in old} - {row[0] for row in new}
        if gone:
            self._db.executemany(
                "DELETE FROM group_range WHERE stream_no = ? AND group_no = ? AND lo = ?",
                [(no, group, lo) for lo in gone],
            )
        if new != old:
            self._db.executemany(
                "INSERT OR REPLACE INTO group_range (stream_no, group_no, lo, hi, state) "
                "VALUES (?, ?, ?, ?, ?)",
                [(no, group, *row) for row in new - old],
            )

    def _drop_counts(self, no: int, group: int, lo: int, hi: int) -> None:
        self._db.execute(
            "DELETE FROM delivery_count WHERE stream_no = ? AND group_no = ? AND seq >= ? "
            "AND seq < ?",
            (no, group, lo, hi),
        )

    def _is_early(self, no: int, group: int, ident: int) -> bool:
        return (
            self._db.execute(
                "SELECT 1 FROM early_ack WHERE stream_no = ? AND group_no = ? AND id = ?",
                (no, group, ident),
            ).fetchone()
            is not None
        )

    def _early_count(self, no: int, group: int) -> int:
        count: int = self._db.execute(
            "SELECT count(*) FROM early_ack WHERE stream_no = ? AND group_no = ?", (no, group)
        ).get
        return count


def _changed(
    there: list[tuple[int, int, int]],
    lo: int,
    hi: int,
    state: State | None,
    stronger: tuple[State, ...],
) -> tuple[set[tuple[int, int, int]], int]:
    """The rows that take the place of `there`, and how many seqs have come into the state."""
    sets = {s: RangeSet((a, b) for a, b, t in there if t == s) for s in _LOADED_STATES}
    wanted = RangeSet(((lo, hi),))
    for other in stronger:
        wanted -= sets[other]
    for other, ranges_of_other in sets.items():
        if other != state:
            sets[other] = ranges_of_other - wanted
    count = 0
    if state is not None:
        before = len(sets[state])
        sets[state] |= wanted
        count = len(sets[state]) - before
    return {(a, b, int(s)) for s, part in sets.items() for a, b in part}, count


def _existing(ranges: Iterable[tuple[int, int]], row: Row) -> RangeSet:
    """The part of `ranges` that has messages: nothing is done before it has arrived."""
    end = row.info.last_seq + 1
    return RangeSet((max(lo, 1), min(hi, end)) for lo, hi in ranges)


def _first(ranges: Iterable[tuple[int, int]], count: int) -> Ranges:
    """The first `count` numbers of `ranges`."""
    taken = []
    for lo, hi in ranges:
        if count <= 0:
            break
        taken.append((lo, min(hi, lo + count)))
        count -= taken[-1][1] - lo
    return tuple(taken)
