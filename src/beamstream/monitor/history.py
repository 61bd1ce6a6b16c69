"""Numbers of the last hours, in bounded space: rings by slot number.

The last ten minutes are in memory, a slot a second. What lies further back is in one file: slots of
10 s for two hours and of 60 s for a day, each slot one row with all series of that time. A series
has a fixed set of values; the number of series is bounded, the one unused for longest makes room.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import numpy as np

from beamstream.errors import StorageError
from beamstream.monitor.documents import Series

SERIES_MAX: Final = 2_000
RECENT_S: Final = 600
"""Seconds in memory."""
TIERS: Final = ((10, 720), (60, 1440))
"""Seconds of a slot, and how many there are."""
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "node": ("in_messages", "out_messages", "in_nbytes", "out_nbytes", "files", "cpu"),
    "source": ("rate", "nbytes_rate", "p50", "p99", "lost"),
    "group": ("lag", "lag_s", "rate"),
    "edge": ("rate", "nbytes_rate", "p50", "p99", "acked_p50", "acked_p99"),
}
"""Names of the values of each kind of series."""

_WIDTH: Final = 6
_LARGEST: Final = frozenset(("p99", "acked_p99", "lost", "lag", "lag_s"))
"""Of these a slot has the largest value that was seen, of the others the mean."""
_ROW: Final = np.dtype([("series", "<u4"), ("values", "<f4", (_WIDTH,))])
_VERSION: Final = 1
_SCHEMA: Final = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE series (
    no INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, beamtime TEXT NOT NULL,
    kind TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (node, beamtime, kind, name));
CREATE TABLE slot (
    tier INTEGER NOT NULL, slot INTEGER NOT NULL, at_s INTEGER NOT NULL, rows BLOB NOT NULL,
    PRIMARY KEY (tier, slot)) WITHOUT ROWID;
"""

Array = np.ndarray[Any, Any]


class Key(NamedTuple):
    """Which series: `name` is SOURCE, GROUP newline SOURCE/STREAM, or GROUP newline SOURCE."""

    node: str
    beamtime: str
    kind: str
    name: str


class _Recent:
    """One series: its last seconds, and what the slots under way have so far."""

    __slots__ = ("at_s", "kind", "no", "open", "used_s", "values")

    def __init__(self, no: int, kind: str) -> None:
        self.no = no
        self.kind = kind
        self.used_s = 0
        self.at_s = np.full(RECENT_S, -1, np.int64)
        self.values = np.full((RECENT_S, _WIDTH), np.nan, np.float32)
        self.open = [_Open(kind) for _ in TIERS]

    def add(self, at_s: int, values: Sequence[float]) -> None:
        slot = at_s % RECENT_S
        self.at_s[slot] = self.used_s = at_s
        self.values[slot] = values
        for one in self.open:
            one.add(values)

    def between(self, lo_s: int, hi_s: int) -> tuple[Array, Array]:
        chosen = np.flatnonzero((self.at_s >= lo_s) & (self.at_s <= hi_s))
        chosen = chosen[np.argsort(self.at_s[chosen])]
        return self.at_s[chosen], self.values[chosen]


class _Open:
    """A slot that is being filled."""

    __slots__ = ("_counts", "_largest", "_values")

    def __init__(self, kind: str) -> None:
        names = KINDS[kind]
        self._largest = [at < len(names) and names[at] in _LARGEST for at in range(_WIDTH)]
        self.clear()

    def clear(self) -> None:
        self._values = [0.0] * _WIDTH
        self._counts = [0] * _WIDTH

    def add(self, values: Sequence[float]) -> None:
        for at, value in enumerate(values):
            if math.isnan(value):
                continue
            if self._largest[at]:
                self._values[at] = max(self._values[at], value)
                self._counts[at] = 1
            else:
                self._values[at] += value
                self._counts[at] += 1

    def take(self) -> tuple[float, ...] | None:
        if not any(self._counts):
            return None
        pairs = zip(self._values, self._counts, strict=True)
        found = tuple(value / count if count else math.nan for value, count in pairs)
        self.clear()
        return found


