"""What a node's counters say about who is alive, who lags, and what will be lost. Pure.

Takes the answers of one node as they come, and makes what the page shows. Time is the node's own
(`Stats.time_ns`), so that a clock that differs changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

import msgspec

from beamstream.monitor import documents as doc
from beamstream.monitor.windows import Trend, Window, quantile_ns
from beamstream.wire.native.sampling import (
    Delays,
    EdgeStat,
    GroupStat,
    ProducerStat,
    Stats,
    StreamStat,
)

RATE_S: Final = 5.0
DELAY_S: Final = 10.0
TREND_S: Final = 20.0
DISK_S: Final = 60.0
_BUCKETS: Final = 160
_QUIET_S: Final = 1.0
"""A producer that sends faster than once in this time is missed after it."""
_QUIET_INTERVALS: Final = 5.0
_GONE_S: Final = 3600.0
"""Producers and readers that are neither connected nor heard of for so long are not shown."""
_KEPT: Final = frozenset(("notes", "pipelines"))
"""Sources of ours that hold metadata and no messages: nobody waits for them."""
_SEEN_S: Final = 10.0
"""Readers without a lasting connection belong to a group for so long after a message."""
_SLOW_S: Final = 2.0
_STUCK_S: Final = 10.0


class Declared(msgspec.Struct, frozen=True):
    """A step of a pipeline as its file says."""

    beamtime: str
    pipeline: str
    step: str
    step_id: str
    replicas: int
    reads: tuple[str, ...]
    writes: str


class _Seen:
    """Windows over the counters of one thing."""

    __slots__ = ("acked", "delivered", "interval_s", "rates", "used")

    def __init__(self) -> None:
        self.rates = Window(RATE_S)
        self.delivered = Window(DELAY_S)
        self.acked = Window(DELAY_S)
        self.interval_s = 0.0
        self.used = 0


class Observer:
    """One node, seen over time.

    Parameters
    ----------
    hint : what to do about an error of a code.
    """

    def __init__(self, name: str, hint: Callable[[str], str]) -> None:
        self.name = name
        self._hint = hint
        self._looks = 0
        self._node = Window(RATE_S)
        self._disk = Window(DISK_S)
        self._seen: dict[tuple[str, ...], _Seen] = {}
        self._trends: dict[tuple[str, ...], tuple[Trend, int]] = {}
        self.stats: Stats | None = None

    def take(self, stats: Stats) -> None:
        """The node has answered."""
        self._looks += 1
        self.stats = stats
        now = stats.time_ns / 1e9
        node = stats.node
        counters = (
            node.messages_in, node.nbytes_in, node.messages_out, node.nbytes_out, node.files,
            node.cpu_s,
        )  # fmt: skip
        self._node.add(now, counters)
        self._disk.add(now, (float(node.disk_nbytes - node.disk_free_nbytes),))
        for producer in stats.producers:
            seen = self._of(("p", *_producer_key(producer)))
            seen.rates.add(now, (producer.messages, producer.nbytes))
            rate = seen.rates.rates()[0]
            if rate > 0:
                seen.interval_s = 1 / rate
        for edge in stats.edges:
            seen = self._of(("e", *_edge_key(edge)))
            seen.rates.add(now, (edge.messages, edge.nbytes, edge.acks))
            seen.delivered.add(now, _spread(edge.delivered))
            seen.acked.add(now, _spread(edge.acknowledged))
        for group in stats.groups:
            key = _group_key(group)
            trend = self._trends.get(key, (Trend(TREND_S), 0))[0]
            trend.add(now, group.open + group.leased)
            self._trends[key] = (trend, self._looks)
        if self._looks % 100 == 0:
            self._forget()

    def _of(self, key: tuple[str, ...]) -> _Seen:
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        seen.used = self._looks
        return seen

    def _forget(self) -> None:
        """What the node does not tell any more is over."""
        old = self._looks - 100
        self._seen = {key: seen for key, seen in self._seen.items() if seen.used > old}
        self._trends = {key: pair for key, pair in self._trends.items() if pair[1] > old}

    # ------------------------------------------------------------------ what it amounts to

    def snapshot(
        self, wanted: Callable[[str], bool], declared: Sequence[Declared], stale_s: float
    ) -> doc.Snapshot | None:
        """What there is to see of beamtimes that are `wanted`; None before the first answer."""
        stats = self.stats
        if stats is None:
            return None
        edges = tuple(self._edges([row for row in stats.edges if wanted(row.beamtime)]))
        groups = tuple(self._groups([row for row in stats.groups if wanted(row.beamtime)]))
        return doc.Snapshot(
            node=self._node_state(stats, stale_s),
            sources=tuple(self._sources(stats, wanted)),
            edges=edges,
            groups=groups,
            steps=tuple(_step(step, edges) for step in declared if wanted(step.beamtime)),
            limits=tuple(
                doc.LimitState(name=row.name, used=row.used, limit=row.limit, unit=row.unit)
                for row in stats.limits
            ),
            errors=tuple(
                doc.ErrorState(
                    code=row.code,
                    count=row.count,
                    last_s=max((stats.time_ns - row.last_ns) / 1e9, 0.0),
                    text=row.text,
                    hint=self._hint(row.code),
                )
                for row in stats.errors
            ),
            sentence=sentence(groups, stale_s),
        )

    def _node_state(self, stats: Stats, stale_s: float) -> doc.NodeState:
        node = stats.node
        rates = self._node.rates() or (0.0,) * 6
        filling = (self._disk.rates() or (0.0,))[0]
        return doc.NodeState(
            name=self.name,
            version=node.software,
            state="stale" if stale_s > STALE_S else "live",
            up_s=node.up_s,
            cpu=rates[5],
            rss_nbytes=node.rss_nbytes,
            cache=doc.CacheUse(
                nbytes=node.cache_nbytes,
                used=node.cache_used_nbytes,
                pinned=node.cache_pinned_nbytes,
                evicted=node.evicted,
            ),
            disk=doc.DiskUse(
                free=node.disk_free_nbytes,
                nbytes=node.disk_nbytes,
                full_in_s=node.disk_free_nbytes / filling if filling > 1000 else None,
            ),
            rates=doc.NodeRates(
                in_messages=rates[0],
                in_nbytes=rates[1],
                out_messages=rates[2],
                out_nbytes=rates[3],
                files=rates[4],
            ),
            connections=sum(node.connections.values()),
        )

    # ------------------------------------------------------------------ sources

    def _sources(self, stats: Stats, wanted: Callable[[str], bool]) -> Iterator[doc.SourceState]:
        streams: dict[tuple[str, str], list[StreamStat]] = {}
        for stream in stats.streams:
            if wanted(stream.beamtime) and stream.source not in _KEPT:
                streams.setdefault((stream.beamtime, stream.source), []).append(stream)
        producers: dict[tuple[str, str], list[ProducerStat]] = {}
        for producer in stats.producers:
            if wanted(producer.beamtime):
                producers.setdefault((producer.beamtime, producer.source), []).append(producer)
        for key in sorted(streams.keys() | producers.keys()):
            yield self._source(stats, key, streams.get(key, []), producers.get(key, []))

    def _source(
        self,
        stats: Stats,
        key: tuple[str, str],
        streams: list[StreamStat],
        producers: list[ProducerStat],
    ) -> doc.SourceState:
        rows = tuple(
            row
            for row in (self._producer(stats.time_ns, one) for one in producers)
            if row.connected or row.age_s < _GONE_S
        )
        newest = max(streams, key=lambda stream: stream.last_ns, default=None)
        last_ns = max((one.last_ns for one in producers), default=0)
        if not last_ns and newest is not None:
            last_ns = newest.last_ns
        return doc.SourceState(
            beamtime=key[0],
            source=key[1],
            producers=rows,
            streams=len(streams),
            rate=sum(row.rate for row in rows),
            nbytes_rate=sum(row.nbytes_rate for row in rows),
            age_s=max((stats.time_ns - last_ns) / 1e9, 0.0) if last_ns else None,
            count=sum(one.messages for one in producers),
            nbytes=sum(one.nbytes for one in producers),
            last_stream=newest.stream if newest else "",
            last_id=newest.max_id if newest else 0,
            lost=max(newest.max_id - newest.count - newest.skipped, 0) if newest else 0,
            state=_best([row.state for row in rows]),
        )

    def _producer(self, now_ns: int, row: ProducerStat) -> doc.Producer:
        seen = self._seen.get(("p", *_producer_key(row)))
        rate, nbytes_rate = seen.rates.rates() if seen else (0.0, 0.0)
        age_s = max((now_ns - row.last_ns) / 1e9, 0.0)
        interval_s = seen.interval_s if seen else 0.0
        quiet = age_s > max(_QUIET_S, _QUIET_INTERVALS * interval_s)
        state: doc.Health = "gone" if not row.connected else "idle" if quiet else "live"
        return doc.Producer(
            step=row.step,
            instance=row.instance,
            address=row.address,
            connected=row.connected,
            rate=0.0 if quiet else rate,
            nbytes_rate=0.0 if quiet else nbytes_rate,
            age_s=age_s,
            state=state,
        )

    # ------------------------------------------------------------------ readers

    def _edges(self, rows: Iterable[EdgeStat]) -> Iterator[doc.EdgeState]:
        assert self.stats is not None
        now_ns = self.stats.time_ns

        def of(row: EdgeStat) -> tuple[str, str, str]:
            return row.beamtime, row.source, row.group

        for key, found in groupby(sorted(rows, key=of), of):
            members = [
                row for row in found
                if row.connected or now_ns - row.last_ns < _GONE_S * 1e9
            ]  # fmt: skip
            if members:
                yield self._edge(key, members, now_ns)

    def _edge(
        self, key: tuple[str, str, str], rows: Sequence[EdgeStat], now_ns: int
    ) -> doc.EdgeState:
        seen = [self._seen[("e", *_edge_key(row))] for row in rows]
        rates = [one.rates.rates() for one in seen]
        last_ns = max(row.last_ns for row in rows)
        age_s = max((now_ns - last_ns) / 1e9, 0.0) if last_ns else None
        connected = any(row.connected for row in rows)
        moving = sum(rate[0] for rate in rates) > 0
        return doc.EdgeState(
            beamtime=key[0],
            source=key[1],
            group=key[2],
            members=tuple(
                doc.Member(step=row.step, instance=row.instance, connected=row.connected)
                for row in rows
            ),
            rate=sum(rate[0] for rate in rates),
            nbytes_rate=sum(rate[1] for rate in rates),
            delivered_ms=_quantiles([one.delivered.grown() for one in seen]),
            acked_ms=_quantiles([one.acked.grown() for one in seen]),
            age_s=age_s,
            state="gone" if not connected else "live" if moving else "idle",
        )

    def _groups(self, rows: Iterable[GroupStat]) -> Iterator[doc.GroupState]:
        assert self.stats is not None
        shares = {row.beamtime: row.cache_share_nbytes for row in self.stats.beamtimes}
        filling: dict[str, float] = {}
        for producer in self.stats.producers:
            seen = self._seen.get(("p", *_producer_key(producer)))
            if seen is not None:
                rate = seen.rates.rates()[1]
                filling[producer.beamtime] = filling.get(producer.beamtime, 0.0) + rate
        rates: dict[tuple[str, str, str], float] = {}
        there: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for edge in self.stats.edges:
            at = (edge.beamtime, edge.source, edge.group)
            rates[at] = rates.get(at, 0.0) + self._seen[("e", *_edge_key(edge))].rates.rates()[0]
            if edge.connected and self.stats.time_ns - edge.last_ns < _SEEN_S * 1e9:
                there[at] = (*there.get(at, ()), edge.instance)
        for row in rows:
            at = (row.beamtime, row.source, row.group)
            # ASAPO's clients join no group: whoever was given its messages is a member.
            filled = msgspec.structs.replace(row, members=row.members or there.get(at, ()))
            share, fill = shares.get(row.beamtime, 0), filling.get(row.beamtime, 0)
            yield self._group(filled, rates.get(at, 0.0), share, fill)

    def _group(
        self, row: GroupStat, rate: float, share_nbytes: int, nbytes_rate: float
    ) -> doc.GroupState:
        assert self.stats is not None
        trend = self._trends[_group_key(row)][0].word()
        lag = row.open + row.leased
        lag_s = max((self.stats.time_ns - row.oldest_ns) / 1e9, 0.0) if row.oldest_ns else 0.0
        lag_s = max(lag_s, row.leased_s) if lag else 0.0
        evict_in_s = None
        if lag and nbytes_rate > 0:
            evict_in_s = max(share_nbytes / nbytes_rate - lag_s, 0.0)
        return doc.GroupState(
            beamtime=row.beamtime,
            source=row.source,
            stream=row.stream,
            group=row.group,
            lag=lag,
            lag_s=lag_s,
            trend=_TRENDS[trend],
            unacked_s=row.leased_s,
            redelivered=row.redelivered,
            dead=row.dead,
            members=row.members,
            rate=rate,
            evict_in_s=evict_in_s,
            state=_group_health(row, trend, lag_s, rate),
        )


STALE_S: Final = 2.5
_TRENDS: Final[Mapping[str, doc.Trend]] = {
    "losing": "losing", "steady": "steady", "gaining": "gaining", "idle": "idle",
}  # fmt: skip


def _group_health(row: GroupStat, trend: str, lag_s: float, rate: float) -> doc.GroupHealth:
    if not row.members:
        return "gone"
    if row.open + row.leased and lag_s > _STUCK_S and rate == 0:
        return "stuck"
    if lag_s > _SLOW_S and trend != "gaining":
        return "slow"
    return "ok"


def _quantiles(grown: Sequence[Sequence[float]]) -> doc.Quantiles:
    counts = [sum(column) for column in zip(*grown, strict=False)]
    p50, p99 = (quantile_ns(counts, share) for share in (0.5, 0.99))
    return doc.Quantiles(
        p50=None if p50 is None else p50 / 1e6, p99=None if p99 is None else p99 / 1e6
    )


def _spread(delays: Delays) -> tuple[float, ...]:
    """All buckets, the empty ones too."""
    counts = [0.0] * _BUCKETS
    for at, count in enumerate(delays.counts, delays.first):
        if at < _BUCKETS:
            counts[at] = float(count)
    return tuple(counts)


def _best(states: Sequence[doc.Health]) -> doc.Health:
    for state in ("live", "idle", "gone"):
        if state in states:
            return state
    return "idle"


def _step(step: Declared, edges: Sequence[doc.EdgeState]) -> doc.StepState:
    mine = [edge for edge in edges if (edge.beamtime, edge.group) == (step.beamtime, step.step_id)]
    running = sum(member.connected for edge in mine for member in edge.members)
    return doc.StepState(
        pipeline=step.pipeline,
        step=step.step,
        replicas=step.replicas,
        running=running,
        reads=step.reads,
        writes=step.writes,
        state=_best([edge.state for edge in mine]) if mine else "missing",
        beamtime=step.beamtime,
    )


def sentence(groups: Sequence[doc.GroupState], stale_s: float) -> str:
    """One sentence about all of it.

    >>> sentence((), 0.0), sentence((), 7.0)
    ('Nobody reads anything.', 'The node has not answered for 7 s.')
    """
    if stale_s > STALE_S:
        return f"The node has not answered for {stale_s:.0f} s."
    watched = [group for group in groups if group.members]
    if not watched:
        return "Nobody reads anything."
    keeping = sum(group.state == "ok" for group in watched)
    if keeping == len(watched):
        return "The group keeps up." if keeping == 1 else f"All {keeping} groups keep up."
    worst = max(watched, key=lambda group: (group.state == "stuck", group.lag_s))
    messages = "1 message" if worst.lag == 1 else f"{worst.lag} messages"
    return f"{keeping} of {len(watched)} groups keep up; {worst.group} is {messages} behind."


def _producer_key(row: ProducerStat) -> tuple[str, ...]:
    return row.beamtime, row.source, row.step, row.instance


def _edge_key(row: EdgeStat) -> tuple[str, ...]:
    return row.beamtime, row.source, row.group, row.step, row.instance


def _group_key(row: GroupStat) -> tuple[str, ...]:
    return row.beamtime, row.source, row.stream, row.group
