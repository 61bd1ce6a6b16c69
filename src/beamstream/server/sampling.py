"""What the node tells those who watch over it: its counters, as they are now.

Looked at when somebody asks; whoever asks takes differences. Only what is in memory is told, so
that a look costs no disk and no transaction.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from beamstream import limits
from beamstream._version import __version__
from beamstream.model import Record, Who
from beamstream.server.groups import NEVER, GroupStream
from beamstream.server.stats import EdgeCounts, Histogram, Stats
from beamstream.server.streams import Streams, View
from beamstream.store.cache import Cache
from beamstream.wire.native import sampling

_SEEN_NS = 10_000_000_000
"""Clients of HTTP have no connection that lasts: who was seen within this time is connected."""

_PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")

Client = tuple[str, Who]
"""Beamtime of a connection, and who it is."""


class Door(Protocol):
    """The connections of one door."""

    def __len__(self) -> int: ...

    def clients(self) -> Iterator[Client]:
        """Who has connections that last."""


class _Counts(Protocol):
    last_ns: int


Key = TypeVar("Key", bound=tuple[str, ...])
Counts = TypeVar("Counts", bound=_Counts)


class Sampling:
    """Counters of a node, gathered.

    Parameters
    ----------
    disk : free and total bytes of the data folder's file system.
    beamtimes : names of all of which there are records.
    members : instances of a group in a stream that are connected.
    """

    def __init__(
        self,
        *,
        stats: Stats,
        streams: Streams,
        cache: Cache,
        doors: Mapping[str, Door],
        disk: Callable[[], tuple[int, int]],
        beamtimes: Callable[[], list[str]],
        members: Callable[[View, str], tuple[str, ...]],
        clock: Callable[[], float],
        node: int,
        boot: int,
    ) -> None:
        self._stats = stats
        self._streams = streams
        self._cache = cache
        self._doors = doors
        self._disk = disk
        self._names = beamtimes
        self._members = members
        self._clock = clock
        self._began = clock()
        self._node = node
        self._boot = boot

    def look(self, beamtime: str, *, streams: bool) -> sampling.Stats:
        """The counters of one beamtime, or ("*") of all."""

        def wanted(name: str) -> bool:
            return beamtime in ("*", name)

        views = [view for view in self._streams.views() if wanted(view.beamtime) and view.exists]
        newest = sorted(views, key=_last_ns, reverse=True)[: sampling.ROWS_MAX] if streams else []
        return sampling.Stats(
            time_ns=time.time_ns(),
            node=self._node_stat(),
            beamtimes=tuple(self._beamtimes(views, everything=beamtime == "*")),
            producers=tuple(self._producers(wanted)),
            edges=tuple(self._edges(wanted)),
            streams=tuple(_stream_stat(view) for view in newest),
            groups=tuple(self._groups(newest)),
            limits=tuple(self._limits()),
            errors=tuple(self._errors()),
            more=streams and len(views) > len(newest),
        )

    # ------------------------------------------------------------------ the node

    def _node_stat(self) -> sampling.NodeStat:
        stats, cache = self._stats, self._cache
        used = resource.getrusage(resource.RUSAGE_SELF)
        free_nbytes, disk_nbytes = self._disk()
        return sampling.NodeStat(
            node=self._node,
            boot=self._boot,
            software=f"Beamstream {__version__}",
            up_s=self._clock() - self._began,
            cpu_s=used.ru_utime + used.ru_stime,
            rss_nbytes=_rss_nbytes(),
            cache_nbytes=cache.nbytes,
            cache_used_nbytes=cache.all_used_nbytes(),
            cache_pinned_nbytes=cache.pinned_nbytes,
            evicted=cache.evicted,
            disk_free_nbytes=free_nbytes,
            disk_nbytes=disk_nbytes,
            messages_in=stats.messages_in,
            nbytes_in=stats.nbytes_in,
            messages_out=stats.messages_out,
            nbytes_out=stats.nbytes_out,
            refused=stats.refused,
            cache_hits=stats.cache_hits,
            cache_misses=stats.cache_misses,
            files=stats.files,
            files_nbytes=stats.files_nbytes,
            connections={name: len(door) for name, door in self._doors.items()},
        )

    def _beamtimes(
        self, views: Iterable[View], *, everything: bool
    ) -> Iterator[sampling.BeamtimeStat]:
        streams: dict[str, int] = dict.fromkeys(self._names(), 0) if everything else {}
        for view in views:
            streams[view.beamtime] = streams.get(view.beamtime, 0) + 1
        for name, count in sorted(streams.items()):
            yield sampling.BeamtimeStat(
                beamtime=name,
                streams=count,
                cache_used_nbytes=self._cache.used_nbytes(name),
                cache_share_nbytes=self._cache.share_nbytes(name),
            )

    def _limits(self) -> Iterator[sampling.LimitStat]:
        cache, stats = self._cache, self._stats
        free_nbytes, disk_nbytes = self._disk()
        yield _limit("cache", cache.all_used_nbytes(), cache.nbytes, "B")
        yield _limit("cache in use", cache.pinned_nbytes, cache.nbytes, "B")
        yield _limit("disk", disk_nbytes - free_nbytes, disk_nbytes, "B")
        for name, door in self._doors.items():
            yield _limit(f"connections {name}", len(door), limits.CONNECTIONS_MAX)
        yield _limit("streams in use", len(self._streams.views()), limits.VIEWS_MAX)
        yield _limit("producers", len(stats.producers), limits.CLIENTS_MAX)
        yield _limit("readers", len(stats.edges), limits.EDGES_MAX)

    def _errors(self) -> Iterator[sampling.ErrorStat]:
        for code, found in sorted(self._stats.errors.items()):
            yield sampling.ErrorStat(
                code=code, count=found.count, last_ns=found.last_ns, text=found.text
            )

    # ------------------------------------------------------------------ clients

    def _connected(self) -> set[tuple[str, str, str]]:
        return {
            (beamtime, who.step, who.instance)
            for door in self._doors.values()
            for beamtime, who in door.clients()
        }

    def _producers(self, wanted: Callable[[str], bool]) -> Iterator[sampling.ProducerStat]:
        connected = self._connected()
        for (beamtime, source, step, instance), counts in _newest(self._stats.producers):
            if wanted(beamtime):
                yield sampling.ProducerStat(
                    beamtime=beamtime,
                    source=source,
                    step=step,
                    instance=instance,
                    address=counts.address,
                    connected=(beamtime, step, instance) in connected,
                    messages=counts.messages,
                    nbytes=counts.nbytes,
                    last_ns=counts.last_ns,
                )

    def _edges(self, wanted: Callable[[str], bool]) -> Iterator[sampling.EdgeStat]:
        connected, now_ns = self._connected(), time.time_ns()
        for key, counts in _newest(self._stats.edges):
            beamtime, _, group, step, instance = key
            if not wanted(beamtime) or group.startswith("~"):
                continue
            there = (beamtime, step, instance) in connected or now_ns - counts.last_ns < _SEEN_NS
            yield _edge_stat(key, counts, there)

    # ------------------------------------------------------------------ groups

    def _groups(self, views: Iterable[View]) -> Iterator[sampling.GroupStat]:
        left = sampling.ROWS_MAX
        for view in views:
            for name, group in view.groups.items():
                if name.startswith("~") or left <= 0:
                    continue
                left -= 1
                yield self._group_stat(view, name, group)

    def _group_stat(self, view: View, name: str, group: GroupStream) -> sampling.GroupStat:
        first = group.first_open(1, view.visible_seq + 1)
        now, since = self._clock(), group.leased_since()
        leased = group.in_hand(now)
        opened = sum(hi - lo for lo, hi in group.open_ranges(view.visible_seq))
        return sampling.GroupStat(
            beamtime=view.beamtime,
            source=view.source,
            stream=view.name,
            group=name,
            open=opened + group.leased() - leased,
            leased=leased,
            dead=group.dead.count_in(1, view.visible_seq + 1),
            redelivered=group.redelivered,
            oldest_ns=self._arrived_ns(view, first[0]) if first is not None else 0,
            leased_s=0.0 if since == NEVER else max(now - since, 0.0),
            members=self._members(view, name),
        )

    def _arrived_ns(self, view: View, seq: int) -> int:
        remembered = self._streams.arrived_ns(view, seq)
        if remembered or view.datasets:
            return remembered
        # Read from the catalog by the page, which stays: not again at each look.
        item = self._streams.item(view, self._streams.next_message(view, seq))
        return item.arrived_ns if isinstance(item, Record) else 0


def _newest(rows: dict[Key, Counts]) -> list[tuple[Key, Counts]]:
    """The rows that changed last, as many as are told."""
    if len(rows) <= sampling.ROWS_MAX:
        return list(rows.items())
    found = sorted(rows.items(), key=lambda row: row[1].last_ns, reverse=True)
    return found[: sampling.ROWS_MAX]


def _last_ns(view: View) -> int:
    return view.last_ns


def _limit(name: str, used: float, limit: float, unit: str = "") -> sampling.LimitStat:
    return sampling.LimitStat(name=name, used=used, limit=limit, unit=unit)


def _stream_stat(view: View) -> sampling.StreamStat:
    return sampling.StreamStat(
        beamtime=view.beamtime,
        source=view.source,
        stream=view.name,
        count=view.count,
        max_id=view.max_id,
        last_id=view.last_id,
        skipped=view.skipped,
        created_ns=view.created_ns,
        last_ns=view.last_ns,
    )


def _edge_stat(
    key: tuple[str, str, str, str, str], counts: EdgeCounts, connected: bool
) -> sampling.EdgeStat:
    beamtime, source, group, step, instance = key
    return sampling.EdgeStat(
        beamtime=beamtime,
        source=source,
        group=group,
        step=step,
        instance=instance,
        connected=connected,
        messages=counts.messages,
        nbytes=counts.nbytes,
        again=counts.again,
        acks=counts.acknowledged.total,
        last_ns=counts.last_ns,
        delivered=delays_of(counts.delivered),
        acknowledged=delays_of(counts.acknowledged),
    )


def delays_of(histogram: Histogram) -> sampling.Delays:
    """The buckets of a histogram, without the empty ones at both ends.

    >>> histogram = Histogram()
    >>> histogram.add(1_000_000)
    >>> delays_of(histogram)
    Delays(first=39, counts=(1,))
    """
    counts = histogram.counts
    if not histogram.total:
        return sampling.Delays()
    first = next(at for at, count in enumerate(counts) if count)
    last = next(at for at in range(len(counts) - 1, -1, -1) if counts[at])
    return sampling.Delays(first, tuple(counts[first : last + 1]))


def _rss_nbytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_NBYTES
    except (OSError, ValueError, IndexError):
        return 0