class History:
    """All series of a monitor; for threads.

    Parameters
    ----------
    path : of its file; None: in memory only. A file that is damaged, or of another version, is set
        aside and begun anew.

    Raises
    ------
    StorageError : there is no room for it.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        self._file = threading.Lock()
        self._known: dict[Key, _Recent] = {}
        self._db = _opened(path)
        self._written: list[int | None] = [None] * len(TIERS)
        with self._file:
            rows: list[Any] = self._db.execute(
                "SELECT no, node, beamtime, kind, name FROM series"
            ).fetchall()
        for no, node, beamtime, kind, name in rows:
            if kind in KINDS:
                self._known[Key(node, beamtime, kind, name)] = _Recent(no, kind)

    def __len__(self) -> int:
        return len(self._known)

    # ------------------------------------------------------------------ taking

    def add(self, at_s: float, rows: Iterable[tuple[Key, Mapping[str, float | None]]]) -> None:
        """Take what there is to see at a time, seconds since 1970 UTC."""
        second = int(at_s)
        with self._lock:
            for key, values in rows:
                series = self._known.get(key) or self._begin(key)
                if series is not None:
                    named = [values.get(name) for name in KINDS[key.kind]]
                    numbers = [math.nan if one is None else float(one) for one in named]
                    series.add(second, numbers + [math.nan] * (_WIDTH - len(numbers)))

    def _begin(self, key: Key) -> _Recent | None:
        with self._file:
            if len(self._known) >= SERIES_MAX:
                oldest = min(self._known, key=lambda one: self._known[one].used_s)
                self._db.execute("DELETE FROM series WHERE no = ?", (self._known.pop(oldest).no,))
            self._db.execute("INSERT INTO series(node, beamtime, kind, name) VALUES (?,?,?,?)", key)
            made = self._known[key] = _Recent(self._db.last_insert_rowid(), key.kind)
        return made

    def write(self, now_s: float) -> None:
        """Write the slots that are over; call it every ten seconds, in a thread."""
        for tier, (seconds, count) in enumerate(TIERS):
            number = int(now_s) // seconds
            if self._written[tier] is None:
                # What the first slot has seen of its time is kept, too.
                self._written[tier] = number
            elif number != self._written[tier]:
                self._write(tier, self._written[tier] or 0, seconds, count)
                self._written[tier] = number

    def _write(self, tier: int, number: int, seconds: int, count: int) -> None:
        with self._lock:
            found = [
                (series.no, values)
                for series in self._known.values()
                if (values := series.open[tier].take()) is not None
            ]
        rows = np.zeros(len(found), _ROW)
        for at, (no, values) in enumerate(sorted(found)):
            rows[at] = (no, values)
        with self._file:
            self._db.execute(
                "INSERT OR REPLACE INTO slot(tier, slot, at_s, rows) VALUES (?,?,?,?)",
                (tier, number % count, number * seconds, rows.tobytes()),
            )

    # ------------------------------------------------------------------ looking

    def series(self, key: Key, seconds: float, now_s: float) -> Series:
        """What was seen of a series in the last `seconds`, as finely as it is kept."""
        names = KINDS[key.kind]
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return Series(times=(), values=dict.fromkeys(names, ()))
            times, values = known.between(int(now_s - min(seconds, RECENT_S)), int(now_s))
            no = known.no
        begin_s = int(now_s - seconds)
        first_s = int(times[0]) if len(times) else int(now_s) + 1
        tier = next((at for at, (one, many) in enumerate(TIERS) if seconds <= one * many), 1)
        if first_s > begin_s + TIERS[tier][0]:
            older = self._slots(no, tier, begin_s, first_s)
            times, values = np.concatenate((older[0], times)), np.concatenate((older[1], values))
        if seconds > RECENT_S:
            times, values = _thinned(times, values, TIERS[tier][0])
        return Series(
            times=tuple(map(float, times)),
            values={
                name: tuple(None if math.isnan(one) else one for one in values[:, at].tolist())
                for at, name in enumerate(names)
            },
        )

    def _slots(self, no: int, tier: int, lo_s: int, hi_s: int) -> tuple[Array, Array]:
        seconds = TIERS[tier][0]
        with self._file:
            found: list[Any] = self._db.execute(
                "SELECT at_s, rows FROM slot WHERE tier = ? AND at_s >= ? AND at_s <= ? "
                "ORDER BY at_s",
                (tier, lo_s, hi_s - seconds),
            ).fetchall()
        times, values = [], []
        for at_s, data in found:
            rows = np.frombuffer(data, _ROW)
            at = int(np.searchsorted(rows["series"], no))
            if at < len(rows) and rows["series"][at] == no:
                times.append(at_s)
                values.append(rows["values"][at])
        return np.array(times, np.int64), np.array(values, np.float32).reshape(-1, _WIDTH)

    def close(self) -> None:
        with self._lock, self._file:
            self._db.close()


def _thinned(times: Array, values: Array, seconds: int) -> tuple[Array, Array]:
    """One point for each slot: the last one."""
    if not len(times):
        return times, values
    chosen = np.flatnonzero(np.diff(times // seconds, append=-1))
    return times[chosen], values[chosen]


def _opened(path: Path | None) -> apsw.Connection:
    if path is None:
        return _prepared(apsw.Connection(":memory:"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _prepared(apsw.Connection(str(path)))
        except (apsw.NotADBError, apsw.CorruptError, _OtherVersion):
            path.replace(path.with_name(f"{path.name}.aside"))
            for tail in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + tail).unlink()
            return _prepared(apsw.Connection(str(path)))
    except (apsw.Error, OSError) as error:
        raise StorageError(f"the history in {path}: {error}") from None


class _OtherVersion(Exception):
    """Written by another version."""


def _prepared(db: apsw.Connection) -> apsw.Connection:
    try:
        db.set_busy_timeout(5_000)
        db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        version = db.execute("PRAGMA user_version").get
        if version == 0:
            db.execute(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != _VERSION:
            raise _OtherVersion
        db.execute("SELECT count(*) FROM slot").fetchall()
    except BaseException:
        db.close()
        raise
    return db
