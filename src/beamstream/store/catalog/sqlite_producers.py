"""Which messages of each producer are stored: what makes sending again harmless.

A producer counts its messages in a stream 1, 2, 3 …. What has been stored is kept as runs of these
numbers with ids that count on alike; a producer that is alone in its stream has one run.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final

import apsw

from beamstream.limits import PRODUCER_RUNS_MAX

_LOAD = (
    "SELECT lo, hi, id, used_ns FROM producer_run WHERE stream_no = ? AND producer = ? ORDER BY lo"
)
_DELETE = "DELETE FROM producer_run WHERE stream_no = ? AND producer = ? AND lo = ?"
_INSERT = (
    "INSERT OR REPLACE INTO producer_run (stream_no, producer, lo, hi, id, used_ns) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_EXPIRE = (
    "DELETE FROM producer_run WHERE (stream_no, producer) IN (SELECT stream_no, producer "
    "FROM producer_run GROUP BY stream_no, producer HAVING max(used_ns) < ?)"
)
_KNOWN_MAX: Final = 256
NO_ID: Final = 0
"""In place of an id: the producer chose it himself, or it is no longer remembered."""


class Runs:
    """Numbers of one producer in one stream that are stored, and the ids they got.

    >>> runs = Runs()
    >>> runs.add(1, 200, 51, now_ns=0), runs.add(200, 300, 250, now_ns=0)
    (None, None)
    >>> runs.rows(), runs.id_of(299), runs.id_of(300)
    ([(1, 300, 51, 0)], 349, None)
    """

    __slots__ = ("_los", "_runs", "changed", "gone", "runs_max")

    def __init__(
        self,
        rows: list[tuple[int, int, int, int]] | None = None,
        *,
        runs_max: int = PRODUCER_RUNS_MAX,
    ) -> None:
        self._runs = {lo: (hi, ident, used_ns) for lo, hi, ident, used_ns in rows or ()}
        self._los = list(self._runs)
        self.runs_max = runs_max
        self.changed: set[int] = set()
        self.gone: set[int] = set()

    def rows(self) -> list[tuple[int, int, int, int]]:
        """(lo, hi, id of lo, last use) of all runs, ascending."""
        return [(lo, *self._runs[lo]) for lo in self._los]

    def row(self, lo: int) -> tuple[int, int, int, int]:
        return lo, *self._runs[lo]

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any number of [lo, hi) is stored."""
        i = bisect_right(self._los, hi - 1)
        return i > 0 and self._runs[self._los[i - 1]][0] > lo

    def id_of(self, number: int) -> int | None:
        """The id of the message with this number; `NO_ID`; None if it is not stored."""
        i = bisect_right(self._los, number)
        if not i:
            return None
        lo = self._los[i - 1]
        hi, ident, _ = self._runs[lo]
        if number >= hi:
            return None
        return ident + number - lo if ident else NO_ID

    def add(self, lo: int, hi: int, ident: int, *, now_ns: int) -> None:
        """The numbers of [lo, hi), none of which was stored, have the ids from `ident` on."""
        los, runs = self._los, self._runs
        i = bisect_right(los, lo)
        if (
            i
            and runs[los[i - 1]][0] == lo
            and _continues(los[i - 1], runs[los[i - 1]][1], lo, ident)
        ):
            i -= 1
            lo, ident = los[i], runs[los[i]][1]
        else:
            los.insert(i, lo)
            self.gone.discard(lo)
        if i + 1 < len(los) and los[i + 1] == hi and _continues(lo, ident, hi, runs[hi][1]):
            hi = self._drop(i + 1)
        runs[lo] = (hi, ident, now_ns)
        self.changed.add(lo)
        if len(los) > self.runs_max:
            self._forget_ids(max(2, self.runs_max // 2))

    def _drop(self, i: int) -> int:
        """Remove a run; its end."""
        lo = self._los.pop(i)
        self.changed.discard(lo)
        self.gone.add(lo)
        return self._runs.pop(lo)[0]

    def _forget_ids(self, count: int) -> None:
        """Make the oldest `count` runs few: without ids, and if need be without their holes."""
        old = [self.row(lo) for lo in self._los[:count]]
        merged: list[list[int]] = []
        for lo, hi, _, used_ns in old:
            if merged and merged[-1][1] == lo:
                merged[-1][1:] = [hi, max(used_ns, merged[-1][2])]
            else:
                merged.append([lo, hi, used_ns])
        if len(merged) > count // 2:
            merged = [[merged[0][0], merged[-1][1], max(run[2] for run in merged)]]
        for _ in old:
            self._drop(0)
        for lo, hi, used_ns in merged:
            self._runs[lo] = (hi, NO_ID, used_ns)
            self.gone.discard(lo)
            self.changed.add(lo)
        self._los[:0] = [run[0] for run in merged]


def _continues(lo: int, ident: int, next_lo: int, next_id: int) -> bool:
    """Whether a run from `next_lo` goes on where that from `lo` ends."""
    return next_id == (ident + next_lo - lo if ident else NO_ID)


class Producers:
    """Runs of the producers of a beamtime, kept in memory while they are in use."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection
        self._known: dict[tuple[int, bytes], Runs] = {}
        self._touched: set[tuple[int, bytes]] = set()

    def runs(self, no: int, producer: bytes) -> Runs:
        key = (no, producer)
        runs = self._known.get(key)
        if runs is None:
            rows: list[Any] = self._db.execute(_LOAD, key).fetchall()
            runs = self._known[key] = Runs(rows)
        return runs

    def store(self, no: int, producer: bytes, lo: int, hi: int, ident: int, now_ns: int) -> None:
        """Note that [lo, hi) of this producer are stored, unless some of it was noted before."""
        runs = self.runs(no, producer)
        if not runs.overlaps(lo, hi):
            runs.add(lo, hi, ident, now_ns=now_ns)
            self._touched.add((no, producer))

    def write_back(self) -> None:
        if self._touched:
            for key in self._touched:
                runs = self._known[key]
                if runs.gone:
                    self._db.executemany(_DELETE, [(*key, lo) for lo in runs.gone])
                    runs.gone.clear()
                self._db.executemany(_INSERT, [(*key, *runs.row(lo)) for lo in runs.changed])
                runs.changed.clear()
            self._touched.clear()
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()

    def forget(self) -> None:
        self._known.clear()
        self._touched.clear()

    def expire(self, before_ns: int) -> None:
        """Forget producers that stored nothing since."""
        self.write_back()
        self._known.clear()
        self._db.execute(_EXPIRE, (before_ns,))
