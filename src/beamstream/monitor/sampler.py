"""Looks at one node again and again, and keeps what is to be shown of it.

Looking happens in a thread of its own: a node that hangs costs the page nothing but fresh numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import structlog

from beamstream.errors import ConnectionLost, Error
from beamstream.errors_help import HELP
from beamstream.monitor import declared, observing
from beamstream.monitor import documents as doc
from beamstream.monitor.history import Key
from beamstream.wire.native.sampling import GetStats, Stats

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.monitor.history import History
    from beamstream.monitor.hubs import Hubs

log = structlog.get_logger("monitor")

WATCHED_S: Final = 0.5
ALONE_S: Final = 2.0
ANSWER_S: Final = 1.0
"""A node that takes longer has not answered."""
DECLARED_S: Final = 5.0
DECLARED_ALONE_S: Final = 60.0
DECLARED_BEAMTIMES_MAX: Final = 16
ADMIN: Final = "admin"
_PATIENCE_S: Final = 3600.0


def hint_of(code: str) -> str:
    """What to do about an error.

    >>> hint_of("E501")
    'free some space'
    """
    found = HELP.get(code)
    return found.advice if found is not None else ""


class Sampler:
    """One node, looked at.

    Parameters
    ----------
    name : of the node.
    clock : seconds, never going back; `wall`: seconds since 1970 UTC.
    """

    def __init__(
        self,
        name: str,
        hubs: Hubs,
        history: History,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._hubs = hubs
        self._history = history
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._observer = observing.Observer(name, hint_of)
        self._declared: dict[str, tuple[observing.Declared, ...]] = {}
        self._declared_s = -DECLARED_ALONE_S
        self._kept_s = 0.0
        self._answered_s = clock()
        self._hub: Hub | None = None
        self._watchers = 0
        self._hurry = asyncio.Event()
        self._looked = asyncio.Event()
        self._pool = ThreadPoolExecutor(2, f"sample {name}")
        self.error: Error | None = None
        """Why the last look has failed; None if it has not."""
        self.looks = 0
        """Answers so far."""

    # ------------------------------------------------------------------ looking

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        telling: asyncio.Future[None] | None = None
        try:
            while True:
                self._hurry.clear()
                await loop.run_in_executor(self._pool, self.look)
                self._looked.set()
                self._looked = asyncio.Event()
                if telling is None or telling.done():
                    telling = loop.run_in_executor(self._pool, self.read_declared)
                with contextlib.suppress(TimeoutError):
                    pause_s = WATCHED_S if self._watchers else ALONE_S
                    await asyncio.wait_for(self._hurry.wait(), pause_s)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """Ask the node once; in a thread."""
        try:
            stats = self._ask()
        except Error as error:
            if self.error is None:
                log.warning("the node does not answer", node=self.name, reason=str(error))
            self.error = error
            return
        self.take(stats)

    def _ask(self) -> Stats:
        hub = self._hub
        if hub is None or hub.closed:
            hub = self._hub = self._hubs.connect("", patience_s=_PATIENCE_S, call_s=ANSWER_S)
        try:
            asked = GetStats(beamtime="*" if ADMIN in hub.access else "")
            found: Stats = hub._call(asked)
        except Error:
            if hub.closed:
                self._hub = None
            raise
        return found

    def take(self, stats: Stats) -> None:
        """The node has answered."""
        with self._lock:
            self._observer.take(stats)
            self._answered_s = self._clock()
            self.error = None
            self.looks += 1
            now_s = self._wall()
            if int(now_s) == int(self._kept_s):
                return
            self._kept_s = now_s
            found = self._observer.snapshot(_all, (), 0.0)
        if found is not None:
            self._history.add(now_s, kept(self.name, found))

    def read_declared(self) -> None:
        """Ask which pipelines are declared, when it is time to; in a thread."""
        every_s = DECLARED_S if self._watchers else DECLARED_ALONE_S
        if self._clock() < self._declared_s + every_s:
            return
        self._declared_s = self._clock()
        for beamtime in self.beamtimes()[:DECLARED_BEAMTIMES_MAX]:
            try:
                with self._hubs.use(beamtime) as hub:
                    self._declared[beamtime] = declared.read(hub, self._pipelines(beamtime))
            except Error as error:
                log.warning("pipelines are not told", beamtime=beamtime, reason=str(error))
        self._hubs.close_idle()

    def _pipelines(self, beamtime: str) -> set[str]:
        """Names of pipelines that are seen, or were."""
        stats = self._observer.stats
        rows = () if stats is None else stats.edges
        seen = declared.names_of(row.group for row in rows if row.beamtime == beamtime)
        return seen | {step.pipeline for step in self._declared.get(beamtime, ())}

    # ------------------------------------------------------------------ who looks here

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody looks: ask more often."""
        self._watchers += 1
        self._hurry.set()
        if self._watchers == 1:
            self._declared_s = -DECLARED_ALONE_S
        try:
            yield
        finally:
            self._watchers -= 1

    async def fresh(self, age_s: float = WATCHED_S) -> None:
        """Wait for numbers that are not older than that, or until the node is known to be late."""
        if self.looks and self.stale_s <= age_s:
            return
        self._hurry.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), 2 * ANSWER_S)

    # ------------------------------------------------------------------ what there is to see

    @property
    def stale_s(self) -> float:
        """Seconds since the node has answered."""
        return max(self._clock() - self._answered_s, 0.0)

    def failure(self) -> Error:
        """Why there is nothing to see."""
        return self.error or ConnectionLost(f"node {self.name} has not answered yet")

    @property
    def stats(self) -> Stats | None:
        """The last answer."""
        return self._observer.stats

    def beamtimes(self) -> list[str]:
        """Beamtimes that the node speaks of, those with the newest messages first."""
        stats = self._observer.stats
        if stats is None:
            return []
        newest: dict[str, int] = {row.beamtime: 0 for row in stats.beamtimes}
        hub = self._hub
        if hub is not None and ADMIN not in hub.access:
            newest.setdefault(hub.beamtime, 0)
        moved = [(row.beamtime, row.last_ns) for row in stats.streams]
        moved += [(row.beamtime, row.last_ns) for row in stats.producers]
        moved += [(row.beamtime, row.last_ns) for row in stats.edges]
        for beamtime, last_ns in moved:
            newest[beamtime] = max(newest.get(beamtime, 0), last_ns)
        return sorted(newest, key=lambda name: (-newest[name], name))

    def snapshot(self, wanted: Callable[[str], bool]) -> doc.Snapshot | None:
        """What there is to see of beamtimes that are `wanted`; None before the first answer."""
        steps = [step for one in tuple(self._declared.values()) for step in one]
        with self._lock:
            return self._observer.snapshot(wanted, steps, self.stale_s)

    def close(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            with contextlib.suppress(Error):
                hub.close(0.0)


def _all(_: str) -> bool:
    return True


def kept(node: str, found: doc.Snapshot) -> Iterator[tuple[Key, Mapping[str, float | None]]]:
    """What of a snapshot is kept."""
    rates = found.node.rates
    yield (
        Key(node, "", "node", ""),
        {
            "in_messages": rates.in_messages,
            "out_messages": rates.out_messages,
            "in_nbytes": rates.in_nbytes,
            "out_nbytes": rates.out_nbytes,
            "files": rates.files,
            "cpu": found.node.cpu,
        },
    )
    worst: dict[tuple[str, str], list[doc.Quantiles]] = {}
    for edge in found.edges:
        worst.setdefault((edge.beamtime, edge.source), []).append(edge.delivered_ms)
        yield (
            Key(node, edge.beamtime, "edge", f"{edge.group}\n{edge.source}"),
            {
                "rate": edge.rate,
                "nbytes_rate": edge.nbytes_rate,
                "p50": edge.delivered_ms.p50,
                "p99": edge.delivered_ms.p99,
                "acked_p50": edge.acked_ms.p50,
                "acked_p99": edge.acked_ms.p99,
            },
        )
    for source in found.sources:
        delays = worst.get((source.beamtime, source.source), [])
        yield (
            Key(node, source.beamtime, "source", source.source),
            {
                "rate": source.rate,
                "nbytes_rate": source.nbytes_rate,
                "p50": max((one.p50 for one in delays if one.p50 is not None), default=None),
                "p99": max((one.p99 for one in delays if one.p99 is not None), default=None),
                "lost": source.lost,
            },
        )
    for group in found.groups:
        yield (
            Key(node, group.beamtime, "group", f"{group.group}\n{group.source}/{group.stream}"),
            {"lag": group.lag, "lag_s": group.lag_s, "rate": group.rate},
        )
