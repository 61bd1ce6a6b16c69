"""A node, looked at again and again: for the terminal the numbers that the page shows."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from beamstream.client.native import hub as native
from beamstream.errors import ConnectionLost, TimedOut
from beamstream.errors_help import HELP
from beamstream.monitor import declared
from beamstream.monitor.documents import Snapshot, SourceState
from beamstream.monitor.observing import RATE_S, STALE_S, Declared, Observer
from beamstream.monitor.windows import Window
from beamstream.wire.native.sampling import GetStats, Stats, StreamStat

if TYPE_CHECKING:
    from beamstream.cli.options import Node
    from beamstream.client.native.hub import Hub

_ANSWER_S: Final = 1.0
"""A node that has not answered after this is shown as it was, with the age of that."""

_PATIENCE_S: Final = 7 * 86_400.0
"""A node that comes back after a night is shown again."""

_CONNECT_S: Final = 5.0
_DECLARED_S: Final = 5.0
_FORGET: Final = 100


class StreamLine(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as `top` shows it; `nbytes_rate` by the mean size of its source's messages."""

    beamtime: str
    source: str
    stream: str
    rate: float
    nbytes_rate: float
    age_s: float | None
    count: int
    max_id: int
    missing: int
    finished: bool


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """All that is shown at one moment; `stale_s`: since the node has answered."""

    time_ns: int
    beamtime: str
    stale_s: float
    snapshot: Snapshot
    streams: tuple[StreamLine, ...]

    @property
    def stale(self) -> bool:
        return self.stale_s > STALE_S


class Rates:
    """Messages per second of each stream, over the time that the page takes its rates over."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, str], Window] = {}

    def take(self, stats: Stats) -> None:
        """The node has answered."""
        for row in stats.streams:
            window = self._windows.setdefault(_key(row), Window(RATE_S))
            window.add(stats.time_ns / 1e9, (row.count,))
        if len(self._windows) > len(stats.streams) + _FORGET:
            told = {_key(row) for row in stats.streams}
            self._windows = {key: one for key, one in self._windows.items() if key in told}

    def of(self, row: StreamStat) -> float:
        window = self._windows.get(_key(row))
        return window.rates()[0] if window else 0.0


def stream_lines(
    stats: Stats, rates: Rates, sources: tuple[SourceState, ...]
) -> tuple[StreamLine, ...]:
    """Streams, those first that something came into last."""
    by_source = {(row.beamtime, row.source): row for row in sources}
    totals: dict[tuple[str, str], float] = {}
    for row in stats.streams:
        at = (row.beamtime, row.source)
        totals[at] = totals.get(at, 0.0) + rates.of(row)
    lines = []
    for row in sorted(stats.streams, key=lambda row: row.last_ns, reverse=True):
        at, rate = (row.beamtime, row.source), rates.of(row)
        source = by_source.get(at)
        whole = source.nbytes_rate if source else 0.0
        lines.append(
            StreamLine(
                beamtime=row.beamtime,
                source=row.source,
                stream=row.stream,
                rate=rate,
                nbytes_rate=whole * rate / totals[at] if totals[at] else 0.0,
                age_s=max(stats.time_ns - row.last_ns, 0) / 1e9 if row.last_ns else None,
                count=row.count,
                max_id=row.max_id,
                missing=max(row.max_id - row.count - row.skipped, 0),
                finished=row.last_id >= 0,
            )
        )
    return tuple(lines)


def _key(row: StreamStat) -> tuple[str, str, str]:
    return row.beamtime, row.source, row.stream


class Watching:
    """Looks at a node.

    Parameters
    ----------
    name : what the node is called.
    clock : seconds, monotonic.
    """

    def __init__(self, hub: Hub, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._observer = Observer(name, _hint)
        self._rates = Rates()
        self._beamtime = "*" if "admin" in hub.access else hub.beamtime
        self._answered = clock()
        self._declared: tuple[Declared, ...] = ()
        self._declared_at = -_DECLARED_S

    def look(self) -> Look | None:
        """What there is to see now; of a node that does not answer what it said last.

        Returns
        -------
        None before the first answer.

        Raises
        ------
        Error : the node says no.
        """
        # A node that is away is no error: it is what whoever watches wants to know.
        with contextlib.suppress(TimedOut, ConnectionLost):
            self._ask()
        return self._seen()

    def _ask(self) -> None:
        stats: Stats = self._hub._call(GetStats(beamtime=self._beamtime))
        self._answered = self._clock()
        self._observer.take(stats)
        self._rates.take(stats)
        if self._answered - self._declared_at >= _DECLARED_S:
            seen = declared.names_of(edge.group for edge in stats.edges)
            known = (step.pipeline for step in self._declared)
            self._declared = declared.read(self._hub, {*seen, *known})
            self._declared_at = self._answered

    def _seen(self) -> Look | None:
        stale_s = max(self._clock() - self._answered, 0.0)
        snapshot = self._observer.snapshot(lambda _: True, self._declared, stale_s)
        stats = self._observer.stats
        if snapshot is None or stats is None:
            return None
        return Look(
            time_ns=stats.time_ns,
            beamtime=self._beamtime,
            stale_s=stale_s,
            snapshot=snapshot,
            streams=stream_lines(stats, self._rates, snapshot.sources),
        )


def _hint(code: str) -> str:
    found = HELP.get(code)
    return found.advice if found else ""


@contextlib.contextmanager
def watching(node: Node, *, step: str) -> Iterator[Watching]:
    """Watch the node that is meant by options and environment.

    Raises
    ------
    ConnectionLost, TimedOut, NotFound : there is no node.
    """
    from beamstream.client.native import places

    access = places.find_access(node.url, node.beamtime, node.token, os.environ)
    with native.connect(
        access.url,
        beamtime=access.beamtime,
        token=access.token,
        step=step,
        timeout=_CONNECT_S,
        patience=_PATIENCE_S,
        call_timeout=_ANSWER_S,
    ) as hub:
        yield Watching(hub, access.url)


def ticks(every_s: float, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Now, and at even times after; those that are over when it comes to them are left out."""
    began = time.monotonic()
    while True:
        yield
        wait(every_s - (time.monotonic() - began) % every_s)
